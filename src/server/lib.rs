//! Assembles services, routers and log readers from a set of ports: the same for the executable and for tests.
//!
//! This crate decides nothing and knows no adapter. [`Server::start`] is the order in which the parts begin.

mod departures;
mod health;
mod lifecycle;
mod registration_tokens;
mod upkeep;

use std::sync::Arc;

use axum::Router;
use hearth_client::{ClientSettings, ClientState};
use hearth_core::SigningKey;
use hearth_edge::{Authenticate, Edge, EdgeSettings};
use hearth_ports::{Clock, Engine, Entropy, NoPeers, Peers};
use hearth_rooms::{Rooms, RoomsSettings};
use hearth_store::{OpenError, Store, StoreSettings};
use hearth_sync::{SyncSettings, Syncs, read::Reads};
use hearth_users::{Secret, UserSettings, Users};
use ruma::OwnedServerName;

use crate::lifecycle::Lifecycle;

/// The world outside.
pub struct Ports {
    /// Where everything is kept.
    pub engine: Arc<dyn Engine>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
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
    /// The client-server API.
    pub client: ClientSettings,
    /// The HTTP kit.
    pub edge: EdgeSettings,
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
}

/// A running server.
pub struct Server {
    users: Arc<Users>,
    syncs: Arc<Syncs>,
    router: Router,
    lifecycle: Arc<Lifecycle>,
}

impl Server {
    /// Starts the services, lowest first. Must be called within a tokio runtime.
    pub async fn start(settings: ServerSettings, ports: Ports, signing_key: SigningKey) -> Result<Self, StartError> {
        let Ports { engine, clock, entropy } = ports;
        let store = Store::open(engine, settings.store).await?;
        upkeep::start(&store, Arc::clone(&clock));
        let users = Users::new(Arc::clone(&store), Arc::clone(&clock), Arc::clone(&entropy), settings.users);
        registration_tokens::keep(&users, Arc::clone(&clock), settings.registration_tokens).await?;
        let peers: Arc<dyn Peers> = Arc::new(NoPeers);
        let rooms = Rooms::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::clone(&entropy),
            Arc::clone(&peers),
            Arc::new(signing_key),
            settings.server_name,
            settings.rooms,
        );
        departures::start(&users, &rooms);
        let reads = Reads::new(Arc::clone(&store), Arc::clone(&users), Arc::clone(&clock));
        let syncs = Syncs::new(store, Arc::clone(&users), clock, Arc::clone(&entropy), settings.syncs);

        let client = ClientState {
            users: Arc::clone(&users),
            rooms,
            reads,
            syncs: Arc::clone(&syncs),
            peers,
            settings: settings.client,
        };
        let lifecycle = Arc::new(Lifecycle::default());
        let authenticate: Arc<dyn Authenticate> = users.clone();
        let router = Edge::new(&settings.edge, authenticate, None, &*entropy)
            .routes(&Arc::new(client), hearth_client::routes())
            .routes(&lifecycle, health::routes())
            .into_router();
        lifecycle.become_ready();
        Ok(Self { users, syncs, router, lifecycle })
    }

    /// Everything that is served over HTTP.
    pub fn router(&self) -> Router {
        self.router.clone()
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
}
