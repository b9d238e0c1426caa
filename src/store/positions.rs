//! Where a reader is in the logs of all partitions, in short.

use std::fmt;

use hearth_ports::{Heads, Partition, Position};

/// A position for each partition: one number, and those that differ from it.
///
/// With one counter for all partitions (RocksDB) nothing differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    base: Position,
    /// By rising partition; none is equal to `base`.
    differing: Vec<(u8, Position)>,
}

/// A text that is not [`Positions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a list of positions")]
pub struct BadPositions;

impl Positions {
    /// Before everything.
    pub const START: Self = Self { base: Position::ZERO, differing: Vec::new() };

    /// The same position in every partition.
    pub fn all(base: Position) -> Self {
        Self { base, differing: Vec::new() }
    }

    /// The position in one partition.
    pub fn at(&self, partition: Partition) -> Position {
        let found = self.differing.iter().find(|(index, _)| *index == partition.index());
        found.map_or(self.base, |(_, position)| *position)
    }

    /// Every partition's position, by [`Partition::index`]: for those who look many up.
    pub fn to_array(&self) -> [Position; Partition::COUNT] {
        let mut all = [self.base; Partition::COUNT];
        for (index, position) in &self.differing {
            all[usize::from(*index)] = *position;
        }
        all
    }

    /// With one partition's position raised to this one, unless it is there already.
    #[must_use]
    pub fn raised(&self, partition: Partition, to: Position) -> Self {
        let mut all = self.to_array();
        let at = &mut all[usize::from(partition.index())];
        *at = to.max(*at);
        Self::from(&Heads(all))
    }

    /// Whether nothing of `other` is above this.
    pub fn covers(&self, other: &Self) -> bool {
        if let (Some(here), Some(there)) = (self.single(), other.single()) {
            return there <= here;
        }
        self.to_array().iter().zip(other.to_array()).all(|(here, there)| there <= *here)
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
        let mut all = [Position(base); Partition::COUNT];
        for part in parts {
            let (index, above) = part.split_once('-').ok_or(BadPositions)?;
            let index: usize = index.parse().map_err(|_| BadPositions)?;
            let above: u64 = above.parse().map_err(|_| BadPositions)?;
            let position = base.checked_add(above).ok_or(BadPositions)?;
            *all.get_mut(index).ok_or(BadPositions)? = Position(position);
        }
        Ok(Self::from(&Heads(all)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_back() {
        let mut all = [Position(7); Partition::COUNT];
        for (index, position) in [(0, 9), (63, u64::MAX)] {
            all[index] = Position(position);
        }
        for positions in [Positions::START, Positions::all(Position(12)), Positions::from(&Heads(all))] {
            assert_eq!(positions.to_string().parse(), Ok(positions));
        }
        for bad in ["", "x", "1.", "1.0", "1.64-1", "1.0-", "18446744073709551615.0-1", "1.-1-1", "-1"] {
            assert_eq!(bad.parse::<Positions>(), Err(BadPositions), "{bad}");
        }
    }

    #[test]
    fn raising_one_partition_leaves_the_others() {
        let at =
            Positions::all(Position(3)).raised(Partition::of(5), Position(8)).raised(Partition::of(5), Position(4));
        assert_eq!((at.at(Partition::of(5)), at.at(Partition::of(6)), at.single()), (Position(8), Position(3), None));
        assert!(at.covers(&Positions::all(Position(3))));
        assert!(!Positions::all(Position(3)).covers(&at));
    }
}
