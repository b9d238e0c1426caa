//! Whole servers that find each other, over a network in memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Router, body::Body};
use hearth_client::{ClientSettings, WellKnown};
use hearth_core::{RoomVersion, SigningKey};
use hearth_edge::EdgeSettings;
use hearth_ports::{
    BoxFuture, HttpAnswer, HttpClient, HttpError, HttpRequest, ManualClock, ResolveFailed, Resolver, SeededEntropy,
    SrvTarget, mem::MemEngine,
};
use hearth_rooms::RoomsSettings;
use hearth_search::PeopleSettings;
use hearth_server::{FederationSettings, Ports, Server, ServerSettings};
use hearth_store::StoreSettings;
use hearth_sync::SyncSettings;
use hearth_users::{AccountKind, Localpart, NewAccount, SessionWish, UserSettings};
use http::Request;
use http_body_util::BodyExt as _;
use ruma::ServerName;
use serde_json::Value;
use tower::ServiceExt as _;

/// Requests go to the router of the host that they name; every host is at its own address.
#[derive(Default)]
pub(crate) struct Network {
    hosts: Mutex<HashMap<String, Router>>,
    starts: AtomicU64,
}

impl HttpClient for Network {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpAnswer, HttpError>> {
        let router = self.hosts.lock().unwrap().get(&request.host).cloned();
        Box::pin(async move {
            let router = router.ok_or_else(|| HttpError::Unreachable("nobody is there".to_owned()))?;
            let mut ask = Request::builder().method(request.method).uri(&request.path);
            *ask.headers_mut().unwrap() = request.headers;
            let answer = router.oneshot(ask.body(Body::from(request.body)).unwrap()).await.unwrap();
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Ok(HttpAnswer { status: parts.status, headers: parts.headers, body })
        })
    }
}

impl Resolver for Network {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveFailed>> {
        Box::pin(std::future::ready(Ok(vec!["192.0.2.1".parse().unwrap()])))
    }

    fn services<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<SrvTarget>, ResolveFailed>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

impl Network {
    /// A server of this name with nothing in it.
    pub(crate) async fn start(self: &Arc<Self>, name: &str, seed: u8, federates: bool) -> Server {
        self.start_over(MemEngine::new(), name, (seed, federates), PeopleSettings::default()).await
    }

    /// A server over what an earlier one has left.
    pub(crate) async fn start_over(
        self: &Arc<Self>,
        engine: Arc<MemEngine>,
        name: &str,
        (seed, federates): (u8, bool),
        people: PeopleSettings,
    ) -> Server {
        let name = ServerName::parse(name).unwrap();
        // Nobody is given twice what chance, or time, gave an earlier process.
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let chance = u64::from(seed) + 1_000 * start;
        let ports = Ports {
            engine,
            clock: Arc::new(ManualClock::at_ms(1_700_000_000_000 + 60_000 * start)),
            entropy: Arc::new(SeededEntropy::new(chance)),
            http: self.clone(),
            resolver: self.clone(),
        };
        let settings = ServerSettings {
            store: StoreSettings::default(),
            users: UserSettings::new(name.clone()),
            rooms: RoomsSettings::default(),
            syncs: SyncSettings::default(),
            people,
            client: ClientSettings {
                server_name: name.clone(),
                default_room_version: RoomVersion::DEFAULT,
                public_rooms_without_auth: false,
                well_known: WellKnown { server: Some(format!("{name}:443")), ..WellKnown::default() },
            },
            edge: EdgeSettings::default(),
            federation: federates.then(|| FederationSettings::new(name.clone())),
            registration_tokens: Vec::new(),
            server_name: name.clone(),
        };
        let server = Server::start(settings, ports, SigningKey::from_seed(&[seed; 32], "1")).await.unwrap();
        let mut hosts = self.hosts.lock().unwrap();
        hosts.insert(name.to_string(), server.router());
        hosts.insert(format!("{name}:443"), server.router());
        drop(hosts);
        server
    }
}

/// Logs a new user in, on a device of this name.
pub(crate) async fn log_in(server: &Server, name: &str, device_id: &str) -> String {
    let users = server.users();
    let localpart = Localpart::parse(name, &users.settings().server_name).unwrap();
    let new = NewAccount { localpart, password: None, kind: AccountKind::Full, admin: false };
    let user_id = users.create(&new).await.unwrap();
    let wish = SessionWish { device_id: Some(device_id.into()), ..SessionWish::default() };
    users.open_session(&user_id, None, &wish).await.unwrap().access_token
}

/// A client's request that must succeed.
pub(crate) async fn ask(server: &Server, method: &str, path: &str, token: &str, body: Value) -> Value {
    let request = Request::builder().method(method).uri(format!("/_matrix/client/v3/{path}"));
    let body = if method == "GET" { Body::empty() } else { Body::from(body.to_string()) };
    let request = request.header("authorization", format!("Bearer {token}")).body(body).unwrap();
    let answer = server.router().oneshot(request).await.unwrap();
    let status = answer.status();
    let body: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    body
}
