//! Several servers whose peers are each other, without a network between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use hearth_core::{Event, PublicKey, PublicKeys, RoomVersion, SigningKey};
use hearth_ports::{
    AliasTarget, BoxFuture, EventBytes, Handshake, IdentityKey, IdentityServer, JoinAnswer, ManualClock, MissingEvents,
    PeerError, Peers, SeededEntropy, StateEvents, StateIds, StoredInvite, Template, WantedKeys, mem::MemEngine,
};
use hearth_store::{Store, StoreSettings};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::World;
use crate::{
    Creation, HandshakeError, HierarchyRoom, Invitation, MemberAction, MemberChange, Membership, Message, Preset,
    Rooms, RoomsSettings, SendError, ServeError, StateChange,
};

/// What a test may do to an answer on its way.
type Tamper = Box<dyn Fn(&mut JoinAnswer) + Send + Sync>;

/// What policy servers answer: to whom, to which event.
type PolicyServer = Box<dyn Fn(&ServerName, &Event) -> Result<Bytes, PeerError> + Send + Sync>;

/// What a test may do to a state on its way.
type TamperState = Box<dyn Fn(&mut StateEvents) + Send + Sync>;

/// Who can be reached, under which names and keys.
#[derive(Default)]
pub(crate) struct Net {
    servers: Mutex<BTreeMap<OwnedServerName, Weak<Rooms>>>,
    pub(crate) keys: Mutex<PublicKeys>,
    /// Servers that do not answer.
    pub(crate) down: Mutex<BTreeSet<OwnedServerName>>,
    /// Endpoints that nobody answers.
    pub(crate) mute: Mutex<BTreeSet<&'static str>>,
    /// What is never answered, by endpoint and server: `send_join there`.
    pub(crate) hanging: Mutex<BTreeSet<String>>,
    /// What was asked of whom, by endpoint: `make_join there`.
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) tamper: Mutex<Option<Tamper>>,
    pub(crate) tamper_state: Mutex<Option<TamperState>>,
    pub(crate) policy_server: Mutex<Option<PolicyServer>>,
    /// Keys of identity servers that no longer count.
    pub(crate) revoked: Mutex<BTreeSet<String>>,
    /// Who has bound which address, as identity servers say.
    pub(crate) bound: Mutex<BTreeMap<String, OwnedUserId>>,
}

/// One server's view of the others.
struct Link {
    own: OwnedServerName,
    net: Arc<Net>,
}

/// A server.
pub(crate) struct Town {
    pub(crate) name: OwnedServerName,
    pub(crate) world: World,
    pub(crate) net: Arc<Net>,
}

/// Servers that know each other.
pub(crate) async fn towns<const N: usize>(names: [&str; N]) -> [Town; N] {
    let net = Arc::new(Net::default());
    let mut towns = Vec::with_capacity(N);
    for name in names {
        towns.push(Town::new(name, &net).await);
    }
    towns.try_into().unwrap_or_else(|_| unreachable!("there are as many as names"))
}

impl Town {
    pub(crate) async fn new(name: &str, net: &Arc<Net>) -> Self {
        Self::over(MemEngine::new(), name, net).await
    }

    /// The same server in another process.
    pub(crate) async fn restarted(self) -> Self {
        Self::over(self.world.engine, self.name.as_str(), &self.net).await
    }

    async fn over(engine: Arc<MemEngine>, name: &str, net: &Arc<Net>) -> Self {
        let own: OwnedServerName = name.try_into().unwrap();
        let store = Store::open(engine.clone(), StoreSettings::default()).await.unwrap();
        let clock = Arc::new(ManualClock::at_ms(1_700_000_000_000));
        let seed = name.bytes().fold(7, |seed: u8, byte| seed.wrapping_mul(31).wrapping_add(byte));
        let key = Arc::new(SigningKey::from_seed(&[seed; 32], "1"));
        let public = PublicKey { bytes: key.public_key(), valid_until_ms: u64::MAX };
        net.keys.lock().insert(own.clone(), key.id().to_owned(), public);
        let peers = Arc::new(Link { own: own.clone(), net: Arc::clone(net) });
        let entropy = Arc::new(SeededEntropy::new(u64::from(seed)));
        let settings = RoomsSettings::default();
        let rooms = Rooms::new(store.clone(), clock.clone(), entropy, peers, key, own.clone(), settings);
        net.servers.lock().insert(own.clone(), Arc::downgrade(&rooms));
        Self { name: own, world: World { engine, store, clock, rooms }, net: Arc::clone(net) }
    }

    pub(crate) fn user(&self, name: &str) -> OwnedUserId {
        OwnedUserId::try_from(format!("@{name}:{}", self.name)).unwrap()
    }

    pub(crate) async fn create_in(&self, creator: &str, preset: Preset, version: RoomVersion) -> OwnedRoomId {
        let creation = super::creation(creator, preset);
        let creator = self.user(creator);
        let creation = Creation { creator, version: Some(version.to_string()), ..creation };
        self.world.rooms.create(creation).await.unwrap()
    }

    pub(crate) async fn create(&self, creator: &str, preset: Preset) -> OwnedRoomId {
        self.create_in(creator, preset, RoomVersion::DEFAULT).await
    }

    /// A user of this server does something to a membership; `target` is a whole user id.
    pub(crate) async fn act(
        &self,
        room_id: &RoomId,
        sender: &str,
        action: MemberAction,
        target: &UserId,
        via: &[&Town],
    ) -> Result<OwnedEventId, SendError> {
        self.world.store.ensure_user_number(&self.user(sender)).await.unwrap();
        let change = MemberChange {
            room_id: room_id.to_owned(),
            sender: self.user(sender),
            target: target.to_owned(),
            action,
            content: Map::new(),
            guest: false,
        };
        let via: Vec<OwnedServerName> = via.iter().map(|town| town.name.clone()).collect();
        self.world.rooms.change_member_via(change, &via).await
    }

    pub(crate) async fn own(
        &self,
        room_id: &RoomId,
        name: &str,
        action: MemberAction,
        via: &[&Town],
    ) -> Result<OwnedEventId, SendError> {
        self.act(room_id, name, action, &self.user(name), via).await
    }

    pub(crate) async fn join(&self, room_id: &RoomId, name: &str, via: &[&Town]) -> Result<OwnedEventId, SendError> {
        self.own(room_id, name, MemberAction::Join, via).await
    }

    pub(crate) async fn set(&self, room_id: &RoomId, sender: &str, kind: &str, content: Value) -> OwnedEventId {
        let change = StateChange {
            room_id: room_id.to_owned(),
            sender: self.user(sender),
            kind: kind.to_owned(),
            state_key: String::new(),
            content: to_raw_value(&content).unwrap(),
            guest: false,
            ts_ms: None,
        };
        self.world.rooms.set_state(change).await.unwrap()
    }

    pub(crate) async fn say(&self, room_id: &RoomId, sender: &str, text: &str) -> Result<OwnedEventId, SendError> {
        let message = Message {
            room_id: room_id.to_owned(),
            sender: self.user(sender),
            kind: "m.room.message".to_owned(),
            content: to_raw_value(&json!({ "body": text })).unwrap(),
            transaction: None,
            only_own: false,
            ts_ms: None,
        };
        self.world.rooms.send(message).await
    }

    pub(crate) async fn membership(&self, room_id: &RoomId, user: &UserId) -> Option<Membership> {
        self.world.rooms.membership(user, room_id).await.unwrap()
    }

    /// The current state as ids by type and state key, by rows and by tree, which must agree.
    pub(crate) async fn state_ids(&self, room_id: &RoomId) -> BTreeMap<(String, String), OwnedEventId> {
        let (store, room) = (&self.world.store, self.world.number(room_id).await);
        let head = self.world.head(room_id).await;
        let all = store.state_all(room, head.state).await.unwrap();
        let mut ids = BTreeMap::new();
        for (key, event) in all {
            let pair = store.state_key(room, key).await.unwrap().unwrap();
            let row = store.current_state_row(room, &pair.kind, &pair.state_key).await.unwrap().unwrap();
            assert_eq!(row.event, Some(event), "{} {}", pair.kind, pair.state_key);
            let stored = store.event(room, event).await.unwrap().unwrap();
            ids.insert((pair.kind.clone(), pair.state_key.clone()), stored.event.event_id().to_owned());
        }
        ids
    }

    /// An event as it is stored here.
    pub(crate) async fn event(&self, room_id: &RoomId, event_id: &EventId) -> Event {
        let room = self.world.number(room_id).await;
        self.world.store.event_by_id(room, event_id).await.unwrap().expect("the event is here").event.clone()
    }
}

impl Net {
    pub(crate) fn set_down(&self, town: &Town, is_down: bool) {
        let mut down = self.down.lock();
        if is_down {
            down.insert(town.name.clone());
        } else {
            down.remove(&town.name);
        }
    }
}

impl Link {
    /// Does not end where the server does not answer.
    async fn wait_for(&self, server: &ServerName, what: &str) {
        if self.net.hanging.lock().contains(&format!("{what} {server}")) {
            std::future::pending::<()>().await;
        }
    }

    fn of(&self, server: &ServerName, what: &str) -> Result<Arc<Rooms>, PeerError> {
        self.net.asked.lock().push(format!("{what} {server}"));
        assert_ne!(server, self.own, "nobody asks themselves");
        let found = self.net.servers.lock().get(server).and_then(Weak::upgrade);
        found
            .filter(|_| !self.net.down.lock().contains(server) && !self.net.mute.lock().contains(what))
            .ok_or_else(|| PeerError::Unreachable(format!("{server} is not there")))
    }
}

fn refused(status: u16, errcode: &str, error: &impl ToString, more: &[(&str, &str)]) -> PeerError {
    let mut body: Map<String, Value> =
        more.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
    body.insert("errcode".to_owned(), errcode.into());
    let error = error.to_string();
    PeerError::Refused { status, errcode: errcode.to_owned(), error, body: Bytes::from(json!(body).to_string()) }
}

fn handshake_error(error: HandshakeError) -> PeerError {
    match &error {
        HandshakeError::Forbidden(_) => refused(403, "M_FORBIDDEN", &error, &[]),
        HandshakeError::UnknownRoom => refused(404, "M_NOT_FOUND", &error, &[]),
        HandshakeError::IncompatibleVersion(version) => {
            refused(400, "M_INCOMPATIBLE_ROOM_VERSION", &error, &[("room_version", version)])
        }
        HandshakeError::UnableToAuthoriseJoin => refused(400, "M_UNABLE_TO_AUTHORISE_JOIN", &error, &[]),
        HandshakeError::UnableToGrantJoin => refused(400, "M_UNABLE_TO_GRANT_JOIN", &error, &[]),
        HandshakeError::BadJson(_) => refused(400, "M_BAD_JSON", &error, &[]),
        HandshakeError::Malformed(_) => refused(400, "M_INVALID_PARAM", &error, &[]),
        HandshakeError::Busy => refused(429, "M_LIMIT_EXCEEDED", &error, &[]),
        HandshakeError::Unavailable(text) => panic!("a server is broken: {text}"),
    }
}

fn serve_error(error: ServeError) -> PeerError {
    match &error {
        ServeError::Forbidden(_) => refused(403, "M_FORBIDDEN", &error, &[]),
        ServeError::NotFound | ServeError::Busy => refused(404, "M_NOT_FOUND", &error, &[]),
        ServeError::Unavailable(text) => panic!("a server is broken: {text}"),
    }
}

fn nothing<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, PeerError>> {
    Box::pin(std::future::ready(Err(PeerError::Denied)))
}

impl Peers for Link {
    fn server_keys(&self, wanted: BTreeMap<OwnedServerName, WantedKeys>) -> BoxFuture<'_, PublicKeys> {
        Box::pin(async move {
            for server in wanted.keys() {
                self.wait_for(server, "server_keys").await;
            }
            let all = self.net.keys.lock().clone();
            PublicKeys(all.0.into_iter().filter(|(server, _)| wanted.contains_key(server)).collect())
        })
    }

    fn make_member<'a>(
        &'a self,
        server: &'a ServerName,
        handshake: Handshake,
        room: &'a RoomId,
        user: &'a UserId,
        versions: &'a [RoomVersion],
    ) -> BoxFuture<'a, Result<Template, PeerError>> {
        Box::pin(async move {
            let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
            self.wait_for(server, "make_member").await;
            let rooms = self.of(server, "make_member")?;
            let made = rooms.make_template(&self.own, handshake, room, user, &versions).await;
            let (version, event) = made.map_err(handshake_error)?;
            Ok(Template { version, event })
        })
    }

    fn send_join<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
        omit_members: bool,
    ) -> BoxFuture<'a, Result<JoinAnswer, PeerError>> {
        Box::pin(async move {
            self.wait_for(server, "send_join").await;
            let rooms = self.of(server, "send_join")?;
            let (room, id, json) = (event.room_id(), event.event_id(), event.json().clone());
            let answer = rooms.accept_join(&self.own, room, id, json, omit_members).await;
            let mut answer = answer.map_err(handshake_error)?;
            if let Some(tamper) = &*self.net.tamper.lock() {
                tamper(&mut answer);
            }
            Ok(answer)
        })
    }

    fn send_leave<'a>(&'a self, server: &'a ServerName, event: &'a Event) -> BoxFuture<'a, Result<(), PeerError>> {
        Box::pin(async move {
            let rooms = self.of(server, "send_leave")?;
            let (room, id, json) = (event.room_id(), event.event_id(), event.json().clone());
            rooms.accept_leave(&self.own, room, id, json).await.map_err(handshake_error)
        })
    }

    fn send_knock<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        Box::pin(async move {
            let rooms = self.of(server, "send_knock")?;
            let (room, id, json) = (event.room_id(), event.event_id(), event.json().clone());
            rooms.accept_knock(&self.own, room, id, json).await.map_err(handshake_error)
        })
    }

    fn invite<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
        invite_room_state: Vec<EventBytes>,
    ) -> BoxFuture<'a, Result<EventBytes, PeerError>> {
        Box::pin(async move {
            let rooms = self.of(server, "invite")?;
            let invitation = Invitation {
                room_version: event.version().to_string(),
                event: event.json().clone(),
                invite_room_state,
                via: Vec::new(),
            };
            let taken = rooms.accept_invite(&self.own, event.room_id(), event.event_id(), invitation).await;
            taken.map_err(handshake_error)
        })
    }

    fn missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        wanted: MissingEvents,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        Box::pin(async move {
            let rooms = self.of(server, "missing_events")?;
            rooms.serve_missing(&self.own, room, &wanted).await.map_err(serve_error)
        })
    }

    fn backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        from: &'a [OwnedEventId],
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        Box::pin(async move {
            let rooms = self.of(server, "backfill")?;
            rooms.serve_backfill(&self.own, room, from, limit).await.map_err(serve_error)
        })
    }

    fn event<'a>(&'a self, server: &'a ServerName, event: &'a EventId) -> BoxFuture<'a, Result<EventBytes, PeerError>> {
        Box::pin(async move {
            let rooms = self.of(server, "event")?;
            rooms.serve_event(&self.own, event).await.map_err(serve_error)
        })
    }

    fn state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateIds, PeerError>> {
        Box::pin(async move {
            let rooms = self.of(server, "state_ids")?;
            rooms.serve_state_ids(&self.own, room, at).await.map_err(serve_error)
        })
    }

    fn state<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateEvents, PeerError>> {
        Box::pin(async move {
            let rooms = self.of(server, "state")?;
            let mut state = rooms.serve_state(&self.own, room, at).await.map_err(serve_error)?;
            if let Some(tamper) = &*self.net.tamper_state.lock() {
                tamper(&mut state);
            }
            Ok(state)
        })
    }

    fn event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        Box::pin(async move {
            let rooms = self.of(server, "event_auth")?;
            rooms.serve_event_auth(&self.own, room, event).await.map_err(serve_error)
        })
    }

    fn event_near<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at_ms: u64,
        backwards: bool,
    ) -> BoxFuture<'a, Result<(OwnedEventId, u64), PeerError>> {
        Box::pin(async move {
            self.wait_for(server, "event_near").await;
            let rooms = self.of(server, "event_near")?;
            rooms.serve_event_near(&self.own, room, at_ms, backwards).await.map_err(serve_error)
        })
    }

    fn alias<'a>(&'a self, alias: &'a RoomAliasId) -> BoxFuture<'a, Result<AliasTarget, PeerError>> {
        Box::pin(async move {
            let rooms = self.of(alias.server_name(), "alias")?;
            rooms.find_alias(alias).await.map_err(|error| refused(404, "M_NOT_FOUND", &error, &[]))
        })
    }

    fn profile<'a>(&'a self, _user: &'a UserId, _field: Option<&'a str>) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        nothing()
    }

    fn public_rooms<'a>(&'a self, _server: &'a ServerName, _query: Bytes) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        nothing()
    }

    fn hierarchy<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        suggested_only: bool,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        Box::pin(async move {
            let rooms = self.of(server, "hierarchy")?;
            let told = rooms.hierarchy_for_server(&self.own, room, suggested_only).await;
            let told = told.map_err(|error| refused(404, "M_NOT_FOUND", &error, &[]))?;
            let json_of = |room: &HierarchyRoom| {
                json!({
                    "room_id": room.summary.room_id,
                    "room_type": room.summary.room_type,
                    "name": room.summary.name,
                    "join_rule": room.summary.join_rule,
                    "allowed_room_ids": room.summary.allowed_room_ids,
                    "num_joined_members": room.summary.joined,
                    "children_state": room.children,
                })
            };
            let children: Vec<Value> = told.children.iter().map(json_of).collect();
            let answer = json!({ "room": json_of(&told.room), "children": children, "inaccessible_children": [] });
            Ok(Bytes::from(answer.to_string()))
        })
    }

    fn openid_user<'a>(
        &'a self,
        _server: &'a ServerName,
        _token: &'a str,
    ) -> BoxFuture<'a, Result<OwnedUserId, PeerError>> {
        nothing()
    }

    fn exchange_third_party_invite<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        event: Bytes,
    ) -> BoxFuture<'a, Result<(), PeerError>> {
        Box::pin(async move {
            self.wait_for(server, "exchange_third_party_invite").await;
            let rooms = self.of(server, "exchange_third_party_invite")?;
            rooms.exchange_third_party_invite(&self.own, room, &event).await.map_err(handshake_error)
        })
    }

    fn identity_key_is_valid<'a>(
        &'a self,
        url: &'a str,
        public_key: &'a str,
    ) -> BoxFuture<'a, Result<bool, PeerError>> {
        self.net.asked.lock().push(format!("isvalid {url}"));
        let is_valid = !self.net.revoked.lock().contains(public_key);
        Box::pin(std::future::ready(Ok(is_valid)))
    }

    fn identity_lookup<'a>(
        &'a self,
        _server: &'a IdentityServer<'a>,
        _medium: &'a str,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Option<OwnedUserId>, PeerError>> {
        Box::pin(std::future::ready(Ok(self.net.bound.lock().get(address).cloned())))
    }

    fn identity_store_invite<'a>(
        &'a self,
        server: &'a IdentityServer<'a>,
        body: Bytes,
    ) -> BoxFuture<'a, Result<StoredInvite, PeerError>> {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let (address, inviter) = (&body["address"], &body["sender"]);
        self.net.asked.lock().push(format!("store-invite {} {address} {inviter}", server.name));
        let public_key = SigningKey::from_seed(&[42; 32], "0").public_key_base64();
        let key = IdentityKey { public_key, key_validity_url: "https://id.test/isvalid".to_owned() };
        let display_name = "b...@e...".to_owned();
        let stored = StoredInvite { token: "token".to_owned(), public_keys: vec![key], display_name };
        Box::pin(std::future::ready(Ok(stored)))
    }

    fn policy_sign<'a>(&'a self, server: &'a ServerName, event: &'a Event) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        Box::pin(async move {
            self.wait_for(server, "policy_sign").await;
            self.of(server, "policy_sign")?;
            let policy_server = self.net.policy_server.lock();
            policy_server.as_ref().map_or_else(|| Err(PeerError::Denied), |sign| sign(&self.own, event))
        })
    }
}
