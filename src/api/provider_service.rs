//! `ProviderService`: reading, limiting, pausing and watching providers.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::convert::{self, provider};
use super::error::Refusal;
use super::history::History;
use super::provider_watch;
use crate::domain::Effect;
use crate::engine::{Engine, ProviderError, ProviderView};
use crate::pb;
use crate::pb::provider_service_server::ProviderService;

type Answer<T> = Result<Response<T>, Status>;

/// The service over one engine.
pub(super) struct Providers {
    pub(super) engine: Engine,
}

#[tonic::async_trait]
impl ProviderService for Providers {
    async fn list_providers(
        &self,
        _: Request<pb::ListProvidersRequest>,
    ) -> Answer<pb::ListProvidersResponse> {
        let views = self.engine.providers(&[]).await?;
        let providers = views.into_iter().map(provider).collect();
        Ok(Response::new(pb::ListProvidersResponse { providers }))
    }

    async fn get_provider(
        &self,
        request: Request<pb::GetProviderRequest>,
    ) -> Answer<pb::GetProviderResponse> {
        let name = convert::provider_name(&request.into_inner().provider)?;
        let view = self.engine.providers(&[name]).await?.pop().ok_or(Refusal::Fault)?;
        Ok(Response::new(pb::GetProviderResponse { provider: Some(provider(view)) }))
    }

    async fn set_limits(
        &self,
        request: Request<pb::SetLimitsRequest>,
    ) -> Answer<pb::SetLimitsResponse> {
        let draft = convert::set_limits(request.into_inner(), self.engine.now())?;
        let named: Vec<_> = draft.changes.iter().map(|change| change.provider.clone()).collect();
        let place = |name| named.iter().position(|named| *named == name).unwrap_or_default();
        let validated = draft.validate_only;
        let set = self.engine.set_limits(draft).await.map_err(|error| match error {
            ProviderError::Unknown { name, known } => {
                Refusal::UnknownLimit { index: place(name.clone()), name, known }
            }
            ProviderError::TooManyModels(name) => Refusal::TooManyModels { index: place(name) },
            error => Refusal::Provider(error),
        })?;
        let effect = |(view, effect): &(ProviderView, Effect)| {
            convert::effect(view.row.record.name.to_string(), effect, validated)
        };
        let effects = set.iter().map(effect).collect();
        let providers = set.into_iter().map(|(view, _)| provider(view)).collect();
        Ok(Response::new(pb::SetLimitsResponse { providers, effects }))
    }

    async fn list_limit_changes(
        &self,
        request: Request<pb::ListLimitChangesRequest>,
    ) -> Answer<pb::ListLimitChangesResponse> {
        let page = History::new(request.get_ref())?;
        let found = self.engine.limit_changes(&page.provider, page.before, page.limit()).await?;
        Ok(Response::new(page.filled(found)))
    }

    async fn pause_provider(
        &self,
        request: Request<pb::PauseProviderRequest>,
    ) -> Answer<pb::PauseProviderResponse> {
        let pause = convert::pause(request.into_inner(), self.engine.now())?;
        let view = self.engine.pause(pause.provider, pause.reason, pause.until).await?;
        Ok(Response::new(pb::PauseProviderResponse { provider: Some(provider(view)) }))
    }

    async fn resume_provider(
        &self,
        request: Request<pb::ResumeProviderRequest>,
    ) -> Answer<pb::ResumeProviderResponse> {
        let (name, reason) = convert::resume(request.into_inner())?;
        let view = self.engine.resume(name, reason).await?;
        Ok(Response::new(pb::ResumeProviderResponse { provider: Some(provider(view)) }))
    }

    type WatchProvidersStream = BoxStream<'static, Result<pb::WatchProvidersResponse, Status>>;

    async fn watch_providers(
        &self,
        request: Request<pb::WatchProvidersRequest>,
    ) -> Answer<Self::WatchProvidersStream> {
        let (names, min_interval) = convert::watch(request.get_ref())?;
        let pictures = provider_watch::start(&self.engine, names, min_interval);
        Ok(Response::new(pictures.boxed()))
    }
}
