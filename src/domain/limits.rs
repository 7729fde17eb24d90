//! What a provider admits: as the configuration declares it, as an operator overrides it, and what
//! of both is in force.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use super::AdaptiveBounds;

/// The highest `max_concurrent`, of its own or as a bound.
pub const MOST_CONCURRENT: u32 = 100_000;
/// The highest rate.
pub const MOST_PER_MINUTE: u64 = 1_000_000_000;
/// The highest `max_pending`.
pub const MOST_PENDING: u32 = 10_000_000;
/// The most models of a provider that have limits of their own: each is a queue of its own to every claim.
pub const MOST_MODELS: usize = 32;
const MODEL_CHARS: usize = 128;

/// Whether a model can have limits under this name; if not, why.
pub fn check_model(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.chars().nth(MODEL_CHARS).is_some() {
        return Err("must name its model in 1 to 128 characters");
    }
    if !name.chars().all(|char| char == ' ' || !(char.is_control() || char.is_whitespace())) {
        return Err("must name its model in printable characters");
    }
    Ok(())
}

/// What a provider admits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Attempts that may run at the same time, over all workers; at least 1.
    pub max_concurrent: u32,
    /// What may begin within any minute.
    #[serde(flatten)]
    pub rates: Rates,
    /// The most executions that may be pending; as many as one likes where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// Where set, `max_concurrent` moves by itself within these bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveBounds>,
    /// Models that have rates, and a gate, of their own within the provider.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, Rates>,
}

/// What may begin within any minute; as much as one likes where absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens that they read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens_per_minute: Option<u64>,
    /// Tokens that they write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_per_minute: Option<u64>,
}

/// What an operator sets of the limits; what is absent stays as declared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// Instead of the declared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// Instead of the declared ones.
    #[serde(flatten)]
    pub rates: RateOverrides,
    /// Instead of the declared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<Bound<u32>>,
    /// Instead of the declared bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Bound<AdaptiveBounds>>,
    /// Of models, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, RateOverrides>,
}

/// What an operator sets of rates; what is absent stays as declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateOverrides {
    /// Instead of the declared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<Bound<u64>>,
    /// Instead of the declared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens_per_minute: Option<Bound<u64>>,
    /// Instead of the declared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_per_minute: Option<Bound<u64>>,
}

/// A bound that an operator set, or took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound<T> {
    /// There is none, whatever is declared.
    Unbounded,
    /// It is this.
    At(T),
}

impl<T: Copy> Bound<T> {
    /// The bound in force where this overrides `declared`.
    fn over(overriding: Option<Self>, declared: Option<T>) -> Option<T> {
        match overriding {
            None => declared,
            Some(Self::Unbounded) => None,
            Some(Self::At(bound)) => Some(bound),
        }
    }
}

impl Limits {
    /// Nothing but this many at a time.
    pub fn concurrent(max_concurrent: u32) -> Self {
        Self { max_concurrent, ..Self::default() }
    }

    /// Whether anything but `max_concurrent` is limited.
    pub fn is_plain(&self) -> bool {
        *self == Self::concurrent(self.max_concurrent)
    }

    /// Whether what begins is counted by the minute, for the provider or for some model of it.
    pub fn counts_rates(&self) -> bool {
        !self.rates.is_empty() || !self.models.is_empty()
    }
}

impl Display for Limits {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.max_concurrent)?;
        if let Some(AdaptiveBounds { min, max, .. }) = self.adaptive {
            write!(f, " (moves between {min} and {max})")?;
        }
        write!(f, "{}", self.rates)?;
        if let Some(max) = self.max_pending {
            write!(f, ", {max} pending")?;
        }
        for (model, rates) in &self.models {
            write!(f, "; {model:?} apart{rates}")?;
        }
        Ok(())
    }
}

impl Display for Rates {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let named = [
            (self.requests_per_minute, "requests"),
            (self.input_tokens_per_minute, "input tokens"),
            (self.output_tokens_per_minute, "output tokens"),
        ];
        let mut limited = named.into_iter().filter_map(|(rate, what)| Some((rate?, what)));
        limited.try_for_each(|(rate, what)| write!(f, ", {rate} {what} a minute"))
    }
}

impl Rates {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether tokens are counted, so that what an attempt really consumed is of interest.
    pub fn counts_tokens(&self) -> bool {
        self.input_tokens_per_minute.is_some() || self.output_tokens_per_minute.is_some()
    }
}

impl RateOverrides {
    fn over(self, declared: Rates) -> Rates {
        Rates {
            requests_per_minute: Bound::over(
                self.requests_per_minute,
                declared.requests_per_minute,
            ),
            input_tokens_per_minute: Bound::over(
                self.input_tokens_per_minute,
                declared.input_tokens_per_minute,
            ),
            output_tokens_per_minute: Bound::over(
                self.output_tokens_per_minute,
                declared.output_tokens_per_minute,
            ),
        }
    }

    /// These, and where they say nothing, what was said before.
    fn or(self, before: Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.or(before.requests_per_minute),
            input_tokens_per_minute: self
                .input_tokens_per_minute
                .or(before.input_tokens_per_minute),
            output_tokens_per_minute: self
                .output_tokens_per_minute
                .or(before.output_tokens_per_minute),
        }
    }
}

impl Overrides {
    /// Nothing but this many at a time.
    pub fn concurrent(max_concurrent: u32) -> Self {
        Self { max_concurrent: Some(max_concurrent), ..Self::default() }
    }

    /// Whether nothing is overridden.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The limits in force where these override `declared`.
    pub fn over(&self, declared: &Limits) -> Limits {
        let mut models = declared.models.clone();
        for (model, rates) in &self.models {
            let declared = models.get(model).copied().unwrap_or_default();
            models.insert(model.clone(), rates.over(declared));
        }
        Limits {
            max_concurrent: self.max_concurrent.unwrap_or(declared.max_concurrent),
            rates: self.rates.over(declared.rates),
            max_pending: Bound::over(self.max_pending, declared.max_pending),
            adaptive: Bound::over(self.adaptive, declared.adaptive),
            models,
        }
    }

    /// These, and where they say nothing, what was said before.
    pub fn or(self, before: Self) -> Self {
        let mut models = before.models;
        for (model, rates) in self.models {
            let before = models.get(&model).copied().unwrap_or_default();
            models.insert(model, rates.or(before));
        }
        Self {
            max_concurrent: self.max_concurrent.or(before.max_concurrent),
            rates: self.rates.or(before.rates),
            max_pending: self.max_pending.or(before.max_pending),
            adaptive: self.adaptive.or(before.adaptive),
            models,
        }
    }
}

/// What is to become of the overrides of a provider's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitUpdate {
    /// They stay as they are.
    Keep,
    /// These are set; what they say nothing of stays as it is.
    Set(Overrides),
    /// They are dropped: the declared limits are in force again.
    Reset,
}

impl LimitUpdate {
    /// The overrides after the update.
    pub fn applied_to(&self, overriding: &Overrides) -> Overrides {
        match self {
            Self::Keep => overriding.clone(),
            Self::Set(overrides) => overrides.clone().or(overriding.clone()),
            Self::Reset => Overrides::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_says_nothing_of_stays_as_declared() {
        let rates = Rates { requests_per_minute: Some(60), ..Rates::default() };
        let declared = Limits { rates, max_pending: Some(9), ..Limits::concurrent(3) };
        let overrides = Overrides::concurrent(5);
        let limits = overrides.over(&declared);
        assert_eq!(limits, Limits { max_concurrent: 5, ..declared.clone() });
        let more = Overrides { max_pending: Some(Bound::Unbounded), ..Overrides::default() };
        let overrides = LimitUpdate::Set(more).applied_to(&overrides);
        assert_eq!(overrides.over(&declared).max_pending, None);
        assert_eq!(overrides.over(&declared).max_concurrent, 5);
        assert_eq!(LimitUpdate::Reset.applied_to(&overrides).over(&declared), declared);
    }

    #[test]
    fn limits_are_told_in_one_line() {
        let rates = Rates { requests_per_minute: Some(60), ..Rates::default() };
        let adaptive = AdaptiveBounds { min: 1, max: 9, target_latency: None };
        let limits = Limits {
            rates,
            max_pending: Some(500),
            adaptive: Some(adaptive),
            models: [("gpt-5".to_owned(), rates)].into(),
            ..Limits::concurrent(3)
        };
        let expected = "3 (moves between 1 and 9), 60 requests a minute, 500 pending; \
                        \"gpt-5\" apart, 60 requests a minute";
        assert_eq!(limits.to_string(), expected);
        assert_eq!(Limits::concurrent(3).to_string(), "3");
    }

    #[test]
    fn a_model_has_1_to_128_printable_characters() {
        for good in ["gpt-5", "meta/llama 3:70b", &"ü".repeat(128)] {
            assert_eq!(check_model(good), Ok(()));
        }
        for bad in ["", "a\nb", "a\0", &"x".repeat(129)] {
            assert!(check_model(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn limits_of_an_earlier_log_are_read_as_they_were_meant() {
        let plain = r#"{"max_concurrent":3}"#;
        assert_eq!(serde_json::from_str::<Limits>(plain).unwrap(), Limits::concurrent(3));
        assert_eq!(serde_json::to_string(&Limits::concurrent(3)).unwrap(), plain);
        assert_eq!(serde_json::from_str::<Overrides>(plain).unwrap(), Overrides::concurrent(3));
    }
}
