//! One transaction of a server at a time, and the answer to the last ones, for servers that have not heard it.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Transactions of one server that are being taken or wait: a server that is well sends the next one after the answer
/// to the last. Each may hold 10 MiB.
const INSIDE_MAX: usize = 4;

/// Servers whose last answer is kept.
const ANSWERS_MAX: usize = 2_048;

/// The largest answer that is kept, in bytes: that of fifty events with some refused. With [`ANSWERS_MAX`] it is 16 MiB.
const ANSWER_BYTES_MAX: usize = 8 << 10;

/// Transactions of all servers.
///
/// The memory of answers is only a saving. Taking a transaction again does no harm: events are known by their ids, and
/// news of what is now says the same twice.
pub(super) struct Transactions {
    /// Guards the map only; held for a look-up, never while waiting.
    inside: Mutex<HashMap<OwnedServerName, Inside>>,
    answers: Cache<OwnedServerName, Answer>,
    hasher: RandomState,
}

struct Inside {
    lock: Arc<AsyncMutex<()>>,
    count: usize,
}

/// The last answer to a server.
#[derive(Clone)]
struct Answer {
    transaction: u64,
    bytes: Bytes,
}

/// The right to take a transaction of a server.
pub(super) struct Turn<'a> {
    /// Fields are dropped in the order of their declaration: the lock is free before the seat is.
    _guard: OwnedMutexGuard<()>,
    seat: Seat<'a>,
    transaction: u64,
}

/// A place in the line of a server.
struct Seat<'a> {
    transactions: &'a Transactions,
    origin: OwnedServerName,
}

/// What is to be done with a transaction.
pub(super) enum Entry<'a> {
    /// It is new.
    New(Turn<'a>),
    /// It was answered with this before.
    Repeated(Bytes),
    /// The server sends too many at once.
    Crowded,
}

impl Transactions {
    pub(super) fn new() -> Self {
        Self { inside: Mutex::default(), answers: Cache::new(ANSWERS_MAX), hasher: RandomState::new() }
    }

    /// Waits until no other transaction of the server is being taken. A repetition has the same id and body.
    pub(super) async fn enter(&self, origin: &ServerName, id: &str, body: &Bytes) -> Entry<'_> {
        let Some((seat, lock)) = self.seat(origin) else { return Entry::Crowded };
        let guard = lock.lock_owned().await;
        let transaction = self.hasher.hash_one((id, body));
        match self.answers.get(origin).filter(|answer| answer.transaction == transaction) {
            Some(answer) => Entry::Repeated(answer.bytes),
            None => Entry::New(Turn { _guard: guard, seat, transaction }),
        }
    }

    fn seat(&self, origin: &ServerName) -> Option<(Seat<'_>, Arc<AsyncMutex<()>>)> {
        let mut inside = self.inside.lock();
        let new = || Inside { lock: Arc::default(), count: 0 };
        let line = inside.entry(origin.to_owned()).or_insert_with(new);
        if line.count == INSIDE_MAX {
            return None;
        }
        line.count += 1;
        Some((Seat { transactions: self, origin: origin.to_owned() }, Arc::clone(&line.lock)))
    }
}

impl Turn<'_> {
    /// Keeps the answer for when it is asked for again.
    pub(super) fn answered(self, bytes: &Bytes) {
        if bytes.len() <= ANSWER_BYTES_MAX {
            let answer = Answer { transaction: self.transaction, bytes: bytes.clone() };
            self.seat.transactions.answers.insert(self.seat.origin.clone(), answer);
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut inside = self.transactions.inside.lock();
        if let Some(line) = inside.get_mut(&self.origin) {
            line.count -= 1;
            if line.count == 0 {
                inside.remove(&self.origin);
            }
        }
    }
}
