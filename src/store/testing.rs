//! What the tests of this crate share.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use hearth_core::{Event, RoomVersion};
use hearth_ports::{
    Batch, BoxFuture, CommitError, Committed, Done, Engine, Entry, Heads, Key, KeyRange, Page, Partition, Position,
    Table, Unavailable, mem::MemEngine,
};
use parking_lot::Mutex;
use ruma::{EventId, RoomId};

use crate::{
    EventNote, EventNumber, LogEntry, Order, PositionIndex, RoomNumber, StateBuilder, Store, StoreSettings, Write,
    tables::{
        self, Create, EventFlags, EventHeader, Extremity, Head, TIMELINE_POSITION_OFFSET, TimelineRow, head_key,
        put_event, timeline_key,
    },
};

/// The in-memory engine answers at once.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory never waits")
}

/// A store over an engine with a counter for each partition.
pub(crate) fn store() -> (Arc<MemEngine>, Arc<Store>) {
    let engine = MemEngine::new();
    let store = open(engine.clone());
    (engine, store)
}

/// A store over this engine.
pub(crate) fn open(engine: Arc<dyn Engine>) -> Arc<Store> {
    wait(Store::open(engine, StoreSettings::default())).expect("an engine of ours opens")
}

/// The in-memory engine with one counter for all partitions: it takes all batches for one partition's. As in the engine
/// on RocksDB, a commit's `prev` is the last position of its own partition.
pub(crate) struct OneCounter {
    engine: Arc<MemEngine>,
    heads: Arc<Mutex<[Position; Partition::COUNT]>>,
}

impl OneCounter {
    pub(crate) fn new(engine: Arc<MemEngine>) -> Self {
        let heads = wait(engine.heads()).expect("memory reads").0[0];
        Self { engine, heads: Arc::new(Mutex::new([heads; Partition::COUNT])) }
    }
}

impl Engine for OneCounter {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, Unavailable>> {
        self.engine.get(table, key)
    }

    fn multi_get<'a>(
        &'a self,
        table: Table,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, Unavailable>> {
        self.engine.multi_get(table, keys)
    }

    fn scan<'a>(&'a self, table: Table, range: KeyRange, page: Page) -> BoxFuture<'a, Result<Vec<Entry>, Unavailable>> {
        self.engine.scan(table, range, page)
    }

    fn submit(&self, batch: Batch, done: Done) {
        let (heads, index) = (self.heads.clone(), usize::from(batch.partition.index()));
        let done = move |result: Result<Committed, CommitError>| {
            let result = result.map(|committed| {
                let prev = std::mem::replace(&mut heads.lock()[index], committed.last);
                Committed { prev, ..committed }
            });
            done(result);
        };
        self.engine.submit(Batch { partition: Partition::of(0), ..batch }, Box::new(done));
    }

    fn heads(&self) -> BoxFuture<'_, Result<Heads, Unavailable>> {
        let heads = self.engine.heads();
        Box::pin(async { Ok(Heads([heads.await?.0[0]; Partition::COUNT])) })
    }

    fn single_counter(&self) -> bool {
        true
    }
}

/// A room of messages and state without any rules.
pub(crate) struct TestRoom {
    pub(crate) store: Arc<Store>,
    pub(crate) number: RoomNumber,
    pub(crate) id: ruma::OwnedRoomId,
}

impl TestRoom {
    /// A room with a create event.
    pub(crate) fn new(store: &Arc<Store>, id: &str) -> Self {
        let id = <&RoomId>::try_from(id).expect("a room id").to_owned();
        let number = wait(store.assign_room_number(&id)).expect("memory reads");
        let room = Self { store: store.clone(), number, id };
        let mut write = Write::new(number.partition());
        write.name_room(number, &room.id);
        let head = Head::new(Create { version: "11".to_owned(), federate: true, room_type: None });
        room.append(write, head, "m.room.create", Some(""), None);
        room
    }

    /// Adds an event; `change` lets the test add to the batch.
    pub(crate) fn send(&self, kind: &str, state_key: Option<&str>) -> EventNumber {
        self.send_with(kind, state_key, None)
    }

    pub(crate) fn send_with(
        &self,
        kind: &str,
        state_key: Option<&str>,
        member: Option<(crate::UserNumber, tables::Membership)>,
    ) -> EventNumber {
        let (bytes, head) =
            wait(self.store.head_bytes(self.number)).expect("memory reads").expect("the room has a head");
        let mut write = Write::new(self.number.partition());
        write.require(Table::Rm, head_key(self.number), Some(bytes));
        self.append(write, head, kind, state_key, member)
    }

    fn append(
        &self,
        mut write: Write,
        mut head: Head,
        kind: &str,
        state_key: Option<&str>,
        member: Option<(crate::UserNumber, tables::Membership)>,
    ) -> EventNumber {
        let (room, number, at) = (self.number, head.next_event, write.position());
        let (event_id, json) = event(&self.id, kind, state_key, number);
        let state_before = head.state;
        let mut auths = Vec::new();
        if let Some(state_key) = state_key {
            self.set_state(&mut write, &mut head, (kind, state_key), number, member.zip(Some(at)));
            auths.extend((number > EventNumber::FIRST).then_some(EventNumber::FIRST));
            write.auth_edges(room, number, &auths);
        }
        let header = EventHeader {
            position: 0,
            within: u32::MAX,
            flags: EventFlags::default(),
            event_id: event_id.clone(),
            received_ts_ms: 1,
            state_before,
            state_after: head.state,
            prevs: head.extremities.iter().map(|extremity| extremity.event).collect(),
            auths,
            replaces: None,
            redacted_by: None,
            redacts: None,
            sent_by: None,
            origin: None,
            relay: false,
        };
        put_event(&mut write, room, number, &header, json.as_bytes(), Some(at));
        let row = TimelineRow { event: Some(number), state: head.state };
        let key = timeline_key(room, Order { position: 0, within: u32::MAX });
        write.put_filled(Table::Tl, key, crate::encode(&row), Some((TIMELINE_POSITION_OFFSET, at)), &[]);
        head.extremities = vec![Extremity { event: number, event_id, depth: u64::from(number.0) }];
        head.next_event = number.next();
        write.put_at(Table::Rm, head_key(room), &head, &[at]);
        let member = member.map(|(user, membership)| crate::MemberNote { room, user, membership });
        write.log(at, LogEntry::Event(EventNote { room, event: Some(number), member }));
        wait(self.store.commit(write)).expect("nothing stands against this commit");
        number
    }

    fn set_state(
        &self,
        write: &mut Write,
        head: &mut Head,
        (kind, state_key): (&str, &str),
        event: EventNumber,
        member: Option<((crate::UserNumber, tables::Membership), PositionIndex)>,
    ) {
        let room = self.number;
        let known = wait(self.store.state_key_number(room, kind, state_key)).expect("memory reads");
        let pair = known.unwrap_or(head.next_state_key);
        if known.is_none() {
            head.next_state_key = pair.next();
            let row = tables::StateKeyRow { kind: kind.to_owned(), state_key: state_key.to_owned() };
            write.put(Table::St, tables::state_key_key(room, pair), &row);
        }
        let mut states = StateBuilder::new(&self.store, room);
        let state = wait(states.apply(head.state, &[(pair, Some(event))], head.next_state)).expect("memory reads");
        states.finish(write);
        (head.state, head.next_state) = (state, head.next_state.next());
        let row = tables::CurrentStateRow {
            state_key: pair,
            event: Some(event),
            membership: member.map(|((_, membership), _)| membership),
            user: member.map(|((user, _), _)| user),
        };
        let before = wait(self.store.current_state_row(room, kind, state_key)).expect("memory reads");
        let is = |row: Option<tables::CurrentStateRow>, membership| {
            u32::from(row.is_some_and(|row| row.membership == Some(membership)))
        };
        for (membership, count) in
            [(tables::Membership::Join, &mut head.joined), (tables::Membership::Invite, &mut head.invited)]
        {
            *count = *count + is(Some(row), membership) - is(before, membership);
        }
        write.put(Table::Rm, tables::current_state_key(room, kind, state_key), &row);
        if let Ok(user) = <&ruma::UserId>::try_from(state_key)
            && kind == "m.room.member"
        {
            let joined = wait(self.store.joined_from(room, user.server_name())).expect("memory reads");
            let joined = joined + is(Some(row), tables::Membership::Join) - is(before, tables::Membership::Join);
            tables::put_room_server(write, room, user.server_name(), joined);
        }
        if let Some(((user, membership), at)) = member {
            let row = tables::MembershipRow {
                position: 0,
                joined_position: 0,
                membership,
                event,
                forgotten: false,
                guest: false,
            };
            write.put_at(Table::Rm, tables::member_rooms_key(user, room), &row, &[at, at]);
        }
    }
}

/// An event as it would be stored: its id and its JSON.
pub(crate) fn event(room_id: &RoomId, kind: &str, state_key: Option<&str>, number: EventNumber) -> (String, String) {
    let mut event = serde_json::json!({
        "auth_events": [], "content": { "n": number.0 }, "depth": number.0, "origin_server_ts": 1, "prev_events": [],
        "room_id": room_id, "sender": "@a:b.c", "type": kind,
    });
    if let Some(state_key) = state_key {
        event["state_key"] = state_key.into();
    }
    let json = event.to_string();
    let id = EventId::parse("$unknown").expect("an event id");
    let event = Event::parse_stored(RoomVersion::V11, id, room_id.to_owned(), json.clone().into());
    let hash = event.expect("an event that can be stored").reference_hash();
    (format!("${}", hash.replace('+', "-").replace('/', "_")), json)
}
