//! Why nothing was written, by what the caller can do about it.

use hearth_core::{BuildError, Reason};
use hearth_store::{CommitError, LoadError};

use crate::append::PlaceError;

/// Why an event (message, state, membership, redaction) was not sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// The room's rules refuse it, or there is no such room for this user; tell them why (`M_FORBIDDEN`).
    #[error("{0}")]
    Forbidden(Reason),
    /// The room does not let guests in (`M_GUEST_ACCESS_FORBIDDEN`).
    #[error("guests may not join this room")]
    GuestsForbidden,
    /// This server does not know the room, nor a server that may (`M_NOT_FOUND`).
    #[error("this server does not know that room, nor a server that is in it")]
    UnknownRoom,
    /// Nobody on this server may let the user in, nor is another server known that may (`M_FORBIDDEN`).
    #[error("nobody on this server may let you in")]
    Remote,
    /// Another server refuses; its words are for the client.
    #[error("{errcode}: {error}")]
    Refused {
        /// The HTTP status, 4xx.
        status: u16,
        /// Its errcode.
        errcode: String,
        /// Its words.
        error: String,
    },
    /// No other server could help; the text may be shown (502 `M_UNKNOWN`).
    #[error("{0}")]
    Unreachable(String),
    /// The room has this version, which this server does not speak (`M_INCOMPATIBLE_ROOM_VERSION`).
    #[error("the room has version {0}, which this server does not speak")]
    IncompatibleVersion(String),
    /// The room has no such event (`M_INVALID_PARAM`).
    #[error("this room has no such event")]
    UnknownEvent,
    /// The event cannot be made: content that is no canonical JSON object, or too large (`M_BAD_JSON`, `M_TOO_LARGE`).
    #[error(transparent)]
    Content(#[from] BuildError),
    /// The content lacks what its type demands (`M_BAD_JSON`).
    #[error("{0}")]
    BadContent(&'static str),
    /// A field of the content is malformed (`M_INVALID_PARAM`).
    #[error("{0}")]
    InvalidParam(&'static str),
    /// An alias in the content does not point to this room (`M_BAD_ALIAS`).
    #[error("the alias {0} does not point to this room")]
    BadAlias(String),
    /// Others won the race too often; try again.
    #[error("too many events at once, try again")]
    Conflict,
    /// Too many requests of this room wait already; try again later.
    #[error("too many requests wait for this room")]
    Busy,
    /// Our fault; the text is for the log. It may yet have happened.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// Why a room could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// No such room, or not for this user.
    #[error("no such room")]
    NotFound,
    /// The room exists, but this user may not see what was asked (`M_FORBIDDEN`).
    #[error("{0}")]
    Forbidden(&'static str),
    /// The token to go on from is none of ours (`M_INVALID_PARAM`).
    #[error("from is no token of this list")]
    BadToken,
    /// Our fault; the text is for the log.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<LoadError> for SendError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<PlaceError> for SendError {
    fn from(error: PlaceError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<CommitError> for SendError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => Self::Conflict,
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<LoadError> for ReadError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl SendError {
    pub(crate) fn forbidden(reason: &str) -> Self {
        Self::Forbidden(Reason::new(reason))
    }
}
