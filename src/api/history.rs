//! The changes of a provider's limits by the page.
//!
//! A token holds the last revision of its page, so what is changed meanwhile neither shifts nor
//! repeats what follows. It also holds a hash of the provider: of another it would mean nothing.

use sha2::{Digest, Sha256};

use super::convert::{Check, Violations, hex, limits_change, required};
use super::page::{TOKEN_VERSION, page_size};
use crate::domain::{Event, ProviderName};
use crate::pb;

const HASH_BYTES: usize = 8;
const INVALID_TOKEN: &str = "must be a next_page_token given out for this provider";

/// The page that is asked for.
#[derive(Debug)]
pub(super) struct History {
    pub(super) provider: ProviderName,
    /// Changes below this revision.
    pub(super) before: i64,
    size: usize,
}

impl History {
    /// Checks `ListLimitChanges`.
    pub(super) fn new(given: &pb::ListLimitChangesRequest) -> Result<Self, Violations> {
        let mut check = Check::default();
        let provider = check.field("provider", required::<ProviderName>(&given.provider));
        let size = check.field("page_size", page_size(given.page_size));
        let token = Some(&given.page_token).filter(|token| !token.is_empty());
        let before = provider.as_ref().and_then(|provider| match token {
            None => Some(i64::MAX),
            Some(token) => check.field("page_token", last_of(token, provider).ok_or(INVALID_TOKEN)),
        });
        let page = provider.zip(size).zip(before);
        let page = page.map(|((provider, size), before)| Self { provider, before, size });
        check.finish(page)
    }

    /// How many to read: one more than fit tells whether another page follows.
    pub(super) fn limit(&self) -> u32 {
        u32::try_from(self.size + 1).unwrap_or(u32::MAX)
    }

    /// The page with these changes.
    pub(super) fn filled(&self, mut found: Vec<Event>) -> pb::ListLimitChangesResponse {
        let more = found.len() > self.size;
        found.truncate(self.size);
        let last = found.last().filter(|_| more);
        let next_page_token = last.map(|last| token(last.revision, &self.provider));
        pb::ListLimitChangesResponse {
            next_page_token: next_page_token.unwrap_or_default(),
            changes: found.into_iter().filter_map(limits_change).collect(),
        }
    }
}

fn token(last: i64, provider: &ProviderName) -> String {
    format!("{TOKEN_VERSION}{last:016x}{}", hash(provider))
}

fn last_of(given: &str, provider: &ProviderName) -> Option<i64> {
    let last = given.strip_prefix(TOKEN_VERSION)?.strip_suffix(hash(provider).as_str())?;
    let last = i64::from_str_radix(last, 16).ok()?;
    (token(last, provider) == given).then_some(last)
}

fn hash(provider: &ProviderName) -> String {
    hex(&Sha256::digest(provider.as_str())[..HASH_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Change, Limits, Timestamp};

    fn asked(page_size: i32, page_token: &str) -> Result<History, String> {
        let (provider, page_token) = ("p".to_owned(), page_token.to_owned());
        History::new(&pb::ListLimitChangesRequest { provider, page_size, page_token })
            .map_err(|found| found.kept[0].field.clone())
    }

    fn change(revision: i64) -> Event {
        let change = Change::LimitsChanged {
            declared: Box::new(Limits::concurrent(1)),
            overriding: None,
            effective: Box::new(Limits::concurrent(1)),
            expires_at: None,
            reason: String::new(),
            actor: String::new(),
            step: None,
        };
        let (provider, at) = ("p".parse().unwrap(), Timestamp::from_micros(revision));
        Event { revision, at, provider, execution: None, change }
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let first = asked(2, "").unwrap();
        assert_eq!((first.before, first.limit()), (i64::MAX, 3));
        let page = first.filled(vec![change(9), change(7), change(3)]);
        let revisions: Vec<_> = page.changes.iter().map(|change| change.revision).collect();
        assert_eq!(revisions, [9, 7]);
        let second = asked(2, &page.next_page_token).unwrap();
        assert_eq!(second.before, 7);
        assert_eq!(second.filled(vec![change(3)]).next_page_token, "");
    }

    #[test]
    fn a_token_of_another_provider_or_of_nobody_is_refused() {
        let own = token(7, &"p".parse().unwrap());
        let other = token(7, &"q".parse().unwrap());
        assert!(asked(0, &own).is_ok());
        for foreign in ["x", "01", "ü", &*other, &own[1..], &own.to_uppercase()] {
            assert_eq!(asked(0, foreign).unwrap_err(), "page_token", "{foreign}");
        }
        assert_eq!(asked(-1, "").unwrap_err(), "page_size");
        assert_eq!(asked(0, "").unwrap().limit(), 101);
    }
}
