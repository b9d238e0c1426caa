//! `GET https://<hostname>/.well-known/matrix/server`, and how long its answer counts.
//! [Step 3](https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use hearth_ports::{Clock, HttpAnswer, HttpClient, HttpError, HttpRequest, HttpTarget, Resolver};
use http::{
    HeaderMap, Method, StatusCode,
    header::{CACHE_CONTROL, LOCATION},
};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use url::{Host, Url};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// "The recommended sensible default is 24 hours."
const LIFETIME_DEFAULT_MS: u64 = 24 * HOUR_MS;
/// "Servers should additionally impose a maximum cache time for responses: 48 hours is recommended."
const LIFETIME_MAX_MS: u64 = 48 * HOUR_MS;
/// Whatever the answer says: its host is not to be asked on each request.
const LIFETIME_MIN_MS: u64 = 5 * MINUTE_MS;
/// After a first failure; it doubles with each one that follows.
const FAILURE_LIFETIME_MIN_MS: u64 = MINUTE_MS;
/// "Errors are recommended to be cached for up to an hour."
const FAILURE_LIFETIME_MAX_MS: u64 = HOUR_MS;

/// "Redirection loops should be avoided."
const REDIRECTS_MAX: usize = 5;
/// The longest address of a redirect, in bytes.
const LOCATION_BYTES_MAX: usize = 2_048;
/// The document is one short field.
const DOCUMENT_BYTES_MAX: usize = 16 << 10;
/// What is waited for each answer. A host whose port 443 drops packets has none, and its server may be well elsewhere: what
/// is left of the time-outs of those who ask (keys: 8 s) must be enough to ask there.
const ANSWER_TIMEOUT_MS: u64 = 4_000;
/// What is waited for all of it, DNS and redirects included.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(6);
/// Addresses of its host that are tried.
const ADDRESSES_MAX: usize = 4;
/// Hosts whose answers are kept, at some 300 bytes each.
const HOSTS_MAX: usize = 20_000;

/// What a host says about its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WellKnown {
    /// It is at this name.
    Delegated(OwnedServerName),
    /// Nothing that counts; in words for an operator.
    Nothing(Arc<str>),
}

impl WellKnown {
    pub(super) fn as_result(&self) -> Result<OwnedServerName, String> {
        match self {
            Self::Delegated(delegate) => Ok(delegate.clone()),
            Self::Nothing(reason) => Err(reason.to_string()),
        }
    }
}

/// What is known of a host.
#[derive(Clone)]
struct Entry {
    well_known: WellKnown,
    /// When `well_known` came from the host.
    fetched_ms: u64,
    /// From then on it is asked again.
    until_ms: u64,
    /// Failures since the last success.
    failures: u32,
}

/// How an attempt ended.
enum Fetched {
    /// A document that is right.
    Document { delegate: OwnedServerName, lifetime_ms: u64 },
    /// There is none, or a wrong one: the host has spoken.
    Nothing(String),
    /// The host was not heard.
    Unheard(String),
}

/// A request that runs, for all who wait for it.
type Running = Shared<BoxFuture<'static, WellKnown>>;

/// The documents of hosts.
pub(super) struct WellKnowns {
    http: Arc<dyn HttpClient>,
    resolver: Arc<dyn Resolver>,
    clock: Arc<dyn Clock>,
    known: Cache<String, Entry>,
    /// Hosts that are being asked: at most one request each. Held for map operations only.
    running: Mutex<HashMap<String, Running>>,
}

impl WellKnowns {
    pub(super) fn new(http: Arc<dyn HttpClient>, resolver: Arc<dyn Resolver>, clock: Arc<dyn Clock>) -> Self {
        Self { http, resolver, clock, known: Cache::new(HOSTS_MAX), running: Mutex::default() }
    }

    /// What a host says, from the cache while that counts.
    pub(super) async fn get(self: &Arc<Self>, host: &str) -> WellKnown {
        let host = host.to_owned();
        match self.fresh(&host) {
            Some(fresh) => fresh,
            None => self.refreshed(host, false).await,
        }
    }

    /// What a host says now.
    pub(super) async fn get_anew(self: &Arc<Self>, host: &str) -> WellKnown {
        self.refreshed(host.to_owned(), true).await
    }

    /// What a host says to a request that runs already, or to a new one. It goes on when nobody waits for it any longer: who
    /// comes next profits from what it learns, also that the host is not heard.
    /// `anew`: what is known does not count.
    async fn refreshed(self: &Arc<Self>, host: String, anew: bool) -> WellKnown {
        let (asking, is_new) = {
            let mut running = self.running.lock();
            // One that has just ended.
            if let Some(fresh) = self.fresh(&host).filter(|_| !anew) {
                return fresh;
            }
            match running.get(&host) {
                Some(asking) => (asking.clone(), false),
                None => {
                    let asking =
                        Asking { well_knowns: Arc::clone(self), host: host.clone() }.answered().boxed().shared();
                    running.insert(host, asking.clone());
                    (asking, true)
                }
            }
        };
        if is_new {
            tokio::spawn(asking.clone());
        }
        asking.await
    }

    fn fresh(&self, host: &String) -> Option<WellKnown> {
        let entry = self.known.get(host)?;
        (self.clock.now_ms() < entry.until_ms).then_some(entry.well_known)
    }

    async fn refresh(&self, host: &String) -> WellKnown {
        let fetched = tokio::time::timeout(WHOLE_TIMEOUT, self.fetch(host)).await;
        let fetched = fetched.unwrap_or_else(|_| Fetched::Unheard("it took too long".to_owned()));
        let entry = next(self.known.get(host), fetched, self.clock.now_ms());
        tracing::debug!(host, well_known = ?entry.well_known, "well-known document");
        self.known.insert(host.clone(), entry.clone());
        entry.well_known
    }

    async fn fetch(&self, host: &str) -> Fetched {
        let mut request = Hop { host: host.to_owned(), name: host.to_owned(), port: 443, path: PATH.to_owned() };
        for _ in 0..=REDIRECTS_MAX {
            let answer = match self.ask(&request).await {
                Ok(answer) => answer,
                Err(fetched) => return fetched,
            };
            if !is_redirect(answer.status) {
                return read(&answer);
            }
            match request.redirected(&answer.headers) {
                Ok(next) => request = next,
                Err(reason) => return Fetched::Nothing(reason.to_owned()),
            }
        }
        Fetched::Nothing("too many redirects".to_owned())
    }

    async fn ask(&self, hop: &Hop) -> Result<HttpAnswer, Fetched> {
        let addresses: Vec<IpAddr> = match hop.name.trim_matches(['[', ']']).parse() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.addresses(&hop.name).await.map_err(|error| Fetched::Unheard(error.to_string()))?,
        };
        if addresses.is_empty() {
            return Err(Fetched::Nothing(format!("{} has no address", hop.name)));
        }
        let addresses = addresses.into_iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, hop.port)).collect();
        let request = HttpRequest {
            method: Method::GET,
            target: HttpTarget { tls_name: hop.name.clone(), addresses },
            host: hop.host.clone(),
            path: hop.path.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout_ms: ANSWER_TIMEOUT_MS,
            answer_bytes_max: DOCUMENT_BYTES_MAX,
        };
        self.http.send(request).await.map_err(|error| match error {
            HttpError::Unreachable(_) | HttpError::TimedOut => Fetched::Unheard(error.to_string()),
            HttpError::Denied(_) | HttpError::TooLarge => Fetched::Nothing(error.to_string()),
        })
    }
}

/// A request that runs: whatever its end, others may begin one then.
struct Asking {
    well_knowns: Arc<WellKnowns>,
    host: String,
}

impl Asking {
    async fn answered(self) -> WellKnown {
        self.well_knowns.refresh(&self.host).await
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // Let go of after the lock.
        let _running = self.well_knowns.running.lock().remove(&self.host);
    }
}

/// What is known after an attempt.
fn next(before: Option<Entry>, fetched: Fetched, now_ms: u64) -> Entry {
    let failures = before.as_ref().map_or(0, |entry| entry.failures);
    let pause_ms = (FAILURE_LIFETIME_MIN_MS << failures.min(10)).min(FAILURE_LIFETIME_MAX_MS);
    let failed = |reason: String| Entry {
        well_known: WellKnown::Nothing(reason.into()),
        fetched_ms: now_ms,
        until_ms: now_ms.saturating_add(pause_ms),
        failures: failures.saturating_add(1),
    };
    match fetched {
        Fetched::Document { delegate, lifetime_ms } => Entry {
            well_known: WellKnown::Delegated(delegate),
            fetched_ms: now_ms,
            until_ms: now_ms.saturating_add(lifetime_ms),
            failures: 0,
        },
        Fetched::Nothing(reason) => failed(reason),
        // A web server that is away for a while must not take a server with it that is somewhere else and well. What it
        // said counts as long as it could have been cached.
        Fetched::Unheard(reason) => match before {
            Some(Entry { well_known: known @ WellKnown::Delegated(_), fetched_ms, .. })
                if now_ms < fetched_ms.saturating_add(LIFETIME_MAX_MS) =>
            {
                Entry { well_known: known, fetched_ms, ..failed(reason) }
            }
            Some(_) | None => failed(reason),
        },
    }
}

const PATH: &str = "/.well-known/matrix/server";

/// One request on the way to the document.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hop {
    /// The `Host` header.
    host: String,
    /// The name of the host, or its address; IPv6 in brackets.
    name: String,
    port: u16,
    /// Path and query.
    path: String,
}

impl Hop {
    /// Where the answer points. Only to https: the document decides whose certificate is asked for.
    fn redirected(&self, headers: &HeaderMap) -> Result<Self, &'static str> {
        let location = headers.get(LOCATION).ok_or("a redirect to nowhere")?;
        let location = location.to_str().map_err(|_| "a redirect to no address")?;
        if location.len() > LOCATION_BYTES_MAX {
            return Err("a redirect to an address that is too long");
        }
        let here = Url::parse(&format!("https://{}{}", self.host, self.path)).map_err(|_| "a host like no other")?;
        let url = here.join(location).map_err(|_| "a redirect to no address")?;
        if url.scheme() != "https" || !url.username().is_empty() || url.password().is_some() {
            return Err("a redirect to something else than https");
        }
        let name = match url.host() {
            Some(Host::Domain(name)) if name.bytes().all(is_of_name) => name.to_owned(),
            Some(Host::Domain(_)) => return Err("a redirect to no host"),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => format!("[{address}]"),
            None => return Err("a redirect to no host"),
        };
        // `port` is absent for 443.
        let host = url.port().map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        Ok(Self { host, name, port: url.port().unwrap_or(443), path })
    }
}

/// URLs let more stand in a host, quotes and braces among it; no certificate is for such a name.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._".contains(&byte)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// "Bad JSON, missing properties, non-200 response": nothing that counts.
fn read(answer: &HttpAnswer) -> Fetched {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "m.server")]
        server: String,
    }
    if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS {
        return Fetched::Unheard(format!("HTTP {}", answer.status.as_u16()));
    }
    if answer.status != StatusCode::OK {
        return Fetched::Nothing(format!("HTTP {}", answer.status.as_u16()));
    }
    let Ok(document) = serde_json::from_slice::<Document>(&answer.body) else {
        return Fetched::Nothing("its document does not say m.server".to_owned());
    };
    match ServerName::parse(document.server) {
        Ok(delegate) => Fetched::Document { delegate, lifetime_ms: lifetime_ms(&answer.headers) },
        Err(_) => Fetched::Nothing("its m.server is no server name".to_owned()),
    }
}

/// How long a document counts, within our bounds. [RFC 9111, section 5.2.2](https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2).
fn lifetime_ms(headers: &HeaderMap) -> u64 {
    let values = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    let directives = values.flat_map(|value| value.split(',')).map(|directive| directive.trim().to_ascii_lowercase());
    let lifetimes = directives.filter_map(|directive| match directive.split_once('=') {
        Some(("max-age", seconds)) => Some(seconds.trim_matches('"').parse::<u64>().ok()?.saturating_mul(1_000)),
        None if directive == "no-store" || directive == "no-cache" => Some(0),
        Some(_) | None => None,
    });
    lifetimes.min().unwrap_or(LIFETIME_DEFAULT_MS).clamp(LIFETIME_MIN_MS, LIFETIME_MAX_MS)
}
