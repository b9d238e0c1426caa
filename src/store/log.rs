//! What the log says: small facts that tell a reader where to look.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{EventNumber, RoomNumber, UserNumber};

/// One fact, at one position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogEntry {
    /// An event was accepted and stands in its room's timeline at this position.
    Event(EventNote),
    /// A receipt of somebody was set in a room.
    Receipt {
        /// The room.
        room: RoomNumber,
        /// Whose; private ones concern nobody else.
        user: UserNumber,
        /// `m.read.private`.
        private: bool,
    },
    /// Account data of a user changed, global or of a room.
    AccountData {
        /// Whose.
        user: UserNumber,
        /// Of which room; `None` is global.
        room: Option<RoomNumber>,
    },
    /// A to-device message waits for a device of this user.
    ToDevice {
        /// The recipient.
        user: UserNumber,
    },
    /// The devices or identity keys of another server's user changed.
    DeviceList {
        /// Whose.
        user: UserNumber,
    },
    /// A reader's view of a room changed without an event: it was forgotten, or an invite from afar came or went.
    Membership(MemberNote),
    /// An account of ours was made or ended, or its profile changed.
    Account {
        /// Whose.
        user: UserNumber,
    },
    /// A device of a user of ours came or went, or got other keys, signatures or another name. It is a change of the
    /// device list as [`Self::DeviceList`] is, and other servers hear of it.
    Device {
        /// Whose.
        user: UserNumber,
        /// Its id.
        device: String,
    },
    /// The cross-signing keys of a user of ours changed: likewise.
    SigningKeys {
        /// Whose.
        user: UserNumber,
    },
    /// The user-signing key of a user of ours changed, or it signed something: nobody else's affair.
    OwnKeys {
        /// Whose.
        user: UserNumber,
    },
    /// Something was queued that must reach another server: its row stands in the same batch.
    Queued {
        /// Its name.
        server: String,
    },
}

/// The event of [`LogEntry::Event`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventNote {
    /// The room.
    pub room: RoomNumber,
    /// The event; `None` where the current state changed without one.
    pub event: Option<EventNumber>,
    /// Whose membership it sets, if it does.
    pub member: Option<MemberNote>,
}

/// A membership as the log tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberNote {
    /// The room.
    pub room: RoomNumber,
    /// The user whose membership it is.
    pub user: UserNumber,
    /// What it now is.
    pub membership: crate::tables::Membership,
}

impl LogEntry {
    /// Whose device list this changes.
    pub const fn device_list_of(&self) -> Option<UserNumber> {
        match self {
            Self::DeviceList { user } | Self::Device { user, .. } | Self::SigningKeys { user } => Some(*user),
            _ => None,
        }
    }

    /// The bytes of an engine's log item: a version byte and the packed entry.
    pub fn encode(&self) -> Bytes {
        postcard::to_extend(self, vec![Self::VERSION]).expect("our own types serialise into memory").into()
    }

    /// The reverse of [`Self::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, crate::Corrupt> {
        let corrupt = |reason: String| crate::Corrupt { what: "log entry", reason };
        match bytes.split_first() {
            Some((&Self::VERSION, packed)) => postcard::from_bytes(packed).map_err(|error| corrupt(error.to_string())),
            Some((version, _)) => Err(corrupt(format!("version {version} is not known here"))),
            None => Err(corrupt("it is empty".to_owned())),
        }
    }

    const VERSION: u8 = 1;
}
