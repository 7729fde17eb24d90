//! `ProviderService`: reading, limiting, pausing and watching providers.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::convert::{self, provider};
use super::error::Refusal;
use super::provider_watch;
use crate::engine::{Engine, ProviderError};
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
        let draft = convert::set_limits(request.into_inner())?;
        let named: Vec<_> = draft.changes.iter().map(|change| change.provider.clone()).collect();
        let views = self.engine.set_limits(draft).await.map_err(|error| match error {
            ProviderError::Unknown { name, known } => {
                let index = named.iter().position(|named| *named == name).unwrap_or_default();
                Refusal::UnknownLimit { index, name, known }
            }
            error => Refusal::Provider(error),
        })?;
        let providers = views.into_iter().map(provider).collect();
        Ok(Response::new(pb::SetLimitsResponse { providers }))
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
