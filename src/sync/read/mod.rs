//! Reading rooms on request: pages of history, single events, the state, the members.
//!
//! Every answer goes through the one gate of `hearth_view`. Who was in a room keeps what there was until the end of
//! that membership; who never was sees world-readable rooms only. Answers are JSON texts, written into one buffer.

mod context;
mod gaps;
mod initial;
mod members;
mod messages;
mod room;
mod state;
mod timestamp;
mod whole;

use std::sync::Arc;

use hearth_ports::Clock;
use hearth_store::{LoadError, Store};
use hearth_users::{Fault, Users};
use ruma::{OwnedDeviceId, OwnedUserId};

pub use context::ContextQuery;
pub use gaps::GapAhead;
pub use members::MembersQuery;
pub use messages::{Direction, MessagesQuery};
pub use timestamp::FoundEvent;

/// Rooms, for reading.
pub struct Reads {
    store: Arc<Store>,
    users: Arc<Users>,
    clock: Arc<dyn Clock>,
}

/// Who reads.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The account; guests and people who peek have one too.
    pub user_id: OwnedUserId,
    /// The device, which alone is told the transaction ids of what it sent.
    pub device_id: Option<OwnedDeviceId>,
}

/// Why something of a room is not shown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The reader may not read this room, or there is none: nobody is told which (`M_FORBIDDEN`).
    #[error("you are not, and were not, a member of this room, and it is not open to everybody")]
    Forbidden,
    /// The room has no such event or state, or not for this reader (`M_NOT_FOUND`).
    #[error("there is no such {0} here, or not for you")]
    NotFound(&'static str),
    /// A token that does not belong here (`M_INVALID_PARAM`).
    #[error("this token belongs to something else")]
    BadToken,
    /// The room was joined only just now, and its members are still being fetched: later (503).
    #[error("the members of this room are still being fetched, try again later")]
    NotYet,
    /// Ours; the text is for the log.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<LoadError> for ReadError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<Fault> for ReadError {
    fn from(error: Fault) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Reads {
    /// Over the same store as everything else.
    pub fn new(store: Arc<Store>, users: Arc<Users>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { store, users, clock })
    }
}
