//! Requests to other servers: found, signed, bounded, and not made while a server is left alone.

mod backoff;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_core::SigningKey;
use hearth_ports::{
    Clock, Entropy, HttpAnswer, HttpBody, HttpClient, HttpError, HttpOpened, HttpRequest, IdentityServer, PeerError,
    Resolver, StoredInvite,
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
};
use metrics::counter;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use serde::Deserialize;
use tokio::{
    sync::{Semaphore, broadcast},
    time::Instant,
};

pub use self::backoff::{Backoff, Urgency};
use crate::{
    discovery::Discovery,
    identifiers, identity,
    policy::ServerPolicy,
    xmatrix::{self, Signed},
};

/// Requests at once to one server; others wait for their turn within their time-out.
const REQUESTS_PER_SERVER: usize = 16;

/// Servers whose state is kept in memory, at some 200 bytes each. One that is forgotten is tried again.
const SERVERS_MAX: usize = 20_000;

/// Words of an error answer that are kept, in characters.
const WORDS_MAX: usize = 500;

/// The largest error answer that is kept whole, in bytes.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Above it a body is signed on a thread of its own, in bytes: about a millisecond's work.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// Servers that were heard of again and not yet taken note of. Who misses one tries it later all the same.
const ALIVE_MAX: usize = 256;

/// A request to another server.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Path and query, percent-encoded.
    pub path: String,
    /// A JSON object, or nothing.
    pub body: Option<Bytes>,
    /// Sign it. Requests for keys are not signed: keys are what signatures need.
    pub signed: bool,
    /// For whom it is.
    pub urgency: Urgency,
    /// What is waited for all of it, in milliseconds.
    pub timeout_ms: u64,
    /// A larger answer is refused, in bytes.
    pub answer_bytes_max: usize,
}

/// Sends requests to other servers.
pub struct Remote {
    key: Arc<SigningKey>,
    policy: ServerPolicy,
    http: Arc<dyn HttpClient>,
    discovery: Discovery,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    servers: Cache<OwnedServerName, Arc<Server>>,
    alive: broadcast::Sender<OwnedServerName>,
}

/// What is known of a server in this process.
struct Server {
    turns: Semaphore,
    /// Guards these few numbers; never held over a wait.
    backoff: Mutex<Backoff>,
    /// Why the last request came to nothing, for the operator.
    last_failure: Mutex<Option<Arc<str>>>,
}

impl Remote {
    /// Signs with `key` in the name of `policy.own`.
    pub fn new(
        key: Arc<SigningKey>,
        policy: ServerPolicy,
        http: Arc<dyn HttpClient>,
        resolver: Arc<dyn Resolver>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Arc<Self> {
        let discovery = Discovery::new(Arc::clone(&http), resolver, Arc::clone(&clock));
        let (servers, alive) = (Cache::new(SERVERS_MAX), broadcast::channel(ALIVE_MAX).0);
        Arc::new(Self { key, policy, http, discovery, clock, entropy, servers, alive })
    }

    /// Sends a request; the answer is the body of a 2xx.
    pub async fn send(&self, to: &ServerName, ask: Ask) -> Result<Bytes, PeerError> {
        if !self.policy.allows(to) {
            return Err(PeerError::Denied);
        }
        let server = self.server(to);
        let sent_ms = self.clock.now_ms();
        let check = server.backoff.lock().check(ask.urgency, sent_ms);
        if let Err(until_ms) = check {
            counter!("hearth_federation_requests_sent_total", "outcome" => "left_alone").increment(1);
            return Err(PeerError::BackingOff { until_ms });
        }
        let answer = self.in_turn(&server, to, ask).await;
        let result = self.judge(&server, to, sent_ms, answer);
        let outcome = match &result {
            Ok(_) => "answered",
            Err(PeerError::Refused { .. }) => "refused",
            Err(_) => "failed",
        };
        counter!("hearth_federation_requests_sent_total", "outcome" => outcome).increment(1);
        result
    }

    /// Sends a request; the body of a 2xx is read piece by piece, within the request's bounds.
    pub async fn open(&self, to: &ServerName, ask: Ask) -> Result<Box<dyn HttpBody>, PeerError> {
        if !self.policy.allows(to) {
            return Err(PeerError::Denied);
        }
        let server = self.server(to);
        let sent_ms = self.clock.now_ms();
        let check = server.backoff.lock().check(ask.urgency, sent_ms);
        check.map_err(|until_ms| PeerError::BackingOff { until_ms })?;
        let until = Instant::now() + Duration::from_millis(ask.timeout_ms);
        let opened = tokio::time::timeout_at(until, self.open_at(to, ask)).await;
        let answer = match opened.unwrap_or_else(|_| Err(Failure::Unreached(HttpError::TimedOut.to_string()))) {
            Ok(HttpOpened { status, body, .. }) if status.is_success() => {
                self.reached(&server, to);
                return Ok(body);
            }
            Ok(HttpOpened { status, headers, mut body }) => {
                // Words of an error that do not come are not needed.
                let words = body.next().await.ok().flatten().unwrap_or_default();
                Ok(HttpAnswer { status, headers, body: words })
            }
            Err(failure) => Err(failure),
        };
        self.judge(&server, to, sent_ms, answer)?;
        Err(PeerError::Malformed("an answer that is neither".to_owned()))
    }

    async fn open_at(&self, to: &ServerName, ask: Ask) -> Result<HttpOpened, Failure> {
        let request = self.request(to, ask).await?;
        self.http.open(request).await.map_err(Failure::from)
    }

    async fn in_turn(&self, server: &Server, to: &ServerName, ask: Ask) -> Result<HttpAnswer, Failure> {
        let until = Instant::now() + Duration::from_millis(ask.timeout_ms);
        // That we ask too much of a server says nothing about the server.
        let turn = tokio::time::timeout_at(until, server.turns.acquire()).await.map_err(|_| Failure::NoTurn)?;
        let _turn = turn.expect("it is never closed");
        let answer = tokio::time::timeout_at(until, self.exchange(to, ask)).await;
        answer.unwrap_or_else(|_| Err(Failure::Unreached(HttpError::TimedOut.to_string())))
    }

    async fn exchange(&self, to: &ServerName, ask: Ask) -> Result<HttpAnswer, Failure> {
        let request = self.request(to, ask).await?;
        self.http.send(request).await.map_err(Failure::from)
    }

    /// The request as it goes out: where to, and signed.
    async fn request(&self, to: &ServerName, ask: Ask) -> Result<HttpRequest, Failure> {
        let place = self.discovery.find(to).await.map_err(|error| Failure::Unreached(error.to_string()))?;
        let mut headers = HeaderMap::new();
        if ask.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if ask.signed {
            headers.insert(AUTHORIZATION, self.authorization(to, &ask).await?);
        }
        Ok(HttpRequest {
            method: ask.method,
            target: place.target,
            host: place.host,
            path: ask.path,
            headers,
            body: ask.body.unwrap_or_default(),
            timeout_ms: ask.timeout_ms,
            answer_bytes_max: ask.answer_bytes_max,
        })
    }

    async fn authorization(&self, to: &ServerName, ask: &Ask) -> Result<HeaderValue, Failure> {
        let (key, origin, to, ask) = (Arc::clone(&self.key), self.policy.own.clone(), to.to_owned(), ask.clone());
        let is_large = ask.body.as_ref().is_some_and(|body| body.len() > INLINE_BYTES_MAX);
        let sign = move || {
            let (method, uri) = (ask.method.as_str(), ask.path.as_str());
            let request = Signed { method, uri, destination: &to, content: ask.body.as_deref() };
            xmatrix::sign(&key, &origin, &request)
        };
        let header = if is_large { hearth_ports::work(sign).await } else { Ok(sign()) };
        let header = header.map_err(|error| Failure::Ours(error.to_string()))?;
        let header = header.map_err(|error| Failure::Ours(error.to_string()))?;
        let mut header = HeaderValue::try_from(header).map_err(|error| Failure::Ours(error.to_string()))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// Takes note of how it went, and says it in the port's words.
    fn judge(
        &self,
        server: &Server,
        to: &ServerName,
        sent_ms: u64,
        answer: Result<HttpAnswer, Failure>,
    ) -> Result<Bytes, PeerError> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::debug!(server = %to, %failure, "a request came to nothing");
                *server.last_failure.lock() = Some(failure.to_string().into());
                return Err(match failure {
                    Failure::NoTurn => PeerError::Unreachable(format!("{to}: {failure}")),
                    Failure::Unreached(reason) => {
                        self.failed(server, sent_ms);
                        PeerError::Unreachable(format!("{to}: {reason}"))
                    }
                    Failure::Denied(_) => {
                        self.failed(server, sent_ms);
                        PeerError::Denied
                    }
                    // It is there, and speaks.
                    Failure::TooLarge => {
                        self.reached(server, to);
                        PeerError::Malformed(Failure::TooLarge.to_string())
                    }
                    Failure::Ours(reason) => PeerError::Malformed(reason),
                });
            }
        };
        match answer.status.as_u16() {
            200..=299 => {
                self.reached(server, to);
                Ok(answer.body)
            }
            429 => {
                let now_ms = self.clock.now_ms();
                server.backoff.lock().asked_to_wait(now_ms.saturating_add(retry_after_ms(&answer)), now_ms);
                Err(refused(&answer))
            }
            400..=499 => {
                self.reached(server, to);
                Err(refused(&answer))
            }
            // A broken room is not a broken server.
            status @ (500 | 501) => Err(PeerError::Unreachable(format!("{to}: HTTP {status}"))),
            status => {
                self.failed(server, sent_ms);
                Err(PeerError::Unreachable(format!("{to}: HTTP {status}")))
            }
        }
    }

    fn server(&self, name: &ServerName) -> Arc<Server> {
        if let Some(server) = self.servers.get(name) {
            return server;
        }
        let new = || Ok::<_, std::convert::Infallible>(Arc::new(Server::new()));
        match self.servers.get_or_insert_with(name, new) {
            Ok(server) => server,
            Err(never) => match never {},
        }
    }

    fn failed(&self, server: &Server, sent_ms: u64) {
        let mut random = [0; 2];
        self.entropy.fill(&mut random);
        server.backoff.lock().failed(sent_ms, self.clock.now_ms(), u16::from_be_bytes(random));
    }

    fn reached(&self, server: &Server, name: &ServerName) {
        let before = server.backoff.lock().reached();
        if before.failures > 0 {
            tracing::info!(server = %name, failures = before.failures, "a server is reached again");
            // Nobody need listen.
            let _ = self.alive.send(name.to_owned());
        }
    }

    /// A request of ours that did not go through here has reached the server.
    pub fn note_success(&self, name: &ServerName) {
        self.reached(&self.server(name), name);
    }

    /// A request of ours that did not go through here, sent at `sent_ms` (milliseconds since the Unix epoch), came to
    /// nothing.
    pub fn note_failure(&self, name: &ServerName, sent_ms: u64) {
        self.failed(&self.server(name), sent_ms);
    }

    /// The server has sent us something and proven that it was itself: it is worth trying again.
    pub fn heard_from(&self, name: &ServerName) {
        if let Some(server) = self.servers.get(name) {
            self.reached(&server, name);
        }
    }

    /// How well a server was reached lately; `None`: nothing is wrong, or nothing known.
    pub fn backoff(&self, name: &ServerName) -> Option<Backoff> {
        let mut backoff = *self.servers.get(name)?.backoff.lock();
        backoff.asked_until_ms = backoff.asked_until(self.clock.now_ms());
        backoff.retry_at_ms = backoff.retry_at_ms.max(backoff.asked_until_ms);
        (backoff != Backoff::default()).then_some(backoff)
    }

    /// Until when a server is left alone, in milliseconds since the Unix epoch; `None`: it is not.
    pub fn is_backing_off(&self, name: &ServerName) -> Option<u64> {
        self.servers.get(name)?.backoff.lock().check(Urgency::Routine, self.clock.now_ms()).err()
    }

    /// Until when a server asked to be left alone, in milliseconds since the Unix epoch; `None`: it did not.
    pub fn asked_to_wait_until(&self, name: &ServerName) -> Option<u64> {
        let until_ms = self.servers.get(name)?.backoff.lock().asked_until(self.clock.now_ms());
        (until_ms > 0).then_some(until_ms)
    }

    /// Why the last request to a server that came to nothing did.
    pub fn last_failure(&self, name: &ServerName) -> Option<Arc<str>> {
        self.servers.get(name)?.last_failure.lock().clone()
    }

    /// Servers that are reached again after they were not. Some may be lost on a slow listener.
    pub fn subscribe_alive(&self) -> broadcast::Receiver<OwnedServerName> {
        self.alive.subscribe()
    }

    /// Whether a key of an identity server still counts; see [`identity`].
    pub(crate) async fn identity_key_is_valid(&self, url: &str, public_key: &str) -> Result<bool, PeerError> {
        identity::key_is_valid(&*self.http, self.discovery.resolver(), url, public_key).await
    }

    /// The user who has bound an identifier; see [`identifiers`].
    pub(crate) async fn identity_lookup(
        &self,
        server: &IdentityServer<'_>,
        medium: &str,
        address: &str,
    ) -> Result<Option<OwnedUserId>, PeerError> {
        identifiers::lookup(&*self.http, self.discovery.resolver(), server, medium, address).await
    }

    /// Leaves an invite at an identity server; see [`identifiers`].
    pub(crate) async fn identity_store_invite(
        &self,
        server: &IdentityServer<'_>,
        body: Bytes,
    ) -> Result<StoredInvite, PeerError> {
        identifiers::store_invite(&*self.http, self.discovery.resolver(), server, body).await
    }

    /// With whom we may talk.
    pub fn policy(&self) -> &ServerPolicy {
        &self.policy
    }

    /// Where servers are.
    pub fn discovery(&self) -> &Discovery {
        &self.discovery
    }
}

impl Server {
    fn new() -> Self {
        Self { turns: Semaphore::new(REQUESTS_PER_SERVER), backoff: Mutex::default(), last_failure: Mutex::default() }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The server is not there.
    #[error("{0}")]
    Unreached(String),
    /// It is where we may not connect to.
    #[error("connecting is not allowed: {0}")]
    Denied(String),
    /// It is there, but its answer is too large.
    #[error("it is too large")]
    TooLarge,
    /// Too many other requests of ours were before this one.
    #[error("too many requests to it at once")]
    NoTurn,
    /// The request was never sent.
    #[error("the request was not made: {0}")]
    Ours(String),
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Denied(reason) => Self::Denied(reason),
            HttpError::TooLarge => Self::TooLarge,
            HttpError::Unreachable(_) | HttpError::TimedOut => Self::Unreached(error.to_string()),
        }
    }
}

/// "No", in the server's own words where it has some.
fn refused(answer: &HttpAnswer) -> PeerError {
    #[derive(Deserialize, Default)]
    struct Words {
        #[serde(default)]
        errcode: Option<String>,
        #[serde(default)]
        error: Option<String>,
    }
    let words: Words = serde_json::from_slice(&answer.body).unwrap_or_default();
    let short = |text: String| text.chars().take(WORDS_MAX).collect();
    PeerError::Refused {
        status: answer.status.as_u16(),
        errcode: words.errcode.map_or_else(|| "M_UNKNOWN".to_owned(), short),
        error: words.error.map_or_else(|| format!("HTTP {}", answer.status.as_u16()), short),
        body: if answer.body.len() > ERROR_BYTES_MAX { Bytes::new() } else { answer.body.clone() },
    }
}

/// How long the server asks to be left alone, in milliseconds.
fn retry_after_ms(answer: &HttpAnswer) -> u64 {
    /// Of an answer that does not say it.
    const DEFAULT_MS: u64 = 5_000;
    #[derive(Deserialize)]
    struct Words {
        retry_after_ms: u64,
    }
    debug_assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let header = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let body = || serde_json::from_slice::<Words>(&answer.body).ok().map(|words| words.retry_after_ms);
    header.map(|seconds| seconds.saturating_mul(1_000)).or_else(body).unwrap_or(DEFAULT_MS)
}

#[cfg(test)]
mod tests;
