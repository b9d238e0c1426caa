//! The other servers, as one: they have one key, know the same events, and answer as the fuzzer has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
};

use bytes::Bytes;
use hearth_core::{Event, PublicKeys, RoomVersion};
use hearth_ports::{
    AliasTarget, BoxFuture, EventBytes, Handshake, JoinAnswer, MissingEvents, PeerError, Peers, StateEvents, StateIds,
    Template, WantedKeys,
};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};

use crate::sign::{US, keys_of};

/// An event that the others have.
pub struct Known {
    /// As they give it away.
    pub json: EventBytes,
    /// What it says is before it.
    pub prev_events: Vec<OwnedEventId>,
    /// What it says allows it.
    pub auth_events: Vec<OwnedEventId>,
    /// The state before it, as they have it.
    pub state: Vec<OwnedEventId>,
}

impl Known {
    /// An event, given away as it is.
    pub fn new(event: &Event, state: Vec<OwnedEventId>) -> Self {
        let (prev_events, auth_events) = (event.prev_events().to_vec(), event.auth_events().to_vec());
        Self { json: event.json().clone(), prev_events, auth_events, state }
    }
}

/// What the others do wrong, as bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner(pub u8);

impl Manner {
    const NO_MISSING_EVENTS: u8 = 1;
    const NO_EVENT: u8 = 2;
    const NO_STATE_IDS: u8 = 4;
    const NO_STATE: u8 = 8;
    const NO_EVENT_AUTH: u8 = 16;
    /// They say of all events that they are part of the state.
    const ALL_IS_STATE: u8 = 32;
    /// They send more than they are asked for.
    const TALKATIVE: u8 = 64;
    /// They answer with another event than the one that was asked for.
    const WRONG_EVENT: u8 = 128;

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// The other servers.
#[derive(Default)]
pub struct Others {
    /// What they know, by id.
    pub events: Mutex<BTreeMap<OwnedEventId, Known>>,
    /// How they answer.
    pub manner: Manner,
}

impl Others {
    fn answer<'a, T: Send + 'a>(&self, refusal: u8, answer: Option<T>) -> BoxFuture<'a, Result<T, PeerError>> {
        let answer = answer.filter(|_| !self.manner.has(refusal));
        Box::pin(ready(answer.ok_or(PeerError::Denied)))
    }

    fn json<'i>(&self, ids: impl IntoIterator<Item = &'i OwnedEventId>) -> Vec<EventBytes> {
        let events = self.events.lock();
        ids.into_iter().filter_map(|id| Some(events.get(id)?.json.clone())).collect()
    }

    fn state_before(&self, at: &EventId) -> Option<Vec<OwnedEventId>> {
        let events = self.events.lock();
        if self.manner.has(Manner::ALL_IS_STATE) {
            return Some(events.keys().cloned().collect());
        }
        Some(events.get(at)?.state.clone())
    }

    /// All that these lead to over `auth_events`.
    fn chain(&self, from: &[OwnedEventId]) -> Vec<OwnedEventId> {
        let events = self.events.lock();
        let mut chain = BTreeSet::new();
        let mut open: Vec<OwnedEventId> = from.to_vec();
        while let Some(id) = open.pop() {
            let above = events.get(&id).map(|known| known.auth_events.clone()).unwrap_or_default();
            open.extend(above.into_iter().filter(|id| chain.insert(id.clone())));
        }
        chain.into_iter().collect()
    }

    /// What lies before these, nearest first, at most so many.
    fn before(&self, from: &[OwnedEventId], except: &[OwnedEventId], limit: usize) -> Vec<OwnedEventId> {
        let events = self.events.lock();
        let mut seen: BTreeSet<OwnedEventId> = from.iter().chain(except).cloned().collect();
        let (mut found, mut at): (Vec<OwnedEventId>, usize) = (from.to_vec(), 0);
        while let Some(id) = found.get(at).filter(|_| found.len() < from.len() + limit) {
            let before = events.get(id).map(|known| known.prev_events.clone()).unwrap_or_default();
            found.extend(before.into_iter().filter(|id| seen.insert(id.clone())));
            at += 1;
        }
        found.split_off(from.len())
    }
}

/// Methods that answer that the server is not to be spoken with.
macro_rules! denied {
    ($($name:ident($($argument:ty),*) -> $answer:ty;)*) => {
        $(denied!(@ $name [] [a b c d e f] [$($argument,)*] $answer);)*
    };
    (@ $name:ident [$($named:tt)*] [$next:ident $($names:ident)*] [$argument:ty, $($arguments:ty,)*] $answer:ty) => {
        denied!(@ $name [$($named)* ($next: $argument)] [$($names)*] [$($arguments,)*] $answer);
    };
    (@ $name:ident [$(($named:ident: $argument:ty))*] [$($names:ident)*] [] $answer:ty) => {
        fn $name<'a>(&'a self, $($named: $argument),*) -> BoxFuture<'a, Result<$answer, PeerError>> {
            let _ = ($($named,)*);
            Box::pin(ready(Err(PeerError::Denied)))
        }
    };
}

impl Peers for Others {
    fn server_keys(&self, wanted: BTreeMap<OwnedServerName, WantedKeys>) -> BoxFuture<'_, PublicKeys> {
        Box::pin(ready(keys_of(wanted.into_keys().filter(|server| server != US))))
    }

    fn missing_events<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        wanted: MissingEvents,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        let all: Vec<OwnedEventId> = self.events.lock().keys().cloned().collect();
        let found = if self.manner.has(Manner::TALKATIVE) {
            all
        } else {
            self.before(&wanted.latest, &wanted.earliest, wanted.limit)
        };
        self.answer(Manner::NO_MISSING_EVENTS, Some(self.json(found.iter().rev())))
    }

    fn event<'a>(&'a self, _: &'a ServerName, event: &'a EventId) -> BoxFuture<'a, Result<EventBytes, PeerError>> {
        let wrong = self.events.lock().keys().find(|id| *id != event).cloned();
        let id = if self.manner.has(Manner::WRONG_EVENT) { wrong } else { Some(event.to_owned()) };
        self.answer(Manner::NO_EVENT, self.json(&id).pop())
    }

    fn state_ids<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateIds, PeerError>> {
        let answer = self.state_before(at).map(|state| StateIds { auth_chain: self.chain(&state), state });
        self.answer(Manner::NO_STATE_IDS, answer)
    }

    fn state<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateEvents, PeerError>> {
        let events = |state: Vec<OwnedEventId>| {
            let auth_chain = self.json(&self.chain(&state));
            StateEvents { state: self.json(&state), auth_chain }
        };
        self.answer(Manner::NO_STATE, self.state_before(at).map(events))
    }

    fn event_auth<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        let chain = self.json(&self.chain(&[event.to_owned()]));
        self.answer(Manner::NO_EVENT_AUTH, Some(chain))
    }

    fn backfill<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        from: &'a [OwnedEventId],
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        let mut found = from.to_vec();
        found.extend(self.before(from, &[], limit));
        found.truncate(limit);
        self.answer(Manner::NO_MISSING_EVENTS, Some(self.json(&found)))
    }

    denied! {
        make_member(&'a ServerName, Handshake, &'a RoomId, &'a UserId, &'a [RoomVersion]) -> Template;
        send_join(&'a ServerName, &'a Event, bool) -> JoinAnswer;
        send_leave(&'a ServerName, &'a Event) -> ();
        send_knock(&'a ServerName, &'a Event) -> Vec<EventBytes>;
        invite(&'a ServerName, &'a Event, Vec<EventBytes>) -> EventBytes;
        event_near(&'a ServerName, &'a RoomId, u64, bool) -> (OwnedEventId, u64);
        alias(&'a RoomAliasId) -> AliasTarget;
        profile(&'a UserId, Option<&'a str>) -> Bytes;
        public_rooms(&'a ServerName, Bytes) -> Bytes;
        hierarchy(&'a ServerName, &'a RoomId, bool) -> Bytes;
        openid_user(&'a ServerName, &'a str) -> OwnedUserId;
    }
}
