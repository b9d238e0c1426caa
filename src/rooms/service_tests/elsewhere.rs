//! A room as other servers make it: their users' events, any graph of them, and what the specification says of each,
//! computed with whole states and whole auth chains.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hearth_core::{
    Draft, Event, EventIds, PublicKey, PublicKeys, References, RoomVersion, SigningKey, StateMap, auth, auth_types,
    build, resolve, state::conflicted_subgraph,
};
use hearth_ports::{ManualClock, Peers, SeededEntropy, mem::MemEngine};
use hearth_store::{EventNumber, Store, StoreSettings};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use serde_json::{Value, json, value::to_raw_value};

use super::World;
use crate::{Rooms, RoomsSettings};

/// The key of every server, ours too, in these tests.
pub(crate) fn key_of(server: &ServerName) -> SigningKey {
    if server == "hearth.test" {
        return SigningKey::from_seed(&[7; 32], "test");
    }
    let mut seed = [3; 32];
    seed.iter_mut().zip(server.as_bytes()).for_each(|(place, byte)| *place ^= byte);
    SigningKey::from_seed(&seed, "k1")
}

pub(crate) fn public_keys() -> PublicKeys {
    let mut keys = PublicKeys::default();
    for server in ["two", "three", "four"] {
        let server = OwnedServerName::try_from(server).unwrap();
        let key = key_of(&server);
        let public = PublicKey { bytes: key.public_key(), valid_until_ms: u64::MAX };
        keys.insert(server, key.id().to_owned(), public);
    }
    keys
}

/// A server of ours with these peers.
pub(crate) async fn world_with(peers: Arc<dyn Peers>) -> World {
    let engine = MemEngine::new();
    let store = Store::open(engine.clone(), StoreSettings::default()).await.unwrap();
    let clock = Arc::new(ManualClock::at_ms(1_700_000_000_000));
    let server: OwnedServerName = "hearth.test".try_into().unwrap();
    let (entropy, key) = (Arc::new(SeededEntropy::new(1)), Arc::new(key_of(&server)));
    let settings = RoomsSettings::default();
    let rooms = Rooms::new(store.clone(), clock.clone(), entropy, peers, key, server, settings);
    World { engine, store, clock, rooms }
}

/// One thing that somebody does.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) sender: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) state_key: Option<String>,
    pub(crate) content: Value,
    pub(crate) redacts: Option<OwnedEventId>,
}

impl Act {
    pub(crate) fn state(sender: &'static str, kind: &'static str, state_key: &str, content: Value) -> Self {
        Self { sender, kind, state_key: Some(state_key.to_owned()), content, redacts: None }
    }

    pub(crate) fn member(sender: &'static str, target: &str, membership: &str) -> Self {
        Self::state(sender, "m.room.member", target, json!({ "membership": membership }))
    }

    pub(crate) fn join(sender: &'static str) -> Self {
        Self::member(sender, sender, "join")
    }

    pub(crate) fn say(sender: &'static str, text: &str) -> Self {
        let content = json!({ "msgtype": "m.text", "body": text });
        Self { sender, kind: "m.room.message", state_key: None, content, redacts: None }
    }

    pub(crate) fn redact(sender: &'static str, target: &EventId) -> Self {
        let redacts = Some(target.to_owned());
        Self { sender, kind: "m.room.redaction", state_key: None, content: json!({}), redacts }
    }
}

/// An event with what is to be thought of it.
pub(crate) struct Judged {
    pub(crate) event: Event,
    pub(crate) before: StateMap,
    pub(crate) after: StateMap,
}

/// All events of one room.
pub(crate) struct Elsewhere {
    pub(crate) version: RoomVersion,
    pub(crate) room_id: OwnedRoomId,
    pub(crate) all: Vec<Judged>,
    places: HashMap<OwnedEventId, usize>,
    pub(crate) now_ms: u64,
}

impl Elsewhere {
    /// The room as it is here.
    pub(crate) async fn of(world: &World, room_id: &RoomId) -> Self {
        let version = RoomVersion::parse(&world.head(room_id).await.create.version).unwrap();
        let (all, places) = (Vec::new(), HashMap::new());
        let mut elsewhere = Self { version, room_id: room_id.to_owned(), all, places, now_ms: 1_700_000_000_000 };
        elsewhere.follow(world).await;
        elsewhere
    }

    /// Takes over what was stored here since.
    pub(crate) async fn follow(&mut self, world: &World) {
        let room = world.number(&self.room_id).await;
        let next = world.head(&self.room_id).await.next_event;
        for number in (1..next.0).map(EventNumber) {
            let stored = world.store.event(room, number).await.unwrap().unwrap();
            if !self.places.contains_key(stored.event.event_id()) {
                self.judge(stored.event.clone().with_rejected(false));
            }
        }
    }

    pub(crate) fn get(&self, id: &EventId) -> &Judged {
        &self.all[self.places[id]]
    }

    pub(crate) fn find(&self, id: &EventId) -> Option<&Event> {
        Some(&self.all[*self.places.get(id)?].event)
    }

    pub(crate) fn last(&self) -> OwnedEventId {
        self.all.last().unwrap().event.event_id().to_owned()
    }

    /// The other server says that this was the state before an event.
    pub(crate) fn tell(&mut self, at: &EventId, before: StateMap) {
        let place = self.places[at];
        self.all[place].before = before;
    }

    /// What somebody does behind these events, whether or not it is allowed.
    pub(crate) fn make(&mut self, prevs: &[&EventId], act: &Act) -> Event {
        let state = self.state_before(prevs);
        self.make_citing(prevs, &state, act)
    }

    /// The same behind the newest event.
    pub(crate) fn go_on(&mut self, act: &Act) -> Event {
        let last = self.last();
        self.make(&[&last], act)
    }

    /// The same, with auth events out of this state.
    pub(crate) fn make_citing(&mut self, prevs: &[&EventId], state: &StateMap, act: &Act) -> Event {
        self.now_ms += 1;
        let event = self.build(prevs, state, act);
        self.judge(event.clone());
        event
    }

    /// The same under a chosen id, and behind events that need not exist; it does not become part of what is known.
    pub(crate) fn build_named(&self, prevs: &[&EventId], act: &Act, id: &EventId) -> Event {
        let opaque = id.localpart();
        self.build_as(prevs, &self.all.last().unwrap().after, act, opaque)
    }

    fn build(&self, prevs: &[&EventId], state: &StateMap, act: &Act) -> Event {
        self.build_as(prevs, state, act, &format!("e{}", self.all.len()))
    }

    fn build_as(&self, prevs: &[&EventId], state: &StateMap, act: &Act, opaque: &str) -> Event {
        let sender = <&UserId>::try_from(act.sender).unwrap();
        let content = to_raw_value(&act.content).unwrap();
        let types = auth_types(self.version, act.kind, sender, act.state_key.as_deref(), &content).unwrap_or_default();
        let key = |(kind, state_key): &(String, String)| (kind.as_str().into(), state_key.clone());
        let auth_events: Vec<_> = types.iter().filter_map(|pair| state.get(&key(pair)).cloned()).collect();
        let prev_events: Vec<OwnedEventId> = prevs.iter().map(|id| (*id).to_owned()).collect();
        let depth = prevs.iter().filter_map(|id| self.find(id)).map(Event::depth).max().unwrap_or(0) + 1;
        let hash = |id: &OwnedEventId| Some((id.clone(), self.find(id)?.reference_hash()));
        let hashes: BTreeMap<_, _> = auth_events.iter().chain(&prev_events).filter_map(hash).collect();
        let references = References { prev_events, auth_events, depth, hashes };
        let draft = Draft {
            kind: act.kind.to_owned(),
            state_key: act.state_key.clone(),
            content,
            sender: sender.to_owned(),
            redacts: act.redacts.clone(),
            origin_server_ts_ms: self.now_ms,
        };
        let (server, room_id) = (sender.server_name(), Some(&*self.room_id));
        build(&draft, &references, room_id, self.version, &key_of(server), server, Some(opaque)).unwrap()
    }

    /// Checks 4 and 5, and the states around the event.
    fn judge(&mut self, event: Event) {
        // Who does the same twice at one time has done it once.
        if self.places.contains_key(event.event_id()) {
            return;
        }
        let prevs: Vec<&EventId> = event.prev_events().iter().map(|id| &**id).collect();
        let before = self.state_before(&prevs);
        let fetch = |id: &EventId| self.find(id).cloned();
        let in_state = |kind: &str, key: &str| fetch(before.get(&(kind.into(), key.to_owned()))?);
        let allowed = auth::check_auth_events(&event, fetch)
            .and_then(|()| auth::check_against_auth_events(&event, fetch))
            .and_then(|()| auth::check_against(&event, in_state));
        let event = event.with_rejected(allowed.is_err());
        let mut after = before.clone();
        if let Some((kind, key)) = event.state_pair().filter(|_| !event.rejected()) {
            after.insert((kind.into(), key.to_owned()), event.event_id().to_owned());
        }
        self.places.insert(event.event_id().to_owned(), self.all.len());
        self.all.push(Judged { event, before, after });
    }

    fn state_before(&self, prevs: &[&EventId]) -> StateMap {
        self.resolved(prevs.iter().map(|id| self.get(id).after.clone()).collect())
    }

    /// The full call, with whole states and whole chains.
    pub(crate) fn resolved(&self, mut states: Vec<StateMap>) -> StateMap {
        let mut distinct: Vec<StateMap> = Vec::new();
        for state in states.drain(..) {
            if !distinct.contains(&state) {
                distinct.push(state);
            }
        }
        if distinct.len() < 2 {
            return distinct.pop().unwrap_or_default();
        }
        let chains = distinct.iter().map(|state| self.auth_chain(state.values())).collect();
        let fetch = |id: &EventId| self.find(id).cloned();
        let subgraph = |conflicted: &EventIds| {
            Some(conflicted_subgraph(conflicted, |id| Some(self.find(id)?.auth_events().to_vec())))
        };
        resolve(self.version, &distinct, chains, fetch, subgraph).unwrap()
    }

    pub(crate) fn auth_chain<'a>(&'a self, events: impl Iterator<Item = &'a OwnedEventId>) -> EventIds {
        let mut chain = EventIds::new();
        let mut to_visit: Vec<&OwnedEventId> = events.collect();
        while let Some(id) = to_visit.pop() {
            for above in self.get(id).event.auth_events() {
                if chain.insert(above.clone()) {
                    to_visit.push(above);
                }
            }
        }
        chain
    }
}
