//! A cache over rows that change: what was read before a change must not be remembered after it.

use std::hash::Hash;

use parking_lot::Mutex;
use quick_cache::sync::Cache;

/// Values by key, read through by its owner.
pub(crate) struct Memory<K, V> {
    values: Cache<K, V>,
    /// Rises with every removal. Held over insertions too, so that a removal is either seen by them or undoes them.
    removals: Mutex<u64>,
}

/// When a reading began; see [`Memory::insert`].
#[derive(Clone, Copy)]
pub(crate) struct Begun(u64);

impl<K: Eq + Hash + Clone, V: Clone> Memory<K, V> {
    /// Remembers at most so many.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { values: Cache::new(entries_max), removals: Mutex::new(0) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.values.get(key)
    }

    /// To be called before the rows are read that [`Self::insert`] is made from.
    pub(crate) fn begin(&self) -> Begun {
        Begun(*self.removals.lock())
    }

    /// Remembers, unless something was removed since: it might be this.
    pub(crate) fn insert(&self, begun: Begun, key: K, value: V) {
        let removals = self.removals.lock();
        if *removals == begun.0 {
            self.values.insert(key, value);
        }
    }

    /// Forgets these. To be called after the commit that changes them.
    pub(crate) fn remove<'a>(&self, keys: impl IntoIterator<Item = &'a K>)
    where
        K: 'a,
    {
        let mut removals = self.removals.lock();
        *removals += 1;
        for key in keys {
            self.values.remove(key);
        }
    }

    /// Forgets all that are not to be kept.
    pub(crate) fn retain(&self, keep: impl Fn(&K, &V) -> bool) {
        let mut removals = self.removals.lock();
        *removals += 1;
        self.values.retain(keep);
    }
}
