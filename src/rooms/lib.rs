//! Rooms: create, send, join, redact, upgrade, aliases, the directory. The only writer of room events.
//!
//! A request is decided in `core` against the room as this crate's caches have it, and committed in one batch that
//! requires the room's head unchanged. This crate never knows who reads: sync, push and federation follow the log; nor
//! any protocol, nor accounts. Start with [`Rooms`], then `writer.rs` (the pipeline) and `append.rs` (the rows).

mod aliases;
mod append;
mod cache;
mod create;
mod directory;
mod driven;
mod error;
mod handshake;
mod hierarchy;
mod member;
mod members;
mod policy;
mod receive;
mod redaction;
mod remote;
mod reports;
mod request;
mod resolve;
mod rooms;
mod serve;
mod state;
mod summary;
mod turns;
mod upgrade;
mod writer;

pub use aliases::AliasError;
pub use create::{CreateError, Creation, InitialState, Preset};
pub use directory::{DirectoryError, DirectoryPage, DirectoryQuery};
pub use error::{ReadError, SendError};
pub use handshake::{HandshakeError, Invitation, ThirdPartyInvite};
pub use hierarchy::{HierarchyPage, HierarchyQuery, HierarchyRoom, ServerHierarchy};
pub use member::MemberAction;
pub use members::ForgetError;
pub use receive::{ReceiveError, Received};
pub use remote::Address;
pub use reports::ReportError;
pub use rooms::{MemberChange, Message, Redaction, Rooms, RoomsSettings, StateChange, TransactionId};
pub use serve::{ServeError, undone_joins};
pub use summary::RoomSummary;
pub use upgrade::{Upgrade, UpgradeError};

pub use hearth_store::tables::Membership;

#[cfg(test)]
mod service_tests;
