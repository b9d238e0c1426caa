//! What is stored, and how it is found again: typed tables, conditional batches, the state tree and the log, over the
//! engine port.
//!
//! This crate decides nothing: it does not know which event is allowed, who may read, or what a client is told. Start
//! with [`Store`] and [`Write`]; the rows are in `tables/`.

mod auth_graph;
mod bulk;
mod cache;
mod codec;
mod current;
mod device_lists;
mod events;
mod find;
pub mod fsck;
mod gaps;
mod identifiers;
mod keys;
mod live;
mod log;
mod numbers;
mod order;
mod outside;
mod partial;
mod positions;
mod readers;
mod servers;
mod state;
mod store;
pub mod tables;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timeline;
mod write;

pub use auth_graph::NewEdges;
pub use codec::{Corrupt, Row, decode, encode};
pub use events::StoredEvent;
pub use identifiers::RoomIdentity;
pub use keys::{KeyBuilder, id16, key};
pub use live::{Changed, IDLE_MS, Live, UserLive};
pub use log::{EventNote, LogEntry, MemberNote};
pub use numbers::{EventNumber, RoomNumber, StateKeyNumber, StateVersion, UserNumber};
pub use order::Order;
pub use positions::{BadPositions, Positions};
pub use readers::{Cursor, LogPage};
pub use state::{StateBuilder, StateSummary};
pub use store::{LoadError, OpenError, SCHEMA_VERSION, Store, StoreSettings};
pub use tables::StateDifference;
pub use write::{PositionIndex, Write};

pub use hearth_ports::{CommitError, Committed, Entry, KeyRange, Page, Partition, Position, Table, Unavailable};
