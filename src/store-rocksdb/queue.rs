//! The queue of batches that wait for the committer.

use std::{collections::VecDeque, time::Instant};

use hearth_ports::{Batch, Done, Unavailable};
use parking_lot::{Condvar, Mutex};

/// The most batches that one group holds: enough to share a sync among all who wait, few enough to answer soon.
const GROUP_BATCHES_MAX: usize = 512;
/// The most bytes that one group holds, unless a single batch has more.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// The most batches between submission and answer. At this length the wait is seconds: better to refuse.
const QUEUE_BATCHES_MAX: usize = 65_536;
/// The most bytes between submission and answer: part of the memory budget of a small machine.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// What a batch costs beside its keys and values.
const BATCH_OVERHEAD_BYTES: usize = 256;

/// A batch on its way.
pub(crate) struct Submitted {
    pub(crate) batch: Batch,
    pub(crate) ticket: Ticket,
}

/// What remains of a batch until it is answered.
pub(crate) struct Ticket {
    pub(crate) done: Done,
    pub(crate) since: Instant,
    /// What it counts in the queue; nothing if it was refused.
    pub(crate) bytes: Option<usize>,
}

/// Batches in order of submission. It is bounded in what is under way, that is not answered, not only in what waits.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Something was added, or the queue was closed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Submitted>,
    under_way: usize,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// Adds a batch, or says why not.
    pub(crate) fn push(&self, batch: Batch, done: Done) -> Result<(), (Ticket, Unavailable)> {
        let bytes = batch.size_bytes() + BATCH_OVERHEAD_BYTES;
        let mut ticket = Ticket { done, since: Instant::now(), bytes: None };
        let mut state = self.state.lock();
        if state.closed {
            return Err((ticket, Unavailable("the engine is closing".to_owned())));
        }
        if state.under_way >= QUEUE_BATCHES_MAX || state.bytes + bytes > QUEUE_BYTES_MAX {
            return Err((ticket, Unavailable("overloaded".to_owned())));
        }
        state.under_way += 1;
        state.bytes += bytes;
        metrics::gauge!("hearth_store_queue_bytes").set(state.bytes as f64);
        ticket.bytes = Some(bytes);
        state.waiting.push_back(Submitted { batch, ticket });
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for at least one batch and takes as many as make a group. Empty only once the queue is closed and drained.
    pub(crate) fn take_group(&self) -> Vec<Submitted> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() && !state.closed {
            self.changed.wait(&mut state);
        }
        let mut bytes = 0;
        let fits = state.waiting.iter().take(GROUP_BATCHES_MAX).take_while(|submitted| {
            bytes += submitted.ticket.bytes.unwrap_or_default();
            bytes <= GROUP_BYTES_MAX
        });
        let count = fits.count().max(1).min(state.waiting.len());
        state.waiting.drain(..count).collect()
    }

    /// A batch with these [`Ticket::bytes`] has been answered.
    pub(crate) fn release(&self, bytes: Option<usize>) {
        let Some(bytes) = bytes else { return };
        let mut state = self.state.lock();
        state.under_way -= 1;
        state.bytes -= bytes;
        metrics::gauge!("hearth_store_queue_bytes").set(state.bytes as f64);
    }

    /// Takes no more batches; those that wait are still handed to the committer.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use hearth_ports::{LogItem, Partition};

    use super::*;

    fn push(queue: &Queue, bytes: usize) -> Result<(), Unavailable> {
        let batch =
            Batch { log: vec![LogItem { index: 0, body: vec![0; bytes].into() }], ..Batch::new(Partition::of(0)) };
        queue.push(batch, Box::new(|_| {})).map_err(|(_, reason)| reason)
    }

    #[test]
    fn groups_are_bounded_and_leave_nothing_behind() {
        let queue = Queue::default();
        (0..GROUP_BATCHES_MAX + 5).for_each(|_| push(&queue, 10).expect("it is not full"));
        assert_eq!(queue.take_group().len(), GROUP_BATCHES_MAX);
        assert_eq!(queue.take_group().len(), 5);
        // Three of these are more than a group holds; the larger one goes alone.
        for bytes in [3 << 20, 3 << 20, 3 << 20, 9 << 20, 1] {
            push(&queue, bytes).expect("it is not full");
        }
        queue.close();
        let groups: Vec<usize> = std::iter::repeat_with(|| queue.take_group().len()).take(5).collect();
        assert_eq!(groups, [2, 1, 1, 1, 0]);
        assert!(push(&queue, 1).is_err(), "a closed queue takes nothing");
    }

    #[test]
    fn what_is_not_answered_counts() {
        let queue = Queue::default();
        let taken = (0..).take_while(|_| push(&queue, 8 << 20).is_ok()).count();
        assert_eq!(taken, QUEUE_BYTES_MAX / (8 << 20) - 1, "the overhead counts too");
        let group = queue.take_group();
        assert!(push(&queue, 8 << 20).is_err(), "what is being committed still counts");
        queue.release(group[0].ticket.bytes);
        assert!(push(&queue, 8 << 20).is_ok());

        let queue = Queue::default();
        assert_eq!((0..).take_while(|_| push(&queue, 0).is_ok()).count(), QUEUE_BATCHES_MAX);
    }
}
