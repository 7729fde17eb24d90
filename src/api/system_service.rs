//! `SystemService`: how the service as a whole is doing.

use tonic::{Request, Response, Status};

use super::convert;
use super::error::Refusal;
use super::log_level::LevelSetter;
use crate::engine::Engine;
use crate::pb;
use crate::pb::system_service_server::SystemService;

type Answer<T> = Result<Response<T>, Status>;

/// The service over one engine.
pub(super) struct System {
    engine: Engine,
    level: LevelSetter,
}

impl System {
    pub(super) fn new(engine: Engine) -> Self {
        Self { level: LevelSetter::start(&engine), engine }
    }
}

#[tonic::async_trait]
impl SystemService for System {
    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Answer<pb::GetStatusResponse> {
        let history = convert::history(request.get_ref())?;
        let status = self.engine.status().await?;
        Ok(Response::new(convert::status(&status, &self.engine.minutes(history))))
    }

    async fn list_workers(
        &self,
        _: Request<pb::ListWorkersRequest>,
    ) -> Answer<pb::ListWorkersResponse> {
        let workers = self.engine.workers().await?.into_iter().map(convert::worker).collect();
        Ok(Response::new(pb::ListWorkersResponse { workers }))
    }

    async fn set_log_level(
        &self,
        request: Request<pb::SetLogLevelRequest>,
    ) -> Answer<pb::SetLogLevelResponse> {
        let wanted = convert::log_level(request.get_ref())?;
        let this = self.engine.worker();
        if let Some(meant) = wanted.worker.filter(|meant| *meant != this) {
            return Err(Refusal::OtherWorker { meant, this }.into());
        }
        Ok(Response::new(self.level.set(wanted, &self.engine)?))
    }
}
