//! The engine port on RocksDB: one process, one folder, group commit, reads that do not block the async runtime.
//!
//! This crate does not know what the rows mean, and hands out neither iterators nor snapshots. Start with
//! [`RocksEngine::open`]; what happens to a batch is in `committer.rs` and `group.rs`, to a read in `read.rs`.
//!
//! Metrics: histograms `hearth_store_commit_seconds` (a batch, from submission to answer), `hearth_store_write_seconds` (a
//! group, checking and syncing) and `hearth_store_group_batches`; counters `hearth_store_conflicts_total`,
//! `hearth_store_refused_total` (overload) and `hearth_store_disk_reads_total`; gauge `hearth_store_queue_bytes`.

mod committer;
mod group;
mod open;
mod options;
mod queue;
mod read;

use std::{path::Path, sync::Arc, time::Instant};

use bytes::Bytes;
use hearth_ports::{Batch, BoxFuture, Done, Engine, Entry, Heads, Key, KeyRange, Page, Table, Unavailable};
use parking_lot::Mutex;
use rocksdb::{DB, DEFAULT_COLUMN_FAMILY_NAME, FlushOptions, checkpoint::Checkpoint};

pub use open::OpenError;
pub use options::Options;

use committer::Committer;
use read::Readers;

/// The storage engine of a single machine.
///
/// Dropping it commits and answers what is queued, then closes the files. Dropped from within a `done`, it leaves the
/// last answers to its own thread and may return before they are given.
pub struct RocksEngine {
    shared: Arc<Shared>,
    /// Absent where the engine was opened read-only.
    committer: Option<Committer>,
    readers: Readers,
}

/// What the engine's threads have in common.
struct Shared {
    db: DB,
    /// What [`Engine::heads`] answers. Raised once a group is readable and before its results are handed out.
    heads: Mutex<Heads>,
    /// The lock on the folder. It lies behind the database, so that it is given back after that is closed.
    _lock: Option<std::fs::File>,
}

impl RocksEngine {
    /// Opens the store in this folder, making both if they are absent. It takes some milliseconds plus the replay of at
    /// most [`Options::wal_bytes_max`] of write-ahead log, of which [`Self::flush`] leaves nothing.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Arc<Self>, OpenError> {
        let shared = Arc::new(open::open(path.as_ref(), &options)?);
        let readers = Readers::start(&shared, &options)?;
        let committer = Committer::start(&shared, options)?;
        Ok(Arc::new(Self { shared, committer: Some(committer), readers }))
    }

    /// Opens the store as it is at this moment, also beside a running server, whose later commits are not seen. Nothing
    /// in the folder is changed; each commit is refused as unavailable.
    pub fn open_read_only(path: impl AsRef<Path>, options: &Options) -> Result<Arc<Self>, OpenError> {
        let shared = Arc::new(open::open_read_only(path.as_ref(), options)?);
        let readers = Readers::start(&shared, options)?;
        Ok(Arc::new(Self { shared, committer: None, readers }))
    }

    /// Raises every partition's head to the highest of them plus `by`, durably, in a store that nobody has open.
    ///
    /// Positions that were handed out after a copy was made are unknown to the copy. With `by` above their number, the
    /// copy hands out none of them again, and finds none of them ahead of itself.
    pub fn raise_positions(path: impl AsRef<Path>, options: &Options, by: u64) -> Result<(), OpenError> {
        open::raise_positions(path.as_ref(), options, by)
    }

    /// Writes what has been committed from memory to files, so that the next opening has no log to replay: durability
    /// does not depend on it. True once that is done; false if `until` came first, which is looked at between tables.
    ///
    /// It blocks for the time of writing, at most [`Options::write_buffer_bytes`] and ten syncs or so: call it from a
    /// thread that may.
    pub fn flush(&self, until: Instant) -> Result<bool, Unavailable> {
        let names = [DEFAULT_COLUMN_FAMILY_NAME].into_iter().chain(Table::ALL.map(Table::name));
        for family in names.filter_map(|name| self.shared.db.cf_handle(name)) {
            if Instant::now() >= until {
                return Ok(false);
            }
            let flushed = self.shared.db.flush_cf_opt(family, &FlushOptions::default());
            flushed.map_err(|error| Unavailable(format!("rows in memory were not written to files: {error}")))?;
        }
        Ok(true)
    }

    /// Writes a consistent copy, a store that [`Self::open`] takes, into a folder which does not exist yet. It links
    /// files rather than copying them if the folder is on the same file system.
    ///
    /// It blocks for the time of writing out the memtables: call it from a thread that may. A folder that was left
    /// behind by a crash in the middle of it is refused by [`Self::open`].
    pub fn checkpoint(&self, dir: impl AsRef<Path>) -> Result<(), Unavailable> {
        let dir = dir.as_ref();
        let failed =
            |error: &dyn std::fmt::Display| Unavailable(format!("no checkpoint at {}: {error}", dir.display()));
        let checkpoint = Checkpoint::new(&self.shared.db).map_err(|error| failed(&error))?;
        checkpoint.create_checkpoint(dir).map_err(|error| failed(&error))?;
        open::write_format(dir).map_err(|error| failed(&error))
    }
}

impl RocksEngine {
    async fn many(&self, table: Table, keys: &[Key], in_passing: bool) -> Result<Vec<Option<Bytes>>, Unavailable> {
        let (mut values, missed) = read::multi_get_memory(&self.shared.db, table, keys)?;
        if missed.is_empty() {
            return Ok(values);
        }
        let keys: Vec<Key> = missed.iter().map(|index| keys[*index].clone()).collect();
        let found = self.readers.run(move |db| read::multi_get_disk(db, table, &keys, in_passing)).await?;
        for (index, value) in missed.into_iter().zip(found) {
            values[index] = value;
        }
        Ok(values)
    }
}

impl Engine for RocksEngine {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, Unavailable>> {
        Box::pin(async move {
            match read::get(&self.shared.db, table, key, read::Reach::Memory) {
                Err(read::Missed::Memory) => {}
                answer => return answer.map_err(Unavailable::from),
            }
            let key = Key::copy_from_slice(key);
            self.readers.run(move |db| read::get(db, table, &key, read::Reach::Disk)).await
        })
    }

    fn multi_get<'a>(
        &'a self,
        table: Table,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, Unavailable>> {
        Box::pin(self.many(table, keys, false))
    }

    fn multi_get_in_passing<'a>(
        &'a self,
        table: Table,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, Unavailable>> {
        Box::pin(self.many(table, keys, true))
    }

    fn scan<'a>(&'a self, table: Table, range: KeyRange, page: Page) -> BoxFuture<'a, Result<Vec<Entry>, Unavailable>> {
        Box::pin(async move {
            match read::scan(&self.shared.db, table, &range, page, read::Reach::Memory) {
                Err(read::Missed::Memory) => {}
                answer => return answer.map_err(Unavailable::from),
            }
            self.readers.run(move |db| read::scan(db, table, &range, page, read::Reach::Disk)).await
        })
    }

    fn submit(&self, batch: Batch, done: Done) {
        match &self.committer {
            Some(committer) => committer.submit(batch, done),
            None => done(Err(Unavailable("the store was opened read-only".to_owned()).into())),
        }
    }

    fn heads(&self) -> BoxFuture<'_, Result<Heads, Unavailable>> {
        Box::pin(std::future::ready(Ok(self.shared.heads.lock().clone())))
    }

    fn single_counter(&self) -> bool {
        true
    }
}
