//! Names of rooms: `Ix` rows `a alias` in the alias's own partition, `Rm` rows `a room alias` (which aliases to look at)
//! and `p list room` (published rooms) in the room's; `Mi` rows `! ts` are what users reported.

use hearth_ports::{Key, Partition};
use serde::{Deserialize, Serialize};

use crate::{RoomNumber, UserNumber, id16, key, row};

/// Where an alias points. It counts only once its room exists: it is claimed before the room is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRow {
    /// The room's id.
    pub room_id: String,
    /// The room's number.
    pub room: RoomNumber,
    /// Who made it, and so may delete it.
    pub creator: UserNumber,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ts_ms: u64,
}

row!(AliasRow, "alias", version 1);

/// A room in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRow {
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ts_ms: u64,
}

row!(PublishedRow, "published room", version 1);

/// Something that a user told the administrators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRow {
    /// Who reports.
    pub reporter: String,
    /// The room, for a report of a room or of an event.
    pub room_id: Option<String>,
    /// The event, for a report of an event.
    pub event_id: Option<String>,
    /// The user, for a report of a user.
    pub user_id: Option<String>,
    /// In the reporter's words.
    pub reason: String,
    /// −100 (most offensive) to 0, where the client gave one.
    pub score: Option<i16>,
    /// When, in milliseconds since the Unix epoch.
    pub reported_ts_ms: u64,
}

row!(ReportRow, "report", version 1);

/// The directory of this server that everybody may read; bridged networks have their own.
pub const PUBLIC_LIST: &str = "";

/// `Ix`: an alias.
pub fn alias_key(alias: &str) -> Key {
    key(b'a').raw(alias.as_bytes()).build()
}

/// Where the row of an alias lives.
pub fn alias_partition(alias: &str) -> Partition {
    Partition::of(RoomNumber::first_candidate(alias).0)
}

/// `Rm`: an alias that may point to this room; the alias's own row says whether it does. Those of a room have the
/// prefix `a room`.
pub fn room_alias_key(room: RoomNumber, alias: &str) -> Key {
    key(b'a').room(room).raw(alias.as_bytes()).build()
}

/// `Rm`: a room in a directory; those of a directory have the prefix `p list 0xFF`.
pub fn published_key(list: &str, room: RoomNumber) -> Key {
    key(b'p').text(list).room(room).build()
}

/// The prefix of all [`published_key`]s of a directory: the room's 8 bytes follow it.
pub fn published_prefix(list: &str) -> Key {
    key(b'p').text(list).build()
}

/// `Mi`: a report, ordered by time; `salt` tells those of one millisecond apart.
pub fn report_key(reported_ts_ms: u64, salt: u64) -> Key {
    key(b'!').u64(reported_ts_ms).u64(salt).build()
}

/// Where a report lives: one place for all, so that they are read in order.
pub fn report_partition() -> Partition {
    Partition::of(u64::from_be_bytes(id16("reports").first_chunk().copied().unwrap_or_default()))
}
