//! A small world for tests: keys, a clock that steps, and a room that grows by real events.

use std::collections::BTreeMap;

use hearth_core::{
    AuthorisedEvent, Draft, Event, PublicKey, PublicKeys, Reason, References, RoomVersion, SigningKey, StateMap, admit,
    auth_types, build,
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId, user_id};
use serde_json::{Value, json, value::to_raw_value};

pub(crate) fn key_of(server: &ServerName) -> SigningKey {
    let mut seed = [7; 32];
    for (place, byte) in seed.iter_mut().zip(server.as_bytes()) {
        *place ^= byte;
    }
    SigningKey::from_seed(&seed, "k1")
}

pub(crate) fn public_keys(servers: &[&str]) -> PublicKeys {
    let mut keys = PublicKeys::default();
    for server in servers {
        let server = OwnedServerName::try_from(*server).unwrap();
        let key = key_of(&server);
        let public = PublicKey { bytes: key.public_key(), valid_until_ms: u64::MAX };
        keys.insert(server, key.id().to_owned(), public);
    }
    keys
}

pub(crate) fn alice() -> &'static UserId {
    user_id!("@alice:one")
}

pub(crate) fn bob() -> &'static UserId {
    user_id!("@bob:two")
}

/// A state of a room: event by type and state key.
pub(crate) type State = BTreeMap<(String, String), Event>;

/// Every event ever made in one room, and the state and head of one line of history.
#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) version: RoomVersion,
    pub(crate) room_id: Option<OwnedRoomId>,
    pub(crate) events: BTreeMap<OwnedEventId, Event>,
    pub(crate) state: State,
    pub(crate) head: Vec<OwnedEventId>,
    pub(crate) now_ms: u64,
    /// Tells the chosen event ids of one line from those of another.
    pub(crate) name: String,
}

/// One thing that somebody does.
#[derive(Clone)]
pub(crate) struct Act {
    pub(crate) sender: OwnedUserId,
    pub(crate) kind: String,
    pub(crate) state_key: Option<String>,
    pub(crate) content: Value,
    pub(crate) redacts: Option<OwnedEventId>,
}

impl Act {
    pub(crate) fn state(sender: &UserId, kind: &str, state_key: &str, content: Value) -> Self {
        let (sender, kind) = (sender.to_owned(), kind.to_owned());
        Self { sender, kind, state_key: Some(state_key.to_owned()), content, redacts: None }
    }

    pub(crate) fn message(sender: &UserId, kind: &str, content: Value) -> Self {
        Self { sender: sender.to_owned(), kind: kind.to_owned(), state_key: None, content, redacts: None }
    }

    pub(crate) fn member(sender: &UserId, target: &UserId, membership: &str) -> Self {
        Self::state(sender, "m.room.member", target.as_str(), json!({ "membership": membership }))
    }
}

impl Room {
    pub(crate) fn empty(version: RoomVersion) -> Self {
        Self {
            version,
            room_id: None,
            events: BTreeMap::new(),
            state: State::new(),
            head: Vec::new(),
            now_ms: 1_700_000_000_000,
            name: String::new(),
        }
    }

    /// Created and joined by Alice, public, with Alice at 100.
    pub(crate) fn public(version: RoomVersion) -> Self {
        let mut room = Self::empty(version);
        room.must(&Act::state(alice(), "m.room.create", "", json!({})));
        room.must(&Act::member(alice(), alice(), "join"));
        let users = if version >= RoomVersion::V12 { json!({}) } else { json!({ "@alice:one": 100 }) };
        room.must(&Act::state(alice(), "m.room.power_levels", "", json!({ "users": users })));
        room.must(&Act::state(alice(), "m.room.join_rules", "", json!({ "join_rule": "public" })));
        room
    }

    /// The event that comes of an act here and now, not yet admitted.
    pub(crate) fn build(&mut self, act: &Act) -> Event {
        self.now_ms += 1;
        let mut content = act.content.clone();
        if act.kind == "m.room.create" {
            content["room_version"] = json!(self.version.as_str());
            if self.version < RoomVersion::V11 && content.get("no_creator").is_none() {
                content["creator"] = json!(act.sender);
            }
        }
        let content = to_raw_value(&content).unwrap();
        let types = auth_types(self.version, &act.kind, &act.sender, act.state_key.as_deref(), &content);
        let auth_events: Vec<_> = types
            .unwrap_or_default()
            .iter()
            .filter_map(|key| Some(self.state.get(key)?.event_id().to_owned()))
            .collect();
        let depth = self.head.iter().map(|id| self.events[id].depth()).max().unwrap_or(0) + 1;
        let cited = auth_events.iter().chain(&self.head);
        let hashes = cited.map(|id| (id.clone(), self.events[id].reference_hash())).collect();
        let references = References { prev_events: self.head.clone(), auth_events, depth, hashes };
        let draft = Draft {
            kind: act.kind.clone(),
            state_key: act.state_key.clone(),
            content,
            sender: act.sender.clone(),
            redacts: act.redacts.clone(),
            origin_server_ts_ms: self.now_ms,
        };
        let server = act.sender.server_name();
        let room_id = self.room_id.clone().unwrap_or_else(|| format!("!room:{server}").try_into().unwrap());
        let opaque = format!("e{}{}", self.now_ms, self.name);
        build(&draft, &references, Some(&room_id), self.version, &key_of(server), server, Some(&opaque)).unwrap()
    }

    pub(crate) fn admit(&self, event: &Event) -> Result<AuthorisedEvent, Reason> {
        admit(event, |kind, state_key| self.get(kind, state_key).cloned())
    }

    /// Builds, admits and appends.
    pub(crate) fn act(&mut self, act: &Act) -> Result<Event, Reason> {
        let event = self.build(act);
        let event = self.admit(&event)?.into_event();
        self.append(event.clone());
        Ok(event)
    }

    pub(crate) fn must(&mut self, act: &Act) -> Event {
        self.act(act).unwrap_or_else(|reason| panic!("{} in version {}: {reason}", act.kind, self.version))
    }

    pub(crate) fn append(&mut self, event: Event) {
        self.room_id = Some(event.room_id().to_owned());
        if let Some((kind, state_key)) = event.state_pair() {
            self.state.insert((kind.to_owned(), state_key.to_owned()), event.clone());
        }
        self.head = vec![event.event_id().to_owned()];
        self.events.insert(event.event_id().to_owned(), event);
    }

    pub(crate) fn get(&self, kind: &str, state_key: &str) -> Option<&Event> {
        self.state.get(&(kind.to_owned(), state_key.to_owned()))
    }

    pub(crate) fn state_map(&self) -> StateMap {
        let ids = self.state.iter();
        ids.map(|((kind, key), event)| ((kind.as_str().into(), key.clone()), event.event_id().to_owned())).collect()
    }
}
