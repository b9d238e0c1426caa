//! Turns at what is costly, shared between those who want one: who wants many keeps nobody else out.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::timeout,
};

/// How turns are shared out.
#[derive(Clone, Copy)]
pub(crate) struct Shares {
    /// Turns at once.
    pub(crate) turns: usize,
    /// Those that one party has at once.
    pub(crate) turns_of_one: usize,
    /// Who may wait, of all parties together.
    pub(crate) waiting: usize,
    /// Who may wait of one party.
    pub(crate) waiting_of_one: usize,
    /// How long a turn is waited for.
    pub(crate) patience: Duration,
}

/// Turns of which each party has a share. Parties get them in the order in which they come; of one party only as many as
/// its share stand in that order, the others behind them.
pub(crate) struct Turns<K> {
    shares: Shares,
    turns: Semaphore,
    waiting: Semaphore,
    parties: Mutex<HashMap<K, Weak<Party>>>,
}

struct Party {
    turns: Arc<Semaphore>,
    waiting: Semaphore,
}

/// A turn; it ends when this is dropped.
pub(crate) struct Turn<'a> {
    _turn: SemaphorePermit<'a>,
    _share: OwnedSemaphorePermit,
    _party: Arc<Party>,
}

impl<K: Hash + Eq + Clone> Turns<K> {
    pub(crate) fn new(shares: Shares) -> Self {
        let (turns, waiting) = (Semaphore::new(shares.turns), Semaphore::new(shares.waiting));
        Self { shares, turns, waiting, parties: Mutex::default() }
    }

    /// A turn for this party; `None`: there was none for too long, or too many wait.
    pub(crate) async fn take(&self, party: &K) -> Option<Turn<'_>> {
        let party = self.party(party);
        let _waits = (self.waiting.try_acquire().ok()?, party.waiting.try_acquire().ok()?);
        let turn = async {
            // Nobody closes them.
            let share = Arc::clone(&party.turns).acquire_owned().await.ok()?;
            let turn = self.turns.acquire().await.ok()?;
            Some(Turn { _turn: turn, _share: share, _party: Arc::clone(&party) })
        };
        timeout(self.shares.patience, turn).await.ok()?
    }

    fn party(&self, party: &K) -> Arc<Party> {
        let mut parties = self.parties.lock();
        if let Some(known) = parties.get(party).and_then(Weak::upgrade) {
            return known;
        }
        // Those that stay have a turn or wait for one: they are few.
        parties.retain(|_, known| known.strong_count() > 0);
        let (turns, waiting) = (self.shares.turns_of_one, self.shares.waiting_of_one);
        let known = Arc::new(Party { turns: Arc::new(Semaphore::new(turns)), waiting: Semaphore::new(waiting) });
        parties.insert(party.clone(), Arc::downgrade(&known));
        known
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_wants_many_keeps_nobody_else_out() {
        let turns =
            Turns::new(Shares { turns: 4, turns_of_one: 2, waiting: 100, waiting_of_one: 50, patience: PATIENCE });
        let greedy = join_all((0..50).map(|_| turns.take(&"greedy"))).await;
        assert_eq!(greedy.iter().flatten().count(), 2);
        let start = Instant::now();
        let others = (turns.take(&"other").await, turns.take(&"third").await);
        assert!(others.0.is_some() && others.1.is_some());
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(turns.take(&"fourth").await.is_none(), "four have a turn");
        assert_eq!(start.elapsed(), PATIENCE);
        drop(greedy);
        assert!(turns.take(&"fourth").await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_than_may() {
        let turns = Turns::new(Shares { turns: 1, turns_of_one: 1, waiting: 3, waiting_of_one: 2, patience: PATIENCE });
        let first = turns.take(&0).await.unwrap();
        let start = Instant::now();
        let take = async |party| (turns.take(&party).await.is_some(), start.elapsed());
        let asked = join_all([1, 1, 1, 2, 3].map(take)).await;
        let (waited, refused) = ((false, PATIENCE), (false, Duration::ZERO));
        assert_eq!(asked, [waited, waited, refused, waited, refused]);
        drop(first);
        assert!(turns.take(&4).await.is_some());
        assert_eq!(turns.parties.lock().len(), 1, "who is gone is forgotten");
    }
}
