//! What the people of a simulation know, as far as it decides what they do next.

use std::collections::BTreeSet;

/// A room, as people hear of it.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) id: String,
    pub(crate) version: u8,
    /// Servers that people of were in it at some time.
    pub(crate) servers: BTreeSet<usize>,
    /// Events that somebody sent, newest last.
    pub(crate) sent: Vec<String>,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) rooms: Vec<Room>,
    /// The last number that a message, a topic or a transaction has.
    pub(crate) last: u64,
}

impl Model {
    /// A number that was not used yet.
    pub(crate) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}
