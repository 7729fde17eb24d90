//! What a commit of this replica adds to the counts: read from the entries it made in the log, so that
//! nothing is counted that did not happen, and nothing twice. A commit whose outcome could not be found out, as when
//! a database fails over, is not counted.

use super::Notice;
use crate::domain::{Change, EndCause, State};
use crate::metrics::{Ended, Instruments};

/// Counts what a commit brought.
pub(super) fn count(instruments: &Instruments, notices: &[Notice]) {
    for Notice { provider, change, .. } in notices {
        let Some(change) = change else { continue };
        if let Some(end) = change.ended()
            && end.cause == EndCause::Lost
        {
            instruments.of(provider).reclaimed();
        }
        match change {
            Change::Submitted { .. } => instruments.of(provider).submitted(),
            Change::Finished { state, .. } => {
                let ended = match state {
                    State::Succeeded => Ended::Succeeded,
                    State::Failed => Ended::Failed,
                    State::Cancelled => Ended::Cancelled,
                    // No execution ends in one of these.
                    State::Pending | State::Running => continue,
                };
                instruments.of(provider).execution_ended(ended);
            }
            _ => {}
        }
    }
}
