//! Who does what when. The scenes run side by side, and each waits for what the board shows,
//! never for time.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use futures_util::FutureExt;
use futures_util::future::try_join_all;
use prost_types::Timestamp;
use tonic::Code;

use super::board::Board;
use super::stage::Stage;
use crate::cli::time;
use crate::pb::{
    CancelExecutionRequest, ExecutionState, PauseProviderRequest, ProviderLimits,
    ResumeProviderRequest, SetLimitsRequest, WaitReason,
};

/// How far ahead one execution is scheduled.
const AHEAD: Duration = Duration::from_secs(1);
/// What the limit of `embeddings` is raised to.
const RAISED: i32 = 4;

/// Plays every scene and waits until every execution has ended.
pub(super) async fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    // Paused before anything else, so that nothing slips in.
    pause(stage).await?;
    let scenes = [
        in_bulk(stage).boxed_local(),
        a_running_one_is_stopped(stage).boxed_local(),
        an_urgent_one_overtakes(stage).boxed_local(),
        one_is_scheduled(stage).boxed_local(),
        a_pause_ends(stage).boxed_local(),
        a_limit_is_raised(stage).boxed_local(),
        one_is_submitted_twice(stage).boxed_local(),
    ];
    try_join_all(scenes).await?;
    let all_ended =
        |board: &Board| stage.parts.iter().all(|part| board.ended(part.name) >= part.count);
    stage.at_last(all_ended).await;
    Ok(())
}

/// Everything that needs no further hand.
async fn in_bulk(stage: &Stage<'_>) -> anyhow::Result<()> {
    for part in stage.parts.iter().filter(|part| !part.in_a_scene) {
        stage.submit(part.name).await?;
    }
    Ok(())
}

async fn a_running_one_is_stopped(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.submit("stopped").await?;
    stage.until("the long one ran", running("stopped")).await;
    cancel(stage, "stopped").await
}

/// With room for one, what waits is ordered by priority; one of those waiting is withdrawn.
async fn an_urgent_one_overtakes(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.submit("blocker").await?;
    stage.until("the blocker ran", running("blocker")).await;
    for name in ["withdrawn", "ordinary", "urgent"] {
        stage.submit(name).await?;
    }
    let waits = |board: &Board| board.waited("withdrawn", WaitReason::Limit) == 1;
    stage.until("the one to withdraw waited for the limit", waits).await;
    cancel(stage, "withdrawn").await?;
    let both_ended = |board: &Board| board.ended("ordinary") + board.ended("urgent") == 2;
    stage.until("the ordinary and the urgent one ended", both_ended).await;
    let board = stage.board();
    let (urgent, ordinary) = (started(&board, "urgent"), started(&board, "ordinary"));
    let overtook = urgent.is_some() && urgent < ordinary;
    stage.check("the urgent one overtook the ordinary one", overtook, String::new());
    Ok(())
}

async fn one_is_scheduled(stage: &Stage<'_>) -> anyhow::Result<()> {
    let due = time::now() + AHEAD;
    let mut request = stage.request("later");
    request.schedule_time = Some(Timestamp::from(due));
    stage.send(request).await?;
    let waits = |board: &Board| board.waited("later", WaitReason::Scheduled) == 1;
    stage.until("the scheduled one said what it waited for", waits).await;
    stage.until("the scheduled one ended", |board| board.ended("later") == 1).await;
    let started = started(&stage.board(), "later");
    let late = started.and_then(|started| started.duration_since(due).ok());
    let detail = late.map(|late| format!("{} ms after", late.as_millis())).unwrap_or_default();
    stage.check("the scheduled one started at its time, not before", late.is_some(), detail);
    Ok(())
}

async fn pause(stage: &Stage<'_>) -> anyhow::Result<()> {
    let request = PauseProviderRequest {
        provider: "nightly".to_owned(),
        reason: "maintenance".to_owned(),
        resume_time: None,
    };
    stage.providers.clone().pause_provider(request).await.context("pausing failed")?;
    stage.live.remark("paused nightly")?;
    Ok(())
}

async fn a_pause_ends(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.submit("overnight").await?;
    let held = |board: &Board| board.waited("overnight", WaitReason::Paused) == 3;
    stage.until("those for the paused provider said what they waited for", held).await;
    // Until everything else that is quick has ended, a paused provider has had its chance.
    stage.until("the scheduled one ended", |board| board.ended("later") == 1).await;
    let idle = stage.board().most_running("nightly") == 0;
    stage.check("the paused provider started nothing", idle, String::new());
    let request = ResumeProviderRequest { provider: "nightly".to_owned(), reason: String::new() };
    stage.live.remark("resuming nightly")?;
    stage.providers.clone().resume_provider(request).await.context("resuming failed")?;
    Ok(())
}

async fn a_limit_is_raised(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.submit("vectors").await?;
    let waits = |board: &Board| {
        board.count("vectors", ExecutionState::Running) == 1
            && board.waited("vectors", WaitReason::Limit) > 0
    };
    stage.until("one ran while others waited for the limit", waits).await;
    stage.live.remark(&format!("raising the limit of embeddings from 1 to {RAISED}"))?;
    let raised = usize::try_from(RAISED).context("a limit is positive")?;
    stage.raise_limit("embeddings", raised);
    let request = SetLimitsRequest {
        limits: vec![ProviderLimits {
            provider: "embeddings".to_owned(),
            max_concurrent: Some(RAISED),
            ..ProviderLimits::default()
        }],
        reason: "the demo makes room".to_owned(),
        ..SetLimitsRequest::default()
    };
    stage.providers.clone().set_limits(request).await.context("raising the limit failed")?;
    let used = |board: &Board| board.most_running("embeddings") == raised;
    stage.expect("a raised limit was used by those that waited", used).await;
    Ok(())
}

async fn one_is_submitted_twice(stage: &Stage<'_>) -> anyhow::Result<()> {
    let mut request = stage.request("submitted twice");
    request.request_id = "demo-order-4711".to_owned();
    let first = stage.send(request.clone()).await?;
    let again = stage.send(request.clone()).await?;
    let id = |reply: &crate::pb::SubmitExecutionResponse| {
        reply.execution.as_ref().map(|execution| execution.id.clone())
    };
    let same = again.replayed && id(&first).is_some() && id(&first) == id(&again);
    stage.check("submitted again, the same request is the same execution", same, String::new());

    request.input = Some(prost_types::Struct::default());
    let other = stage.executions.clone().submit_execution(request).await;
    let refused = other.is_err_and(|status| status.code() == Code::AlreadyExists);
    stage.check("its request id with another input is refused", refused, String::new());
    Ok(())
}

async fn cancel(stage: &Stage<'_>, name: &str) -> anyhow::Result<()> {
    let id = stage.board().named(name).next().map(|execution| execution.id.clone());
    let id = id.with_context(|| format!("{name:?} was never seen"))?;
    stage.live.remark(&format!("cancelling {name:?}"))?;
    let request = CancelExecutionRequest { id, reason: "no longer needed".to_owned() };
    stage.executions.clone().cancel_execution(request).await.context("cancelling failed")?;
    Ok(())
}

fn running(name: &'static str) -> impl FnMut(&Board) -> bool {
    move |board| board.count(name, ExecutionState::Running) == 1
}

fn started(board: &Board, name: &str) -> Option<SystemTime> {
    let started = board.named(name).next()?.start_time?;
    SystemTime::try_from(started).ok()
}
