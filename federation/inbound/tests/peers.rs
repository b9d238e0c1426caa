//! Other servers that say nothing, but whose keys are known.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hearth_core::{Event, PublicKeys, RoomVersion};
use hearth_ports::{
    AliasTarget, BoxFuture, EventBytes, Handshake, JoinAnswer, MissingEvents, PeerError, Peers, StateEvents, StateIds,
    Template, WantedKeys,
};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};

pub(super) struct Keys {
    pub(super) known: PublicKeys,
    /// What was wanted.
    pub(super) wanted: Arc<Mutex<BTreeMap<OwnedServerName, WantedKeys>>>,
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
            Box::pin(std::future::ready(Err(PeerError::Denied)))
        }
    };
}

impl Peers for Keys {
    fn server_keys(&self, wanted: BTreeMap<OwnedServerName, WantedKeys>) -> BoxFuture<'_, PublicKeys> {
        self.wanted.lock().extend(wanted);
        Box::pin(std::future::ready(self.known.clone()))
    }

    denied! {
        make_member(&'a ServerName, Handshake, &'a RoomId, &'a UserId, &'a [RoomVersion]) -> Template;
        send_join(&'a ServerName, &'a Event, bool) -> JoinAnswer;
        send_leave(&'a ServerName, &'a Event) -> ();
        send_knock(&'a ServerName, &'a Event) -> Vec<EventBytes>;
        invite(&'a ServerName, &'a Event, Vec<EventBytes>) -> EventBytes;
        missing_events(&'a ServerName, &'a RoomId, MissingEvents) -> Vec<EventBytes>;
        backfill(&'a ServerName, &'a RoomId, &'a [OwnedEventId], usize) -> Vec<EventBytes>;
        event(&'a ServerName, &'a EventId) -> EventBytes;
        state_ids(&'a ServerName, &'a RoomId, &'a EventId) -> StateIds;
        state(&'a ServerName, &'a RoomId, &'a EventId) -> StateEvents;
        event_auth(&'a ServerName, &'a RoomId, &'a EventId) -> Vec<EventBytes>;
        event_near(&'a ServerName, &'a RoomId, u64, bool) -> (OwnedEventId, u64);
        alias(&'a RoomAliasId) -> AliasTarget;
        profile(&'a UserId, Option<&'a str>) -> Bytes;
        public_rooms(&'a ServerName, Bytes) -> Bytes;
        hierarchy(&'a ServerName, &'a RoomId, bool) -> Bytes;
        openid_user(&'a ServerName, &'a str) -> OwnedUserId;
    }
}
