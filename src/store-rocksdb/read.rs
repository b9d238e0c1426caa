//! Reads: at once from memory, and from disk on a few threads of their own.
//!
//! A read first asks RocksDB for what memtables and block cache hold, which takes microseconds and waits for nothing,
//! on the caller's thread. If that is not enough it is repeated, in full, by a reader thread.

use std::{
    ops::Deref,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use futures_channel::oneshot;
use hearth_ports::{Entry, Key, KeyRange, Page, Table, Unavailable};
use parking_lot::Mutex;
use rocksdb::{ColumnFamily, DB, ErrorKind, ReadOptions, ReadTier};

use crate::{OpenError, Options, Shared};

/// The most reads that wait for a reader thread. At a hundred microseconds each the last waits under a second.
const WAITING_MAX: usize = 8_192;
/// The most rows that room is made for before any was found.
const ROWS_HINT_MAX: usize = 128;

/// How far a read may go.
#[derive(Clone, Copy)]
pub(crate) enum Reach {
    /// Memtables and block cache.
    Memory,
    /// Wherever the row is.
    Disk,
}

/// Why a read has no answer.
pub(crate) enum Missed {
    /// It must go to disk.
    Memory,
    /// The store failed.
    Failed(Unavailable),
}

impl From<rocksdb::Error> for Missed {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            ErrorKind::Incomplete => Self::Memory,
            _ => Self::Failed(Unavailable(error.into_string())),
        }
    }
}

impl From<Missed> for Unavailable {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Memory => Self("the read stopped at the block cache".to_owned()),
            Missed::Failed(unavailable) => unavailable,
        }
    }
}

/// The column family of a table.
pub(crate) fn family(db: &DB, table: Table) -> &ColumnFamily {
    db.cf_handle(table.name()).expect("every table is opened with the database")
}

fn read_options(reach: Reach) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_total_order_seek(true);
    if let Reach::Memory = reach {
        options.set_read_tier(ReadTier::BlockCache);
    }
    options
}

/// A row, wherever it is, without copying it.
pub(crate) fn get_pinned<'db>(
    db: &'db DB,
    table: Table,
    key: &[u8],
) -> Result<Option<impl Deref<Target = [u8]> + 'db>, Unavailable> {
    db.get_pinned_cf(family(db, table), key).map_err(|error| Unavailable(error.into_string()))
}

pub(crate) fn get(db: &DB, table: Table, key: &[u8], reach: Reach) -> Result<Option<Bytes>, Missed> {
    let found = db.get_pinned_cf_opt(family(db, table), key, &read_options(reach))?;
    Ok(found.map(|value| Bytes::copy_from_slice(&value)))
}

/// What is in memory, and the indexes of those keys for which that does not say.
///
/// Key by key: RocksDB's batched read goes to disk although it is told not to.
pub(crate) fn multi_get_memory(
    db: &DB,
    table: Table,
    keys: &[Key],
) -> Result<(Vec<Option<Bytes>>, Vec<usize>), Missed> {
    let mut values = Vec::with_capacity(keys.len());
    let mut missed = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        match get(db, table, key, Reach::Memory) {
            Ok(value) => values.push(value),
            Err(Missed::Memory) => {
                missed.push(index);
                values.push(None);
            }
            Err(failed) => return Err(failed),
        }
    }
    Ok((values, missed))
}

/// All of them, wherever they are. `in_passing`: the block cache stays as it is.
pub(crate) fn multi_get_disk(
    db: &DB,
    table: Table,
    keys: &[Key],
    in_passing: bool,
) -> Result<Vec<Option<Bytes>>, Missed> {
    let keys = keys.iter().map(|key| &key[..]);
    let mut options = read_options(Reach::Disk);
    options.fill_cache(!in_passing);
    let found = db.batched_multi_get_cf_opt(family(db, table), keys, false, &options);
    found.into_iter().map(|value| Ok(value?.map(|value| Bytes::copy_from_slice(&value)))).collect()
}

pub(crate) fn scan(db: &DB, table: Table, range: &KeyRange, page: Page, reach: Reach) -> Result<Vec<Entry>, Missed> {
    if range.until.as_ref().is_some_and(|until| *until <= range.from) || page.rows_max == 0 {
        return Ok(Vec::new());
    }
    let mut options = read_options(reach);
    options.fill_cache(!page.in_passing);
    options.set_iterate_lower_bound(&range.from[..]);
    if let Some(until) = &range.until {
        options.set_iterate_upper_bound(&until[..]);
    }
    let mut rows = db.raw_iterator_cf_opt(family(db, table), options);
    if page.reverse {
        rows.seek_to_last();
    } else {
        rows.seek_to_first();
    }
    let mut entries = Vec::with_capacity(page.rows_max.min(ROWS_HINT_MAX));
    let mut bytes = 0;
    while let Some((key, value)) = rows.item() {
        bytes += key.len() + value.len();
        entries.push(Entry { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
        if entries.len() >= page.rows_max || bytes >= page.bytes_max {
            return Ok(entries);
        }
        if page.reverse { rows.prev() } else { rows.next() }
    }
    // An iterator ends at the end of the range and where it can't go on.
    rows.status()?;
    Ok(entries)
}

type Job = Box<dyn FnOnce(&DB) + Send>;

/// The reader threads.
pub(crate) struct Readers {
    /// Taken when the threads are to end.
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(crate) fn start(shared: &Arc<Shared>, options: &Options) -> Result<Self, OpenError> {
        let (sender, receiver) = sync_channel::<Job>(WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut readers = Self { jobs: Some(sender), threads: Vec::new() };
        for _ in 0..options.reader_threads.max(1) {
            let (shared, receiver) = (shared.clone(), receiver.clone());
            let thread = thread::Builder::new().name("store-read".to_owned()).spawn(move || run(&shared.db, &receiver));
            readers.threads.push(thread.map_err(|error| OpenError::failed(Path::new("store-read"), &error))?);
        }
        Ok(readers)
    }

    /// Answers with what `read` finds on a reader thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&DB) -> Result<T, Missed> + Send + 'static,
    ) -> Result<T, Unavailable> {
        metrics::counter!("hearth_store_disk_reads_total").increment(1);
        let (sender, receiver) = oneshot::channel();
        let job = move |db: &DB| {
            // Nobody waits any more.
            if sender.is_canceled() {
                return;
            }
            // The receiver may go at any moment; then the answer has no use.
            drop(sender.send(read(db)));
        };
        let jobs = self.jobs.as_ref().expect("the threads end with the engine");
        match jobs.try_send(Box::new(job)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(Unavailable("overloaded".to_owned())),
            Err(TrySendError::Disconnected(_)) => return Err(Unavailable("the reader threads have ended".to_owned())),
        }
        let answer = receiver.await.map_err(|_| Unavailable("a reader thread has ended".to_owned()))?;
        Ok(answer?)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reader thread of the storage engine panicked");
            }
        }
    }
}

fn run(db: &DB, jobs: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while waiting: the thread that has it gets the next job and passes the lock on.
        let Ok(job) = jobs.lock().recv() else { return };
        job(db);
    }
}

#[cfg(test)]
mod tests {
    use hearth_ports::{Batch, Partition, Put, commit, suite::wait};

    use super::*;
    use crate::RocksEngine;

    fn open(path: &Path) -> Arc<RocksEngine> {
        RocksEngine::open(path, Options::new(0, |reason| panic!("a fatal failure: {reason}"))).expect("the store opens")
    }

    #[test]
    fn only_what_is_not_in_memory_goes_to_disk() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let keys: Vec<Key> = (0..100_u8).map(|key| vec![key].into()).collect();
        let row = |key: &Key| Put { table: Table::Ix, key: key.clone(), value: key.clone(), fill: Default::default() };
        let values: Vec<_> = keys.iter().cloned().map(Some).collect();
        let all = KeyRange::prefix(Key::new());
        let ask = |db: &DB, reach| {
            let one = get(db, Table::Ix, &keys[50], reach).ok();
            let many = match reach {
                Reach::Memory => multi_get_memory(db, Table::Ix, &keys).ok().filter(|(_, missed)| missed.is_empty()),
                Reach::Disk => multi_get_disk(db, Table::Ix, &keys, false).ok().map(|values| (values, Vec::new())),
            };
            let range = scan(db, Table::Ix, &all, Page::first(1_000), reach).ok();
            (one, many, range.map(|rows| rows.len()))
        };
        let found = (Some(values[50].clone()), Some((values.clone(), Vec::new())), Some(100));

        let engine = open(folder.path());
        let batch = Batch { put: keys.iter().map(row).collect(), ..Batch::new(Partition::of(0)) };
        wait(commit(&*engine, batch)).expect("nothing stands against this commit");
        assert_eq!(ask(&engine.shared.db, Reach::Memory), found, "the memtable has it");
        drop(engine);
        let engine = open(folder.path());
        assert_eq!(ask(&engine.shared.db, Reach::Memory), (None, None, None), "nothing is cached yet");
        assert!(matches!(get(&engine.shared.db, Table::Ix, &keys[50], Reach::Memory), Err(Missed::Memory)));
        let missed = multi_get_memory(&engine.shared.db, Table::Ix, &keys).ok().map(|(_, missed)| missed);
        assert_eq!(missed, Some((0..100).collect()));
        let passage = Page { in_passing: true, ..Page::first(1_000) };
        let passed = multi_get_disk(&engine.shared.db, Table::Ix, &keys, true).ok();
        assert_eq!(passed, Some(values.clone()));
        assert_eq!(
            scan(&engine.shared.db, Table::Ix, &all, passage, Reach::Disk).ok().map(|rows| rows.len()),
            Some(100)
        );
        assert_eq!(ask(&engine.shared.db, Reach::Memory), (None, None, None), "what is read in passing is not cached");
        assert_eq!(ask(&engine.shared.db, Reach::Disk), found);
        assert_eq!(ask(&engine.shared.db, Reach::Memory), found, "the cache has it");
    }
}
