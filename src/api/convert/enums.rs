//! Enumerations of the domain as those of the contract.

use crate::domain::{ErrorCode, OnLost, OutputStream, State};
use crate::pb;
use crate::store::Payload;

/// Where an execution is.
pub(crate) fn state(state: State) -> pb::ExecutionState {
    match state {
        State::Pending => pb::ExecutionState::Pending,
        State::Running => pb::ExecutionState::Running,
        State::Succeeded => pb::ExecutionState::Succeeded,
        State::Failed => pb::ExecutionState::Failed,
        State::Cancelled => pb::ExecutionState::Cancelled,
    }
}

/// A state that a filter names.
pub(crate) fn state_from_pb(given: i32) -> Result<State, &'static str> {
    match pb::ExecutionState::try_from(given) {
        Ok(pb::ExecutionState::Pending) => Ok(State::Pending),
        Ok(pb::ExecutionState::Running) => Ok(State::Running),
        Ok(pb::ExecutionState::Succeeded) => Ok(State::Succeeded),
        Ok(pb::ExecutionState::Failed) => Ok(State::Failed),
        Ok(pb::ExecutionState::Cancelled) => Ok(State::Cancelled),
        Ok(pb::ExecutionState::Unspecified) => Err("must not be UNSPECIFIED"),
        Err(_) => Err("is not a known state"),
    }
}

/// What an execution or attempt failed with.
pub(crate) fn error_code(code: ErrorCode) -> pb::ErrorCode {
    match code {
        ErrorCode::Transient => pb::ErrorCode::Transient,
        ErrorCode::Permanent => pb::ErrorCode::Permanent,
        ErrorCode::RateLimited => pb::ErrorCode::RateLimited,
        ErrorCode::Cancelled => pb::ErrorCode::Cancelled,
        ErrorCode::Timeout => pb::ErrorCode::Timeout,
        ErrorCode::QueueTimeout => pb::ErrorCode::QueueTimeout,
        ErrorCode::Crashed => pb::ErrorCode::Crashed,
        ErrorCode::ModuleFailed => pb::ErrorCode::ModuleFailed,
        ErrorCode::ModuleNotFound => pb::ErrorCode::ModuleNotFound,
        ErrorCode::ModuleStartFailed => pb::ErrorCode::ModuleStartFailed,
        ErrorCode::Released => pb::ErrorCode::Released,
        ErrorCode::OutputTooLarge => pb::ErrorCode::OutputTooLarge,
        ErrorCode::Internal => pb::ErrorCode::Internal,
        ErrorCode::Resource => pb::ErrorCode::Resource,
        ErrorCode::Lost => pb::ErrorCode::Lost,
    }
}

/// What follows a lost attempt.
pub(crate) fn on_lost(on_lost: OnLost) -> pb::OnLost {
    match on_lost {
        OnLost::Rerun => pb::OnLost::Rerun,
        OnLost::Fail => pb::OnLost::Fail,
    }
}

/// What is to follow a lost attempt.
pub(crate) fn on_lost_from_pb(given: i32) -> Result<OnLost, &'static str> {
    match pb::OnLost::try_from(given) {
        Ok(pb::OnLost::Unspecified | pb::OnLost::Rerun) => Ok(OnLost::Rerun),
        Ok(pb::OnLost::Fail) => Ok(OnLost::Fail),
        Err(_) => Err("is not known"),
    }
}

/// Where a piece of output came from.
pub(crate) fn output_stream(stream: OutputStream) -> pb::OutputStream {
    match stream {
        OutputStream::Result => pb::OutputStream::Result,
        OutputStream::Stdout => pb::OutputStream::Stdout,
        OutputStream::Stderr => pb::OutputStream::Stderr,
    }
}

/// How much of an execution is wanted; `default` where the client leaves it open.
pub(crate) fn payload(view: i32, default: Payload) -> Result<Payload, &'static str> {
    match pb::ExecutionView::try_from(view) {
        Ok(pb::ExecutionView::Unspecified) => Ok(default),
        Ok(pb::ExecutionView::Basic) => Ok(Payload::Without),
        Ok(pb::ExecutionView::Full) => Ok(Payload::With),
        Err(_) => Err("is not a known view"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_code_has_the_name_that_the_contract_gives_it() {
        let codes = ErrorCode::ALL.map(|code| (i32::from(error_code(code)), code));
        let named = (1..).map_while(|number| pb::ErrorCode::try_from(number).ok());
        for code in named {
            let known = codes.iter().find(|(number, _)| *number == i32::from(code));
            let known = known.map(|(_, known)| format!("ERROR_CODE_{}", known.name()));
            assert_eq!(known.as_deref(), Some(code.as_str_name()));
        }
    }

    #[test]
    fn every_state_survives_the_way_out_and_in() {
        for known in State::ALL {
            assert_eq!(state_from_pb(state(known).into()), Ok(known));
        }
        assert!(
            state_from_pb(0).is_err() && state_from_pb(6).is_err() && state_from_pb(-1).is_err()
        );
    }

    #[test]
    fn an_unspecified_view_is_the_default_of_its_rpc() {
        assert_eq!(payload(0, Payload::With), Ok(Payload::With));
        assert_eq!(payload(0, Payload::Without), Ok(Payload::Without));
        assert_eq!(payload(2, Payload::Without), Ok(Payload::With));
        assert!(payload(3, Payload::With).is_err());
    }
}
