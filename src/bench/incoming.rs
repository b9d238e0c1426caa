//! What other servers send into a room of ours. Their keys are ours, so that none is fetched.

use bytes::Bytes;
use hearth_core::{Draft, Event, References, RoomVersion, SigningKey, build};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, server_name};
use serde_json::json;

use crate::{Server, world};

/// A room's creator, on another server.
pub struct Incoming {
    room_id: OwnedRoomId,
    key: SigningKey,
    auth_events: Vec<OwnedEventId>,
    last: OwnedEventId,
    depth: u64,
    now_ms: u64,
}

impl Incoming {
    /// Into this room, of the default version.
    pub async fn into(server: &Server, room_id: &RoomId) -> Self {
        let room = server.store.room_number(room_id).await.expect("it reads").expect("the room is there");
        let mut auth_events = Vec::new();
        for (kind, state_key) in [("m.room.power_levels", ""), ("m.room.member", world::user(0).as_str())] {
            let row = server.store.current_state_row(room, kind, state_key).await.expect("it reads");
            let number = row.and_then(|row| row.event).expect("the room has such an event");
            let stored = server.store.event(room, number).await.expect("it reads").expect("it is stored");
            auth_events.push(stored.event.event_id().to_owned());
        }
        let head = server.store.head(room).await.expect("it reads").expect("the room has a head");
        let last = &head.extremities[0];
        let (depth, now_ms) = (last.depth, 1_700_000_000_000);
        let last = last.event_id.as_str().try_into().expect("it is an id");
        Self { room_id: room_id.to_owned(), key: world::key(), auth_events, last, depth, now_ms }
    }

    /// So many events: a line of messages, or pairs of branches of which one sets the topic, and what merges them.
    pub fn transaction(&mut self, count: usize, is_forked: bool) -> Vec<Bytes> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            let base = vec![self.last.clone()];
            if is_forked {
                let set = self.make(base.clone(), Some("m.room.topic"));
                let said = self.make(base, None);
                let both = vec![set.event_id().to_owned(), said.event_id().to_owned()];
                self.depth += 1;
                events.extend([set.json().clone(), said.json().clone()]);
                let merge = self.make(both, None);
                self.go_on(&merge);
                events.push(merge.json().clone());
            } else {
                let said = self.make(base, None);
                self.go_on(&said);
                events.push(said.json().clone());
            }
        }
        events
    }

    fn go_on(&mut self, event: &Event) {
        self.last = event.event_id().to_owned();
        self.depth += 1;
    }

    fn make(&mut self, prev_events: Vec<OwnedEventId>, sets: Option<&str>) -> Event {
        self.now_ms += 1;
        let content = json!({ "msgtype": "m.text", "topic": self.now_ms, "body": "Humpty Dumpty had a great fall." });
        let draft = match sets {
            Some(kind) => Draft::state(kind, "", world::user(0), &content, self.now_ms),
            None => Draft::message("m.room.message", world::user(0), &content, self.now_ms),
        };
        let draft = draft.expect("a value is JSON");
        let auth_events = self.auth_events.clone();
        let references = References { prev_events, auth_events, depth: self.depth + 1, ..References::default() };
        let (room_id, server) = (Some(&*self.room_id), world::server_name());
        let event = build(&draft, &references, room_id, RoomVersion::DEFAULT, &self.key, server, None);
        event.expect("the events are small and well-formed")
    }

    /// Sends a transaction and waits for its results.
    pub async fn send(&self, server: &Server, events: Vec<Bytes>) {
        let origin = server_name!("elsewhere.example");
        for received in server.rooms.receive(origin, &self.room_id, events).await {
            received.result.expect("the events are allowed");
        }
    }
}
