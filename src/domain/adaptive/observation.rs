//! What the controller goes by: the operator's bounds, what attempts tell, and the steps it takes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;

/// What an operator allows the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdaptiveBounds {
    /// The least that the limit may be; 0 counts as 1.
    pub min: u32,
    /// The most that it may be; less than `min` counts as `min`.
    pub max: u32,
    /// The mean time of an attempt above which the limit is lowered; `None`: time is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_latency: Option<Duration>,
}

impl AdaptiveBounds {
    /// The limit within the bounds that is nearest to this one.
    pub fn nearest(&self, limit: u32) -> u32 {
        let min = self.min.max(1);
        limit.clamp(min, self.max.max(min))
    }
}

/// How many more requests a provider takes for now, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// So many.
    pub remaining: u64,
    /// Of so many in all, where it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// What a worker saw of a provider since it last told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observation {
    /// Attempts that the provider answered; those that it turned away are none of them.
    pub completed: u32,
    /// How long these took on average, where that says something of the provider.
    pub mean_latency: Option<Duration>,
    /// Set if one was rate limited: when that attempt was claimed, of several the newest.
    pub rate_limited: Option<Timestamp>,
    /// What the newest answer said of what is left.
    pub quota: Option<Quota>,
}

/// A change of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The limit before.
    pub from: u32,
    /// The limit after; never the same.
    pub to: u32,
    /// Why.
    pub reason: StepReason,
}

/// Why the limit changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepReason {
    /// Down: the provider turned an attempt away.
    RateLimited,
    /// Down: a round of answers took longer than it should.
    Latency {
        /// The mean time of an attempt in that round.
        mean: Duration,
        /// The most that it should be.
        target: Duration,
    },
    /// Down: the provider takes fewer requests than the limit would send.
    Quota {
        /// How many it takes.
        remaining: u64,
    },
    /// Up: more is ready, and a round of answers found nothing wrong with the limit.
    Room {
        /// How many came since the step before.
        answers: u32,
    },
    /// Up, to what was found too much some time ago: it may have changed.
    Trial {
        /// What was too much.
        ceiling: u32,
    },
    /// Either way: the operator's bounds are other ones now.
    Bounds,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, reason } = self;
        let way = if to > from { "raised" } else { "lowered" };
        write!(f, "{way} from {from} to {to}: {reason}")
    }
}

impl fmt::Display for StepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RateLimited => write!(f, "the provider is rate limiting"),
            Self::Latency { mean, target } => {
                let (mean, target) = (mean.as_secs_f64(), target.as_secs_f64());
                write!(f, "attempts take {mean:.3} s on average, the target is {target:.3} s")
            }
            Self::Quota { remaining } => {
                write!(f, "the provider takes {remaining} more requests for now")
            }
            Self::Room { answers } => {
                write!(f, "more is ready, and {answers} answers came without complaint")
            }
            Self::Trial { ceiling } => {
                write!(f, "to see whether {ceiling} is still too many")
            }
            Self::Bounds => write!(f, "the bounds have changed"),
        }
    }
}
