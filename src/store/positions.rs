//! Where a reader is in the logs of all partitions, in short.

use std::fmt;

use hearth_ports::{Heads, Partition, Position};
use smallvec::SmallVec;

/// A position for each partition: one number, and those that differ from it.
///
/// With one counter for all partitions (RocksDB) nothing differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    base: Position,
    differing: SmallVec<[(u8, Position); 2]>,
}

/// A text that is not [`Positions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a list of positions")]
pub struct BadPositions;

impl Positions {
    /// Before everything.
    pub const START: Self = Self { base: Position::ZERO, differing: SmallVec::new_const() };

    /// The same position in every partition.
    pub fn all(base: Position) -> Self {
        Self { base, differing: SmallVec::new() }
    }

    /// The position in one partition.
    pub fn at(&self, partition: Partition) -> Position {
        let found = self.differing.iter().find(|(index, _)| *index == partition.index());
        found.map_or(self.base, |(_, position)| *position)
    }

    /// The one position of all partitions, if there is one.
    pub fn single(&self) -> Option<Position> {
        self.differing.is_empty().then_some(self.base)
    }
}

impl From<&Heads> for Positions {
    fn from(Heads(heads): &Heads) -> Self {
        // The lowest is the base: partitions that nothing was ever written to share it.
        let base = heads.iter().copied().min().unwrap_or_default();
        let differing = heads.iter().enumerate().filter(|(_, position)| **position != base);
        Self { base, differing: differing.map(|(index, position)| (index as u8, *position)).collect() }
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base.0)?;
        for (index, position) in &self.differing {
            write!(f, ".{index}-{}", position.0.wrapping_sub(self.base.0))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Positions {
    type Err = BadPositions;

    fn from_str(text: &str) -> Result<Self, BadPositions> {
        let mut parts = text.split('.');
        let base: u64 = parts.next().and_then(|part| part.parse().ok()).ok_or(BadPositions)?;
        let mut differing = SmallVec::new();
        for part in parts {
            let (index, above) = part.split_once('-').ok_or(BadPositions)?;
            let index: u8 = index.parse().map_err(|_| BadPositions)?;
            let above: u64 = above.parse().map_err(|_| BadPositions)?;
            if usize::from(index) >= Partition::COUNT || differing.len() >= Partition::COUNT {
                return Err(BadPositions);
            }
            differing.push((index, Position(base.checked_add(above).ok_or(BadPositions)?)));
        }
        Ok(Self { base: Position(base), differing })
    }
}
