//! A room of ours with users of other servers in it, one for each room version.
//!
//! Alice is ours and made it. Only she may set what matters, kick beside Bob, and ban. Bob may set a topic; Carol, Zoe and
//! Erin may talk; Dan is banned.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use hearth_core::{BuildError, Draft, Event, References, RoomVersion, SigningKey, auth_types, build};
use hearth_ports::{ManualClock, Peers, SeededEntropy, mem::MemEngine};
use hearth_rooms::{Creation, MemberAction, MemberChange, Message, Preset, Rooms, RoomsSettings, StateChange};
use hearth_store::{EventNumber, RoomNumber, Store, StoreSettings};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    Fields,
    peers::Others,
    raw, run,
    sign::{KEY, US},
};

/// A day in November 2023, in milliseconds since the Unix epoch.
pub const NOW_MS: u64 = 1_700_000_000_000;

/// Our user, who made the room.
pub const ALICE: &str = "@alice:hearth.test";
/// May set the topic and kick.
pub const BOB: &str = "@bob:far.test";
/// May talk.
pub const CAROL: &str = "@carol:far.test";
/// Is banned.
pub const DAN: &str = "@dan:far.test";
/// May talk, on a third server.
pub const ERIN: &str = "@erin:third.test";
/// May talk; the fuzzer does not know her.
pub const ZOE: &str = "@zoe:far.test";
/// In no room.
pub const STRANGER: &str = "@stranger:far.test";

/// What only Alice may change: nobody else has made these, whatever happens.
pub const ALICES: [(&str, &str); 6] = [
    ("m.room.create", ""),
    ("m.room.power_levels", ""),
    ("m.room.join_rules", ""),
    ("m.room.history_visibility", ""),
    ("m.room.member", ALICE),
    ("m.room.member", DAN),
];

/// Events by type and state key.
pub type State = BTreeMap<(String, String), Event>;

/// A server of ours over an engine.
pub struct Server {
    /// What is below the store.
    pub engine: Arc<MemEngine>,
    /// What is stored.
    pub store: Arc<Store>,
    /// The time.
    pub clock: Arc<ManualClock>,
    /// The rooms.
    pub rooms: Arc<Rooms>,
}

impl Server {
    /// A server with these peers; `seed`: another for each process that the server has been.
    ///
    /// # Panics
    /// If the engine's rows are not a store's.
    pub async fn over(engine: Arc<MemEngine>, peers: Arc<dyn Peers>, seed: u64) -> Self {
        let settings = StoreSettings { cache_bytes_max: 1 << 20 };
        let store = Store::open(engine.clone(), settings).await.expect("memory opens");
        let clock = Arc::new(ManualClock::at_ms(NOW_MS + 1_000));
        let (key, entropy) = (SigningKey::from_seed(&[7; 32], "us"), SeededEntropy::new(seed));
        let (key, entropy) = (Arc::new(key), Arc::new(entropy));
        let name = US.try_into().expect("a server name");
        let rooms = Rooms::new(store.clone(), clock.clone(), entropy, peers, key, name, RoomsSettings::default());
        Self { engine, store, clock, rooms }
    }

    /// Alice says something, and may.
    ///
    /// # Panics
    /// If she may not.
    pub async fn say(&self, room_id: &RoomId, text: &str) -> OwnedEventId {
        let message = Message {
            room_id: room_id.to_owned(),
            sender: user(ALICE),
            kind: "m.room.message".to_owned(),
            content: raw(&json!({ "msgtype": "m.text", "body": text })),
            transaction: None,
            only_own: false,
            ts_ms: None,
        };
        self.rooms.send(message).await.expect("nobody keeps Alice from talking")
    }

    /// Alice sets something, and may.
    ///
    /// # Panics
    /// If she may not.
    pub async fn set(&self, room_id: &RoomId, kind: &str, content: &Value) -> OwnedEventId {
        let change = StateChange {
            room_id: room_id.to_owned(),
            sender: user(ALICE),
            kind: kind.to_owned(),
            state_key: String::new(),
            content: raw(content),
            guest: false,
            ts_ms: None,
        };
        self.rooms.set_state(change).await.expect("nobody keeps Alice from ruling")
    }

    /// The room's number.
    ///
    /// # Panics
    /// If it is not there.
    pub async fn number(&self, room_id: &RoomId) -> RoomNumber {
        self.store.room_number(room_id).await.expect("memory reads").expect("the room is there")
    }

    /// An event that is stored.
    ///
    /// # Panics
    /// If it is not.
    pub async fn event(&self, room: RoomNumber, id: &OwnedEventId) -> Event {
        self.store.event_by_id(room, id).await.expect("memory reads").expect("the event is here").event.clone()
    }

    /// Everything that must hold of the room, whatever was sent.
    ///
    /// # Panics
    /// If something of it does not.
    pub async fn check(&self, base: &Base) {
        let room = self.number(&base.room_id).await;
        let head = self.store.head(room).await.expect("memory reads").expect("the room has a head");
        assert!(!head.extremities.is_empty() && head.extremities.len() <= 20, "{:?}", head.extremities);
        for (kind, state_key) in ALICES {
            let stored = self.store.current_state_event(room, kind, state_key).await.expect("memory reads");
            let stored = stored.unwrap_or_else(|| panic!("{kind} {state_key} is gone"));
            let made = &base.state[&(kind.to_owned(), state_key.to_owned())];
            assert_eq!(stored.event.event_id(), made.event_id(), "somebody has changed {kind} {state_key}");
        }
        let report = hearth_store::fsck::fsck(&self.store, |_| {}).await.expect("memory reads");
        assert!(report.is_clean(), "{report}");
    }
}

/// The room as it is at the beginning.
pub struct Base {
    /// Its version.
    pub version: RoomVersion,
    /// Its id.
    pub room_id: OwnedRoomId,
    /// What is stored of it; to be forked.
    pub engine: Arc<MemEngine>,
    /// All its events, in order.
    pub events: Vec<Event>,
    /// Its state.
    pub state: State,
}

/// The room of this version.
pub fn base(version: RoomVersion) -> &'static Base {
    static BASES: [OnceLock<Base>; RoomVersion::ALL.len()] = [const { OnceLock::new() }; RoomVersion::ALL.len()];
    BASES[usize::from(version.number()) - 1].get_or_init(|| run(make(version)))
}

/// One of the versions.
pub fn version_of(byte: u8) -> RoomVersion {
    RoomVersion::ALL[usize::from(byte) % RoomVersion::ALL.len()]
}

async fn make(version: RoomVersion) -> Base {
    let engine = MemEngine::new();
    let server = Server::over(engine.clone(), Arc::new(Others::default()), 1).await;
    let room_id = server.rooms.create(creation(version)).await.expect("Alice may make a room");
    let mut users = json!({ BOB: 50 });
    if !version.has_hashed_room_id() {
        users[ALICE] = json!(100);
    }
    let more = ["m.room.server_acl", "m.room.tombstone", "m.room.guest_access"];
    let hers = ALICES[1..4].iter().map(|(kind, _)| *kind).chain(more);
    let events: Map<String, Value> = hers.map(|kind| (kind.to_owned(), json!(100))).collect();
    let levels = json!({ "users": users, "events": events, "state_default": 50, "kick": 50, "ban": 100, "redact": 50 });
    server.set(&room_id, "m.room.power_levels", &levels).await;
    let ban = MemberChange {
        room_id: room_id.clone(),
        sender: user(ALICE),
        target: user(DAN),
        action: MemberAction::Ban,
        content: Map::new(),
        guest: false,
    };
    server.rooms.change_member(ban).await.expect("Alice may ban");
    for (index, member) in [BOB, CAROL, ERIN, ZOE].into_iter().enumerate() {
        let known = read(&server, version, &room_id, engine.clone()).await;
        let content = json!({ "membership": "join" });
        let join = Draft::state("m.room.member", member, user(member), &content, NOW_MS).expect("a member's content");
        let last = known.events.last().expect("the room has events");
        let join = known.build(&known.state, &[last], None, &join, &format!("join{index}")).expect("a join is small");
        let received = server.rooms.receive(user(member).server_name(), &room_id, vec![join.json().clone()]).await;
        received.into_iter().for_each(|received| received.result.expect("the room is public"));
    }
    read(&server, version, &room_id, engine).await
}

/// The room as it is stored.
async fn read(server: &Server, version: RoomVersion, room_id: &RoomId, engine: Arc<MemEngine>) -> Base {
    let room = server.number(room_id).await;
    let head = server.store.head(room).await.expect("memory reads").expect("the room has a head");
    let (mut events, mut state) = (Vec::new(), State::new());
    for number in (1..head.next_event.0).map(EventNumber) {
        let stored =
            server.store.event(room, number).await.expect("memory reads").expect("events are numbered in order");
        let event = stored.event.clone();
        if let Some((kind, state_key)) = event.state_pair() {
            state.insert((kind.to_owned(), state_key.to_owned()), event.clone());
        }
        events.push(event);
    }
    Base { version, room_id: room_id.to_owned(), engine, events, state }
}

impl Base {
    /// An event of another server behind these. Unless `auth_events` says otherwise it cites what it has to, out of this
    /// state. `opaque` is its name in room versions 1 and 2.
    pub fn build(
        &self,
        state: &State,
        prevs: &[&Event],
        auth_events: Option<Vec<OwnedEventId>>,
        draft: &Draft,
        opaque: &str,
    ) -> Result<Event, BuildError> {
        let auth_events = auth_events.unwrap_or_else(|| self.auth_events(state, draft));
        let prev_events: Vec<OwnedEventId> = prevs.iter().map(|event| event.event_id().to_owned()).collect();
        let depth = prevs.iter().map(|event| event.depth()).max().unwrap_or(0).saturating_add(1);
        let cited = prevs.iter().copied().chain(state.values()).filter(|_| self.version.has_chosen_event_ids());
        let hashes = cited.map(|event| (event.event_id().to_owned(), event.reference_hash())).collect();
        let references = References { prev_events, auth_events, depth, hashes };
        let server = draft.sender.server_name();
        build(draft, &references, Some(&self.room_id), self.version, &KEY, server, Some(opaque))
    }

    /// The fields with what an event of the room must have and these have not.
    pub fn completed(&self, mut fields: Fields) -> Fields {
        let text = |fields: &Fields, key: &str| {
            fields.get(key).and_then(|value| serde_json::from_str::<String>(value.get()).ok())
        };
        let kind = text(&fields, "type").unwrap_or_else(|| "m.room.message".to_owned());
        let sender = text(&fields, "sender").and_then(|id| id.try_into().ok()).unwrap_or_else(|| user(BOB));
        let content = fields.get("content").cloned().unwrap_or_else(|| raw(&json!({})));
        let state_key = text(&fields, "state_key");
        let draft = Draft { kind, state_key, content, sender, redacts: None, origin_server_ts_ms: NOW_MS };
        let has_chosen_ids = self.version.has_chosen_event_ids();
        let reference = |id: &EventId| if has_chosen_ids { json!([id, {}]) } else { json!(id) };
        let auth_events: Vec<Value> = self.auth_events(&self.state, &draft).iter().map(|id| reference(id)).collect();
        let last = self.events.last().expect("the room has events");
        let mut default = |key: &str, value: Value| {
            fields.entry(key.to_owned()).or_insert_with(|| raw(&value));
        };
        default("auth_events", json!(auth_events));
        default("content", json!({}));
        default("depth", json!(last.depth() + 1));
        default("origin_server_ts", json!(NOW_MS));
        default("prev_events", json!([reference(last.event_id())]));
        default("sender", json!(draft.sender));
        default("type", json!(draft.kind));
        if !(self.version.has_hashed_room_id() && draft.kind == "m.room.create") {
            default("room_id", json!(self.room_id));
        }
        if has_chosen_ids {
            default("event_id", json!("$chosen:far.test"));
        }
        fields
    }

    /// What an event has to cite.
    pub fn auth_events(&self, state: &State, draft: &Draft) -> Vec<OwnedEventId> {
        let types = auth_types(self.version, &draft.kind, &draft.sender, draft.state_key.as_deref(), &draft.content);
        let cited = types.unwrap_or_default().into_iter().filter_map(|pair| state.get(&pair));
        cited.map(|event| event.event_id().to_owned()).collect()
    }
}

/// The user of this id.
///
/// # Panics
/// If it is none: our mistake.
pub fn user(id: &str) -> OwnedUserId {
    <&UserId>::try_from(id).expect("a user id").to_owned()
}

fn creation(version: RoomVersion) -> Creation {
    Creation {
        creator: user(ALICE),
        is_admin: false,
        profile: Map::new(),
        version: Some(version.to_string()),
        preset: Preset::Public,
        is_published: false,
        alias_name: None,
        name: None,
        topic: None,
        invite: Vec::new(),
        is_direct: false,
        creation_content: Map::new(),
        initial_state: Vec::new(),
        power_levels: Map::new(),
    }
}
