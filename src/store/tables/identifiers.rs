//! Identifiers and their numbers: `Ix` rows `r room_id` and `R room`, `n user_id` and `u user`. Both of a pair lie in the
//! number's partition and are never changed.

use hearth_ports::Key;
use ruma::{RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::{RoomNumber, UserNumber, key, row};

/// The room that a number stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomIdRow {
    /// Its id.
    pub room_id: String,
}

row!(RoomIdRow, "room id", version 1);

/// The user that a number stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIdRow {
    /// The id.
    pub user_id: String,
}

row!(UserIdRow, "user id", version 1);

/// The longest identifier that stands in a key as it is, in bytes; of longer ones, which rooms of old may have, the hash
/// does. Above the 255 that the specification allows, below what a key may hold.
const IDENTIFIER_BYTES_MAX: usize = 512;

/// `Ix`: from a room's id to its number, 8 bytes.
pub fn room_index_key(room_id: &RoomId) -> Key {
    identifier_key(b'r', room_id.as_str())
}

/// `Ix`: from a room's number to its id.
pub fn room_name_key(room: RoomNumber) -> Key {
    key(b'R').room(room).build()
}

/// `Ix`: from a user's id to its number, 8 bytes.
pub fn user_index_key(user_id: &UserId) -> Key {
    identifier_key(b'n', user_id.as_str())
}

/// `Ix`: from a user's number to its id.
pub fn user_name_key(user: UserNumber) -> Key {
    key(b'u').user(user).build()
}

fn identifier_key(kind: u8, identifier: &str) -> Key {
    if identifier.len() <= IDENTIFIER_BYTES_MAX {
        return key(kind).raw(identifier.as_bytes()).build();
    }
    // Identifiers begin with a sigil, never with a zero byte.
    key(kind).u8(0).raw(blake3::hash(identifier.as_bytes()).as_bytes()).build()
}
