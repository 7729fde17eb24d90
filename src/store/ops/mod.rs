//! The operations of the store: one file each, written once for every database.
//!
//! An operation says what rows it needs, the batch brings those of all operations with one
//! statement a sort, and then each operation decides on what was brought. Only those that cannot
//! know beforehand which rows they touch (claims, due times) ask the transaction themselves.

mod cancel;
mod claim;
mod claimed;
mod limits;
mod output;
mod queue;
mod settle;
mod share;
mod shortage;
mod submit;
#[cfg(test)]
mod tests;
mod timer;
mod unserved;
mod workers;

use async_trait::async_trait;

use super::batch::{Batch, Needs};
use super::{Appended, BackendError, Lane};

pub(super) use cancel::Cancel;
pub use cancel::CancelAnswer;
pub use claimed::{Claim, ClaimReport, Claimed, ProviderClaims, Wanted};
pub(super) use limits::{Declare, SetGate, SetLimits};
pub use limits::{ExpectedRevision, GateChange, LimitChange, SetLimitsError};
pub(super) use output::{AppendOutput, Attach};
pub(super) use settle::Renew;
pub use settle::{ProviderNews, Renewed, Settlement};
pub(super) use shortage::{EndShortage, TellShortage};
pub use shortage::{ShortageAnswer, ShortageReport};
pub(super) use submit::Submit;
pub use submit::{SubmitRefused, Submitted};
pub use timer::Advanced;
pub(super) use timer::{Advance, Recover};
pub(super) use unserved::TellUnserved;
pub(super) use workers::Beat;

/// The order in which the operations of one batch run: what frees room before what takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Leases, settlements, output, cancellations: on records known by id.
    Known,
    /// Limits and gates.
    Limits,
    /// New executions.
    Submit,
    /// What time brings about.
    Timer,
    /// Claims, last.
    Claim,
}

/// One thing a caller asks of the store.
#[async_trait]
pub(super) trait Operation: Send + Sync + 'static {
    /// What the caller gets.
    type Answer: Send + 'static;

    /// When it runs within its batch.
    const PHASE: Phase;

    /// Whose way into the database it takes. What keeps leases goes before everything else where there
    /// is only one way.
    const LANE: Lane = Lane::Changes;

    /// How many rows it is about.
    fn rows(&self) -> usize {
        1
    }

    /// How many bytes of inputs, results or output it carries.
    fn bytes(&self) -> usize {
        0
    }

    /// Names the rows it will look at.
    fn needs<'a>(&'a self, needs: &mut Needs<'a>);

    /// Decides, and notes in the batch what is to be written. May run again in another
    /// transaction if this one fails, so it leaves `self` alone.
    async fn apply(&self, batch: &mut Batch<'_>) -> Result<Self::Answer, BackendError>;

    /// Completes the answer with what is known only after the commit.
    fn committed(&self, _answer: &mut Self::Answer, _appended: Appended) {}
}
