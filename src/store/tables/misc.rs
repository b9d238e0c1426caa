//! What belongs to no room and no user: `Mi` rows `s` (schema) and `c name` (how far a reader of the log is).

use hearth_ports::{Key, Partition};
use serde::{Deserialize, Serialize};

use crate::{id16, key, row};

/// Which layout of rows the database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRow {
    /// Rises when a server of an older version could no longer understand, or would damage, what is written.
    pub version: u32,
}

row!(SchemaRow, "schema", version 1);

/// How far a reader of the log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorRow {
    /// The position that it is done with, for each partition in order.
    pub positions: Vec<u64>,
}

row!(CursorRow, "cursor", version 1);

/// `Mi`: the schema.
pub fn schema_key() -> Key {
    key(b's').build()
}

/// Where the schema row lives.
pub const fn schema_partition() -> Partition {
    Partition::of(0)
}

/// `Mi`: a reader's cursor.
pub fn cursor_key(name: &str) -> Key {
    key(b'c').raw(name.as_bytes()).build()
}

/// Where a reader's cursor lives.
pub fn cursor_partition(name: &str) -> Partition {
    Partition::of(u64::from(id16(name)[0]))
}
