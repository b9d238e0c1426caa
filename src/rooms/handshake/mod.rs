//! What this server does for others as a resident of a room: templates for joins, leaves and knocks, and taking the events
//! made of them; and taking invites of its own users.
//!
//! What comes in is checked field by field against what was asked for, then goes the way of every received event. Start
//! with [`template`], then [`accept`]; invites are apart in [`invite`].

mod accept;
mod answer;
mod bindings;
mod bridge;
mod invite;
mod template;
mod third_party;

use hearth_core::{FormatError, Reason};
use hearth_ports::Handshake;
use hearth_store::{LoadError, RoomNumber, tables::Head};
use ruma::{RoomId, ServerName};

use crate::{ReadError, SendError, rooms::Rooms};

pub(crate) use answer::PREVIEW_KINDS;
pub use invite::Invitation;
pub use third_party::ThirdPartyInvite;

/// Why another server's handshake comes to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The room's rules or its access list refuse it (403 `M_FORBIDDEN`).
    #[error("{0}")]
    Forbidden(Reason),
    /// This server is in no such room (404 `M_NOT_FOUND`).
    #[error("this server is not in that room")]
    UnknownRoom,
    /// The room has this version, which one side does not speak (400 `M_INCOMPATIBLE_ROOM_VERSION`, with `room_version`).
    #[error("the room's version, {0}, is not one that both servers speak")]
    IncompatibleVersion(String),
    /// Whether the user may join a restricted room cannot be seen from here (400 `M_UNABLE_TO_AUTHORISE_JOIN`).
    #[error("this server cannot tell whether the user may join: it is not in the rooms that count")]
    UnableToAuthoriseJoin,
    /// The user may join a restricted room, but nobody here may let them in (400 `M_UNABLE_TO_GRANT_JOIN`).
    #[error("nobody on this server may let the user in, try another server")]
    UnableToGrantJoin,
    /// The request or its event is not what it has to be (400 `M_INVALID_PARAM`).
    #[error("{0}")]
    Malformed(String),
    /// The event is not JSON as the room's version wants it (400 `M_BAD_JSON`).
    #[error("{0}")]
    BadJson(String),
    /// Too much at once; later it may succeed (429 `M_LIMIT_EXCEEDED`).
    #[error("too much is asked of this room at once, try again later")]
    Busy,
    /// Our fault; the text is for the log.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<LoadError> for HandshakeError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<FormatError> for HandshakeError {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Json(_) => Self::BadJson(error.to_string()),
            // Nobody has signed it.
            FormatError::Field("hashes" | "signatures") => Self::Forbidden(Reason::from(error.to_string())),
            FormatError::TooLarge | FormatError::Field(_) => Self::Malformed(error.to_string()),
        }
    }
}

impl From<Reason> for HandshakeError {
    fn from(reason: Reason) -> Self {
        Self::Forbidden(reason)
    }
}

impl From<SendError> for HandshakeError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Forbidden(reason) => Self::Forbidden(reason),
            SendError::UnknownRoom => Self::UnknownRoom,
            SendError::Conflict | SendError::Busy => Self::Busy,
            SendError::Content(error) => Self::Malformed(error.to_string()),
            SendError::Unavailable(text) => Self::Unavailable(text),
            other => Self::Forbidden(Reason::from(other.to_string())),
        }
    }
}

impl HandshakeError {
    pub(crate) fn forbidden(reason: &str) -> Self {
        Self::Forbidden(Reason::new(reason))
    }

    pub(crate) fn malformed(reason: &str) -> Self {
        Self::Malformed(reason.to_owned())
    }
}

/// What a handshake makes of a user's membership, as events have it.
pub(crate) const fn membership_name(handshake: Handshake) -> &'static str {
    match handshake {
        Handshake::Join => "join",
        Handshake::Leave => "leave",
        Handshake::Knock => "knock",
    }
}

impl Rooms {
    /// The room, if this server is in it and may deal with the other server there.
    async fn room_for_handshake(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<(RoomNumber, Head), HandshakeError> {
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(HandshakeError::UnknownRoom)?;
        // Who does not know the members itself lets nobody in or out: another server can.
        let head = store.head(room).await?.filter(|head| !head.loading && !head.purged && !head.partial);
        let head = head.ok_or(HandshakeError::UnknownRoom)?;
        if store.joined_from(room, &self.writer.server_name).await? == 0 {
            return Err(HandshakeError::UnknownRoom);
        }
        self.check_access(origin, room_id).await?;
        if !head.create.federate {
            return Err(HandshakeError::forbidden("the room does not take part in federation"));
        }
        if head.blocked {
            return Err(HandshakeError::forbidden("the room is blocked on this server"));
        }
        Ok((room, head))
    }

    /// Asks the room's access list.
    async fn check_access(&self, origin: &ServerName, room_id: &RoomId) -> Result<(), HandshakeError> {
        match self.acl_allows(room_id, origin).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(HandshakeError::forbidden("the room's access list keeps your server out")),
            Err(ReadError::Unavailable(text)) => Err(HandshakeError::Unavailable(text)),
            Err(ReadError::NotFound | ReadError::Forbidden(_) | ReadError::BadToken) => {
                Err(HandshakeError::UnknownRoom)
            }
        }
    }
}
