//! The in-memory engine, for tests.
//!
//! It keeps nothing on disk and has one position counter *per partition*, so that code which wrongly takes positions
//! of two partitions for comparable is found out. Unlike other engines it has no thread: a batch is committed, and its
//! `done` usually called, inside [`Engine::submit`].

use std::{
    collections::{BTreeMap, VecDeque},
    future::ready,
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    Batch, BoxFuture, CommitError, Committed, Done, Engine, Entry, Heads, Key, KeyRange, Page, Partition, Position,
    Table, Unavailable, log_rows,
};

/// An ordered map per table.
#[derive(Default)]
pub struct MemEngine {
    /// Guards rows, counters and the order of results; never held while a `done` runs.
    state: Mutex<State>,
}

/// How a commit is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing of the batch is written.
    Before,
    /// The batch is written, but its author is not told.
    After,
}

#[derive(Default)]
struct State {
    tables: [BTreeMap<Key, Bytes>; Table::ALL.len()],
    partitions: BTreeMap<u8, PartitionState>,
    /// What waits for [`MemEngine::resume`], in order of submission.
    paused: Option<VecDeque<(Batch, Done)>>,
    failures: VecDeque<Failure>,
    /// Positions skipped before each batch.
    gap: u64,
    reads: u64,
}

#[derive(Default)]
struct PartitionState {
    head: Position,
    /// Results in commit order, for the thread that is delivering.
    results: VecDeque<(Done, Result<Committed, CommitError>)>,
    /// Some thread calls this partition's `done`s right now; others leave theirs to it.
    delivering: bool,
}

impl MemEngine {
    /// An empty engine.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// An empty engine that skips so many positions before each batch, as others may.
    pub fn with_gaps(gap: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { gap, ..State::default() }) })
    }

    /// Another engine with the same rows and positions; from here on each goes its own way.
    pub fn fork(&self) -> Arc<Self> {
        let state = self.state.lock();
        let head = |partition: &PartitionState| PartitionState { head: partition.head, ..PartitionState::default() };
        let partitions = state.partitions.iter().map(|(index, partition)| (*index, head(partition))).collect();
        let state = State { tables: state.tables.clone(), partitions, gap: state.gap, ..State::default() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// The next commit is answered with [`CommitError::Unavailable`]. Several calls make several commits fail.
    pub fn fail_next(&self, failure: Failure) {
        self.state.lock().failures.push_back(failure);
    }

    /// Batches submitted from now on wait.
    pub fn pause(&self) {
        self.state.lock().paused.get_or_insert_default();
    }

    /// Commits, in order, what waits, and no longer lets batches wait.
    pub fn resume(&self) {
        let mut touched = Vec::new();
        {
            let mut state = self.state.lock();
            for (batch, done) in state.paused.take().unwrap_or_default() {
                touched.push(batch.partition);
                state.settle(batch, done);
            }
        }
        for partition in touched {
            self.deliver(partition);
        }
    }

    /// How many batches wait for [`Self::resume`].
    pub fn waiting(&self) -> usize {
        self.state.lock().paused.as_ref().map_or(0, VecDeque::len)
    }

    /// How many reads (each `get`, `multi_get` and `scan` is one) there have been.
    pub fn reads(&self) -> u64 {
        self.state.lock().reads
    }

    /// Calls the partition's `done`s until none is left, unless another thread, or a `done` further up in this one,
    /// is at it already and will find ours.
    fn deliver(&self, partition: Partition) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.partition(partition).delivering, true) {
            return;
        }
        let _delivering = Delivering { engine: self, partition };
        while let Some((done, result)) = state.partition(partition).results.pop_front() {
            drop(state);
            done(result);
            state = self.state.lock();
        }
        state.partition(partition).delivering = false;
    }
}

/// Gives the delivery of a partition back if a `done` panics, so that a failing test ends.
struct Delivering<'a> {
    engine: &'a MemEngine,
    partition: Partition,
}

impl Drop for Delivering<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.engine.state.lock().partition(self.partition).delivering = false;
        }
    }
}

impl State {
    fn partition(&mut self, partition: Partition) -> &mut PartitionState {
        self.partitions.entry(partition.index()).or_default()
    }

    /// Commits a batch, or not, and queues the answer.
    fn settle(&mut self, batch: Batch, done: Done) {
        let partition = batch.partition;
        let result = match self.failures.pop_front() {
            None => self.apply(batch),
            Some(Failure::Before) => Err(Unavailable("told to fail before the commit".to_owned()).into()),
            Some(Failure::After) => {
                self.apply(batch).and_then(|_| Err(Unavailable("told to fail after the commit".to_owned()).into()))
            }
        };
        self.partition(partition).results.push_back((done, result));
    }

    fn apply(&mut self, batch: Batch) -> Result<Committed, CommitError> {
        batch.validate()?;
        for required in &batch.require {
            if self.tables[required.table as usize].get(&required.key) != required.value.as_ref() {
                return Err(CommitError::Conflict);
            }
        }
        let gap = self.gap;
        let head = &mut self.partition(batch.partition).head;
        let committed = batch.committed(*head, Position(head.0 + gap));
        *head = committed.last;
        for (table, key) in &batch.delete {
            self.tables[*table as usize].remove(key);
        }
        for put in &batch.put {
            let row = put.filled(committed.first);
            self.tables[put.table as usize].insert(row.key, row.value);
        }
        for row in log_rows(batch.partition, committed.last, &batch.log_items(committed.first)) {
            self.tables[Table::Tl as usize].insert(row.key, row.value);
        }
        Ok(committed)
    }

    fn scan(&mut self, table: Table, range: &KeyRange, page: Page) -> Vec<Entry> {
        self.reads += 1;
        let until = range.until.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        if range.until.as_ref().is_some_and(|until| *until <= range.from) {
            return Vec::new();
        }
        let rows = self.tables[table as usize].range::<Key, _>((Bound::Included(&range.from), until));
        if page.reverse { take_page(rows.rev(), page) } else { take_page(rows, page) }
    }
}

/// Rows until one of the page's bounds is reached.
fn take_page<'a>(rows: impl Iterator<Item = (&'a Key, &'a Bytes)>, page: Page) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for (key, value) in rows.take(page.rows_max) {
        bytes += key.len() + value.len();
        entries.push(Entry { key: key.clone(), value: value.clone() });
        if bytes >= page.bytes_max {
            break;
        }
    }
    entries
}

impl Engine for MemEngine {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, Unavailable>> {
        let mut state = self.state.lock();
        state.reads += 1;
        Box::pin(ready(Ok(state.tables[table as usize].get(key).cloned())))
    }

    fn multi_get<'a>(
        &'a self,
        table: Table,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, Unavailable>> {
        let mut state = self.state.lock();
        state.reads += 1;
        let rows = &state.tables[table as usize];
        Box::pin(ready(Ok(keys.iter().map(|key| rows.get(key).cloned()).collect())))
    }

    fn scan<'a>(&'a self, table: Table, range: KeyRange, page: Page) -> BoxFuture<'a, Result<Vec<Entry>, Unavailable>> {
        Box::pin(ready(Ok(self.state.lock().scan(table, &range, page))))
    }

    fn submit(&self, batch: Batch, done: Done) {
        let partition = batch.partition;
        {
            let mut state = self.state.lock();
            if let Some(waiting) = &mut state.paused {
                waiting.push_back((batch, done));
                return;
            }
            state.settle(batch, done);
        }
        self.deliver(partition);
    }

    fn heads(&self) -> BoxFuture<'_, Result<Heads, Unavailable>> {
        let mut heads = [Position::ZERO; Partition::COUNT];
        for (index, partition) in &self.state.lock().partitions {
            heads[usize::from(*index)] = partition.head;
        }
        Box::pin(ready(Ok(Heads(heads))))
    }
}

#[cfg(test)]
mod tests {
    use futures_channel::oneshot;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::{Put, Requirement, commit, suite};

    #[test]
    fn conforms() {
        suite::run(|| MemEngine::new());
    }

    #[test]
    fn conforms_with_gaps() {
        suite::run(|| MemEngine::with_gaps(3));
    }

    fn one_row(value: &'static str) -> Batch {
        let put = Put {
            table: Table::Mi,
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(value.as_bytes()),
            fill: smallvec::SmallVec::new(),
        };
        Batch { put: vec![put], ..Batch::new(Partition::of(1)) }
    }

    fn read(engine: &MemEngine) -> Option<Bytes> {
        engine.get(Table::Mi, b"key").now_or_never().expect("memory never waits").expect("memory never fails")
    }

    #[test]
    fn a_commit_fails_as_told() {
        let engine = MemEngine::new();
        engine.fail_next(Failure::Before);
        engine.fail_next(Failure::After);
        for expected in [None, Some("after")] {
            let result = commit(&*engine, one_row("after")).now_or_never().expect("nothing is paused");
            assert!(matches!(result, Err(CommitError::Unavailable(_))));
            assert_eq!(read(&engine).as_deref(), expected.map(str::as_bytes));
        }
        assert!(commit(&*engine, one_row("fine")).now_or_never().expect("nothing is paused").is_ok());
    }

    #[test]
    fn a_fork_goes_its_own_way_from_where_it_was_made() {
        let engine = MemEngine::new();
        let commit = |engine: &MemEngine, value| {
            commit(engine, one_row(value)).now_or_never().expect("nothing is paused").expect("nothing fails")
        };
        let first = commit(&engine, "first");
        let fork = engine.fork();
        let here = commit(&engine, "here");
        let there = commit(&fork, "there");
        assert_eq!((here.prev, there.prev), (first.last, first.last));
        assert_eq!((read(&engine), read(&fork)), (Some("here".into()), Some("there".into())));
    }

    #[test]
    fn paused_commits_wait_in_order() {
        let engine = MemEngine::new();
        engine.pause();
        let (sender, mut receiver) = oneshot::channel();
        engine.submit(one_row("first"), Box::new(move |result| sender.send(result.is_ok()).expect("the test waits")));
        let mut second = one_row("second");
        second.require =
            vec![Requirement { table: Table::Mi, key: Bytes::from_static(b"key"), value: Some("first".into()) }];
        let mut waiting = Box::pin(commit(&*engine, second));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!((engine.waiting(), read(&engine)), (2, None));
        assert_eq!(receiver.try_recv(), Ok(None));
        engine.resume();
        assert_eq!(receiver.try_recv(), Ok(Some(true)));
        assert!(waiting.now_or_never().expect("it was resumed").is_ok());
        assert_eq!(read(&engine).as_deref(), Some(&b"second"[..]));
    }
}
