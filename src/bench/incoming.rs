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
    /// The power levels and the creator's membership.
    auth_events: Vec<OwnedEventId>,
    join_rules: OwnedEventId,
    last: OwnedEventId,
    depth: u64,
    now_ms: u64,
}

/// One of two lines of a room's history.
#[derive(Clone)]
pub struct Branch {
    /// The member events of members from 1 on.
    joins: Vec<OwnedEventId>,
    last: OwnedEventId,
    depth: u64,
    /// How many names were changed.
    next: usize,
}

impl Incoming {
    /// Into this room, of the default version.
    pub async fn into(server: &Server, room_id: &RoomId) -> Self {
        let room = server.store.room_number(room_id).await.expect("it reads").expect("the room is there");
        let mut auth_events = Vec::new();
        let creator = world::user(0);
        let wanted = [("m.room.power_levels", ""), ("m.room.member", creator.as_str()), ("m.room.join_rules", "")];
        for (kind, state_key) in wanted {
            let row = server.store.current_state_row(room, kind, state_key).await.expect("it reads");
            let number = row.and_then(|row| row.event).expect("the room has such an event");
            let stored = server.store.event(room, number).await.expect("it reads").expect("it is stored");
            auth_events.push(stored.event.event_id().to_owned());
        }
        let join_rules = auth_events.pop().expect("there are three");
        let head = server.store.head(room).await.expect("it reads").expect("the room has a head");
        let last = &head.extremities[0];
        let (depth, now_ms) = (last.depth, 1_700_000_000_000);
        let last = last.event_id.as_str().try_into().expect("it is an id");
        Self { room_id: room_id.to_owned(), key: world::key(), auth_events, join_rules, last, depth, now_ms }
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

    /// Parts the room in two: in each branch the same members, from 1 on, change their names, not knowing of the other's.
    /// Returns the second one, which goes on.
    pub async fn fork(&mut self, server: &Server, members: usize) -> Branch {
        let room = server.store.room_number(&self.room_id).await.expect("it reads").expect("the room is there");
        let mut joins = Vec::with_capacity(members);
        for member in 1..=members {
            let row = server.store.current_state_row(room, "m.room.member", world::user(member).as_str()).await;
            let number = row.expect("it reads").and_then(|row| row.event).expect("they are members");
            let stored = server.store.event(room, number).await.expect("it reads").expect("it is stored");
            joins.push(stored.event.event_id().to_owned());
        }
        let mut branches =
            [0, 1].map(|_| Branch { joins: joins.clone(), last: self.last.clone(), depth: self.depth, next: 0 });
        for branch in &mut branches {
            for _ in 0..members {
                let event = self.rename(branch);
                self.send(server, vec![event]).await;
            }
        }
        let [_, second] = branches;
        second
    }

    /// The next member of a branch changes their name.
    pub fn rename(&mut self, branch: &mut Branch) -> Bytes {
        self.now_ms += 1;
        let place = branch.next % branch.joins.len();
        branch.next += 1;
        let user = world::user(place + 1);
        let content = json!({ "membership": "join", "displayname": format!("Name {}", self.now_ms) });
        let draft = Draft::state("m.room.member", user.as_str(), user.clone(), &content, self.now_ms);
        let draft = draft.expect("a value is JSON");
        branch.depth += 1;
        let auth_events = vec![self.auth_events[0].clone(), self.join_rules.clone(), branch.joins[place].clone()];
        let prev_events = vec![branch.last.clone()];
        let references = References { prev_events, auth_events, depth: branch.depth, ..References::default() };
        let (room_id, server) = (Some(&*self.room_id), world::server_name());
        let event = build(&draft, &references, room_id, RoomVersion::DEFAULT, &self.key, server, None);
        let event = event.expect("the events are small and well-formed");
        branch.last = event.event_id().to_owned();
        branch.joins[place] = branch.last.clone();
        event.json().clone()
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
