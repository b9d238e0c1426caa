//! Rooms made of real events, without a store: for the benches of the rules.

use std::collections::HashMap;

use hearth_core::{Draft, Event, EventIds, References, RoomVersion, SigningKey, StateMap, auth_types, build};
use ruma::{EventId, OwnedEventId, OwnedUserId, ServerName, UserId, server_name};
use serde_json::{Value, json, value::to_raw_value};

/// The key that signs everything here.
pub fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32], "bench")
}

/// The user of this number; 0 creates rooms.
pub fn user(number: usize) -> OwnedUserId {
    UserId::parse(format!("@user{number}:bench.example")).expect("a user id")
}

/// One line of a room's history. A clone goes its own way.
#[derive(Clone)]
pub struct World {
    version: RoomVersion,
    key: std::sync::Arc<SigningKey>,
    events: HashMap<OwnedEventId, Event>,
    state: StateMap,
    create: Option<Event>,
    last: Option<Event>,
    now_ms: u64,
}

impl World {
    /// A public room with so many members besides its creator.
    pub fn public(version: RoomVersion, members: usize) -> Self {
        let (events, state) = (HashMap::new(), StateMap::new());
        let key = std::sync::Arc::new(key());
        let mut world = Self { version, key, events, state, create: None, last: None, now_ms: 1_700_000_000_000 };
        let levels = if version.has_hashed_room_id() { json!({}) } else { json!({ user(0).as_str(): 100 }) };
        world.set(0, "m.room.create", "", json!({ "room_version": version.as_str() }));
        world.set(0, "m.room.member", user(0).as_str(), json!({ "membership": "join" }));
        world.set(0, "m.room.power_levels", "", json!({ "users": levels }));
        world.set(0, "m.room.join_rules", "", json!({ "join_rule": "public" }));
        world.set(0, "m.room.history_visibility", "", json!({ "history_visibility": "shared" }));
        for member in 1..=members {
            world.join(member, "a");
        }
        world
    }

    /// The user joins, or shows another name.
    pub fn join(&mut self, member: usize, name: &str) {
        let content = json!({ "membership": "join", "displayname": format!("{name} of user {member}") });
        self.set(member, "m.room.member", user(member).as_str(), content);
    }

    /// The creator bans the user.
    pub fn ban(&mut self, member: usize) {
        self.set(0, "m.room.member", user(member).as_str(), json!({ "membership": "ban" }));
    }

    /// Sets state, without asking the rules.
    pub fn set(&mut self, sender: usize, kind: &str, state_key: &str, content: Value) {
        self.now_ms += 1;
        let content = to_raw_value(&content).expect("a value is JSON");
        let draft = Draft::state(kind, state_key, user(sender), &content, self.now_ms).expect("a value is JSON");
        let event = self.build(&draft, &self.references(&draft));
        let id = event.event_id().to_owned();
        self.state.insert((kind.into(), state_key.to_owned()), id.clone());
        self.create.get_or_insert_with(|| event.clone());
        self.last = Some(event.clone());
        self.events.insert(id, event);
    }

    /// A message, not in the room yet, and the place that it would have there.
    pub fn message(&self, sender: usize, body: &str) -> (Draft, References) {
        let content = json!({ "msgtype": "m.text", "body": body });
        let draft = Draft::message("m.room.message", user(sender), &content, self.now_ms).expect("a value is JSON");
        let references = self.references(&draft);
        (draft, references)
    }

    /// The event: hashed and signed.
    pub fn build(&self, draft: &Draft, references: &References) -> Event {
        let room_id = self.create.as_ref().map(Event::room_id);
        build(
            draft,
            references,
            room_id.or(Some(ruma::room_id!("!room:bench.example"))),
            self.version,
            &self.key,
            server_name(),
            None,
        )
        .expect("the world's events are small and well-formed")
    }

    fn references(&self, draft: &Draft) -> References {
        let types = auth_types(self.version, &draft.kind, &draft.sender, draft.state_key.as_deref(), &draft.content);
        let types = types.expect("the world's events have the content that the rules ask for");
        let auth_events = types.iter().filter_map(|(kind, key)| Some(self.get(kind, key)?.event_id().to_owned()));
        let depth = self.last.as_ref().map_or(0, Event::depth) + 1;
        let prev_events = self.last.iter().map(|event| event.event_id().to_owned()).collect();
        References { prev_events, auth_events: auth_events.collect(), depth, ..References::default() }
    }

    /// The event in force.
    pub fn get(&self, kind: &str, state_key: &str) -> Option<&Event> {
        self.events.get(self.state.get(&(kind.into(), state_key.to_owned()))?)
    }

    /// An event that this line has seen.
    pub fn event(&self, id: &EventId) -> Option<&Event> {
        self.events.get(id)
    }

    /// The state in force.
    pub fn state(&self) -> &StateMap {
        &self.state
    }

    /// All that is reachable over auth events from the state.
    pub fn auth_chain(&self) -> EventIds {
        let mut chain = EventIds::new();
        let mut to_visit: Vec<&Event> = self.state.values().filter_map(|id| self.event(id)).collect();
        while let Some(event) = to_visit.pop() {
            let above = event.auth_events().iter().filter(|id| chain.insert((*id).clone()));
            to_visit.extend(above.filter_map(|id| self.events.get(id)));
        }
        chain
    }
}

pub(crate) fn server_name() -> &'static ServerName {
    server_name!("bench.example")
}
