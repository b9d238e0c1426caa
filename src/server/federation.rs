//! What speaks with other servers, assembled.

use std::sync::Arc;

use hearth_core::SigningKey;
use hearth_edge::{AuthenticateServer, Edge};
use hearth_federation::{
    ServerAuth,
    inbound::{self, Inbound, InboundSettings},
    keys::{KeyRing, KeyRingSettings, OldKey, OwnKeys},
    outbound::{Outbound, OutboundParts, OutboundSettings},
    peers::{FederationPeers, PeersSettings},
    policy::ServerPolicy,
    remote::Remote,
};
use hearth_ports::{Clock, Entropy, HttpClient, Peers, Resolver};
use hearth_rooms::Rooms;
use hearth_store::{LoadError, Store};
use hearth_users::Users;
use ruma::{OwnedServerName, ServerName};

/// How we speak with other servers.
#[derive(Clone, Debug)]
pub struct FederationSettings {
    /// With whom.
    pub policy: ServerPolicy,
    /// Keys that we signed with before the one in use.
    pub old_keys: Vec<OldKey>,
    /// Whom we ask for keys of others.
    pub keys: KeyRingSettings,
    /// Bounds of answers.
    pub peers: PeersSettings,
    /// What we tell.
    pub outbound: OutboundSettings,
    /// Whether other servers may read the directory of published rooms.
    pub public_rooms: bool,
}

impl FederationSettings {
    /// With everybody.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            policy: ServerPolicy::open(server_name),
            old_keys: Vec::new(),
            keys: KeyRingSettings::default(),
            peers: PeersSettings::default(),
            outbound: OutboundSettings::default(),
            public_rooms: false,
        }
    }
}

/// The world that other servers are reached through.
pub struct FederationParts {
    /// Where keys and what is yet to be sent are kept.
    pub store: Arc<Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Requests to other machines.
    pub http: Arc<dyn HttpClient>,
    /// Names of other machines.
    pub resolver: Arc<dyn Resolver>,
    /// Signs our requests.
    pub key: Arc<SigningKey>,
}

/// The way to other servers and back.
pub struct Federation {
    remote: Arc<Remote>,
    keys: Arc<KeyRing>,
    parts: FederationParts,
    settings: FederationSettings,
}

impl Federation {
    /// Asks nobody for anything by itself.
    pub fn new(settings: FederationSettings, parts: FederationParts) -> Arc<Self> {
        let FederationParts { store, clock, entropy, http, resolver, key } = &parts;
        let own = settings.policy.own.clone();
        let own_keys = OwnKeys::new(own, Arc::clone(key), settings.old_keys.clone(), Arc::clone(clock));
        let remote = Remote::new(
            Arc::clone(key),
            settings.policy.clone(),
            Arc::clone(http),
            Arc::clone(resolver),
            Arc::clone(clock),
            Arc::clone(entropy),
        );
        let keys = KeyRing::new(
            Arc::new(own_keys),
            Arc::clone(&remote),
            Arc::clone(store),
            Arc::clone(clock),
            settings.keys.clone(),
        );
        Arc::new(Self { remote, keys, parts, settings })
    }

    /// For services that ask other servers.
    pub(crate) fn peers(&self) -> Arc<dyn Peers> {
        FederationPeers::new(Arc::clone(&self.remote), Arc::clone(&self.keys), self.settings.peers)
    }

    /// For routes that other servers call.
    pub(crate) fn authenticate(&self) -> Arc<dyn AuthenticateServer> {
        ServerAuth::new(Arc::clone(&self.keys), Arc::clone(&self.remote), Arc::clone(&self.parts.clock))
    }

    /// Begins to tell other servers what happens here. It ends when the answer is dropped.
    pub(crate) async fn send(&self, users: &Arc<Users>) -> Result<Arc<Outbound>, LoadError> {
        let FederationParts { store, clock, entropy, .. } = &self.parts;
        let parts = OutboundParts {
            store: Arc::clone(store),
            users: Arc::clone(users),
            clock: Arc::clone(clock),
            entropy: Arc::clone(entropy),
            transmit: self.remote.clone(),
            server_name: self.settings.policy.own.clone(),
            settings: self.settings.outbound,
        };
        Outbound::start(parts).await
    }

    /// Adds the routes that other servers call. `outbound` learns which of them are there.
    pub(crate) fn add_routes(
        &self,
        edge: Edge,
        rooms: &Arc<Rooms>,
        users: &Arc<Users>,
        outbound: &Arc<Outbound>,
    ) -> Edge {
        let (remote, outbound) = (Arc::clone(&self.remote), Arc::clone(outbound));
        let heard = move |server: &ServerName| {
            remote.heard_from(server);
            outbound.note_alive(server);
        };
        let settings =
            InboundSettings { server_name: self.settings.policy.own.clone(), public_rooms: self.settings.public_rooms };
        let clock = Arc::clone(&self.parts.clock);
        let inbound = Inbound::new(Arc::clone(rooms), Arc::clone(users), clock, Arc::new(heard), settings);
        edge.routes(&self.keys, hearth_federation::open_routes()).routes(&inbound, inbound::routes())
    }

    /// What an operator wants to know of a server, in lines; asks it.
    pub async fn check(&self, server: &ServerName) -> String {
        hearth_federation::check(&self.remote, &self.keys, server, self.parts.clock.now_ms()).await
    }
}

/// Whether a path, or its template, is of this API.
pub(crate) fn is_federation(path: &str) -> bool {
    path.starts_with("/_matrix/federation/") || path.starts_with("/_matrix/key/")
}
