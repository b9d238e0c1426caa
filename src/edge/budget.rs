//! Memory that others make us hold, and places: a bound for all of them together, of which nobody gets much more than is left.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{Error, overload::RETRY_AFTER_MS};

/// Who holds more than a quarter of what is left for everybody gets no more: alone that is a fifth. Who comes later always
/// finds something, after ten who have taken all they could still a tenth; and a proxy that all requests come from can
/// work with a fifth.
const LEFT_FOR_ONE: usize = 4;

/// A bound on memory, in bytes, or on something else that is counted.
pub(crate) struct Budget {
    /// What it is for, in logs.
    name: &'static str,
    bytes_max: usize,
    /// Those who hold something are known by hashes under a secret of this process.
    hasher: RandomState,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    /// Nobody stays here who holds nothing.
    by_one: HashMap<u64, usize>,
    /// Somebody was refused, which is told once until nothing is held.
    is_told: bool,
}

/// What one request holds, until this is dropped.
pub(crate) struct Share {
    budget: Arc<Budget>,
    of: u64,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(name: &'static str, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { name, bytes_max, hasher: RandomState::new(), held: Mutex::default() })
    }

    /// Something to hold memory with; it counts as this account's, server's or address's.
    pub(crate) fn share(self: &Arc<Self>, of: impl Hash) -> Share {
        Share { budget: Arc::clone(self), of: self.hasher.hash_one(of), bytes: 0 }
    }
}

impl Held {
    fn add(&mut self, of: u64, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        let own = self.by_one.entry(of).or_default();
        *own = own.saturating_add(bytes);
    }
}

impl Share {
    /// Holds so many bytes in all; 503 if its owner holds too much already, or nothing is left. Not what is asked for decides
    /// but what is held, so that nothing is too large at all times: one request may go beyond the bound.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), Error> {
        let more = bytes.saturating_sub(self.bytes);
        let Budget { name, bytes_max, .. } = *self.budget;
        let mut held = self.budget.held.lock();
        let own = held.by_one.get(&self.of).copied().unwrap_or(0);
        let left = bytes_max.saturating_sub(held.bytes);
        if left == 0 || own > left / LEFT_FOR_ONE {
            if !std::mem::replace(&mut held.is_told, true) {
                tracing::warn!(name, bytes_max, left, own, more, "some requests are refused");
            }
            return Err(Error::overloaded(RETRY_AFTER_MS));
        }
        held.add(self.of, more);
        self.bytes = self.bytes.saturating_add(more);
        Ok(())
    }

    /// A little more of the same owner's, above the bound too: it is needed to give the rest back.
    pub(crate) fn beside(&self, bytes: usize) -> Self {
        self.budget.held.lock().add(self.of, bytes);
        Self { budget: Arc::clone(&self.budget), of: self.of, bytes }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = self.budget.held.lock();
        held.bytes = held.bytes.saturating_sub(self.bytes);
        if let Some(own) = held.by_one.get_mut(&self.of) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                held.by_one.remove(&self.of);
            }
        }
        if held.bytes == 0 {
            held.is_told = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[test]
    fn nobody_holds_much_more_than_is_left() {
        let budget = Budget::new("test", 1_000);
        // One byte after the other.
        let take_all = |of: u8| {
            let mut share = budget.share(of);
            let held = (1..=1_001).take_while(|bytes| share.hold(*bytes).is_ok()).count();
            (share, held)
        };
        let (first, held) = take_all(1);
        assert_eq!(held, 201);
        assert!(budget.share(1_u8).hold(1).is_err(), "it has its share");
        let (second, held) = take_all(2);
        assert_eq!(held, 160);
        drop(first);
        let (_third, held) = take_all(1);
        assert_eq!(held, 169, "what was given back is there again");
        drop(second);
        assert_eq!(budget.held.lock().bytes, 169);
        assert_eq!(budget.held.lock().by_one.len(), 1);
    }

    #[test]
    fn nothing_is_too_large_at_all_times() {
        let budget = Budget::new("test", 1_000);
        let mut huge = budget.share(1);
        assert!(huge.hold(5_000).is_ok());
        assert!(huge.hold(5_001).is_err(), "once is enough");
        assert!(budget.share(2).hold(1).is_err());
        drop(huge);
        assert!(budget.share(2).hold(5_000).is_ok());
    }
}
