//! The client: one small pool of connections for each target, requests in turn, errors as the port has them.
//!
//! Each target has a hyper client of its own whose connector knows the target's addresses and the name on its
//! certificate, so neither is guessed from a URL. What the targets share is the policy, the TLS configuration and the
//! bounds.

use std::{error::Error, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_ports::{BoxFuture, HttpAnswer, HttpBody, HttpClient, HttpError, HttpOpened, HttpRequest};
use http::{
    Extensions, HeaderValue, Method, Request, Response, Uri,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT},
    uri::{Authority, Scheme},
};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use rustls::pki_types::ServerName;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time,
};
use tokio_rustls::TlsConnector;

use crate::{
    AddressPolicy, SettingsError, body,
    connect::{ConnectError, Connector, Dialer, Used},
    observe::Observed,
    tls,
};

/// Who we say we are.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("hearth/", env!("CARGO_PKG_VERSION")));

/// The head of an answer over HTTP/1, its status line and headers; also what is read at once. HTTP/2 has hyper's bound
/// of 16 KiB.
const HEAD_BYTES_MAX: usize = 65_536;

/// An HTTP/2 connection with open requests that was silent for so long is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(20);

/// The sign of life must come within this, else the connection is given up and no longer shared with new requests.
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// What the operator and the assembly decide. A bound of 0 counts as 1.
#[derive(Clone, Debug)]
pub struct HttpsSettings {
    /// What may be connected to.
    pub policy: AddressPolicy,
    /// Trust the certificate authorities of the operating system (or of the file in `SSL_CERT_FILE`).
    pub system_authorities: bool,
    /// Certificate authorities that are trusted too, PEM. Read once.
    pub extra_ca_files: Vec<PathBuf>,
    /// Machines that are no homeservers may have any certificate ([`HttpClient::send_elsewhere`]). For tests.
    pub trust_all_elsewhere: bool,
    /// For each address: what is waited for TCP and TLS together, in milliseconds.
    pub connect_timeout_ms: u64,
    /// A connection without requests is closed after it, in milliseconds. Less than other servers wait (nginx: 75 s),
    /// so that a request seldom meets a connection that is just being closed.
    pub idle_timeout_ms: u64,
    /// Targets whose connections are kept; those that are used least are closed first.
    pub targets_max: usize,
    /// Connections without requests that are kept for a target that speaks HTTP/1. Over HTTP/2 one serves all.
    pub idle_connections_per_target_max: usize,
    /// Requests at once, to all targets. The others wait their turn, within their own time-out.
    pub requests_max: usize,
    /// Requests at once to a target, so that a slow one does not use up the whole.
    pub requests_per_target_max: usize,
}

impl Default for HttpsSettings {
    fn default() -> Self {
        Self {
            policy: AddressPolicy::default(),
            system_authorities: true,
            extra_ca_files: Vec::new(),
            trust_all_elsewhere: false,
            connect_timeout_ms: 10_000,
            idle_timeout_ms: 60_000,
            targets_max: 1_024,
            idle_connections_per_target_max: 4,
            requests_max: 2_048,
            requests_per_target_max: 32,
        }
    }
}

/// Outbound HTTP over TLS. No redirects, cookies, proxies or compression.
pub struct HttpsClient {
    dialer: Arc<Dialer>,
    /// For machines that are no homeservers, if other certificates do for them.
    dialer_elsewhere: Option<Arc<Dialer>>,
    settings: HttpsSettings,
    targets: Cache<TargetKey, Arc<Target>>,
    turns: Arc<Semaphore>,
}

impl HttpsClient {
    /// Reads the certificate authorities, on a thread that may block.
    pub async fn open(settings: HttpsSettings) -> Result<Self, SettingsError> {
        let (system, files) = (settings.system_authorities, settings.extra_ca_files.clone());
        let config = spawn_blocking(move || tls::client_config(system, &files)).await;
        let config = config.map_err(|error| SettingsError::System(error.to_string()))??;
        if settings.trust_all_elsewhere {
            tracing::warn!("certificates of machines that are no homeservers are not checked");
        }
        let elsewhere = settings.trust_all_elsewhere.then(|| tls::unverified(&config));
        let dialer = |config| {
            Arc::new(Dialer {
                policy: settings.policy.clone(),
                tls: TlsConnector::from(Arc::new(config)),
                timeout: Duration::from_millis(settings.connect_timeout_ms),
            })
        };
        Ok(Self {
            dialer: dialer(config),
            dialer_elsewhere: elsewhere.map(dialer),
            targets: Cache::new(settings.targets_max.max(1)),
            turns: turns(settings.requests_max),
            settings,
        })
    }

    /// Sends a request and reads the answer, in time; `elsewhere`: to a machine that is no homeserver.
    async fn whole(&self, request: HttpRequest, elsewhere: bool) -> Result<HttpAnswer, HttpError> {
        let observed = Observed::request();
        let whole = Duration::from_millis(request.timeout_ms);
        let answer = time::timeout(whole, self.exchange(request, elsewhere)).await.unwrap_or(Err(HttpError::TimedOut));
        observed.answered(&answer);
        answer
    }

    async fn exchange(&self, request: HttpRequest, elsewhere: bool) -> Result<HttpAnswer, HttpError> {
        let (answer, _turns) = self.begin(&request, elsewhere).await?;
        let (parts, body) = answer.into_parts();
        let body = body::read(&request.method, body, request.answer_bytes_max).await?;
        Ok(HttpAnswer { status: parts.status, headers: parts.headers, body })
    }

    /// The head of the answer, and the turns that the request takes until its answer is read.
    async fn begin(&self, request: &HttpRequest, elsewhere: bool) -> Result<(Response<Incoming>, Turns), HttpError> {
        let target = self.target(request, elsewhere)?;
        // The target's turn comes first: who waits for a slow target takes nobody else's place.
        let of_target = Arc::clone(&target.turns).acquire_owned().await.expect("it is never closed");
        let of_all = Arc::clone(&self.turns).acquire_owned().await.expect("it is never closed");
        Ok((target.ask(request).await?, [of_target, of_all]))
    }

    fn target(&self, request: &HttpRequest, elsewhere: bool) -> Result<Arc<Target>, HttpError> {
        let dialer = self.dialer_elsewhere.as_ref().filter(|_| elsewhere);
        let key = TargetKey::of(request, dialer.is_some());
        let dialer = dialer.unwrap_or(&self.dialer);
        // A name with many addresses is looked up to other ones each time. One that has left all of its addresses has moved:
        // the connections to the old ones are used no more.
        let addresses = &request.target.addresses;
        let mut target = self.targets.get_or_insert_with(&key, || Target::new(self, dialer, request).map(Arc::new))?;
        if !target.is_at_one_of(addresses) {
            // Requests that are on their way count all the same.
            let turns = Arc::clone(&target.turns);
            target = Arc::new(Target { turns, ..Target::new(self, dialer, request)? });
            self.targets.insert(key, Arc::clone(&target));
        }
        target.addresses.lock().clone_from(addresses);
        Ok(target)
    }
}

impl HttpClient for HttpsClient {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpAnswer, HttpError>> {
        Box::pin(self.whole(request, false))
    }

    fn send_elsewhere(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpAnswer, HttpError>> {
        Box::pin(self.whole(request, true))
    }

    fn open(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpOpened, HttpError>> {
        Box::pin(async move {
            let observed = Observed::request();
            let until = time::Instant::now() + Duration::from_millis(request.timeout_ms);
            let begun = time::timeout_at(until, self.begin(&request, false)).await.unwrap_or(Err(HttpError::TimedOut));
            observed.opened(begun.as_ref().map(|(answer, _)| answer.status()));
            let (answer, turns) = begun?;
            let (parts, body) = answer.into_parts();
            let body = Stream { body, left: request.answer_bytes_max, until, _turns: turns };
            Ok(HttpOpened { status: parts.status, headers: parts.headers, body: Box::new(body) })
        })
    }
}

/// The turns that a request takes: its target's, and one of all.
type Turns = [OwnedSemaphorePermit; 2];

/// An answer that is read as it comes.
struct Stream {
    body: Incoming,
    /// Bytes that may still come.
    left: usize,
    until: time::Instant,
    _turns: Turns,
}

impl HttpBody for Stream {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, HttpError>> {
        Box::pin(async move {
            let next = time::timeout_at(self.until, body::next(&mut self.body)).await;
            let next = next.unwrap_or(Err(HttpError::TimedOut))?;
            if let Some(data) = &next {
                self.left = self.left.checked_sub(data.len()).ok_or(HttpError::TooLarge)?;
            }
            Ok(next)
        })
    }
}

/// Requests that agree on it may share a connection.
#[derive(Clone, PartialEq, Eq, Hash)]
struct TargetKey {
    host: String,
    tls_name: String,
    /// Sorted: a set. Behind another port there may be another server of the same name. (Addresses change.)
    ports: Vec<u16>,
    /// Whose certificate was not looked at is trusted for no other request.
    is_unverified: bool,
}

impl TargetKey {
    fn of(request: &HttpRequest, is_unverified: bool) -> Self {
        let mut ports: Vec<u16> = request.target.addresses.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        Self { host: request.host.clone(), tls_name: request.target.tls_name.clone(), ports, is_unverified }
    }
}

/// A target and its connections.
struct Target {
    client: Client<Connector, Full<Bytes>>,
    host: HeaderValue,
    authority: Authority,
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    turns: Arc<Semaphore>,
}

impl Target {
    fn new(of: &HttpsClient, dialer: &Arc<Dialer>, request: &HttpRequest) -> Result<Self, HttpError> {
        let (host, tls_name) = (&request.host, &request.target.tls_name);
        let no_host = || HttpError::Unreachable(format!("`{host}` is no host"));
        // `user@host` is an authority too, but no host.
        let authority = Some(host).filter(|host| !host.contains('@')).and_then(|host| host.parse().ok());
        let bare = tls_name.trim_start_matches('[').trim_end_matches(']');
        let tls_name = ServerName::try_from(bare.to_owned())
            .map_err(|_| HttpError::Unreachable(format!("no certificate can be for `{tls_name}`")))?;
        let addresses = Arc::new(Mutex::new(request.target.addresses.clone()));
        let connector = Connector { dialer: Arc::clone(dialer), tls_name, addresses: Arc::clone(&addresses) };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_millis(of.settings.idle_timeout_ms))
            .pool_max_idle_per_host(of.settings.idle_connections_per_target_max)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .http2_keep_alive_interval(PING_AFTER)
            .http2_keep_alive_timeout(PONG_WITHIN)
            .build(connector);
        Ok(Self {
            client,
            host: HeaderValue::from_str(host).map_err(|_| no_host())?,
            authority: authority.ok_or_else(no_host)?,
            addresses,
            turns: turns(of.settings.requests_per_target_max),
        })
    }

    fn is_at_one_of(&self, addresses: &[SocketAddr]) -> bool {
        self.addresses.lock().iter().any(|address| addresses.contains(address))
    }

    /// Sends the request and reads the head of the answer.
    ///
    /// The other end may close a kept connection in the very moment in which a request is written to it. That tells
    /// nothing about the other end, so such a request goes out once more, if it is of a kind that may arrive twice
    /// ([RFC 9110 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2)).
    async fn ask(&self, request: &HttpRequest) -> Result<Response<Incoming>, HttpError> {
        let mut result = self.client.request(self.outgoing(request)?).await;
        if request.method.is_idempotent() && result.as_ref().is_err_and(met_a_closing_connection) {
            result = self.client.request(self.outgoing(request)?).await;
        }
        let answer = result.map_err(|error| failure(&error))?;
        if let Some(used) = answer.extensions().get::<Used>() {
            used.mark();
        }
        Ok(answer)
    }

    fn outgoing(&self, request: &HttpRequest) -> Result<Request<Full<Bytes>>, HttpError> {
        let path = request.path.as_str();
        let uri = Uri::builder().scheme(Scheme::HTTPS).authority(self.authority.clone()).path_and_query(path).build();
        // A fragment would be cut off; an empty path would become another.
        let uri = uri.ok().filter(|uri| uri.path_and_query().is_some_and(|sent| sent == path));
        let Some(uri) = uri.filter(|_| path.starts_with('/') && request.method != Method::CONNECT) else {
            return Err(HttpError::Unreachable(format!("nothing is sent for {} `{path}`", request.method)));
        };
        let mut outgoing = Request::new(Full::new(request.body.clone()));
        *outgoing.method_mut() = request.method.clone();
        *outgoing.uri_mut() = uri;
        let headers = outgoing.headers_mut();
        headers.clone_from(&request.headers);
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, AGENT);
        Ok(outgoing)
    }
}

fn turns(at_once: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS)))
}

/// Did the connection break that had served another request before?
fn met_a_closing_connection(error: &legacy::Error) -> bool {
    let mut extras = Extensions::new();
    if let Some(connected) = error.connect_info() {
        connected.get_extras(&mut extras);
    }
    extras.get::<Used>().is_some_and(Used::is_marked)
}

fn failure(error: &legacy::Error) -> HttpError {
    let connecting = causes(error).find_map(|cause| cause.downcast_ref::<ConnectError>());
    match connecting {
        Some(ConnectError::Denied(why)) => HttpError::Denied(why.clone()),
        Some(ConnectError::Failed(why)) => HttpError::Unreachable(why.clone()),
        None => unreachable(error),
    }
}

/// The error with its causes, for the log.
pub(crate) fn unreachable(error: &(dyn Error + 'static)) -> HttpError {
    let words: Vec<_> = causes(error).map(ToString::to_string).collect();
    HttpError::Unreachable(words.join(": "))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause| (**cause).source())
}
