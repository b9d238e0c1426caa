//! One server: a disk that stays, and a process that comes and goes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{Router, body::Body};
use hearth_client::{ClientSettings, WellKnown};
use hearth_core::{RoomVersion, SigningKey};
use hearth_edge::{EdgeSettings, LimitSettings};
use hearth_ports::{SeededEntropy, mem::MemEngine};
use hearth_rooms::RoomsSettings;
use hearth_search::PeopleSettings;
use hearth_server::{FederationSettings, Ports, Server, ServerSettings};
use hearth_store::StoreSettings;
use hearth_sync::SyncSettings;
use hearth_users::{PasswordSettings, Registration, UserSettings};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::{
    clock::SimClock,
    disk::Disk,
    life::{self, Life, Switch},
    network::{Host, Link, Network},
    plan::Plan,
    trace::{Trace, note},
};

/// A server of the simulation.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) name: OwnedServerName,
    pub(crate) kept: Arc<MemEngine>,
    seed: u64,
    rooms: RoomsSettings,
    trace: Trace,
    network: Arc<Network>,
    /// The process, if it has power.
    process: Mutex<Option<Process>>,
    starts: AtomicU64,
}

struct Process {
    server: Server,
    router: Router,
    switch: Switch,
    life: Life,
}

impl Node {
    pub(crate) fn new(index: usize, plan: &Plan, trace: Trace, network: Arc<Network>) -> Self {
        Self {
            index,
            name: name(index),
            kept: MemEngine::new(),
            seed: plan.seed.wrapping_mul(31).wrapping_add(index as u64),
            rooms: RoomsSettings { omitted_members_min: plan.omitted_members_min, ..RoomsSettings::default() },
            trace,
            network,
            process: Mutex::default(),
            starts: AtomicU64::new(0),
        }
    }

    /// Begins a process with what the disk has. At most one process has power at a time.
    pub(crate) async fn start(&self) {
        let (switch, life) = life::begin();
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(start);
        let link = || Arc::new(Link { from: self.index, network: Arc::clone(&self.network), life: life.clone() });
        let ports = Ports {
            engine: Disk::open(Arc::clone(&self.kept), life.clone(), seed),
            clock: Arc::new(SimClock::new(self.trace.begun(), self.seed % 700)),
            entropy: Arc::new(SeededEntropy::new(seed)),
            http: link(),
            resolver: link(),
        };
        let server =
            Server::start(settings(&self.name, self.rooms.clone()), ports, signing_key(self.index)).await.unwrap();
        let router = server.router();
        let host = Host { node: self.index, router: router.clone(), life: life.clone() };
        self.network.attach(self.name.as_str(), host);
        *self.process.lock() = Some(Process { server, router, switch, life });
        note!(self.trace, "{} has power", self.index);
    }

    /// Asks another server for its keys.
    pub(crate) async fn meet(&self, other: &ServerName) {
        let federation = self.process.lock().as_ref().and_then(|process| process.server.federation().cloned());
        let told = federation.unwrap().check(other).await;
        assert!(told.contains("heard just now"), "{told}");
    }

    /// The power fails; `false`: it had none.
    pub(crate) fn crash(&self) -> bool {
        let Some(process) = self.process.lock().take() else { return false };
        process.switch.off();
        note!(self.trace, "{} has no power", self.index);
        true
    }

    pub(crate) fn has_power(&self) -> bool {
        self.process.lock().is_some()
    }

    /// A request of a client; `None`: no answer came.
    pub(crate) async fn ask(&self, method: Method, path: &str, token: &str, body: &Value) -> Option<(u16, Value)> {
        let process = self.process.lock().as_ref().map(|process| (process.router.clone(), process.life.clone()));
        let (router, life) = process?;
        let body = if method == Method::GET { Vec::new() } else { body.to_string().into_bytes() };
        let mut request = Request::builder().method(method.clone()).uri(format!("/_matrix/client/v3/{path}"));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::from(body)).unwrap();
        let handling = async {
            let answer = router.oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice::<Value>(&body).unwrap_or_default())
        };
        // What was begun goes on without the client.
        let task = tokio::spawn(handling);
        let (status, answer) = life.while_it_lasts(task).await?.unwrap();
        if status == 500 {
            self.trace.fault(format!("{} {method} {path}: 500 {answer}", self.index));
        }
        Some((status, answer))
    }
}

/// The name of a server.
pub(crate) fn name(index: usize) -> OwnedServerName {
    ServerName::parse(format!("s{index}.sim")).unwrap()
}

/// The key that a server signs with.
pub(crate) fn signing_key(index: usize) -> SigningKey {
    SigningKey::from_seed(&[u8::try_from(index).unwrap() + 1; 32], "1")
}

fn settings(name: &ServerName, rooms: RoomsSettings) -> ServerSettings {
    let passwords = PasswordSettings { argon2_memory_kib: 8, argon2_iterations: 1, ..PasswordSettings::default() };
    let registration = Registration::Open;
    ServerSettings {
        store: StoreSettings::default(),
        users: UserSettings { registration, passwords, ..UserSettings::new(name.to_owned()) },
        rooms,
        syncs: SyncSettings::default(),
        // Nobody searches here.
        people: PeopleSettings { enabled: false, ..PeopleSettings::default() },
        client: ClientSettings {
            server_name: name.to_owned(),
            default_room_version: RoomVersion::DEFAULT,
            public_rooms_without_auth: false,
            well_known: WellKnown { server: Some(format!("{name}:443")), ..WellKnown::default() },
        },
        edge: EdgeSettings { limits: LimitSettings { enabled: false, rates: Vec::new() }, ..EdgeSettings::default() },
        federation: Some(FederationSettings::new(name.to_owned())),
        registration_tokens: Vec::new(),
        server_name: name.to_owned(),
    }
}
