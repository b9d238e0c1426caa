//! Long-poll sync: from a reader's place in the logs to the answer that brings them to the present.
//!
//! A sync takes the newest positions, looks at what lies between, writes the answer into one buffer, and waits if there
//! was nothing. What is told of a room is decided in `hearth_view`; nothing here decides who may see an event. This crate
//! never writes a row and knows no HTTP. Start with [`Syncs::sync`], then `look.rs`.

mod account;
mod device_lists;
mod error;
mod gate;
mod json;
mod keys;
mod look;
mod outside;
mod place;
mod presence;
pub mod read;
mod receipts;
mod room;
mod sent;
mod state;
mod stripped;
mod summary;
mod syncs;
mod timeline;
mod to_device;
mod view;

#[cfg(test)]
mod stories;

pub use error::SyncError;
pub use syncs::{KeyChanges, Reader, StateForm, SyncQuery, SyncSettings, Syncs};
