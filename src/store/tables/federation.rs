//! Other servers: `Fd` rows `d server` (how far a destination is that fails or is behind) and `f server position` (what
//! must reach it). They live in the server's partition.

use hearth_ports::{Key, Partition, Table};
use ruma::ServerName;
use serde::{Deserialize, Serialize};

use crate::{EventNumber, LogEntry, RoomNumber, Write, codec::encode, id16, key, row};

/// A destination that was not reached lately, or has not caught up since. Healthy ones have no row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationRow {
    /// When it was first not reached, in milliseconds since the Unix epoch; 0: it is reached, but is still behind.
    pub failing_since_ms: u64,
    /// It is left alone until then, in milliseconds since the Unix epoch.
    pub retry_at_ms: u64,
    /// So many attempts in a row failed.
    pub failures: u32,
    /// It has all that the log says up to here: a position for each partition, or one for all.
    pub caught_up: Vec<u64>,
    /// Why the last attempt failed, for the operator.
    pub last_error: String,
}

row!(DestinationRow, "destination", version 1);

/// Something that must reach a destination however long that takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueuedRow {
    /// An EDU: a JSON object with `edu_type` and `content`.
    Edu {
        /// The object.
        json: String,
    },
    /// An event that a server is told of although it is not in the room after it: the kick of its last member.
    Event {
        /// The room.
        room: RoomNumber,
        /// The event.
        event: EventNumber,
    },
}

row!(QueuedRow, "queued item", version 1);

/// A number for a server, of its partition: the target of transaction ids. Two servers may share one.
pub fn server_number(server: &ServerName) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id16(server.as_str());
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Where a server's rows live.
pub fn server_partition(server: &ServerName) -> Partition {
    Partition::of(server_number(server))
}

/// Queues something for a server behind all that is queued for it, in the log too, so that whoever sends hears of it. The
/// write is of the server's partition.
pub fn put_queued(write: &mut Write, server: &ServerName, row: &QueuedRow) {
    let at = write.position();
    let in_key = Some((queued_position_offset(server), at));
    write.put_filled(Table::Fd, queued_key(server, 0), encode(row), in_key, &[]);
    write.log(at, LogEntry::Queued { server: server.as_str().to_owned() });
}

/// `Fd`: a destination.
pub fn destination_key(server: &ServerName) -> Key {
    key(b'd').raw(server.as_str().as_bytes()).build()
}

/// The prefix of all [`destination_key`]s: what follows it is the server's name.
pub fn destination_prefix() -> Key {
    key(b'd').build()
}

/// `Fd`: something queued. The position is filled at commit at [`queued_position_offset`].
pub fn queued_key(server: &ServerName, position: u64) -> Key {
    key(b'f').text(server.as_str()).u64(position).build()
}

/// Where the position stands in [`queued_key`].
pub fn queued_position_offset(server: &ServerName) -> u16 {
    key(b'f').text(server.as_str()).offset()
}

/// The prefix of what is queued for one server, in order.
pub fn queued_prefix(server: &ServerName) -> Key {
    key(b'f').text(server.as_str()).build()
}

/// The prefix of all that is queued. The server's name follows it, then a byte 0xFF.
pub fn all_queued_prefix() -> Key {
    key(b'f').build()
}

/// The server that a [`queued_key`] names, as text.
pub fn queued_server(key: &[u8]) -> Option<&str> {
    let rest = key.strip_prefix(b"f")?;
    let end = rest.iter().position(|byte| *byte == 0xff)?;
    std::str::from_utf8(&rest[..end]).ok()
}
