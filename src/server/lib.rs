//! Assembles services, routers and log readers from a set of ports: the same for the executable and for tests.
//!
//! This crate decides nothing and knows no adapter. [`Server::start`] is the order in which the parts begin.

mod health;
mod lifecycle;

use std::sync::Arc;

use axum::Router;
use hearth_client::{ClientSettings, ClientState};
use hearth_core::SigningKey;
use hearth_edge::{Edge, EdgeSettings};
use hearth_ports::{Clock, Engine, Entropy};
use hearth_rooms::{Rooms, RoomsSettings};
use hearth_store::{OpenError, Store, StoreSettings};
use hearth_users::{RegistrationToken, Secret, UserSettings, Users};
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
    router: Router,
    lifecycle: Arc<Lifecycle>,
}

impl Server {
    /// Starts the services, lowest first. Must be called within a tokio runtime.
    pub async fn start(settings: ServerSettings, ports: Ports, signing_key: SigningKey) -> Result<Self, StartError> {
        let Ports { engine, clock, entropy } = ports;
        let ServerSettings { server_name, store, users, rooms, edge, registration_tokens } = settings;
        let store = Store::open(engine, store).await?;
        let users = Users::new(Arc::clone(&store), Arc::clone(&clock), Arc::clone(&entropy), users);
        for Secret(token) in registration_tokens {
            users.put_registration_token(&RegistrationToken { token, uses: None, expires_ts_ms: None }).await?;
        }
        let key = Arc::new(signing_key);
        let rooms = Rooms::new(store, clock, Arc::clone(&entropy), key, server_name.clone(), rooms);

        let lifecycle = Arc::new(Lifecycle::default());
        let client = ClientState { users: Arc::clone(&users), rooms, settings: ClientSettings { server_name } };
        let router = Edge::new(&edge, Arc::clone(&users) as _, &*entropy)
            .routes(&Arc::new(client), hearth_client::routes())
            .routes(&lifecycle, health::routes())
            .into_router();
        lifecycle.become_ready();
        Ok(Self { users, router, lifecycle })
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
    }
}
