//! How much of what waits goes into one transaction. A destination that does not take one for what is in it gets the items
//! one by one, so that only the one that it does not take is lost to it.

/// The largest body of a transaction, in bytes, unless a single item is larger. Web servers take a mebibyte if nobody tells
/// them otherwise; what is left is for an EDU of receipts that turns out long, and for what is around the items.
const BODY_BYTES_MAX: usize = 900_000;

/// However little a destination takes, so much is tried again, in bytes: two of the largest items.
const BODY_BYTES_MIN: usize = 2 * 65_536;

/// An item is given up after it was refused alone so often in a row. The pauses between are of half a minute and more: a web
/// server that is put in order meanwhile costs nothing.
const REFUSALS_MAX: u32 = 3;

/// What one transaction may hold beside the numbers of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) items_max: usize,
    pub(super) bytes_max: usize,
}

impl Size {
    /// As many bytes for what must not keep the rest waiting.
    pub(super) fn half(self) -> Self {
        Self { bytes_max: self.bytes_max / 2, ..self }
    }
}

/// What a destination takes at once.
#[derive(Debug)]
pub(super) struct Portion {
    /// So many items go alone: those of a transaction that was refused.
    alone: usize,
    /// How often in a row the item was refused that now goes alone.
    refusals: u32,
    bytes_max: usize,
}

impl Default for Portion {
    fn default() -> Self {
        Self { alone: 0, refusals: 0, bytes_max: BODY_BYTES_MAX }
    }
}

impl Portion {
    /// Of the next transaction.
    pub(super) fn size(&self) -> Size {
        Size { items_max: if self.alone > 0 { 1 } else { usize::MAX }, bytes_max: self.bytes_max }
    }

    /// A transaction was taken.
    pub(super) fn taken(&mut self) {
        self.alone = self.alone.saturating_sub(1);
        self.refusals = 0;
    }

    /// A transaction of several items was not taken; `too_large`: for its size alone.
    pub(super) fn refused(&mut self, items: usize, body_bytes: usize, too_large: bool) {
        (self.alone, self.refusals) = (items, 0);
        if too_large {
            self.bytes_max = (body_bytes / 2).max(BODY_BYTES_MIN);
        }
    }

    /// An item was not taken that went alone. Whether it is to be given up.
    pub(super) fn refused_alone(&mut self) -> bool {
        self.refusals += 1;
        if self.refusals < REFUSALS_MAX {
            return false;
        }
        self.taken();
        true
    }
}
