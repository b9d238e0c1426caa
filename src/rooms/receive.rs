//! Events of other servers: checked, completed with what they rest on, put into their rooms.
//! [Checks performed on receipt of a PDU](https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu).

use hearth_core::{FormatError, Reason, SignatureError};
use hearth_store::{CommitError, LoadError};

use crate::append::PlaceError;

mod acl;
mod check;
mod place;

pub(crate) use check::Cpu;
pub(crate) use place::{Arriving, Before, Outcome, Place, check_cited};

/// Why an event of another server was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReceiveError {
    /// This server is not in the room: it takes no events of it.
    #[error("this server is not in the room")]
    NotInRoom,
    /// The server that brought it is denied by the room's access list, or the room is blocked here.
    #[error("{0}")]
    Denied(&'static str),
    /// Not an event of the room's version, or of another room. It was dropped.
    #[error("not an event of this room: {0}")]
    Malformed(#[from] FormatError),
    /// It is not signed by who has to. It was dropped.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The room's rules are against it: by the events that it cites, or by the state before it.
    #[error("rejected: {0}")]
    Rejected(Reason),
    /// What it rests on could not be had, within bounds. It may be sent again.
    #[error("what it rests on could not be had: {0}")]
    Incomplete(&'static str),
    /// Our fault; the text is for the log. It may yet have happened.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<LoadError> for ReceiveError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<PlaceError> for ReceiveError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Load(error) => error.into(),
            PlaceError::TooMuch(reason) => Self::Incomplete(reason),
        }
    }
}

impl From<CommitError> for ReceiveError {
    fn from(error: CommitError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
