//! Whose turn it is: a bounded number of tasks, with a reserve for destinations that are known to answer.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

use super::{Destination, Outbound};

/// Tasks at once for destinations that answered last time. Each holds a transaction and a connection.
const PROVEN_MAX: usize = 512;

/// Tasks at once for those that did not, or were not asked yet. They may all hang without harm to the others.
const OTHERS_MAX: usize = 256;

/// Steps of one turn; then others have theirs. A transaction is two.
const TURN_STEPS: usize = 8;

/// The tasks that run and the destinations that wait for one.
#[derive(Default)]
pub(super) struct Slots {
    proven: Mutex<Lane>,
    others: Mutex<Lane>,
}

#[derive(Default)]
struct Lane {
    running: usize,
    /// Each waits once at most.
    waiting: VecDeque<Arc<Destination>>,
}

impl Slots {
    fn lane(&self, is_proven: bool) -> (&Mutex<Lane>, usize) {
        if is_proven { (&self.proven, PROVEN_MAX) } else { (&self.others, OTHERS_MAX) }
    }

    /// Takes a place if there is one; else the destination waits for it.
    fn enter(&self, is_proven: bool, destination: &Arc<Destination>) -> bool {
        let (lane, running_max) = self.lane(is_proven);
        let mut lane = lane.lock();
        if lane.running < running_max {
            lane.running += 1;
            return true;
        }
        lane.waiting.push_back(destination.clone());
        false
    }

    /// Gives a place to the one who waits longest, or back.
    fn leave(&self, is_proven: bool) -> Option<Arc<Destination>> {
        let mut lane = self.lane(is_proven).0.lock();
        let next = lane.waiting.pop_front();
        if next.is_none() {
            lane.running -= 1;
        }
        next
    }
}

impl Outbound {
    /// Lets a destination be dealt with if there is something to do: now, when it is due, or when it is its turn.
    pub(super) fn wake(self: &Arc<Self>, destination: &Arc<Destination>) {
        let now_ms = self.parts.clock.now_ms();
        let mut queue = destination.queue.lock();
        let Some(due_at_ms) = queue.due_at_ms().filter(|_| !queue.scheduled) else { return };
        if due_at_ms > now_ms {
            drop(queue);
            self.timers.lock().insert((due_at_ms, destination.name.clone()));
            return;
        }
        queue.scheduled = true;
        let is_proven = queue.is_proven();
        drop(queue);
        if self.slots.enter(is_proven, destination) {
            self.begin_turn(is_proven, destination.clone());
        }
    }

    /// Wakes those whose time has come.
    pub(super) fn wake_due(self: &Arc<Self>, now_ms: u64) {
        let due: Vec<_> = {
            let mut timers = self.timers.lock();
            std::iter::from_fn(|| match timers.first() {
                Some((due_at_ms, _)) if *due_at_ms <= now_ms => timers.pop_first(),
                _ => None,
            })
            .collect()
        };
        for (_, server) in due {
            let known = self.destinations.lock().get(&server).cloned();
            if let Some(destination) = known {
                self.wake(&destination);
            }
        }
    }

    fn begin_turn(self: &Arc<Self>, is_proven: bool, destination: Arc<Destination>) {
        let turn = Turn { outbound: self.clone(), is_proven, destination, ended: false };
        tokio::spawn(turn.run());
    }
}

/// The task of a destination.
struct Turn {
    outbound: Arc<Outbound>,
    is_proven: bool,
    destination: Arc<Destination>,
    ended: bool,
}

impl Turn {
    async fn run(mut self) {
        for _ in 0..TURN_STEPS {
            if !self.outbound.step(&self.destination).await {
                break;
            }
        }
        self.ended = true;
    }
}

impl Drop for Turn {
    /// The place is given on, and the destination comes back if it has more to do, also after a panic. A task that is
    /// dropped otherwise is so because the process ends.
    fn drop(&mut self) {
        let Self { outbound, is_proven, destination, ended } = self;
        let panicked = std::thread::panicking();
        if !*ended && !panicked {
            return;
        }
        {
            let mut queue = destination.queue.lock();
            queue.scheduled = false;
            if panicked {
                queue.stumbled(outbound.parts.clock.now_ms());
            }
        }
        if let Some(next) = outbound.slots.leave(*is_proven) {
            outbound.begin_turn(*is_proven, next);
        }
        outbound.wake(destination);
    }
}
