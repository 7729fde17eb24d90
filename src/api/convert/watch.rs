//! Watches of executions: where they begin, and what they send.

use super::check::{Check, Violations};
use super::enums;
use super::execution::execution;
use super::filter::filter;
use super::scalar::{required, to_i32};
use crate::domain::{Chunk, ChunkContent, ExecutionId};
use crate::engine::{Cursor, Filter, WatchEvent, WatchItem};
use crate::pb;
use crate::store::Payload;

/// A watch of one execution.
#[derive(Debug)]
pub(crate) struct WatchOne {
    /// Which.
    pub(crate) id: ExecutionId,
    /// After what; as it stands if `None`.
    pub(crate) cursor: Option<Cursor>,
    /// Whether output is wanted as it is produced.
    pub(crate) include_output: bool,
}

/// A watch of all that match.
#[derive(Debug)]
pub(crate) struct WatchMany {
    /// Which.
    pub(crate) filter: Filter,
    /// After what; as they stand if `None`.
    pub(crate) cursor: Option<Cursor>,
    /// Whether inputs and outputs are wanted.
    pub(crate) payload: Payload,
}

/// Checks `WatchExecution`.
pub(crate) fn watch_one(given: pb::WatchExecutionRequest) -> Result<WatchOne, Violations> {
    let mut check = Check::default();
    let id = check.field("id", required(&given.id));
    let cursor = cursor(given.after_revision, given.store_epoch, &mut check);
    let include_output = given.include_output;
    check.finish(id.map(|id| WatchOne { id, cursor, include_output }))
}

/// Checks `WatchExecutions`.
pub(crate) fn watch_many(given: pb::WatchExecutionsRequest) -> Result<WatchMany, Violations> {
    let mut check = Check::default();
    let filter = filter(given.filter, &mut check);
    let cursor = cursor(given.after_revision, given.store_epoch, &mut check);
    let payload = check.field("view", enums::payload(given.view, Payload::Without));
    check.finish(payload.map(|payload| WatchMany { filter, cursor, payload }))
}

/// One message of a watch of one execution.
pub(crate) fn to_one(item: WatchItem, epoch: String) -> pb::WatchExecutionResponse {
    use pb::watch_execution_response::Event;
    let event = match item.event {
        WatchEvent::Execution(view) => Event::Execution(execution(&view, Payload::With)),
        WatchEvent::Output(id, chunk) => Event::Output(output_chunk(id, chunk)),
        WatchEvent::Heartbeat => Event::Heartbeat(pb::Heartbeat {}),
    };
    pb::WatchExecutionResponse { revision: item.revision, store_epoch: epoch, event: Some(event) }
}

/// One message of a watch of many; `None` for output, which such a watch does not carry.
pub(crate) fn to_many(
    item: WatchItem,
    epoch: String,
    payload: Payload,
) -> Option<pb::WatchExecutionsResponse> {
    use pb::watch_executions_response::Event;
    let event = match item.event {
        WatchEvent::Execution(view) => Event::Execution(execution(&view, payload)),
        WatchEvent::Output(..) => return None,
        WatchEvent::Heartbeat => Event::Heartbeat(pb::Heartbeat {}),
    };
    let (revision, event) = (item.revision, Some(event));
    Some(pb::WatchExecutionsResponse { revision, store_epoch: epoch, event })
}

fn cursor(after: Option<i64>, epoch: String, check: &mut Check) -> Option<Cursor> {
    let checked = |after| if after < 0 { Err("must not be negative") } else { Ok(after) };
    check.optional("after_revision", after, checked).map(|after| Cursor { after, epoch })
}

fn output_chunk(id: ExecutionId, chunk: Chunk) -> pb::OutputChunk {
    use pb::output_chunk::Content;
    pb::OutputChunk {
        execution_id: id.to_string(),
        attempt: to_i32(chunk.attempt),
        index: chunk.index,
        stream: enums::output_stream(chunk.stream).into(),
        content: Some(match chunk.content {
            ChunkContent::Text(text) => Content::Text(text),
            ChunkContent::Data(data) => Content::Data(data),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OutputStream;

    #[test]
    fn a_watch_begins_after_zero_or_any_later_revision() {
        let watch = |after_revision| {
            watch_many(pb::WatchExecutionsRequest { after_revision, ..Default::default() })
        };
        assert!(watch(None).is_ok_and(|watch| watch.cursor.is_none()));
        assert!(watch(Some(0)).is_ok_and(|watch| watch.cursor.is_some_and(|c| c.after == 0)));
        assert!(watch(Some(-1)).is_err_and(|found| found.kept[0].field == "after_revision"));
    }

    #[test]
    fn a_malformed_id_and_cursor_are_told_at_once() {
        let given = pb::WatchExecutionRequest {
            id: "7".to_owned(),
            after_revision: Some(i64::MIN),
            ..Default::default()
        };
        let found = watch_one(given).expect_err("two fields are wrong");
        assert_eq!((found.kept[0].field.as_str(), found.kept.len()), ("id", 2));
    }

    #[test]
    fn output_is_told_with_its_place_and_bytes_stay_bytes() {
        let id = ExecutionId::new();
        let chunk = Chunk {
            attempt: 2,
            index: 5,
            stream: OutputStream::Stderr,
            content: ChunkContent::Data(vec![0xff]),
        };
        let item = WatchItem { revision: 9, event: WatchEvent::Output(id, chunk) };
        assert_eq!(to_many(item.clone(), "e".to_owned(), Payload::With), None);
        let message = to_one(item, "e".to_owned());
        assert_eq!((message.revision, message.store_epoch.as_str()), (9, "e"));
        let Some(pb::watch_execution_response::Event::Output(chunk)) = message.event else {
            panic!("expected output");
        };
        assert_eq!((chunk.attempt, chunk.index, chunk.stream()), (2, 5, pb::OutputStream::Stderr));
        assert_eq!(chunk.content, Some(pb::output_chunk::Content::Data(vec![0xff])));
    }
}
