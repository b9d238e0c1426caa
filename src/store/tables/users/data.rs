//! Account data and filters.

use hearth_ports::Key;
use serde::{Deserialize, Serialize};

use crate::{RoomNumber, UserNumber, key, row};

/// Account data of one type, global or of a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDataRow {
    /// The log position of its last change, filled at commit.
    #[serde(skip)]
    pub position: u64,
    /// The content, JSON.
    pub content: String,
}

row!(AccountDataRow, "account data", version 1, positions position);

/// Which account data changed at a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDataIndexRow {
    /// `None` is global.
    pub room: Option<RoomNumber>,
    /// The type.
    pub kind: String,
}

row!(AccountDataIndexRow, "account data index", version 1);

/// A stored filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRow {
    /// The definition, JSON.
    pub definition: String,
}

row!(FilterRow, "filter", version 1);

/// Global account data stands under this number; no room has it.
const GLOBAL: RoomNumber = RoomNumber(0);

/// `Us`: account data of one type.
pub fn account_data_key(user: UserNumber, room: Option<RoomNumber>, kind: &str) -> Key {
    key(b'd').user(user).room(room.unwrap_or(GLOBAL)).raw(kind.as_bytes()).build()
}

/// What all keys of a user's account data begin with: of one room, global, or with `None` all of it.
pub fn account_data_prefix(user: UserNumber, room: Option<Option<RoomNumber>>) -> Key {
    let builder = key(b'd').user(user);
    match room {
        Some(room) => builder.room(room.unwrap_or(GLOBAL)).build(),
        None => builder.build(),
    }
}

/// Room and type of a key of [`account_data_key`].
pub fn account_data_room_of_key(key: &[u8]) -> Option<(Option<RoomNumber>, &str)> {
    let room = RoomNumber(u64::from_be_bytes(key.get(9..17)?.try_into().ok()?));
    let kind = std::str::from_utf8(key.get(17..)?).ok()?;
    Some(((room != GLOBAL).then_some(room), kind))
}

/// `Us`: account data by position. The position at [`ACCOUNT_DATA_POSITION_OFFSET`] is filled at commit.
pub fn account_data_index_key(user: UserNumber, position: u64) -> Key {
    key(b'y').user(user).u64(position).build()
}

/// What all keys of [`account_data_index_key`] of a user begin with.
pub fn account_data_index_prefix(user: UserNumber) -> Key {
    key(b'y').user(user).build()
}

/// Where the position stands in [`account_data_index_key`].
pub const ACCOUNT_DATA_POSITION_OFFSET: u16 = 9;

/// `Us`: a filter; ids are the start of the definition's hash.
pub fn filter_key(user: UserNumber, filter: &str) -> Key {
    key(b'f').user(user).raw(filter.as_bytes()).build()
}
