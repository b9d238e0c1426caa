//! Rooms that a user has to do with from outside: `Rm` rows `O user room`. The row belongs to the room's partition.

use hearth_ports::Key;
use serde::{Deserialize, Serialize};

use crate::{LogEntry, MemberNote, PositionIndex, RoomNumber, UserNumber, Write, key, row, tables::Membership};

/// What a user of ours is told of a room that this server is not in: an invite, a knock, or that either has ended.
///
/// It counts while it is newer than the membership row `U user room`, which a room has that this server was in before, or
/// has come into since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideRow {
    /// The log position at which it was written, filled at commit.
    #[serde(skip)]
    pub position: u64,
    /// `Invite`, `Knock`, or `Leave` where either has ended.
    pub membership: Membership,
    /// The room's version, as the specification writes it.
    pub version: String,
    /// The id of `event`.
    pub event_id: String,
    /// The member event in the federation format, signed by all who have to; at most 64 kB. Of a leave that no other
    /// server took, ours alone.
    pub event: String,
    /// Stripped state: JSON objects, the create event among them.
    pub stripped: Vec<String>,
    /// Servers that may help to get in or to say no: the one that we had the event from first.
    pub via: Vec<String>,
}

row!(OutsideRow, "outside membership", version 1, positions position);

/// What the stripped state of a row may hold, in bytes: with an event of 64 kB the row stays below the 90 kB that a value
/// may have.
pub const STRIPPED_BYTES_MAX: usize = 20_000;

/// `Rm`: the rooms that a user is told of from outside have the prefix `O user`.
pub fn outside_key(user: UserNumber, room: RoomNumber) -> Key {
    key(b'O').user(user).room(room).build()
}

/// The prefix of all [`outside_key`]s of a user.
pub fn outside_prefix(user: UserNumber) -> Key {
    key(b'O').user(user).build()
}

/// Writes the row and tells the log. The write is of the room's partition.
pub fn put_outside(write: &mut Write, user: UserNumber, room: RoomNumber, row: &OutsideRow) -> PositionIndex {
    let at = write.position();
    write.put_at(hearth_ports::Table::Rm, outside_key(user, room), row, &[at]);
    write.log(at, LogEntry::Membership(MemberNote { room, user, membership: row.membership }));
    at
}
