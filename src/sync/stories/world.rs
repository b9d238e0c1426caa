//! A store, the services, people and rooms without rules: what is sent is accepted.

use std::sync::Arc;

use hearth_ports::{ManualClock, SeededEntropy, mem::MemEngine};
use hearth_store::{
    CommitError, EventNote, EventNumber, LogEntry, MemberNote, Order, RoomNumber, StateBuilder, Store, StoreSettings,
    Table, Write, encode,
    tables::{self, Create, EventFlags, EventHeader, Extremity, Head, Membership, SenderTransaction, TimelineRow},
};
use hearth_users::{UserSettings, Users};
use ruma::{OwnedRoomId, RoomId, UserId, owned_server_name};
use serde_json::{Value, json};

use crate::{Reader, SyncError, SyncQuery, SyncSettings, Syncs, read::Reads};

pub(super) const NOW_MS: u64 = 1_700_000_000_000;

pub(super) struct World {
    pub(super) engine: Arc<MemEngine>,
    pub(super) store: Arc<Store>,
    pub(super) users: Arc<Users>,
    pub(super) syncs: Arc<Syncs>,
    pub(super) reads: Arc<Reads>,
}

/// Somebody with one device.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub(super) reader: Reader,
}

impl Person {
    pub(super) fn id(&self) -> &str {
        self.reader.user_id.as_str()
    }
}

impl World {
    pub(super) async fn new() -> Self {
        Self::over(MemEngine::new(), 1).await
    }

    /// A process over this engine; the same engine again is a restart.
    pub(super) async fn over(engine: Arc<MemEngine>, seed: u64) -> Self {
        let store = Store::open(engine.clone(), StoreSettings::default()).await.expect("an engine of ours opens");
        let clock = Arc::new(ManualClock::at_ms(NOW_MS));
        let entropy = Arc::new(SeededEntropy::new(seed));
        let settings = UserSettings::new(owned_server_name!("hearth"));
        let users = Users::new(store.clone(), clock.clone(), entropy.clone(), settings);
        let syncs = Syncs::new(store.clone(), users.clone(), clock.clone(), entropy, SyncSettings::default());
        let reads = Reads::new(store.clone(), users.clone(), clock);
        Self { engine, store, users, syncs, reads }
    }

    pub(super) async fn person(&self, name: &str) -> Person {
        let user_id = UserId::parse(format!("@{name}:hearth")).expect("a user id");
        self.store.ensure_user_number(&user_id).await.expect("memory commits");
        Person { reader: Reader { user_id, device_id: "DEVICE".into() } }
    }

    /// A room with its creator in it.
    pub(super) async fn room(&self, name: &str, creator: &Person) -> Room {
        let id = RoomId::parse(format!("!{name}:hearth")).expect("a room id");
        let number = self.store.assign_room_number(&id).await.expect("memory reads");
        let room = Room { store: self.store.clone(), number, id };
        room.send(creator, "m.room.create", Some(""), json!({})).await;
        room.member(creator, creator, Membership::Join).await;
        room
    }

    pub(super) async fn try_sync(&self, person: &Person, query: &SyncQuery) -> Result<Value, SyncError> {
        let answer = self.syncs.sync(&person.reader, query).await?;
        Ok(serde_json::from_slice(&answer).expect("an answer is JSON"))
    }

    pub(super) async fn sync(&self, person: &Person, query: &SyncQuery) -> Value {
        self.try_sync(person, query).await.expect("the query is fine and memory never fails")
    }

    /// A first sync with a filter.
    pub(super) async fn first(&self, person: &Person, filter: Value) -> Value {
        self.sync(person, &SyncQuery { filter: Some(filter.to_string()), ..SyncQuery::default() }).await
    }

    /// The sync that follows an answer.
    pub(super) async fn next(&self, person: &Person, before: &Value, filter: Value) -> Value {
        self.sync(person, &following(before, filter)).await
    }
}

/// The query that follows an answer.
pub(super) fn following(before: &Value, filter: Value) -> SyncQuery {
    let since = before["next_batch"].as_str().expect("every answer has a token").to_owned();
    SyncQuery { since: Some(since), filter: Some(filter.to_string()), ..SyncQuery::default() }
}

pub(super) struct Room {
    pub(super) store: Arc<Store>,
    pub(super) number: RoomNumber,
    pub(super) id: OwnedRoomId,
}

/// What the tests decide of an event beside its content.
#[derive(Default)]
pub(super) struct Extra {
    pub(super) flags: EventFlags,
    pub(super) sent_by: Option<SenderTransaction>,
    /// It does not become part of the room's state, as if resolution had chosen another.
    pub(super) loses: bool,
}

impl Room {
    /// The same room as another process sees it.
    pub(super) fn clone_into(&self, world: &World) -> Self {
        Self { store: world.store.clone(), number: self.number, id: self.id.clone() }
    }

    pub(super) async fn message(&self, sender: &Person, body: &str) -> String {
        self.send(sender, "m.room.message", None, json!({ "body": body })).await
    }

    pub(super) async fn member(&self, sender: &Person, target: &Person, membership: Membership) -> String {
        let name = match membership {
            Membership::Join => "join",
            Membership::Invite => "invite",
            Membership::Knock => "knock",
            Membership::Leave => "leave",
            Membership::Ban => "ban",
        };
        self.send(sender, "m.room.member", Some(target.id()), json!({ "membership": name })).await
    }

    pub(super) async fn visibility(&self, sender: &Person, visibility: &str) -> String {
        let content = json!({ "history_visibility": visibility });
        self.send(sender, "m.room.history_visibility", Some(""), content).await
    }

    /// Sends an event and gives its id.
    pub(super) async fn send(&self, sender: &Person, kind: &str, state_key: Option<&str>, content: Value) -> String {
        self.send_with(sender, kind, state_key, content, Extra::default()).await
    }

    pub(super) async fn send_with(
        &self,
        sender: &Person,
        kind: &str,
        state_key: Option<&str>,
        content: Value,
        extra: Extra,
    ) -> String {
        loop {
            let mut draft = Draft::begin(self, kind, state_key, &content).await;
            let event_id = draft.append(sender, &content, &extra).await;
            match self.store.commit(draft.write).await {
                Ok(_) => return event_id,
                Err(CommitError::Conflict) => {}
                Err(error) => panic!("memory commits: {error}"),
            }
        }
    }

    /// Branches of the room meet, and of a user's memberships none is in force any more.
    pub(super) async fn erase_member(&self, target: &Person) {
        let mut draft = Draft::begin(self, "m.room.member", Some(target.id()), &json!({ "membership": "leave" })).await;
        let number = draft.set_pair(None).await.expect("there was a membership");
        let at = draft.write.position();
        let row = TimelineRow { event: None, state: draft.head.state };
        let key = tables::timeline_key(self.number, Order { position: 0, within: u32::MAX });
        draft.write.put_filled(Table::Tl, key, encode(&row), Some((tables::TIMELINE_POSITION_OFFSET, at)), &[]);
        let note = draft.put_member(number, at).await.expect("a membership");
        draft.write.put_at(Table::Rm, tables::head_key(self.number), &draft.head, &[at]);
        draft.write.log(at, LogEntry::Membership(note));
        self.store.commit(draft.write).await.expect("nobody else writes");
    }

    /// Something is missing in front of the newest event.
    pub(super) async fn gap_at_end(&self) {
        let position = self.store.live().positions().at(self.number.partition());
        let rows = self.store.timeline(self.number, ..=Order::live(position), 1, true).await.expect("memory reads");
        let (order, _) = rows.first().expect("the room has events");
        let mut write = Write::new(self.number.partition());
        let row = tables::GapRow { missing: vec!["$missing".to_owned()] };
        write.put(Table::Tl, tables::gap_key(self.number, *order), &row);
        self.store.commit(write).await.expect("memory commits");
    }

    /// The events of the present state, by pair.
    pub(super) async fn state(&self) -> std::collections::BTreeMap<(String, String), String> {
        let head = self.store.head(self.number).await.expect("memory reads").expect("the room has a head");
        let mut state = std::collections::BTreeMap::new();
        for (key, number) in self.store.state_all(self.number, head.state).await.expect("memory reads") {
            let pair = self.store.state_key(self.number, key).await.expect("memory reads").expect("a known pair");
            let event = self.store.event(self.number, number).await.expect("memory reads").expect("a known event");
            state.insert((pair.kind.clone(), pair.state_key.clone()), event.event.event_id().to_string());
        }
        state
    }
}

/// One event on its way into a batch.
struct Draft<'a> {
    room: &'a Room,
    write: Write,
    head: Head,
    kind: String,
    state_key: Option<String>,
    membership: Option<Membership>,
}

impl<'a> Draft<'a> {
    async fn begin(room: &'a Room, kind: &str, state_key: Option<&str>, content: &Value) -> Self {
        let known = room.store.head_bytes(room.number).await.expect("memory reads");
        let mut write = Write::new(room.number.partition());
        let (bytes, head) = match known {
            Some((bytes, head)) => (Some(bytes), head),
            None => {
                write.name_room(room.number, &room.id);
                (None, new_head())
            }
        };
        write.require(Table::Rm, tables::head_key(room.number), bytes);
        let membership = match content["membership"].as_str().filter(|_| kind == "m.room.member") {
            Some("join") => Some(Membership::Join),
            Some("invite") => Some(Membership::Invite),
            Some("knock") => Some(Membership::Knock),
            Some("ban") => Some(Membership::Ban),
            Some(_) => Some(Membership::Leave),
            None => None,
        };
        Self { room, write, head, kind: kind.to_owned(), state_key: state_key.map(str::to_owned), membership }
    }

    async fn append(&mut self, sender: &Person, content: &Value, extra: &Extra) -> String {
        let (room, number, at) = (self.room.number, self.head.next_event, self.write.position());
        let event_id = format!("${}-{}", self.room.id.as_str().trim_start_matches('!').replace(':', "-"), number.0);
        let state_before = self.head.state;
        let replaces = if self.state_key.is_some() && !extra.loses { self.set_pair(Some(number)).await } else { None };
        let mut event = json!({
            "auth_events": [], "content": content, "depth": number.0, "origin_server_ts": NOW_MS - 1_000,
            "prev_events": [], "sender": sender.id(), "type": self.kind,
        });
        if let Some(state_key) = &self.state_key {
            event["state_key"] = state_key.as_str().into();
        }
        let header = EventHeader {
            position: 0,
            within: u32::MAX,
            flags: extra.flags,
            event_id: event_id.clone(),
            received_ts_ms: NOW_MS,
            state_before,
            state_after: self.head.state,
            prevs: self.head.extremities.iter().map(|extremity| extremity.event).collect(),
            auths: Vec::new(),
            replaces,
            redacted_by: None,
            redacts: None,
            sent_by: extra.sent_by.clone(),
            origin: None,
            relay: false,
        };
        tables::put_event(&mut self.write, room, number, &header, event.to_string().as_bytes(), Some(at));
        let row = TimelineRow { event: Some(number), state: self.head.state };
        let key = tables::timeline_key(room, Order { position: 0, within: u32::MAX });
        self.write.put_filled(Table::Tl, key, encode(&row), Some((tables::TIMELINE_POSITION_OFFSET, at)), &[]);
        let member = self.put_member(number, at).await;
        self.head.extremities = vec![Extremity { event: number, event_id: event_id.clone(), depth: number.0.into() }];
        self.head.next_event = number.next();
        self.write.put_at(Table::Rm, tables::head_key(room), &self.head, &[at]);
        self.write.log(at, LogEntry::Event(EventNote { room, event: Some(number), member }));
        event_id
    }

    /// Puts the event in force for its pair, or none; returns the one that was.
    async fn set_pair(&mut self, number: Option<EventNumber>) -> Option<EventNumber> {
        let (room, store) = (self.room.number, &self.room.store);
        let (kind, state_key) = (&*self.kind.clone(), &*self.state_key.clone().unwrap_or_default());
        let before = store.current_state_row(room, kind, state_key).await.expect("memory reads");
        let pair = before.map_or(self.head.next_state_key, |row| row.state_key);
        if before.is_none() {
            self.head.next_state_key = pair.next();
            let row = tables::StateKeyRow { kind: kind.to_owned(), state_key: state_key.to_owned() };
            self.write.put(Table::St, tables::state_key_key(room, pair), &row);
        }
        let mut states = StateBuilder::new(store, room);
        let changes = [(pair, number)];
        let state = states.apply(self.head.state, &changes, self.head.next_state).await.expect("memory reads");
        states.finish(&mut self.write);
        (self.head.state, self.head.next_state) = (state, self.head.next_state.next());
        self.count(before.and_then(|row| row.membership));
        let membership = self.membership.filter(|_| number.is_some());
        let row = tables::CurrentStateRow { state_key: pair, event: number, membership, user: None };
        self.write.put(Table::Rm, tables::current_state_key(room, kind, state_key), &row);
        before.and_then(|row| row.event)
    }

    fn count(&mut self, before: Option<Membership>) {
        let change =
            |counted: Membership| i64::from(self.membership == Some(counted)) - i64::from(before == Some(counted));
        let (joined, invited) = (change(Membership::Join), change(Membership::Invite));
        self.head.joined = self.head.joined.saturating_add_signed(joined as i32);
        self.head.invited = self.head.invited.saturating_add_signed(invited as i32);
    }

    async fn put_member(&mut self, number: EventNumber, at: hearth_store::PositionIndex) -> Option<MemberNote> {
        let (membership, room, store) = (self.membership?, self.room.number, &self.room.store);
        let user_id = <&UserId>::try_from(self.state_key.as_deref()?).expect("a user id");
        let user = store.user_number(user_id).await.expect("memory reads").expect("a person of the world");
        let before = store.membership(user, room).await.expect("memory reads");
        let was_joined = before.is_some_and(|row| row.membership == Membership::Join);
        let row = tables::MembershipRow {
            position: 0,
            joined_position: before.map_or(0, |row| row.joined_position),
            membership,
            event: number,
            forgotten: false,
            guest: false,
        };
        let positions = if membership == Membership::Join && !was_joined { &[at, at][..] } else { &[at] };
        self.write.put_at(Table::Rm, tables::member_rooms_key(user, room), &row, positions);
        Some(MemberNote { room, user, membership })
    }
}

fn new_head() -> Head {
    Head::new(Create { version: "11".to_owned(), federate: true, room_type: None })
}

/// The room in a section of an answer; null if it is not there.
pub(super) fn in_section<'a>(answer: &'a Value, section: &str, room: &Room) -> &'a Value {
    &answer["rooms"][section][room.id.as_str()]
}

/// The ids of the events under a key of a room: `timeline`, `state`.
pub(super) fn ids(room: &Value, key: &str) -> Vec<String> {
    let events = room[key]["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().map(|event| event["event_id"].as_str().expect("events have ids").to_owned()).collect()
}

/// What messages say, and what other events are.
pub(super) fn said(room: &Value) -> Vec<String> {
    let events = room["timeline"]["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let say = |event: &Value| event["content"]["body"].as_str().or(event["type"].as_str()).map(str::to_owned);
    events.iter().map(|event| say(event).expect("events have a type")).collect()
}
