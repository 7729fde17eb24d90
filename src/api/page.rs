//! Listing by the page: the request, its token, and how a page is filled.
//!
//! A token holds the last id of its page, so what is submitted meanwhile neither shifts nor repeats
//! what follows. It also holds a hash of the filter: with another filter it would mean nothing.

use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::MAX_REQUEST_BYTES;
use super::convert::{Check, Violations, execution, filter, hex, payload};
use crate::domain::ExecutionId;
use crate::engine::{Filter, View};
use crate::pb;
use crate::store::{ListQuery, Payload};

const DEFAULT_SIZE: usize = 100;
const MAX_SIZE: usize = 1_000;
/// Leaves room for what surrounds the executions in the message.
const MAX_PAGE_BYTES: usize = MAX_REQUEST_BYTES - 64 * 1024;
/// How many are read at once with their inputs and outputs, which may be 32 MiB for each.
const PAYLOADS_AT_ONCE: usize = 8;

pub(super) const TOKEN_VERSION: &str = "01";
const FILTER_HASH_BYTES: usize = 8;
const INVALID_TOKEN: &str = "must be a next_page_token given out for this filter";

/// A page being filled.
#[derive(Debug)]
pub(crate) struct Page {
    filter: Filter,
    payload: Payload,
    size: usize,
    after: Option<ExecutionId>,
    executions: Vec<pb::Execution>,
    bytes: usize,
}

impl Page {
    /// Checks `ListExecutions`.
    pub(crate) fn new(given: pb::ListExecutionsRequest) -> Result<Self, Violations> {
        let mut check = Check::default();
        let filter = filter(given.filter, &mut check);
        let payload = check.field("view", payload(given.view, Payload::Without));
        let size = check.field("page_size", page_size(given.page_size));
        let token = Some(given.page_token).filter(|token| !token.is_empty());
        let after = check
            .optional("page_token", token, |token| last_of(&token, &filter).ok_or(INVALID_TOKEN));
        let page = payload.zip(size).map(|(payload, size)| Self {
            filter,
            payload,
            size,
            after,
            executions: Vec::new(),
            bytes: 0,
        });
        check.finish(page)
    }

    /// Whether inputs and outputs are wanted.
    pub(crate) fn payload(&self) -> Payload {
        self.payload
    }

    /// What to read next. One more than the page has room for tells whether another page follows.
    pub(crate) fn query(&self) -> ListQuery {
        let wanted = self.size - self.executions.len() + 1;
        let limit = match self.payload {
            Payload::Without => wanted,
            Payload::With => wanted.min(PAYLOADS_AT_ONCE),
        };
        ListQuery {
            providers: self.filter.providers.clone(),
            states: self.filter.states.clone(),
            labels: self.filter.labels.clone(),
            created_after: self.filter.created_after,
            created_before: self.filter.created_before,
            before: self.after,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            ..ListQuery::default()
        }
    }

    /// Takes what `asked` brought. The page, once it is complete: it is full, as a page or as a
    /// message, or there is nothing more.
    pub(crate) fn take(
        &mut self,
        asked: &ListQuery,
        views: &[View],
    ) -> Option<pb::ListExecutionsResponse> {
        for view in views {
            let execution = execution(view, self.payload);
            let bytes = execution.encoded_len() + 16;
            let is_first = self.executions.is_empty();
            if self.executions.len() == self.size
                || (!is_first && self.bytes + bytes > MAX_PAGE_BYTES)
            {
                return Some(self.complete(true));
            }
            self.bytes += bytes;
            self.after = Some(view.execution.spec.id);
            self.executions.push(execution);
        }
        let exhausted = u32::try_from(views.len()).is_ok_and(|count| count < asked.limit);
        exhausted.then(|| self.complete(false))
    }

    fn complete(&mut self, more: bool) -> pb::ListExecutionsResponse {
        let next = self.after.filter(|_| more).map(|last| token(last, &self.filter));
        pb::ListExecutionsResponse {
            executions: std::mem::take(&mut self.executions),
            next_page_token: next.unwrap_or_default(),
        }
    }
}

/// How many a page is to hold.
pub(super) fn page_size(given: i32) -> Result<usize, &'static str> {
    match usize::try_from(given) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
        Err(_) => Err("must not be negative"),
    }
}

fn token(last: ExecutionId, filter: &Filter) -> String {
    let id = last.to_string().replace('-', "");
    format!("{TOKEN_VERSION}{id}{}", filter_hash(filter))
}

fn last_of(token: &str, filter: &Filter) -> Option<ExecutionId> {
    let id = token.strip_prefix(TOKEN_VERSION)?.strip_suffix(filter_hash(filter).as_str())?;
    let id = Uuid::try_parse(id).ok().filter(|uuid| uuid.simple().to_string() == id)?;
    id.to_string().parse().ok()
}

fn filter_hash(filter: &Filter) -> String {
    let mut states = filter.states.clone();
    states.sort_unstable();
    let canonical =
        (&filter.providers, states, &filter.labels, filter.created_after, filter.created_before);
    let text = serde_json::to_vec(&canonical).expect("names, labels and times are valid JSON");
    hex(&Sha256::digest(text)[..FILTER_HASH_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::convert::test_view;
    use crate::domain::{Input, State};

    fn page(page_size: i32, page_token: &str, view: pb::ExecutionView) -> Result<Page, Violations> {
        let (page_token, view) = (page_token.to_owned(), view.into());
        Page::new(pb::ListExecutionsRequest { filter: None, page_size, page_token, view })
    }

    fn basic(page_size: i32) -> Page {
        page(page_size, "", pb::ExecutionView::Basic).expect("nothing is wrong")
    }

    fn views(count: usize, bytes: usize) -> Vec<View> {
        let json = format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes));
        (0..count).map(|_| test_view(Input { json: json.clone(), exact: true })).collect()
    }

    #[test]
    fn a_page_holds_100_unless_told_and_never_more_than_1000() {
        let limit = |size| basic(size).query().limit;
        assert_eq!((limit(0), limit(7), limit(1_000), limit(i32::MAX)), (101, 8, 1_001, 1_001));
        let negative = page(-1, "", pb::ExecutionView::Basic);
        assert!(negative.is_err_and(|found| found.kept[0].field == "page_size"));
    }

    #[test]
    fn the_last_page_has_no_token() {
        let mut page = basic(2);
        let asked = page.query();
        let response = page.take(&asked, &views(2, 0)).expect("there is nothing more");
        assert_eq!((response.executions.len(), response.next_page_token.as_str()), (2, ""));
    }

    #[test]
    fn a_full_page_says_where_the_next_begins() {
        let mut page = basic(2);
        let found = views(3, 0);
        let asked = page.query();
        let response = page.take(&asked, &found).expect("the page is full");
        assert_eq!(response.executions.len(), 2);
        let next = self::page(2, &response.next_page_token, pb::ExecutionView::Basic);
        let next = next.expect("the server gave out the token");
        assert_eq!(next.query().before, Some(found[1].execution.spec.id));
    }

    #[test]
    fn a_page_ends_before_its_message_grows_too_large() {
        let mut page = page(1_000, "", pb::ExecutionView::Full).expect("nothing is wrong");
        let asked = page.query();
        assert_eq!(asked.limit, 8);
        let response = page.take(&asked, &views(8, 6 * 1024 * 1024)).expect("the message is full");
        assert_eq!(response.executions.len(), 3);
        assert!(
            response.encoded_len() <= MAX_REQUEST_BYTES && !response.next_page_token.is_empty()
        );
    }

    #[test]
    fn payloads_are_read_in_small_numbers_until_the_page_is_full() {
        let mut page = page(10, "", pb::ExecutionView::Full).expect("nothing is wrong");
        let asked = page.query();
        assert!(page.take(&asked, &views(8, 1)).is_none());
        let asked = page.query();
        assert_eq!(asked.limit, 3);
        let response = page.take(&asked, &views(3, 1)).expect("the page is full");
        assert_eq!(response.executions.len(), 10);
        assert_ne!(response.next_page_token, "");
    }

    #[test]
    fn a_token_of_another_filter_or_of_nobody_is_refused() {
        let filter = Filter { states: vec![State::Failed, State::Pending], ..Filter::default() };
        let same = Filter { states: vec![State::Pending, State::Failed], ..Filter::default() };
        let last = ExecutionId::new();
        let token = token(last, &filter);
        assert_eq!(last_of(&token, &same), Some(last));
        assert_eq!(last_of(&token, &Filter::default()), None);
        for foreign in ["x", "01", "ü", &token[1..], &token.to_uppercase(), &format!("{token}0")] {
            assert_eq!(last_of(foreign, &filter), None, "{foreign}");
        }
    }
}
