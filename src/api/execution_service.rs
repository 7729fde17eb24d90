//! `ExecutionService`: submitting, reading, cancelling, retrying and watching executions.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::convert::{self, execution};
use super::error::Refusal;
use super::page::Page;
use crate::engine::{Engine, View};
use crate::pb;
use crate::pb::execution_service_server::ExecutionService;
use crate::store::Payload;

type Answer<T> = Result<Response<T>, Status>;

/// An answer that tells in its metadata which trace the execution belongs to.
fn traced<T>(message: T, view: &View) -> Response<T> {
    let mut response = Response::new(message);
    convert::tell_trace(view.execution.spec.trace.as_ref(), response.metadata_mut());
    response
}

/// The service over one engine.
pub(super) struct Executions {
    pub(super) engine: Engine,
}

#[tonic::async_trait]
impl ExecutionService for Executions {
    async fn submit_execution(
        &self,
        request: Request<pb::SubmitExecutionRequest>,
    ) -> Answer<pb::SubmitExecutionResponse> {
        let trace = convert::trace_context(request.metadata().as_ref());
        let draft = convert::draft(request.into_inner(), trace)?;
        let submission = self.engine.submit(vec![draft]).await?.pop().ok_or(Refusal::Fault)?;
        let response = pb::SubmitExecutionResponse {
            execution: Some(execution(&submission.view, Payload::With)),
            replayed: submission.replayed,
        };
        Ok(traced(response, &submission.view))
    }

    async fn batch_submit_executions(
        &self,
        request: Request<pb::BatchSubmitExecutionsRequest>,
    ) -> Answer<pb::BatchSubmitExecutionsResponse> {
        let trace = convert::trace_context(request.metadata().as_ref());
        let drafts = convert::drafts(request.into_inner(), trace.as_ref())?;
        let submissions = self.engine.submit(drafts).await.map_err(Refusal::BatchSubmit)?;
        let executions = submissions.iter().map(|one| execution(&one.view, Payload::Without));
        Ok(Response::new(pb::BatchSubmitExecutionsResponse {
            executions: executions.collect(),
            replayed: submissions.iter().map(|one| one.replayed).collect(),
        }))
    }

    async fn get_execution(
        &self,
        request: Request<pb::GetExecutionRequest>,
    ) -> Answer<pb::GetExecutionResponse> {
        let (id, payload) = convert::get(&request.into_inner())?;
        let view = self.engine.get(id, payload).await?.ok_or(Refusal::NoExecution(id))?;
        let execution = Some(execution(&view, payload));
        Ok(traced(pb::GetExecutionResponse { execution }, &view))
    }

    async fn list_executions(
        &self,
        request: Request<pb::ListExecutionsRequest>,
    ) -> Answer<pb::ListExecutionsResponse> {
        let mut page = Page::new(request.into_inner())?;
        loop {
            let query = page.query();
            let views = self.engine.list(&query, page.payload()).await?;
            if let Some(response) = page.take(&query, &views) {
                return Ok(Response::new(response));
            }
        }
    }

    async fn cancel_execution(
        &self,
        request: Request<pb::CancelExecutionRequest>,
    ) -> Answer<pb::CancelExecutionResponse> {
        let (id, reason) = convert::cancel(request.into_inner())?;
        let view = self.engine.cancel(id, reason).await?.ok_or(Refusal::NoExecution(id))?;
        let execution = Some(execution(&view, Payload::With));
        Ok(Response::new(pb::CancelExecutionResponse { execution }))
    }

    async fn batch_cancel_executions(
        &self,
        request: Request<pb::BatchCancelExecutionsRequest>,
    ) -> Answer<pb::BatchCancelExecutionsResponse> {
        let validate_only = request.get_ref().validate_only;
        let (filter, reason) = convert::batch_cancel(request.into_inner())?;
        let done = self.engine.cancel_matching(&filter, reason, validate_only).await?;
        Ok(Response::new(pb::BatchCancelExecutionsResponse {
            matched_count: convert::to_i64(done.matched),
            cancelled_count: convert::to_i64(done.cancelled),
            cancel_requested_count: convert::to_i64(done.requested),
        }))
    }

    async fn retry_execution(
        &self,
        request: Request<pb::RetryExecutionRequest>,
    ) -> Answer<pb::RetryExecutionResponse> {
        let trace = convert::trace_context(request.metadata().as_ref());
        let (id, request_id) = convert::retry(request.into_inner())?;
        let submission = self.engine.retry(id, request_id, trace).await?;
        let response = pb::RetryExecutionResponse {
            execution: Some(execution(&submission.view, Payload::With)),
            replayed: submission.replayed,
        };
        Ok(traced(response, &submission.view))
    }

    async fn batch_retry_executions(
        &self,
        request: Request<pb::BatchRetryExecutionsRequest>,
    ) -> Answer<pb::BatchRetryExecutionsResponse> {
        let trace = convert::trace_context(request.metadata().as_ref());
        let validate_only = request.get_ref().validate_only;
        let filter = convert::batch_retry(request.into_inner())?;
        let done = self.engine.retry_matching(&filter, trace.as_ref(), validate_only).await?;
        Ok(Response::new(pb::BatchRetryExecutionsResponse {
            matched_count: convert::to_i64(done.matched),
            execution_ids: done.created.iter().map(ToString::to_string).collect(),
            more: done.more,
        }))
    }

    type WatchExecutionStream = BoxStream<'static, Result<pb::WatchExecutionResponse, Status>>;

    async fn watch_execution(
        &self,
        request: Request<pb::WatchExecutionRequest>,
    ) -> Answer<Self::WatchExecutionStream> {
        let watch = convert::watch_one(request.into_inner())?;
        let cursor = watch.cursor.clone();
        let items = self.engine.watch(watch.id, watch.cursor, watch.include_output).await;
        let (items, trace) = items.map_err(|error| Refusal::Watch(error, cursor))?;
        let epoch = self.engine.epoch().to_owned();
        let messages = items.map(move |item| match item {
            Ok(item) => Ok(convert::to_one(item, epoch.clone())),
            Err(end) => Err(Refusal::WatchEnded(end, epoch.clone()).into()),
        });
        let mut response = Response::new(messages.boxed());
        convert::tell_trace(trace.as_ref(), response.metadata_mut());
        Ok(response)
    }

    type WatchExecutionsStream = BoxStream<'static, Result<pb::WatchExecutionsResponse, Status>>;

    async fn watch_executions(
        &self,
        request: Request<pb::WatchExecutionsRequest>,
    ) -> Answer<Self::WatchExecutionsStream> {
        let watch = convert::watch_many(request.into_inner())?;
        let (cursor, payload) = (watch.cursor.clone(), watch.payload);
        let items = self.engine.watch_matching(watch.filter, watch.cursor, payload).await;
        let items = items.map_err(|error| Refusal::Watch(error, cursor))?;
        let epoch = self.engine.epoch().to_owned();
        let messages = items.filter_map(move |item| {
            std::future::ready(match item {
                Ok(item) => convert::to_many(item, epoch.clone(), payload).map(Ok),
                Err(end) => Some(Err(Refusal::WatchEnded(end, epoch.clone()).into())),
            })
        });
        Ok(Response::new(messages.boxed()))
    }
}
