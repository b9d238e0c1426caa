//! From a checked event to the room, and what refusals on that way are to another server.

use hearth_core::{RoomVersion, SignedEvent};
use hearth_ports::EventBytes;
use hearth_store::RoomNumber;
use ruma::OwnedServerName;

use super::HandshakeError;
use crate::{
    ReceiveError, SendError,
    receive::{Arriving, Outcome, Place},
    rooms::Rooms,
};

impl From<ReceiveError> for HandshakeError {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::NotInRoom => Self::UnknownRoom,
            ReceiveError::Denied(reason) => Self::forbidden(reason),
            ReceiveError::Malformed(error) => error.into(),
            ReceiveError::Signature(error) => Self::Forbidden(error.to_string().into()),
            ReceiveError::Rejected(reason) => Self::Forbidden(reason),
            ReceiveError::Incomplete(reason) => Self::malformed(reason),
            ReceiveError::Broken(text) | ReceiveError::Unavailable(text) => Self::Unavailable(text),
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
            HandshakeError::Malformed(text) | HandshakeError::BadJson(text) => Self::Unreachable(text),
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

    /// Puts an event into a room that this server is in; what the room's present state is against is refused, too.
    pub(crate) async fn append_handshake(
        &self,
        room: RoomNumber,
        signed: SignedEvent,
        origin: Option<OwnedServerName>,
        relay: bool,
    ) -> Result<(), HandshakeError> {
        let arriving = Arriving { event: signed.into_event(), place: Place::AfterPrevs, origin, relay };
        self.append_arriving(room, arriving).await
    }

    /// The same of an event that is signed.
    pub(super) async fn append_arriving(&self, room: RoomNumber, arriving: Arriving) -> Result<(), HandshakeError> {
        let outcome = self.writer.place_all(room, vec![arriving]).await.pop();
        match outcome.ok_or_else(|| HandshakeError::Unavailable("an event has no outcome".to_owned()))?? {
            Outcome::Accepted => Ok(()),
            Outcome::SoftFailed => {
                Err(HandshakeError::forbidden("the room's present state does not let this event in"))
            }
            Outcome::Rejected(reason) => Err(HandshakeError::Forbidden(reason)),
        }
    }
}
