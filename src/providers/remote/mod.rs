//! What all providers that are reached over HTTP share: one client with time limits and without
//! redirects, the choice of an endpoint, credentials, capped answers, and failures in types.
//!
//! What must stay true: an answer is never held beyond [`MAX_ANSWER_BYTES`]; a request goes to the
//! configured base URLs and nowhere else; nothing that a server says leaves this layer with a key
//! in it.

mod answer;
mod endpoint;
mod exchange;
mod failure;
mod head;
mod hearing;
mod job;
mod pauses;
mod progress;
mod quota;
mod reading;
mod secret;
mod trace;
mod wait_hint;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde_json::Value;
use tracing::Instrument;

use super::AttemptFailure;
use crate::domain::{ErrorCode, Failure, FailureKind, TraceContext};
use endpoint::{Endpoints, Lent};
use failure::unreachable;
use trace::{Path, hand_on};

pub(super) use answer::Answer;
pub(super) use exchange::{Assembly, Framing, Piece, dropped, exchange};
#[cfg(test)]
pub(super) use failure::COMMON;
pub(super) use failure::{Class, Rule, broken, permanent, told, transient};
pub(super) use head::{METHODS, connection_headers, is_headers, is_method, is_path};
pub(super) use hearing::{Heard, Told};
pub(super) use job::{Cancelled, Job, Lost, STOP_GRACE, Started, run as run_job};
pub(super) use pauses::Pauses;
pub(super) use progress::Progress;
pub(super) use reading::{
    Check, check_string, fields, id_in_path, is_text, take_usage, without_mark,
};
pub(super) use secret::Redactor;
pub use secret::Secret;

/// How long an attempt that is stopped by dropping its connection may take to hand on what came.
pub(super) const DROP_GRACE: Duration = Duration::from_secs(2);

/// The largest answer that is read.
pub(super) const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// How to reach a provider.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// Base URLs that do the same; at least one.
    pub endpoints: Vec<Url>,
    /// What to present as the key.
    pub key: Credential,
    /// Sent with every request.
    pub headers: Vec<(HeaderName, Credential)>,
    /// The longest that connecting may take.
    pub connect_timeout: Duration,
    /// The longest that a server may say nothing, before its answer and within it.
    pub idle_timeout: Duration,
}

/// Where a credential comes from.
#[derive(Debug, Clone)]
pub enum Credential {
    /// There is none.
    None,
    /// As configured, or from the environment at the start.
    Value(Secret),
    /// Not secret: a header that may be shown.
    Plain(String),
    /// Read whenever it is needed, so that it can be exchanged while the server runs.
    File(PathBuf),
    /// It was to come from somewhere where it is not; this says from where.
    Missing(String),
}

/// How a provider wants to be shown its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// A header of its own.
    Header(&'static str),
}

/// A provider that is reached over HTTP.
#[derive(Debug)]
pub(super) struct Remote {
    http: reqwest::Client,
    endpoints: Endpoints,
    config: RemoteConfig,
    scheme: Scheme,
    /// What was ever sent as a credential.
    redactor: Redactor,
}

/// A request to a path below the base URL.
#[derive(Debug, Clone)]
pub(super) struct Request {
    method: Method,
    path: Path,
    headers: HeaderMap,
    body: Body,
    keyed: bool,
}

#[derive(Debug, Clone)]
enum Body {
    Empty,
    Json(Value),
    Text(String),
}

/// The way to one endpoint, with the credentials as of now. While it is held, the endpoint counts
/// as busy with one more attempt.
#[derive(Debug)]
pub(super) struct Route<'r> {
    remote: &'r Remote,
    endpoint: Lent<'r>,
    access: Access,
}

/// Headers to send.
#[derive(Debug, Clone)]
struct Access {
    headers: HeaderMap,
    key: Option<(HeaderName, HeaderValue)>,
}

impl Request {
    pub(super) fn new(method: Method, path: impl Into<Path>) -> Self {
        let headers = HeaderMap::new();
        Self { method, path: path.into(), headers, body: Body::Empty, keyed: true }
    }

    pub(super) fn get(path: impl Into<Path>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn post(path: impl Into<Path>, body: Value) -> Self {
        Self { body: Body::Json(body), ..Self::new(Method::POST, path) }
    }

    /// What traces tell of a path that is put together: a name in braces for what is not always the same.
    pub(super) fn told_as(self, template: &'static str) -> Self {
        Self { path: self.path.told_as(template), ..self }
    }

    pub(super) fn json(self, body: Value) -> Self {
        Self { body: Body::Json(body), ..self }
    }

    pub(super) fn text(self, body: String) -> Self {
        Self { body: Body::Text(body), ..self }
    }

    /// Adds a header. One that cannot be written as such is left out: inputs are checked before.
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Hands the trace context on.
    pub(super) fn traced(mut self, trace: Option<&TraceContext>) -> Self {
        if let Some(trace) = trace {
            hand_on(trace, &mut self.headers);
        }
        self
    }

    /// Sends it without the key: it goes to a part of the provider that asks for another.
    pub(super) fn without_key(self) -> Self {
        Self { keyed: false, ..self }
    }
}

impl Remote {
    pub(super) fn new(config: RemoteConfig, scheme: Scheme) -> Self {
        // What sqlx and tonic use too. It is there already where this is not the first provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.idle_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("flowgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .expect("the client's settings are fixed ones, and a TLS provider is installed");
        let endpoints = Endpoints::new(config.endpoints.clone());
        Self { http, endpoints, config, scheme, redactor: Redactor::default() }
    }

    /// Sends what begins an attempt to the endpoint that has least to do, or to the next where that
    /// one cannot be connected to.
    pub(super) async fn first(
        &self,
        request: &Request,
    ) -> Result<(Route<'_>, Answer), AttemptFailure> {
        self.start(request, &OnceLock::new()).await
    }

    /// Sends what starts work, like [`Remote::first`], but always to the endpoint that such a request
    /// was sent to before, whatever became of it there: `sent_to` remembers.
    pub(super) async fn start(
        &self,
        request: &Request,
        sent_to: &OnceLock<String>,
    ) -> Result<(Route<'_>, Answer), AttemptFailure> {
        if let Some(url) = sent_to.get() {
            let route = self.route(Some(url)).await?;
            let answer = route.send(request).await?;
            return Ok((route, answer));
        }
        let access = self.access().await?;
        let mut failed = None;
        for (resent, endpoint) in self.endpoints.by_load().enumerate() {
            let route = Route { remote: self, endpoint, access: access.clone() };
            let sent = route.try_send(request, resent).await;
            match sent {
                // Nothing was sent, so nothing can be done twice.
                Err(error) if error.is_connect() => failed = Some(route.unreachable(&error)),
                sent => {
                    let _ = sent_to.set(route.url().to_owned());
                    return match sent {
                        Ok(answer) => Ok((route, answer)),
                        Err(error) => Err(route.unreachable(&error)),
                    };
                }
            }
        }
        Err(failed.unwrap_or_else(|| transient("no endpoint is configured")))
    }

    /// The way to the endpoint where earlier work was begun, if it is still configured; else to the
    /// one that has least to do.
    pub(super) async fn route(&self, url: Option<&str>) -> Result<Route<'_>, AttemptFailure> {
        let access = self.access().await?;
        let Some(endpoint) = self.endpoints.at(url) else {
            // Asked elsewhere, the work would seem lost, and be begun anew while it goes on.
            let message = "the endpoint where the work was begun is not configured any more";
            return Err(permanent(message).with_detail("may_run_on", true.into()));
        };
        Ok(Route { remote: self, endpoint, access })
    }

    /// Whether a key is to be presented.
    pub(super) const fn has_key(&self) -> bool {
        !matches!(self.config.key, Credential::None)
    }

    /// What must not be seen of what this provider says: all that is sent to it, now and later.
    pub(super) fn redactor(&self) -> Redactor {
        self.redactor.clone()
    }

    async fn access(&self) -> Result<Access, AttemptFailure> {
        let redactor = &self.redactor;
        let mut headers = HeaderMap::new();
        for (name, credential) in &self.config.headers {
            if let Some(value) = credential.read(name.as_str(), redactor).await? {
                headers.insert(name.clone(), value);
            }
        }
        let key = match (self.config.key.text("the key", redactor).await?, self.scheme) {
            (None, _) => None,
            (Some(key), Scheme::Bearer) => {
                Some((reqwest::header::AUTHORIZATION, format!("Bearer {key}")))
            }
            (Some(key), Scheme::Header(name)) => Some((HeaderName::from_static(name), key)),
        };
        let key = match key {
            None => None,
            Some((name, key)) => Some((name, sensitive("the key", &key)?)),
        };
        Ok(Access { headers, key })
    }
}

impl Route<'_> {
    /// The endpoint's base URL, to find it again.
    pub(super) fn url(&self) -> &str {
        self.endpoint.url().as_str()
    }

    /// Sends a request; what the server answers, success or not.
    pub(super) async fn send(&self, request: &Request) -> Result<Answer, AttemptFailure> {
        self.try_send(request, 0).await.map_err(|error| self.unreachable(&error))
    }

    /// `resent` says to how many endpoints it was sent before.
    async fn try_send(&self, request: &Request, resent: usize) -> Result<Answer, reqwest::Error> {
        let base = self.endpoint.url();
        let url = request.path.below(base);
        // What the operator configured counts for more than what a client asks for.
        let mut headers = request.headers.clone();
        headers.extend(self.access.headers.clone());
        if let Some((name, value)) = self.access.key.as_ref().filter(|_| request.keyed) {
            headers.insert(name.clone(), value.clone());
        }
        let redactor = &self.remote.redactor;
        let span = trace::request(base, request, resent, redactor, &mut headers);
        let builder = self.remote.http.request(request.method.clone(), url);
        let builder = match &request.body {
            Body::Empty => builder,
            Body::Json(body) => builder.json(body),
            Body::Text(body) => builder.body(body.clone()),
        };
        let sent = builder.headers(headers).send().instrument(span.clone()).await;
        match &sent {
            Ok(response) => self.endpoint.answered(response.status()),
            Err(error) => self.endpoint.failed(error),
        }
        let sent = sent.map(|response| Answer::new(response, self.remote.redactor()));
        trace::answered(&span, &sent);
        sent
    }

    fn unreachable(&self, error: &reqwest::Error) -> AttemptFailure {
        unreachable(error, self.endpoint.url(), &self.remote.config)
    }
}

impl Credential {
    async fn read(
        &self,
        what: &str,
        redactor: &Redactor,
    ) -> Result<Option<HeaderValue>, AttemptFailure> {
        match self.text(what, redactor).await? {
            Some(text) => sensitive(what, &text).map(Some),
            None => Ok(None),
        }
    }

    async fn text(
        &self,
        what: &str,
        redactor: &Redactor,
    ) -> Result<Option<String>, AttemptFailure> {
        let secret = match self {
            Self::None => return Ok(None),
            Self::Plain(text) => return Ok(Some(text.clone())),
            Self::Value(secret) => secret.clone(),
            Self::Missing(from) => return Err(no_key(format!("{what} is missing: {from}"))),
            Self::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) if !text.trim().is_empty() => Secret::new(text.trim()),
                Ok(_) => return Err(no_key(format!("{what} is missing: its file is empty"))),
                Err(error) => {
                    let kind = error.kind();
                    return Err(no_key(format!("{what} cannot be read from its file: {kind}")));
                }
            },
        };
        redactor.hide(&secret);
        Ok(Some(secret.expose().to_owned()))
    }
}

fn sensitive(what: &str, text: &str) -> Result<HeaderValue, AttemptFailure> {
    let Ok(mut value) = HeaderValue::from_str(text) else {
        return Err(no_key(format!("{what} has characters that no header can hold")));
    };
    value.set_sensitive(true);
    Ok(value)
}

fn no_key(message: String) -> AttemptFailure {
    let failure = Failure::new(ErrorCode::Permanent, false, message);
    AttemptFailure::new(FailureKind::Permanent, failure)
}
