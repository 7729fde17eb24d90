//! Enum values by name: `EXECUTION_STATE_PENDING` on the wire, `PENDING` for people, and either,
//! in any case, from them.

use crate::pb;

/// An enum of the contract.
pub(super) trait Named: TryFrom<i32> {
    /// What every value's name begins with.
    const PREFIX: &'static str;

    fn full_name(&self) -> &'static str;
    fn from_full_name(name: &str) -> Option<Self>;
}

macro_rules! named {
    ($($type:ty = $prefix:literal),+ $(,)?) => {$(
        impl Named for $type {
            const PREFIX: &'static str = $prefix;

            fn full_name(&self) -> &'static str {
                self.as_str_name()
            }

            fn from_full_name(name: &str) -> Option<Self> {
                Self::from_str_name(name)
            }
        }
    )+};
}

named! {
    pb::ErrorCode = "ERROR_CODE_",
    pb::ExecutionState = "EXECUTION_STATE_",
    pb::GateState = "GATE_STATE_",
    pb::OnLost = "ON_LOST_",
    pb::OutputStream = "OUTPUT_STREAM_",
    pb::ScalingBottleneck = "SCALING_BOTTLENECK_",
    pb::ServingState = "SERVING_STATE_",
    pb::WaitReason = "WAIT_REASON_",
    pb::WorkerStatus = "WORKER_STATUS_",
}

/// The name on the wire; absent for a value this build does not know.
pub(super) fn full<E: Named>(value: i32) -> Option<&'static str> {
    E::try_from(value).ok().map(|known| known.full_name())
}

/// The name for people; the number for a value this build does not know.
pub(super) fn short<E: Named>(value: i32) -> String {
    match full::<E>(value) {
        Some(name) => name.strip_prefix(E::PREFIX).unwrap_or(name).to_owned(),
        None => value.to_string(),
    }
}

/// Reads a name with or without prefix, in any case, `-` for `_`.
pub(super) fn parse<E: Named>(text: &str) -> Result<E, String> {
    let name = text.to_uppercase().replace('-', "_");
    let name = name.strip_prefix(E::PREFIX).unwrap_or(&name);
    E::from_full_name(&format!("{}{name}", E::PREFIX))
        .filter(|_| name != "UNSPECIFIED")
        .ok_or_else(|| format!("must be one of {}", all::<E>().join(", ")))
}

/// Every value but the unspecified one.
fn all<E: Named>() -> Vec<String> {
    (1..).map_while(full::<E>).map(|name| name[E::PREFIX.len()..].to_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{ErrorCode, ExecutionState};

    #[test]
    fn a_value_is_found_under_every_way_to_write_its_name() {
        for text in ["queue_timeout", "QUEUE_TIMEOUT", "queue-timeout", "ERROR_CODE_QUEUE_TIMEOUT"]
        {
            assert_eq!(parse::<ErrorCode>(text), Ok(ErrorCode::QueueTimeout), "{text}");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_known() {
        let error = parse::<ExecutionState>("done").unwrap_err();
        assert_eq!(error, "must be one of pending, running, succeeded, failed, cancelled");
        assert!(parse::<ExecutionState>("unspecified").is_err());
    }

    #[test]
    fn a_value_from_a_newer_server_is_shown_as_its_number() {
        assert_eq!(short::<ExecutionState>(2), "RUNNING");
        assert_eq!(short::<ExecutionState>(99), "99");
    }
}
