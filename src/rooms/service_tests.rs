//! Tests of the service on the in-memory engine, with a set clock and seeded entropy.

use std::{sync::Arc, time::Duration};

use hearth_core::{RoomVersion, SigningKey};
use hearth_ports::{Engine, ManualClock, NoPeers, SeededEntropy, mem::MemEngine};
use hearth_store::{RoomNumber, Store, StoreSettings, tables::Head};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use serde_json::{Map, Value, json, value::to_raw_value};

use crate::{
    CreateError, Creation, MemberAction, MemberChange, Message, Preset, Redaction, Rooms, RoomsSettings, SendError,
    StateChange, TransactionId,
};

mod branches;
mod costly;
mod creating;
mod directory;
pub(crate) mod elsewhere;
mod filling;
mod following;
mod hanging;
mod inviting;
mod joining;
mod memberships;
mod missing;
mod partial;
mod policy;
mod receiving;
mod redacting;
mod script;
mod sending;
mod serving;
mod spaces;
mod third_party;
mod twin;
mod unfinished;
mod upgrading;

/// A server's rooms, and what they stand on.
pub(crate) struct World {
    pub(crate) engine: Arc<MemEngine>,
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) rooms: Arc<Rooms>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(MemEngine::new(), 1).await
    }

    /// A server on an engine that may hold something already: after a restart, or another node.
    pub(crate) async fn on(engine: Arc<MemEngine>, seed: u64) -> Self {
        let shared: Arc<dyn Engine> = engine.clone();
        let store = Store::open(shared, StoreSettings::default()).await.unwrap();
        let clock = Arc::new(ManualClock::at_ms(1_700_000_000_000));
        let key = Arc::new(SigningKey::from_seed(&[7; 32], "test"));
        let entropy = Arc::new(SeededEntropy::new(seed));
        let server = "hearth.test".try_into().unwrap();
        let rooms =
            Rooms::new(store.clone(), clock.clone(), entropy, Arc::new(NoPeers), key, server, RoomsSettings::default());
        Self { engine, store, clock, rooms }
    }

    pub(crate) async fn create(&self, creator: &str, preset: Preset) -> OwnedRoomId {
        self.rooms.create(creation(creator, preset)).await.unwrap()
    }

    pub(crate) async fn create_in(&self, creator: &str, preset: Preset, version: RoomVersion) -> OwnedRoomId {
        let creation = Creation { version: Some(version.to_string()), ..creation(creator, preset) };
        self.rooms.create(creation).await.unwrap()
    }

    /// One user does something to their own membership, or another's.
    pub(crate) async fn act(
        &self,
        room_id: &RoomId,
        sender: &str,
        action: MemberAction,
        target: &str,
    ) -> Result<OwnedEventId, SendError> {
        self.store.ensure_user_number(&user(sender)).await.unwrap();
        let change = MemberChange {
            room_id: room_id.to_owned(),
            sender: user(sender),
            target: user(target),
            action,
            content: Map::new(),
            guest: false,
        };
        self.rooms.change_member(change).await
    }

    pub(crate) async fn join(&self, room_id: &RoomId, name: &str) -> Result<OwnedEventId, SendError> {
        self.act(room_id, name, MemberAction::Join, name).await
    }

    pub(crate) async fn say(&self, room_id: &RoomId, sender: &str, text: &str) -> Result<OwnedEventId, SendError> {
        self.rooms.send(message(room_id, sender, text, None)).await
    }

    pub(crate) async fn set(
        &self,
        room_id: &RoomId,
        sender: &str,
        kind: &str,
        state_key: &str,
        content: Value,
    ) -> Result<OwnedEventId, SendError> {
        let change = StateChange {
            room_id: room_id.to_owned(),
            sender: user(sender),
            kind: kind.to_owned(),
            state_key: state_key.to_owned(),
            content: to_raw_value(&content).unwrap(),
            guest: false,
            ts_ms: None,
        };
        self.rooms.set_state(change).await
    }

    pub(crate) async fn redact(
        &self,
        room_id: &RoomId,
        sender: &str,
        target: &OwnedEventId,
    ) -> Result<OwnedEventId, SendError> {
        let redaction = Redaction {
            room_id: room_id.to_owned(),
            sender: user(sender),
            target: target.clone(),
            content: to_raw_value(&json!({ "reason": "spam" })).unwrap(),
            transaction: None,
            only_own: false,
        };
        self.rooms.redact(redaction).await
    }

    pub(crate) async fn number(&self, room_id: &RoomId) -> RoomNumber {
        self.store.room_number(room_id).await.unwrap().expect("the room is there")
    }

    pub(crate) async fn head(&self, room_id: &RoomId) -> Head {
        self.store.head(self.number(room_id).await).await.unwrap().expect("the room has a head")
    }

    /// The content of the state event in force, by the current state and by the state tree, which must agree.
    pub(crate) async fn state(&self, room_id: &RoomId, kind: &str, state_key: &str) -> Option<Value> {
        let room = self.number(room_id).await;
        let row = self.store.current_state_row(room, kind, state_key).await.unwrap();
        let by_row = match row.and_then(|row| row.event) {
            Some(number) => self.store.event(room, number).await.unwrap(),
            None => None,
        };
        let version = self.head(room_id).await.state;
        let by_tree = self.store.state_event(room, version, kind, state_key).await.unwrap();
        assert_eq!(by_row.as_ref().map(|stored| stored.number), by_tree.as_ref().map(|stored| stored.number));
        by_row.map(|stored| stored.event.content_as().unwrap())
    }

    pub(crate) async fn membership(&self, room_id: &RoomId, name: &str) -> Option<String> {
        let content = self.state(room_id, "m.room.member", user(name).as_str()).await?;
        content["membership"].as_str().map(str::to_owned)
    }

    /// Whatever was done, the database keeps its invariants.
    pub(crate) async fn check(&self) {
        let report = hearth_store::fsck::fsck(&self.store, |_| {}).await.unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
        assert!(report.seen.rooms > 0, "there is something to check");
    }

    /// Type and state key of every event of the timeline, oldest first.
    pub(crate) async fn timeline(&self, room_id: &RoomId) -> Vec<(String, Option<String>)> {
        let room = self.number(room_id).await;
        let rows = self.store.timeline(room, .., 10_000, false).await.unwrap();
        let mut events = Vec::new();
        for (order, row) in rows {
            let stored = self.store.event(room, row.event.unwrap()).await.unwrap().expect("a timeline has its events");
            assert_eq!(stored.header.order(), order, "the event knows its place");
            events.push((stored.event.kind().to_owned(), stored.event.state_key().map(str::to_owned)));
        }
        events
    }
}

/// How long a test waits for what other tasks do, before it says that they never did it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Until a commit waits at the paused engine.
pub(crate) async fn commit_waits(engine: &MemEngine) {
    let waits = async {
        while engine.waiting() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect("something is committed");
}

pub(crate) fn user(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:hearth.test")).unwrap()
}

pub(crate) fn creation(creator: &str, preset: Preset) -> Creation {
    Creation {
        creator: user(creator),
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
    }
}

pub(crate) fn message(room_id: &RoomId, sender: &str, text: &str, transaction: Option<&str>) -> Message {
    Message {
        room_id: room_id.to_owned(),
        sender: user(sender),
        kind: "m.room.message".to_owned(),
        content: to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap(),
        transaction: transaction.map(|id| TransactionId { device: "PHONE".to_owned(), id: id.to_owned() }),
        only_own: false,
        ts_ms: None,
    }
}

#[track_caller]
pub(crate) fn assert_forbidden<T: std::fmt::Debug>(result: Result<T, SendError>) {
    assert!(matches!(result, Err(SendError::Forbidden(_))), "expected a refusal, got {result:?}");
}

#[track_caller]
pub(crate) fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { panic!("not an object") };
    object
}

#[track_caller]
pub(crate) fn assert_invalid<T: std::fmt::Debug>(result: Result<T, CreateError>) {
    assert!(matches!(result, Err(CreateError::InvalidState { .. })), "expected an invalid state, got {result:?}");
}
