//! From a checked event to the room, and what refusals on that way are to another server.

use std::collections::BTreeSet;

use hearth_core::{RoomVersion, SignedEvent, auth};
use hearth_ports::EventBytes;
use hearth_store::RoomNumber;
use ruma::{OwnedServerName, OwnedUserId};

use super::HandshakeError;
use crate::{
    ReceiveError, SendError,
    append::{Accepted, Group, Member, cited},
    rooms::Rooms,
};

impl From<ReceiveError> for HandshakeError {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::NotInRoom => Self::UnknownRoom,
            ReceiveError::Denied(reason) => Self::forbidden(reason),
            ReceiveError::Malformed(error) => Self::Malformed(error.to_string()),
            ReceiveError::Signature(error) => Self::Malformed(error.to_string()),
            ReceiveError::Rejected(reason) => Self::Forbidden(reason),
            ReceiveError::Incomplete(reason) => Self::malformed(reason),
            ReceiveError::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

impl From<HandshakeError> for SendError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Forbidden(reason) => Self::Forbidden(reason),
            HandshakeError::UnknownRoom => Self::UnknownRoom,
            HandshakeError::IncompatibleVersion(version) => Self::IncompatibleVersion(version),
            HandshakeError::UnableToAuthoriseJoin | HandshakeError::UnableToGrantJoin => Self::Remote,
            HandshakeError::Malformed(text) => Self::Unreachable(text),
            HandshakeError::Busy => Self::Busy,
            HandshakeError::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

impl Rooms {
    /// Checks one event that has to be whole: a redacted form of it is of no use here.
    pub(crate) async fn check_one_signed(
        &self,
        version: RoomVersion,
        bytes: EventBytes,
    ) -> Result<SignedEvent, HandshakeError> {
        let checked = self.check_signed(version, vec![bytes]).await.pop();
        let signed = checked.ok_or_else(|| HandshakeError::Unavailable("a check has no result".to_owned()))??;
        if signed.is_redacted() {
            return Err(HandshakeError::malformed("the event's content is not what its hash says"));
        }
        Ok(signed)
    }

    pub(crate) async fn append_handshake(
        &self,
        room: RoomNumber,
        signed: SignedEvent,
        origin: Option<OwnedServerName>,
        relay: bool,
    ) -> Result<(), HandshakeError> {
        let writer = &self.writer;
        let event = signed.into_event();
        let active = writer.active(room);
        let mut slot = active.cache.lock().await;
        let cache = writer.load(&mut slot, room).await?;
        let head: BTreeSet<&str> = cited(&cache.head).map(|extremity| extremity.event_id.as_str()).collect();
        if head != event.prev_events().iter().map(|id| id.as_str()).collect() {
            return Err(HandshakeError::Busy);
        }
        let types =
            hearth_core::auth_types(event.version(), event.kind(), event.sender(), event.state_key(), event.content())?;
        for (kind, state_key) in types.iter().chain([&("m.room.create".to_owned(), String::new())]) {
            cache.entry(&writer.store, kind, state_key).await?;
        }
        let auths = writer.store.event_numbers(room, event.auth_events()).await?;
        let auths: Vec<_> = auths.into_iter().flatten().collect();
        let cited = writer.store.events(room, &auths).await?;
        let mut cited: Vec<_> = cited.into_iter().flatten().map(|stored| stored.event.clone()).collect();
        cited.extend(cache.known_event("m.room.create", ""));
        auth::check_auth_events(&event, |id| cited.iter().find(|event| event.event_id() == id).cloned())?;
        auth::check_against(&event, |kind, state_key| cache.known_event(kind, state_key))?;
        let member = match event.state_key().and_then(|user| OwnedUserId::try_from(user).ok()) {
            Some(user) => Some(Member { user: writer.store.ensure_user_number(&user).await?, guest: false }),
            None => None,
        };
        let accepted = Accepted { member, origin, relay, ..Accepted::own(event, auths) };
        let mut group = Group::new(&writer.store, cache, writer.clock.now_ms());
        let appended = group.append(cache, accepted).await;
        let committed = match appended {
            Ok(_) => writer.commit_group(cache, group).await.map_err(SendError::from),
            Err(error) => Err(error.into()),
        };
        if committed.is_err() {
            *slot = None;
        }
        Ok(committed?)
    }
}
