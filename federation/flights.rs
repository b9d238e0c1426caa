//! One at a time: who wants the same thing as somebody else waits for it, and looks again whether it is there.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks by key, which exist while somebody holds or waits for them.
pub(crate) struct Flights<K: Eq + Hash + Clone> {
    /// Guards the map only; held for a look-up, never while waiting.
    locks: Mutex<HashMap<K, Weak<AsyncMutex<()>>>>,
}

/// The right to do it; the next in line gets it when this is dropped.
pub(crate) struct Flight<'a, K: Eq + Hash + Clone> {
    /// Fields are dropped in the order of their declaration: this before the seat, which counts who else holds the lock.
    _guard: OwnedMutexGuard<()>,
    _seat: Seat<'a, K>,
}

/// Removes the key's lock when nobody has a seat any more.
struct Seat<'a, K: Eq + Hash + Clone> {
    flights: &'a Flights<K>,
    key: K,
    /// `None` only while being dropped.
    lock: Option<Arc<AsyncMutex<()>>>,
}

impl<K: Eq + Hash + Clone> Flights<K> {
    pub(crate) fn new() -> Self {
        Self { locks: Mutex::new(HashMap::new()) }
    }

    /// Waits until nobody else does it. Dropping the future gives up the place in the line.
    pub(crate) async fn enter(&self, key: &K) -> Flight<'_, K> {
        let lock = {
            let mut locks = self.locks.lock();
            let present = locks.get(key).and_then(Weak::upgrade);
            present.unwrap_or_else(|| {
                let lock = Arc::new(AsyncMutex::new(()));
                locks.insert(key.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        let seat = Seat { flights: self, key: key.clone(), lock: Some(Arc::clone(&lock)) };
        Flight { _guard: lock.lock_owned().await, _seat: seat }
    }
}

impl<K: Eq + Hash + Clone> Drop for Seat<'_, K> {
    fn drop(&mut self) {
        let mut locks = self.flights.locks.lock();
        self.lock = None;
        if locks.get(&self.key).is_some_and(|lock| lock.strong_count() == 0) {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_by_key_and_nothing_stays_behind() {
        let flights = Flights::new();
        let first = flights.enter(&1).await;
        let other = flights.enter(&2).await;
        let mut second = pin!(flights.enter(&1));
        assert!(second.as_mut().now_or_never().is_none());
        {
            // Somebody who gives up while waiting neither gets nor breaks it.
            let mut third = pin!(flights.enter(&1));
            assert!(third.as_mut().now_or_never().is_none());
        }
        drop(first);
        let second = second.await;
        drop((second, other));
        assert!(flights.locks.lock().is_empty());
    }
}
