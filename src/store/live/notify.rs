//! Waking those who wait, without data: who is woken looks again.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

/// Something that changes, and those who wait for it to.
#[derive(Debug, Default)]
pub(super) struct Notify {
    /// Rises with each change.
    changes: AtomicU64,
    /// Guards who is woken at the next change. Wakers are never woken or dropped under it: they may come back here.
    waiters: Mutex<Waiters>,
}

/// A waiter costs 16 bytes here and the 40 of its [`Changed`].
#[derive(Debug, Default)]
struct Waiters {
    /// Each belongs to a [`Changed`] that was polled, or is free. A waker is there until it is woken.
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Notify {
    /// Wakes everybody who began to wait before this.
    pub(super) fn notify(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let woken: Vec<Waker> = self.waiters.lock().places.iter_mut().filter_map(Option::take).collect();
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Resolves at the first change after it was made: make it, look, then wait for it, and no change is missed.
#[derive(Debug)]
#[must_use = "it does nothing unless it is awaited"]
pub struct Changed {
    notify: Arc<Notify>,
    seen: u64,
    place: Option<usize>,
}

impl Changed {
    pub(super) fn new(notify: Arc<Notify>) -> Self {
        let seen = notify.changes.load(Ordering::SeqCst);
        Self { notify, seen, place: None }
    }

    /// Whether there has been a change.
    pub fn is_changed(&self) -> bool {
        self.notify.changes.load(Ordering::SeqCst) != self.seen
    }
}

impl Future for Changed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let waker = context.waker().clone();
        let mut waiters = this.notify.waiters.lock();
        // Looked at under the lock: who counts a change after this finds the waker.
        if this.is_changed() {
            return Poll::Ready(());
        }
        let place = *this.place.get_or_insert_with(|| {
            waiters.free.pop().unwrap_or_else(|| {
                waiters.places.push(None);
                waiters.places.len() - 1
            })
        });
        let before = waiters.places[place].replace(waker);
        drop(waiters);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let mut waiters = self.notify.waiters.lock();
        let waker = waiters.places[place].take();
        waiters.free.push(place);
        if waiters.free.len() == waiters.places.len() {
            // Nobody waits: give the memory back.
            *waiters = Waiters::default();
        }
        drop(waiters);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(changed: &mut Changed, count: &Arc<Count>) -> bool {
        let waker = Waker::from(count.clone());
        Pin::new(changed).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn a_change_before_the_first_poll_counts() {
        let notify = Arc::new(Notify::default());
        let mut changed = Changed::new(notify.clone());
        notify.notify();
        assert!(poll(&mut changed, &Arc::default()));
    }

    #[test]
    fn everybody_is_woken_once() {
        let notify = Arc::new(Notify::default());
        let count: Arc<Count> = Arc::default();
        let mut waiting: Vec<_> = (0..3).map(|_| Changed::new(notify.clone())).collect();
        for changed in &mut waiting {
            assert!(!poll(changed, &count));
            assert!(!poll(changed, &count));
        }
        notify.notify();
        notify.notify();
        assert_eq!(count.0.load(Ordering::SeqCst), 3);
        assert!(waiting.iter_mut().all(|changed| poll(changed, &count)));
    }

    #[test]
    fn places_are_used_again_and_given_back() {
        let notify = Arc::new(Notify::default());
        let count: Arc<Count> = Arc::default();
        let mut kept = Changed::new(notify.clone());
        assert!(!poll(&mut kept, &count));
        for _ in 0..100 {
            assert!(!poll(&mut Changed::new(notify.clone()), &count));
        }
        assert_eq!(notify.waiters.lock().places.len(), 2);
        drop(kept);
        assert_eq!(notify.waiters.lock().places.capacity(), 0);
        notify.notify();
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "who left is not woken");
    }

    #[test]
    fn no_change_is_missed_between_threads() {
        let notify = Arc::new(Notify::default());
        let value = Arc::new(AtomicU64::new(0));
        const TO: u64 = 20_000;
        let writer = std::thread::spawn({
            let (notify, value) = (notify.clone(), value.clone());
            move || {
                (0..TO).for_each(|_| {
                    value.fetch_add(1, Ordering::SeqCst);
                    notify.notify();
                })
            }
        });
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            let mut changed = Changed::new(notify.clone());
            if value.load(Ordering::SeqCst) == TO {
                break;
            }
            while Pin::new(&mut changed).poll(&mut Context::from_waker(&waker)).is_pending() {
                std::thread::park();
            }
        }
        writer.join().expect("the writer does not panic");
    }

    struct Unpark(std::thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
}
