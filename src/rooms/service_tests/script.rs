//! Another server that answers as a test has it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use hearth_core::{Event, PublicKeys, RoomVersion};
use hearth_ports::{
    AliasTarget, BoxFuture, EventBytes, Handshake, JoinAnswer, MissingEvents, NoPeers, PeerError, Peers, StateEvents,
    StateIds, Template, WantedKeys,
};
use parking_lot::{Mutex, MutexGuard};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, ServerName, UserId,
    server_name,
};

use super::{
    World,
    elsewhere::{Act, Elsewhere, public_keys, world_with},
};
use crate::{Preset, ReceiveError};

/// What the other server has, and how it behaves.
#[derive(Default)]
pub(crate) struct Script {
    room: Mutex<Option<Elsewhere>>,
    /// What it does not give away.
    pub(crate) hidden: Mutex<HashSet<OwnedEventId>>,
    /// It gives these away only when asked for them by their ids.
    pub(crate) unlisted: Mutex<HashSet<OwnedEventId>>,
    /// It does not tell the state before these.
    pub(crate) untold: Mutex<HashSet<OwnedEventId>>,
    /// Asked for one of these, it gives the other.
    pub(crate) mistaken: Mutex<HashMap<OwnedEventId, OwnedEventId>>,
    /// It takes requests and never answers.
    pub(crate) is_silent: Mutex<bool>,
    /// It says no to these endpoints.
    pub(crate) refused: Mutex<HashSet<&'static str>>,
    /// At these it is not reached.
    pub(crate) unreachable: Mutex<HashSet<&'static str>>,
    /// What it was asked, by endpoint.
    pub(crate) asked: Mutex<Vec<&'static str>>,
    /// Less deep it was not to look for missing events, each time that it was asked for some.
    pub(crate) min_depths: Mutex<Vec<u64>>,
}

impl Script {
    pub(crate) fn room(&self) -> parking_lot::MappedMutexGuard<'_, Elsewhere> {
        MutexGuard::map(self.room.lock(), |room| room.as_mut().expect("the room was made"))
    }

    fn answer<'a, T: Send + 'a>(&self, what: &'static str, answer: Option<T>) -> BoxFuture<'a, Result<T, PeerError>> {
        self.asked.lock().push(what);
        if *self.is_silent.lock() {
            return Box::pin(std::future::pending());
        }
        if self.unreachable.lock().contains(what) {
            return Box::pin(std::future::ready(Err(PeerError::Unreachable("the connection broke".to_owned()))));
        }
        let answer = answer.filter(|_| !self.refused.lock().contains(what)).ok_or(PeerError::Denied);
        Box::pin(std::future::ready(answer))
    }

    fn json<'a>(&self, ids: impl IntoIterator<Item = &'a OwnedEventId>) -> Vec<EventBytes> {
        let hidden = self.hidden.lock();
        let room = self.room();
        ids.into_iter().filter(|id| !hidden.contains(*id)).map(|id| room.get(id).event.json().clone()).collect()
    }
}

impl Peers for Script {
    fn server_keys(
        &self,
        _wanted: std::collections::BTreeMap<OwnedServerName, WantedKeys>,
    ) -> BoxFuture<'_, PublicKeys> {
        Box::pin(std::future::ready(public_keys()))
    }

    fn missing_events<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        wanted: MissingEvents,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        self.min_depths.lock().push(wanted.min_depth);
        let mut found: Vec<OwnedEventId> = Vec::new();
        {
            let (room, hidden) = (self.room(), self.hidden.lock());
            let mut seen: HashSet<OwnedEventId> = wanted.earliest.iter().chain(&wanted.latest).cloned().collect();
            let mut open: VecDeque<OwnedEventId> = wanted.latest.into();
            while let Some(id) = open.pop_front() {
                for prev in room.find(&id).map(Event::prev_events).unwrap_or_default() {
                    if room.find(prev).is_some_and(|event| event.depth() < wanted.min_depth) {
                        continue;
                    }
                    if found.len() < wanted.limit && !hidden.contains(prev) && seen.insert(prev.clone()) {
                        found.push(prev.clone());
                        open.push_back(prev.clone());
                    }
                }
            }
        }
        let unlisted = self.unlisted.lock();
        found.retain(|id| !unlisted.contains(id));
        drop(unlisted);
        found.reverse();
        let events = self.json(&found);
        self.answer("missing_events", Some(events))
    }

    fn event<'a>(
        &'a self,
        _server: &'a ServerName,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<EventBytes, PeerError>> {
        let given = self.mistaken.lock().get(event).cloned().unwrap_or_else(|| event.to_owned());
        let event = self.json([&given]).pop();
        self.answer("event", event)
    }

    fn state_ids<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateIds, PeerError>> {
        let ids = {
            let room = self.room();
            let state: Vec<OwnedEventId> = room.get(at).before.values().cloned().collect();
            let auth_chain = room.auth_chain(state.iter()).into_iter().collect();
            StateIds { state, auth_chain }
        };
        let is_told = !self.untold.lock().contains(at);
        self.answer("state_ids", is_told.then_some(ids))
    }

    fn state<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateEvents, PeerError>> {
        let (state, chain): (Vec<OwnedEventId>, Vec<OwnedEventId>) = {
            let room = self.room();
            let state: Vec<OwnedEventId> = room.get(at).before.values().cloned().collect();
            let chain = room.auth_chain(state.iter()).into_iter().collect();
            (state, chain)
        };
        let answer = StateEvents { state: self.json(&state), auth_chain: self.json(&chain) };
        self.answer("state", Some(answer))
    }

    fn event_auth<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        let chain: Vec<OwnedEventId> = {
            let room = self.room();
            room.auth_chain([event.to_owned()].iter()).into_iter().collect()
        };
        let events = self.json(&chain);
        self.answer("event_auth", Some(events))
    }

    fn backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        from: &'a [OwnedEventId],
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        NoPeers.backfill(server, room, from, limit)
    }

    fn make_member<'a>(
        &'a self,
        server: &'a ServerName,
        handshake: Handshake,
        room: &'a RoomId,
        user: &'a UserId,
        versions: &'a [RoomVersion],
    ) -> BoxFuture<'a, Result<Template, PeerError>> {
        NoPeers.make_member(server, handshake, room, user, versions)
    }

    fn send_join<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
        omit_members: bool,
    ) -> BoxFuture<'a, Result<JoinAnswer, PeerError>> {
        NoPeers.send_join(server, event, omit_members)
    }

    fn send_leave<'a>(&'a self, server: &'a ServerName, event: &'a Event) -> BoxFuture<'a, Result<(), PeerError>> {
        NoPeers.send_leave(server, event)
    }

    fn send_knock<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        NoPeers.send_knock(server, event)
    }

    fn invite<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
        invite_room_state: Vec<EventBytes>,
    ) -> BoxFuture<'a, Result<EventBytes, PeerError>> {
        NoPeers.invite(server, event, invite_room_state)
    }

    fn event_near<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at_ms: u64,
        backwards: bool,
    ) -> BoxFuture<'a, Result<(OwnedEventId, u64), PeerError>> {
        NoPeers.event_near(server, room, at_ms, backwards)
    }

    fn alias<'a>(&'a self, alias: &'a RoomAliasId) -> BoxFuture<'a, Result<AliasTarget, PeerError>> {
        NoPeers.alias(alias)
    }

    fn profile<'a>(
        &'a self,
        user: &'a UserId,
        field: Option<&'a str>,
    ) -> BoxFuture<'a, Result<bytes::Bytes, PeerError>> {
        NoPeers.profile(user, field)
    }

    fn public_rooms<'a>(
        &'a self,
        server: &'a ServerName,
        query: bytes::Bytes,
    ) -> BoxFuture<'a, Result<bytes::Bytes, PeerError>> {
        NoPeers.public_rooms(server, query)
    }

    fn hierarchy<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        suggested_only: bool,
    ) -> BoxFuture<'a, Result<bytes::Bytes, PeerError>> {
        NoPeers.hierarchy(server, room, suggested_only)
    }

    fn openid_user<'a>(
        &'a self,
        server: &'a ServerName,
        token: &'a str,
    ) -> BoxFuture<'a, Result<OwnedUserId, PeerError>> {
        NoPeers.openid_user(server, token)
    }
}

/// Our server, another one, and a room of ours that the other's users have joined.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) script: Arc<Script>,
    pub(crate) room_id: OwnedRoomId,
}

pub(crate) const BOB: &str = "@bob:two";
pub(crate) const CARL: &str = "@carl:two";
pub(crate) const DAN: &str = "@dan:three";

impl Scene {
    /// A public room with Bob and Carl, both of one server, and Dan.
    pub(crate) async fn new(version: RoomVersion) -> Self {
        let script = Arc::new(Script::default());
        let world = world_with(script.clone()).await;
        let room_id = world.create_in("alice", Preset::Public, version).await;
        *script.room.lock() = Some(Elsewhere::of(&world, &room_id).await);
        let scene = Self { world, script, room_id };
        for user in [BOB, CARL, DAN] {
            let join = scene.go_on(&Act::join(user));
            scene.take(&join).await;
        }
        scene
    }

    pub(crate) fn room(&self) -> parking_lot::MappedMutexGuard<'_, Elsewhere> {
        self.script.room()
    }

    /// Elsewhere somebody does something behind the newest event there.
    pub(crate) fn go_on(&self, act: &Act) -> Event {
        self.room().go_on(act)
    }

    /// What was done here is known elsewhere.
    pub(crate) async fn follow(&self) {
        let mut room = self.script.room.lock().take().expect("the room was made");
        room.follow(&self.world).await;
        *self.script.room.lock() = Some(room);
    }

    /// The other server sends these in one transaction.
    pub(crate) async fn send(&self, events: &[&Event]) -> Vec<Result<(), ReceiveError>> {
        self.send_json(events.iter().map(|event| event.json().clone()).collect()).await
    }

    pub(crate) async fn send_json(&self, events: Vec<EventBytes>) -> Vec<Result<(), ReceiveError>> {
        let received = self.world.rooms.receive(server_name!("two"), &self.room_id, events).await;
        received.into_iter().map(|received| received.result).collect()
    }

    /// The other server sends one, which is taken.
    pub(crate) async fn take(&self, event: &Event) {
        self.send(&[event]).await.remove(0).unwrap();
    }

    pub(crate) async fn stored(&self, event: &Event) -> Option<Arc<hearth_store::StoredEvent>> {
        let room = self.world.number(&self.room_id).await;
        self.world.store.event_by_id(room, event.event_id()).await.unwrap()
    }

    /// The ids of the timeline's events, oldest first.
    pub(crate) async fn timeline(&self) -> Vec<OwnedEventId> {
        let room = self.world.number(&self.room_id).await;
        let rows = self.world.store.timeline(room, .., 10_000, false).await.unwrap();
        let mut ids = Vec::new();
        for number in rows.into_iter().filter_map(|(_, row)| row.event) {
            ids.push(self.world.store.event(room, number).await.unwrap().unwrap().event.event_id().to_owned());
        }
        ids
    }

    pub(crate) async fn is_shown(&self, event: &Event) -> bool {
        self.timeline().await.iter().any(|id| id == event.event_id())
    }

    pub(crate) async fn extremities(&self) -> HashSet<String> {
        let head = self.world.head(&self.room_id).await;
        head.extremities.into_iter().map(|extremity| extremity.event_id).collect()
    }

    pub(crate) fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.script.asked.lock())
    }
}

/// The ids as extremities name them.
pub(crate) fn ids(events: &[&Event]) -> HashSet<String> {
    events.iter().map(|event| event.event_id().to_string()).collect()
}
