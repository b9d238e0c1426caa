//! Who is in which room: `Rm` rows `U user room`.

use hearth_ports::Key;
use serde::{Deserialize, Serialize};

use crate::{EventNumber, RoomNumber, UserNumber, key, row};

/// A membership of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Membership {
    /// `join`
    Join,
    /// `invite`
    Invite,
    /// `knock`
    Knock,
    /// `leave`, also after a kick or unban; never having been there is the absence of a row.
    Leave,
    /// `ban`
    Ban,
}

/// A user's membership of a room. The row belongs to the room's partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipRow {
    /// The log position of `event`, filled at commit.
    #[serde(skip)]
    pub position: u64,
    /// The log position of the event by which the user last came to be joined (profile changes don't count); 0: never.
    /// Filled at commit when that is this event.
    #[serde(skip)]
    pub joined_position: u64,
    /// What it is.
    pub membership: Membership,
    /// The member event that says so.
    pub event: EventNumber,
    /// The user asked to forget the room after leaving it.
    pub forgotten: bool,
    /// It was a guest account when it joined.
    pub guest: bool,
}

row!(MembershipRow, "membership", version 1, positions position, joined_position);

/// `Rm`: a user's rooms are the rows with the prefix `U user`.
pub fn member_rooms_key(user: UserNumber, room: RoomNumber) -> Key {
    key(b'U').user(user).room(room).build()
}

/// The prefix of all [`member_rooms_key`]s of a user.
pub fn member_rooms_prefix(user: UserNumber) -> Key {
    key(b'U').user(user).build()
}
