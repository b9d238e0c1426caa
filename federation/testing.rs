//! A network that answers as it is told.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hearth_ports::{
    BoxFuture, HttpAnswer, HttpClient, HttpError, HttpRequest, ManualClock, ResolveFailed, Resolver, SrvTarget,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

/// A day in November 2023.
pub(crate) const NOW_MS: u64 = 1_700_000_000_000;

type Respond = Arc<dyn Fn(&HttpRequest) -> Result<HttpAnswer, HttpError> + Send + Sync>;

/// HTTP and DNS. Who is not scripted is not reached, a name that is not scripted does not exist.
#[derive(Default)]
pub(crate) struct Net {
    names: Mutex<HashMap<String, Result<Vec<IpAddr>, ResolveFailed>>>,
    services: Mutex<HashMap<String, Result<Vec<SrvTarget>, ResolveFailed>>>,
    /// By `Host` header and the beginning of the path; the longest that fits answers.
    hosts: Mutex<BTreeMap<(String, String), Respond>>,
    asked: Mutex<Vec<HttpRequest>>,
    looked_up: Mutex<Vec<String>>,
    /// Names and ports at which packets are dropped.
    silent: Mutex<HashSet<(String, u16)>>,
    held: AtomicBool,
    release: Notify,
}

impl Net {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub(crate) fn name(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.names.lock().insert(host.to_owned(), Ok(addresses));
    }

    pub(crate) fn broken_name(&self, host: &str) {
        self.names.lock().insert(host.to_owned(), Err(ResolveFailed("SERVFAIL".to_owned())));
    }

    pub(crate) fn srv(&self, name: &str, targets: &[(&str, u16)]) {
        let targets = targets.iter().map(|(host, port)| SrvTarget { host: (*host).to_owned(), port: *port }).collect();
        self.services.lock().insert(name.to_owned(), Ok(targets));
    }

    pub(crate) fn broken_srv(&self, name: &str) {
        self.services.lock().insert(name.to_owned(), Err(ResolveFailed("SERVFAIL".to_owned())));
    }

    pub(crate) fn respond(
        &self,
        host: &str,
        path: &str,
        respond: impl Fn(&HttpRequest) -> Result<HttpAnswer, HttpError> + Send + Sync + 'static,
    ) {
        self.hosts.lock().insert((host.to_owned(), path.to_owned()), Arc::new(respond));
    }

    pub(crate) fn json(&self, host: &str, path: &str, body: &Value) {
        let body = body.to_string();
        self.respond(host, path, move |_| Ok(answer(200, &[], &body)));
    }

    pub(crate) fn fail(&self, host: &str, path: &str, error: HttpError) {
        self.respond(host, path, move |_| Err(error.clone()));
    }

    /// Nobody who asks there gets an answer, nor is refused.
    pub(crate) fn silence(&self, name: &str, port: u16) {
        self.silent.lock().insert((name.to_owned(), port));
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<HttpRequest> {
        std::mem::take(&mut self.asked.lock())
    }

    /// `Host` header and path of what was asked since the last time.
    pub(crate) fn asked_urls(&self) -> Vec<String> {
        self.asked().into_iter().map(|request| format!("{}{}", request.host, request.path)).collect()
    }

    /// Names looked up since the last time.
    pub(crate) fn looked_up(&self) -> Vec<String> {
        std::mem::take(&mut self.looked_up.lock())
    }

    /// Requests that come from now on wait for [`Self::go_on`].
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    pub(crate) fn go_on(&self) {
        self.held.store(false, Ordering::SeqCst);
        self.release.notify_waiters();
    }
}

impl HttpClient for Net {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpAnswer, HttpError>> {
        Box::pin(async move {
            self.asked.lock().push(request.clone());
            let port = request.target.addresses.first().map_or(0, SocketAddr::port);
            let is_silent = self.silent.lock().contains(&(request.target.tls_name.clone(), port));
            if is_silent {
                tokio::time::sleep(Duration::from_millis(request.timeout_ms)).await;
                return Err(HttpError::TimedOut);
            }
            loop {
                let released = self.release.notified();
                if !self.held.load(Ordering::SeqCst) {
                    break;
                }
                released.await;
            }
            let respond = {
                let hosts = self.hosts.lock();
                let fits =
                    hosts.iter().filter(|((host, path), _)| *host == request.host && request.path.starts_with(path));
                fits.max_by_key(|((_, path), _)| path.len()).map(|(_, respond)| Arc::clone(respond))
            };
            let answer = respond
                .map_or_else(|| Err(HttpError::Unreachable("refused".to_owned())), |respond| respond(&request))?;
            if answer.body.len() > request.answer_bytes_max { Err(HttpError::TooLarge) } else { Ok(answer) }
        })
    }
}

impl Resolver for Net {
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveFailed>> {
        self.looked_up.lock().push(host.to_owned());
        let found = self.names.lock().get(host).cloned().unwrap_or_else(|| Ok(Vec::new()));
        Box::pin(std::future::ready(found))
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<SrvTarget>, ResolveFailed>> {
        self.looked_up.lock().push(name.to_owned());
        let found = self.services.lock().get(name).cloned().unwrap_or_else(|| Ok(Vec::new()));
        Box::pin(std::future::ready(found))
    }
}

/// An answer with this status, these headers and this body.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> HttpAnswer {
    let header =
        |(name, value): &(&str, &str)| (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
    HttpAnswer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: headers.iter().map(header).collect::<HeaderMap>(),
        body: Bytes::from(body.to_owned()),
    }
}

/// A clock that stands at [`NOW_MS`].
pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at_ms(NOW_MS))
}
