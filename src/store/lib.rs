//! What is stored, and how it is found again: typed tables, conditional batches, the state tree and the log, over the
//! engine port.
//!
//! This crate decides nothing: it does not know which event is allowed, who may read, or what a client is told. Start
//! with [`Store`] and [`Write`]; the rows are in `tables/`.

mod codec;
mod keys;
mod log;
mod numbers;
mod order;
mod positions;
mod store;
pub mod tables;
mod write;

pub use codec::{Corrupt, Row, decode, encode};
pub use keys::{KeyBuilder, id16, key};
pub use log::{EventNote, LogEntry, MemberNote};
pub use numbers::{EventNumber, RoomNumber, StateKeyNumber, StateVersion, UserNumber};
pub use order::Order;
pub use positions::{BadPositions, Positions};
pub use store::{LoadError, Store};
pub use write::{PositionIndex, Write};

pub use hearth_ports::{CommitError, Committed, Partition, Position, Table, Unavailable};
