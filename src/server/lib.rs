//! Assembles services, routers and log readers from a set of ports: the same for the executable and for tests.
//!
//! This crate decides nothing and knows no adapter. [`Server::start`] is the order in which the parts begin.

mod bindings;
mod departures;
mod federation;
mod health;
mod lifecycle;
mod registration_tokens;
mod upkeep;

use std::sync::Arc;

use axum::Router;
use hearth_client::{ClientSettings, ClientState};
use hearth_core::SigningKey;
use hearth_edge::{Authenticate, Edge, EdgeSettings};
use hearth_federation::outbound::Outbound;
use hearth_ports::{Clock, Engine, Entropy, HttpClient, NoPeers, Peers, Resolver};
use hearth_rooms::{Rooms, RoomsSettings};
use hearth_search::{People, PeopleSettings};
use hearth_store::{LoadError, OpenError, Store, StoreSettings};
use hearth_sync::{SyncSettings, Syncs, read::Reads};
use hearth_users::{Secret, UserSettings, Users};
use ruma::OwnedServerName;

pub use crate::federation::{Federation, FederationParts, FederationSettings};
use crate::{federation::is_federation, lifecycle::Lifecycle};

/// The world outside.
pub struct Ports {
    /// Where everything is kept.
    pub engine: Arc<dyn Engine>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Requests to other machines.
    pub http: Arc<dyn HttpClient>,
    /// Names of other machines.
    pub resolver: Arc<dyn Resolver>,
}

/// What the services are told.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The server's name, the part behind the colon of its users' ids.
    pub server_name: OwnedServerName,
    /// Storage.
    pub store: StoreSettings,
    /// Accounts.
    pub users: UserSettings,
    /// Rooms.
    pub rooms: RoomsSettings,
    /// Long-polls.
    pub syncs: SyncSettings,
    /// The user directory.
    pub people: PeopleSettings,
    /// The client-server API.
    pub client: ClientSettings,
    /// The HTTP kit.
    pub edge: EdgeSettings,
    /// Other servers; `None`: we talk to nobody.
    pub federation: Option<FederationSettings>,
    /// Tokens that admit any number of registrations.
    pub registration_tokens: Vec<Secret>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("the database was not opened: {0}")]
    Store(#[from] OpenError),
    /// One of the configured registration tokens.
    #[error("a registration token was not accepted: {0}")]
    RegistrationToken(#[from] hearth_users::TokenUseError),
    /// What is yet to be done for rooms, or sent to other servers.
    #[error("what an earlier process left to do was not read: {0}")]
    Unfinished(#[from] LoadError),
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apis {
    /// The client-server API.
    pub client: bool,
    /// The server-server API.
    pub federation: bool,
}

/// A running server.
pub struct Server {
    users: Arc<Users>,
    syncs: Arc<Syncs>,
    edge: Edge,
    lifecycle: Arc<Lifecycle>,
    federation: Option<Arc<Federation>>,
    /// Ends with the server.
    outbound: Option<Arc<Outbound>>,
}

impl Server {
    /// Starts the services, lowest first. Must be called within a tokio runtime.
    pub async fn start(settings: ServerSettings, ports: Ports, signing_key: SigningKey) -> Result<Self, StartError> {
        let Ports { engine, clock, entropy, http, resolver } = ports;
        let store = Store::open(engine, settings.store).await?;
        upkeep::start(&store, Arc::clone(&clock));
        let federates = settings.users.federates && settings.federation.is_some();
        let user_settings = UserSettings { federates, ..settings.users };
        let users = Users::new(Arc::clone(&store), Arc::clone(&clock), Arc::clone(&entropy), user_settings);
        registration_tokens::keep(&users, Arc::clone(&clock), settings.registration_tokens).await?;
        let key = Arc::new(signing_key);
        let federation = settings.federation.map(|settings| {
            let (store, clock, entropy) = (Arc::clone(&store), Arc::clone(&clock), Arc::clone(&entropy));
            let key = Arc::clone(&key);
            Federation::new(settings, FederationParts { store, clock, entropy, http, resolver, key })
        });
        let peers = federation.as_ref().map_or_else(|| Arc::new(NoPeers) as Arc<dyn Peers>, |there| there.peers());
        let rooms = Rooms::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::clone(&entropy),
            Arc::clone(&peers),
            key,
            settings.server_name,
            settings.rooms,
        );
        departures::start(&users, &rooms);
        bindings::start(&rooms);
        users.keep_lists_fresh(Arc::clone(&peers));
        rooms.resume().await?;
        let people = People::open(Arc::clone(&store), settings.client.server_name.clone(), settings.people).await?;
        people.start();
        let reads = Reads::new(Arc::clone(&store), Arc::clone(&users), Arc::clone(&clock));
        let syncs = Syncs::new(store, Arc::clone(&users), clock, Arc::clone(&entropy), settings.syncs);

        let client = ClientState {
            users: Arc::clone(&users),
            rooms: Arc::clone(&rooms),
            reads,
            syncs: Arc::clone(&syncs),
            people,
            peers,
            settings: settings.client,
        };
        let lifecycle = Arc::new(Lifecycle::default());
        let authenticate: Arc<dyn Authenticate> = users.clone();
        let authenticate_server = federation.as_ref().map(|federation| federation.authenticate());
        let mut edge = Edge::new(&settings.edge, authenticate, authenticate_server, &*entropy)
            .routes(&Arc::new(client), hearth_client::routes())
            .routes(&lifecycle, health::routes());
        let mut outbound = None;
        if let Some(federation) = &federation {
            let sends = federation.send(&users).await?;
            edge = federation.add_routes(edge, &rooms, &users, &sends);
            outbound = Some(sends);
        }
        lifecycle.become_ready();
        Ok(Self { users, syncs, edge, lifecycle, federation, outbound })
    }

    /// Everything that is served over HTTP.
    pub fn router(&self) -> Router {
        self.router_of(Apis { client: true, federation: true })
    }

    /// What a listener serves. Health is on all of them, and where other servers find us is for them, too.
    pub fn router_of(&self, apis: Apis) -> Router {
        self.edge.router_of(|path| {
            let is_for_all = matches!(path, "/health" | "/ready" | "/.well-known/matrix/server");
            is_for_all || if is_federation(path) { apis.federation } else { apis.client }
        })
    }

    /// Other servers, for an operator's commands; `None`: we talk to nobody.
    pub fn federation(&self) -> Option<&Arc<Federation>> {
        self.federation.as_ref()
    }

    /// The accounts, for an operator's commands.
    pub fn users(&self) -> &Arc<Users> {
        &self.users
    }

    /// From now on the server is not ready, and long-polls are answered at once with what there is.
    pub fn stop(&self) {
        self.lifecycle.stop();
        self.syncs.shut_down();
    }

    /// For a process that ends, once nobody is answered any more: stores how far other servers have been told, so that they
    /// are not told again after the next start.
    pub async fn save(&self) {
        if let Some(outbound) = &self.outbound {
            outbound.save().await;
        }
    }
}
