//! Short numbers for long identifiers, as `docs/ARCHITECTURE.md` describes: rooms and users hash to 64 bits and thereby
//! to a partition; events, state keys and state versions count up within their room.

use hearth_ports::Partition;
use serde::{Deserialize, Serialize};

/// A room on this server: the first 8 bytes of the BLAKE3 of its id, moved on by 64 while taken by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoomNumber(pub u64);

/// A user, local or remote: made like [`RoomNumber`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UserNumber(pub u64);

/// An event of a room, numbered in the order in which this server stored it, from 1. Auth events have smaller numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventNumber(pub u32);

/// A pair of event type and state key of a room, numbered from 1 in order of appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateKeyNumber(pub u32);

/// A version of a room's state. Equal states may have different versions, a version never has two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateVersion(pub u32);

impl StateVersion {
    /// The state is not known.
    pub const UNKNOWN: Self = Self(0);
    /// The state before the create event: nothing. It has no row.
    pub const EMPTY: Self = Self(1);
    /// The first version that a room can write.
    pub const FIRST: Self = Self(2);
}

impl EventNumber {
    /// The number of a room's first event.
    pub const FIRST: Self = Self(1);
}

impl StateKeyNumber {
    /// The number of a room's first state key.
    pub const FIRST: Self = Self(1);
}

/// The 64 bits that an identifier asks for; see [`next_candidate`] for when they are taken.
fn first_candidate(identifier: &str) -> u64 {
    let hash = blake3::hash(identifier.as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The number to try when one is taken. It stays in the same partition, so that one lock covers the row and its reverse.
const fn next_candidate(number: u64) -> u64 {
    number.wrapping_add(Partition::COUNT as u64)
}

macro_rules! hashed_number {
    ($name:ident) => {
        impl $name {
            /// The number that this identifier gets unless another has it.
            pub fn first_candidate(identifier: &str) -> Self {
                Self(first_candidate(identifier))
            }

            /// The next number to try.
            pub const fn next_candidate(self) -> Self {
                Self(next_candidate(self.0))
            }

            /// Where the rows keyed by this number live.
            pub const fn partition(self) -> Partition {
                Partition::of(self.0)
            }
        }
    };
}

hashed_number!(RoomNumber);
hashed_number!(UserNumber);

macro_rules! counted_number {
    ($name:ident) => {
        impl $name {
            /// The number that follows.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

counted_number!(EventNumber);
counted_number!(StateKeyNumber);
counted_number!(StateVersion);
