//! State and auth: `St` rows `V room version chunk` (state versions, immutable), `D room hash` (equal states), `A room
//! event` (auth graph).

use hearth_ports::Key;
use serde::{Deserialize, Serialize};

use crate::{EventNumber, RoomNumber, StateKeyNumber, StateVersion, key, row};

/// How two versions of the state differ in one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDifference {
    /// The pair.
    pub state_key: StateKeyNumber,
    /// The event before, if there was one.
    pub before: Option<EventNumber>,
    /// The event after, if there is one.
    pub after: Option<EventNumber>,
}

/// What chunk 0 of a state version begins with; nodes of the tree follow, the root first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHeader {
    /// The version that this one was made from.
    pub parent: StateVersion,
    /// How many levels of nodes stand above the leaves.
    pub height: u8,
    /// How many pairs are set.
    pub count: u32,
    /// The sum, modulo 2^128, of a hash of each pair and its event; little-endian. Equal states have equal sums.
    pub hash: [u8; 16],
    /// The changes from the parent, in order of the pairs, if they are few.
    pub changes: Option<Vec<StateDifference>>,
}

row!(StateHeader, "state version", version 1);

/// What further chunks begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChunk;

row!(StateChunk, "state chunk", version 1);

/// A state event and its auth events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthEdges {
    /// The event's place in its block.
    pub event: u8,
    #[serde(skip)]
    block: u32,
    /// How much smaller the auth events' numbers are than the event's, rising.
    pub below: Vec<u32>,
}

impl AuthEdges {
    /// The edges of an event. I1: auth events are numbered before it.
    pub fn new(event: EventNumber, auths: &[EventNumber]) -> Self {
        let mut below: Vec<u32> = auths.iter().map(|auth| event.0.saturating_sub(auth.0)).collect();
        debug_assert!(!below.contains(&0), "auth events have smaller numbers");
        below.sort_unstable();
        below.dedup();
        Self { event: (event.0 % AUTH_BLOCK) as u8, block: event.0 / AUTH_BLOCK, below }
    }

    /// About what it adds to a batch, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        2 + 3 * self.below.len()
    }
}

/// A run of state events of one block, in order, stored by one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthRun {
    /// The events.
    pub edges: Vec<AuthEdges>,
}

row!(AuthRun, "auth run", version 1);

/// So many event numbers make a block of the auth graph: the unit in which it is read.
pub const AUTH_BLOCK: u32 = 256;

/// `St`: a state version. Chunks follow each other; a node never crosses them.
pub fn state_version_key(room: RoomNumber, version: StateVersion, chunk: u16) -> Key {
    key(b'V').room(room).state_version(version).raw(&chunk.to_be_bytes()).build()
}

/// `St`: from a state's hash to a version that has it, 4 bytes.
pub fn equal_state_key(room: RoomNumber, hash: [u8; 16]) -> Key {
    key(b'D').room(room).raw(&hash).build()
}

/// `St`: the run of auth edges that begins with this event.
pub fn auth_run_key(room: RoomNumber, first: EventNumber) -> Key {
    key(b'A').room(room).event(first).build()
}

/// The rows for these edges: as few as their blocks allow.
pub(crate) fn auth_runs(mut edges: Vec<(RoomNumber, AuthEdges)>) -> Vec<(Key, AuthRun)> {
    edges.sort_by_key(|(room, edges)| (*room, edges.block, edges.event));
    let same_block =
        |(a, one): &(RoomNumber, AuthEdges), (b, other): &(RoomNumber, AuthEdges)| a == b && one.block == other.block;
    let runs = edges.chunk_by(same_block).filter_map(|run| {
        let (room, first) = run.first()?;
        let key = auth_run_key(*room, EventNumber(first.block * AUTH_BLOCK + u32::from(first.event)));
        Some((key, AuthRun { edges: run.iter().map(|(_, edges)| edges.clone()).collect() }))
    });
    runs.collect()
}
