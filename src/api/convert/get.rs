//! Requests about one execution by its id.

use super::check::{Check, Violations};
use super::enums;
use super::scalar::{reason, required};
use crate::domain::ExecutionId;
use crate::pb;
use crate::store::Payload;

/// Checks `GetExecution`.
pub(crate) fn get(given: &pb::GetExecutionRequest) -> Result<(ExecutionId, Payload), Violations> {
    let mut check = Check::default();
    let id = check.field("id", required(&given.id));
    let payload = check.field("view", enums::payload(given.view, Payload::With));
    check.finish(id.zip(payload))
}

/// Checks `CancelExecution`.
pub(crate) fn cancel(
    given: pb::CancelExecutionRequest,
) -> Result<(ExecutionId, String), Violations> {
    let mut check = Check::default();
    let id = check.field("id", required(&given.id));
    let reason = check.field("reason", reason(given.reason));
    check.finish(id.zip(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_must_be_given_in_the_form_the_server_gives_out() {
        let id = ExecutionId::new();
        let get = |id: &str| get(&pb::GetExecutionRequest { id: id.to_owned(), view: 0 });
        assert!(get(&id.to_string()).is_ok_and(|got| got == (id, Payload::With)));
        for malformed in ["", "1", "ü", &id.to_string().replace('-', "")] {
            let found = get(malformed).expect_err("the id is malformed");
            assert_eq!(found.kept[0].field, "id", "{malformed}");
        }
    }

    #[test]
    fn everything_wrong_with_a_cancellation_is_told_at_once() {
        let given = pb::CancelExecutionRequest { id: String::new(), reason: "x".repeat(257) };
        assert!(cancel(given).is_err_and(|found| found.kept.len() == 2));
    }
}
