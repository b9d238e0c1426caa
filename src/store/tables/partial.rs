//! Rooms that were joined without their members: `Rm` rows `P room` (the job that fetches them), `Ev` rows `P room number`
//! (events as they came, until they are put in order) and `W room position` (events of others that wait until then). And `Ev`
//! rows `U room id16`: events of others that lack what they rest on.

use hearth_ports::Key;
use serde::{Deserialize, Serialize};

use crate::{EventNumber, RoomNumber, StateVersion, id16, key, row};

/// A room whose members are being fetched, or whose waiting events are yet to be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialRow {
    /// The join by which this server came in: the state before it is asked for.
    pub join: String,
    /// Its number.
    pub event: EventNumber,
    /// The state before it as far as it was told, which lacks memberships.
    pub state: StateVersion,
    /// Servers to ask, the one first through which we came in.
    pub servers: Vec<String>,
    /// When the room was joined, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The members are there; what has waited is left.
    pub is_settled: bool,
}

row!(PartialRow, "partial room", version 1);

/// An event of another server that waits for the room's members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRow {
    /// Who brought it.
    pub origin: String,
    /// As events are stored: canonical JSON without `unsigned`.
    pub json: Vec<u8>,
}

row!(WaitingRow, "waiting event", version 1);

/// `Rm`: the job of a room.
pub fn partial_key(room: RoomNumber) -> Key {
    key(b'P').room(room).build()
}

/// The prefix of all [`partial_key`]s.
pub fn partial_prefix() -> Key {
    key(b'P').build()
}

/// `Ev`: an event as it came. The row belongs to the room's partition.
pub fn staged_key(room: RoomNumber, number: u32) -> Key {
    key(b'P').room(room).raw(&number.to_be_bytes()).build()
}

/// The prefix of all [`staged_key`]s of a room.
pub fn staged_prefix(room: RoomNumber) -> Key {
    key(b'P').room(room).build()
}

/// `Ev`: an event that waits, by the position at which it came, filled at commit at [`WAITING_POSITION_OFFSET`].
pub fn waiting_key(room: RoomNumber, position: u64) -> Key {
    key(b'W').room(room).u64(position).build()
}

/// Where the position stands in [`waiting_key`].
pub const WAITING_POSITION_OFFSET: u16 = 9;

/// The prefix of all [`waiting_key`]s of a room.
pub fn waiting_prefix(room: RoomNumber) -> Key {
    key(b'W').room(room).build()
}

/// An event of another server whose base could not be had so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedRow {
    /// Who brought it.
    pub origin: String,
    /// As events are stored: canonical JSON without `unsigned`.
    pub json: Vec<u8>,
    /// When it came, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

row!(UnfinishedRow, "unfinished event", version 1);

/// `Ev`: an event that lacks what it rests on. The row belongs to the room's partition.
pub fn unfinished_key(room: RoomNumber, event_id: &str) -> Key {
    key(b'U').room(room).raw(&id16(event_id)).build()
}

/// The prefix of all [`unfinished_key`]s of a room; of `None`, of all rooms.
pub fn unfinished_prefix(room: Option<RoomNumber>) -> Key {
    match room {
        Some(room) => key(b'U').room(room).build(),
        None => key(b'U').build(),
    }
}
