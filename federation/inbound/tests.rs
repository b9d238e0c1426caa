//! The endpoints from outside: requests to the router, over rooms of the real service on the in-memory engine. Which
//! server asks stands in a header; who may say so is tested elsewhere.

mod handshakes;
mod keys;
mod lasting;
mod news;
mod peers;
mod queries;
mod reading;
mod sending;
mod third_party;

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, body::Body};
use bytes::Bytes;
use hearth_core::{Draft, Event, PublicKey, PublicKeys, References, RoomVersion, SigningKey, build};
use hearth_edge::{AuthenticateServer, BoxFuture, Edge, EdgeSettings, Error, LimitSettings, ServerRequest};
use hearth_ports::{ManualClock, SeededEntropy, WantedKeys, mem::MemEngine};
use hearth_rooms::{Creation, Message, Preset, Rooms, RoomsSettings, StateChange};
use hearth_store::{Store, StoreSettings};
use hearth_users::{AccountKind, Localpart, NewAccount, UserSettings, Users};
use http::{Request, header::AUTHORIZATION};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName};
use serde_json::{Map, Value, json, value::to_raw_value};
use tower::ServiceExt as _;

use super::{Inbound, InboundSettings, routes};
use crate::testing::NOW_MS;

/// The server that is asked.
const US: &str = "hearth.test";

/// A server whose users join; it signs with [`World::far_key`].
const FAR: &str = "far.test";

/// The header is the server's name.
struct Servers;

impl AuthenticateServer for Servers {
    fn authenticate<'a>(&'a self, request: ServerRequest<'a>) -> BoxFuture<'a, Result<OwnedServerName, Error>> {
        let name = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let name = name.and_then(|name| name.try_into().ok()).ok_or_else(|| Error::forbidden("who are you?"));
        Box::pin(std::future::ready(name))
    }
}

struct World {
    store: Arc<Store>,
    rooms: Arc<Rooms>,
    users: Arc<Users>,
    clock: Arc<ManualClock>,
    state: Arc<Inbound>,
    router: Router,
    far_key: SigningKey,
    /// Who has asked something.
    heard: Arc<Mutex<Vec<OwnedServerName>>>,
    /// Keys that rooms wanted.
    wanted: Arc<Mutex<BTreeMap<OwnedServerName, WantedKeys>>>,
}

impl World {
    async fn new() -> Self {
        Self::with(false).await
    }

    async fn with(public_rooms: bool) -> Self {
        let store = Store::open(MemEngine::new(), StoreSettings::default()).await.unwrap();
        let clock = Arc::new(ManualClock::at_ms(NOW_MS));
        let entropy = Arc::new(SeededEntropy::new(1));
        let server_name: OwnedServerName = US.try_into().unwrap();
        let far_key = SigningKey::from_seed(&[9; 32], "far");
        let mut keys = PublicKeys::default();
        let public = PublicKey { bytes: far_key.public_key(), valid_until_ms: u64::MAX };
        keys.insert(FAR.try_into().unwrap(), far_key.id().to_owned(), public);
        let users = Users::new(store.clone(), clock.clone(), entropy.clone(), UserSettings::new(server_name.clone()));
        let wanted: Arc<Mutex<BTreeMap<_, _>>> = Arc::default();
        let rooms = Rooms::new(
            store.clone(),
            clock.clone(),
            entropy.clone(),
            Arc::new(peers::Keys { known: keys, wanted: wanted.clone() }),
            Arc::new(SigningKey::from_seed(&[7; 32], "1")),
            server_name.clone(),
            RoomsSettings::default(),
        );
        let heard: Arc<Mutex<Vec<OwnedServerName>>> = Arc::default();
        let hears = Arc::clone(&heard);
        let hear = Arc::new(move |server: &ServerName| hears.lock().push(server.to_owned()));
        let settings = InboundSettings { server_name, public_rooms };
        let state = Inbound::new(rooms.clone(), users.clone(), clock.clone(), hear, settings);
        let settings =
            EdgeSettings { limits: LimitSettings { enabled: false, rates: Vec::new() }, ..EdgeSettings::default() };
        let router = Edge::new(&settings, users.clone(), Some(Arc::new(Servers)), &*entropy)
            .routes(&state, routes())
            .into_router();
        Self { store, rooms, users, clock, state, router, far_key, heard, wanted }
    }

    async fn request(&self, origin: &str, method: &str, path: &str, body: Bytes) -> (u16, Value) {
        let request = Request::builder().method(method).uri(format!("/_matrix/federation/{path}"));
        let request = request.header(AUTHORIZATION, origin).body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, origin: &str, path: &str) -> (u16, Value) {
        self.request(origin, "GET", path, Bytes::new()).await
    }

    async fn put(&self, origin: &str, path: &str, body: &Value) -> (u16, Value) {
        self.request(origin, "PUT", path, body.to_string().into()).await
    }

    /// The errcode of a request that must fail, with its status.
    async fn refused(&self, origin: &str, method: &str, path: &str, body: &Value) -> (u16, String) {
        let body = if method == "GET" { Bytes::new() } else { body.to_string().into() };
        let (status, answer) = self.request(origin, method, path, body).await;
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
    }

    async fn account(&self, name: &str) -> OwnedUserId {
        let localpart = Localpart::parse(name, US.try_into().unwrap()).unwrap();
        let new = NewAccount { localpart, password: None, kind: AccountKind::Full, admin: false };
        self.users.create(&new).await.unwrap()
    }

    async fn create(&self, preset: Preset) -> OwnedRoomId {
        self.create_with(preset, |_| {}).await
    }

    async fn create_with(&self, preset: Preset, change: impl FnOnce(&mut Creation)) -> OwnedRoomId {
        let mut creation = Creation {
            creator: ours("alice"),
            is_admin: false,
            profile: Map::new(),
            version: None,
            preset,
            is_published: false,
            alias_name: None,
            name: None,
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            creation_content: Map::new(),
            initial_state: Vec::new(),
            power_levels: Map::new(),
        };
        change(&mut creation);
        self.rooms.create(creation).await.unwrap()
    }

    async fn say(&self, room_id: &RoomId, text: &str) -> OwnedEventId {
        let message = Message {
            room_id: room_id.to_owned(),
            sender: ours("alice"),
            kind: "m.room.message".to_owned(),
            content: to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap(),
            transaction: None,
            only_own: false,
            ts_ms: None,
        };
        self.rooms.send(message).await.unwrap()
    }

    async fn set(&self, room_id: &RoomId, kind: &str, state_key: &str, content: &Value) -> OwnedEventId {
        let change = StateChange {
            room_id: room_id.to_owned(),
            sender: ours("alice"),
            kind: kind.to_owned(),
            state_key: state_key.to_owned(),
            content: to_raw_value(content).unwrap(),
            guest: false,
            ts_ms: None,
        };
        self.rooms.set_state(change).await.unwrap()
    }

    /// Keeps a server out of a room.
    async fn deny(&self, room_id: &RoomId, server: &str) {
        self.set(room_id, "m.room.server_acl", "", &json!({ "allow": ["*"], "deny": [server] })).await;
    }

    /// The template of a handshake, made into an event of the other server.
    async fn templated(&self, handshake: &str, room_id: &RoomId, user_id: &OwnedUserId) -> Event {
        let versions: String = (1..=12).map(|version| format!("&ver={version}")).collect();
        let path = format!("v1/make_{handshake}/{room_id}/{user_id}?x=1{versions}");
        let (status, template) = self.get(FAR, &path).await;
        assert_eq!(status, 200, "{template}");
        let version = RoomVersion::parse(template["room_version"].as_str().unwrap()).unwrap();
        let event = &template["event"];
        assert_eq!(event["state_key"], json!(user_id));
        self.sign(version, room_id, event)
    }

    /// The other server's event with these fields.
    fn sign(&self, version: RoomVersion, room_id: &RoomId, event: &Value) -> Event {
        self.sign_as(version, room_id, event, None)
    }

    /// The same; in room versions 1 and 2 with this in its id.
    fn sign_as(&self, version: RoomVersion, room_id: &RoomId, event: &Value, id: Option<&str>) -> Event {
        let ids = |field: &str| serde_json::from_value(event[field].clone()).unwrap();
        let references = References {
            prev_events: ids("prev_events"),
            auth_events: ids("auth_events"),
            depth: event["depth"].as_u64().unwrap(),
            ..References::default()
        };
        let draft = Draft {
            kind: event["type"].as_str().unwrap().to_owned(),
            state_key: event["state_key"].as_str().map(str::to_owned),
            content: to_raw_value(&event["content"]).unwrap(),
            sender: serde_json::from_value(event["sender"].clone()).unwrap(),
            redacts: None,
            origin_server_ts_ms: NOW_MS,
        };
        build(&draft, &references, Some(room_id), version, &self.far_key, FAR.try_into().unwrap(), id).unwrap()
    }

    /// A user of the other server joins; the answer is that of `send_join`, and the join.
    async fn join(&self, room_id: &RoomId, user_id: &OwnedUserId) -> (Value, OwnedEventId) {
        let event = self.templated("join", room_id, user_id).await;
        let path = format!("v2/send_join/{room_id}/{}", event.event_id());
        let (status, answer) = self.request(FAR, "PUT", &path, event.json().clone()).await;
        assert_eq!(status, 200, "{answer}");
        (answer, event.event_id().to_owned())
    }

    async fn membership(&self, room_id: &RoomId, user_id: &OwnedUserId) -> Option<hearth_rooms::Membership> {
        let user = self.store.user_number(user_id).await.unwrap()?;
        let room = self.store.room_number(room_id).await.unwrap()?;
        self.store.membership(user, room).await.unwrap().map(|row| row.membership)
    }
}

fn ours(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:{US}")).unwrap()
}

fn far(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:{FAR}")).unwrap()
}

fn expect(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}

/// The types of a list of events.
fn kinds(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect()
}
