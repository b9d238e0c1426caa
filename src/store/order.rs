//! The order of a room's timeline.

use hearth_ports::Position;
use serde::{Deserialize, Serialize};

/// A place in a room's timeline: for a live event its log position and `u32::MAX`; backfilled events take the position
/// of the live event above their gap and count down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Order {
    /// The log position of this event, or of the live event above the gap that it fills.
    pub position: u64,
    /// `u32::MAX` for live events.
    pub within: u32,
}

impl Order {
    /// Before everything.
    pub const START: Self = Self { position: 0, within: 0 };
    /// After everything.
    pub const END: Self = Self { position: u64::MAX, within: u32::MAX };

    /// The place of the live event committed at this position.
    pub const fn live(position: Position) -> Self {
        Self { position: position.0, within: u32::MAX }
    }

    /// 12 bytes that sort like the order.
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let (position, within) = bytes.split_at_mut(8);
        position.copy_from_slice(&self.position.to_be_bytes());
        within.copy_from_slice(&self.within.to_be_bytes());
        bytes
    }

    /// The reverse of [`Self::to_bytes`]; `None` if there are not exactly 12 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (position, within) = bytes.split_at_checked(8)?;
        Some(Self {
            position: u64::from_be_bytes(position.try_into().ok()?),
            within: u32::from_be_bytes(within.try_into().ok()?),
        })
    }
}
