//! Several base URLs that do the same: the one with least to do first, and one that does not answer
//! passed over until it does.
//!
//! What must stay true: an endpoint that is out is tried again by itself, by one attempt at a time,
//! and where all are out the one that is due first is tried all the same.

use std::sync::Mutex;
use std::time::Duration;

use reqwest::{StatusCode, Url};
use tokio::time::Instant;

/// How long an endpoint is left alone after its first failure; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// All endpoints of a provider.
#[derive(Debug)]
pub(super) struct Endpoints {
    all: Vec<Endpoint>,
    /// Held while one is chosen, so that two attempts do not choose the same idle one.
    choice: Mutex<()>,
}

#[derive(Debug)]
struct Endpoint {
    url: Url,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Attempts under way.
    active: usize,
    /// Failures since it last answered.
    failures: u32,
    /// When it may be tried again.
    out_until: Option<Instant>,
}

/// An endpoint in use.
#[derive(Debug)]
pub(super) struct Lent<'e>(&'e Endpoint);

impl Endpoints {
    pub(super) fn new(urls: Vec<Url>) -> Self {
        let endpoint = |url| Endpoint { url, state: Mutex::default() };
        Self { all: urls.into_iter().map(endpoint).collect(), choice: Mutex::default() }
    }

    /// All of them, in the order in which to try them. The first is lent at once, each other only
    /// when it is come to.
    pub(super) fn by_load(&self) -> impl Iterator<Item = Lent<'_>> {
        self.by_load_at(Instant::now())
    }

    fn by_load_at(&self, now: Instant) -> impl Iterator<Item = Lent<'_>> {
        let rank = |endpoint: &&Endpoint| {
            let state = endpoint.lock();
            let out = state.out_until.filter(|until| *until > now);
            // Of those that may be tried again one attempt is enough to see.
            let probed = state.failures > 0 && state.active > 0;
            (out.is_some() || probed, out, state.active)
        };
        let _choice = self.choice.lock().expect("nothing panics while it holds the lock");
        let mut order: Vec<_> = self.all.iter().collect();
        order.sort_by_cached_key(rank);
        let mut order = order.into_iter().map(Lent::new);
        let first = order.next();
        first.into_iter().chain(order)
    }

    /// The endpoint with this URL, if it is configured; without one, the endpoint to try first.
    pub(super) fn at(&self, url: Option<&str>) -> Option<Lent<'_>> {
        match url {
            Some(url) => self.all.iter().find(|it| it.url.as_str() == url).map(Lent::new),
            None => self.by_load().next(),
        }
    }
}

impl Endpoint {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }
}

impl<'e> Lent<'e> {
    fn new(endpoint: &'e Endpoint) -> Self {
        endpoint.lock().active += 1;
        Self(endpoint)
    }

    pub(super) fn url(&self) -> &Url {
        &self.0.url
    }

    /// Notes that it answered. What a gateway says of a server behind it that is gone is no answer.
    pub(super) fn answered(&self, status: StatusCode) {
        if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) {
            return self.out(Instant::now());
        }
        let mut state = self.0.lock();
        (state.failures, state.out_until) = (0, None);
    }

    /// Notes that there was no answer.
    pub(super) fn failed(&self, error: &reqwest::Error) {
        // A server that takes its time over one request may be quick with another.
        if error.is_connect() || !error.is_timeout() {
            self.out(Instant::now());
        }
    }

    fn out(&self, now: Instant) {
        let mut state = self.0.lock();
        let pause = FIRST_PAUSE.saturating_mul(1 << state.failures.min(5)).min(LONGEST_PAUSE);
        state.failures = state.failures.saturating_add(1);
        state.out_until = Some(now + pause);
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.active = state.active.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Endpoints {
        let url = |name: &str| Url::parse(&format!("http://{name}")).unwrap();
        Endpoints::new(vec![url("a"), url("b"), url("c")])
    }

    fn order(endpoints: &Endpoints, now: Instant) -> String {
        let hosts =
            endpoints.by_load_at(now).filter_map(|lent| lent.url().host_str().map(str::to_owned));
        hosts.collect()
    }

    #[test]
    fn the_least_busy_comes_first_and_one_that_is_out_last() {
        let (endpoints, now) = (endpoints(), Instant::now());
        let busy = endpoints.at(Some("http://a/")).unwrap();
        assert_eq!(order(&endpoints, now), "bca");
        endpoints.at(Some("http://b/")).unwrap().out(now);
        assert_eq!(order(&endpoints, now), "cab");
        drop(busy);
        assert_eq!(order(&endpoints, now), "acb");
    }

    #[test]
    fn one_that_was_out_is_tried_by_one_attempt_and_is_back_when_it_answers() {
        let (endpoints, now) = (endpoints(), Instant::now());
        endpoints.at(Some("http://a/")).unwrap().out(now);
        let others =
            [endpoints.at(Some("http://b/")).unwrap(), endpoints.at(Some("http://c/")).unwrap()];
        assert_eq!(order(&endpoints, now), "bca");
        let later = now + FIRST_PAUSE;
        let probe = endpoints.by_load_at(later).next().unwrap();
        assert_eq!(probe.url().host_str(), Some("a"));
        assert_eq!(order(&endpoints, later), "bca", "one attempt is enough to see");
        probe.answered(StatusCode::OK);
        drop((probe, others));
        assert_eq!(order(&endpoints, later), "abc");
    }

    #[test]
    fn where_all_are_out_the_first_that_is_due_is_tried() {
        let (endpoints, now) = (endpoints(), Instant::now());
        for (url, at) in [("http://c/", 0), ("http://a/", 1), ("http://b/", 2)] {
            endpoints.at(Some(url)).unwrap().out(now + Duration::from_millis(at));
        }
        assert_eq!(order(&endpoints, now), "cab");
    }
}
