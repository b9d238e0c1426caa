//! What the tests of this crate share.

use std::{path::Path, sync::Arc};

use hearth_ports::{Batch, CommitError, Committed, Partition, Put, Table, commit, suite::wait};
use hearth_store_rocksdb::{Options, RocksEngine};

/// The least memory there is, so that little data reaches the disk.
pub(crate) const MEMORY_BYTES: usize = 1;

/// An engine whose writes must not fail.
pub(crate) fn open(path: &Path) -> Arc<RocksEngine> {
    RocksEngine::open(path, options()).expect("the store opens")
}

pub(crate) fn options() -> Options {
    Options::new(MEMORY_BYTES, |reason| panic!("a fatal failure: {reason}"))
}

pub(crate) fn put(table: Table, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Put {
    let [key, value] = [key.as_ref(), value.as_ref()].map(bytes::Bytes::copy_from_slice);
    Put { table, key, value, fill: smallvec::SmallVec::new() }
}

pub(crate) fn batch(partition: u64, put: Vec<Put>) -> Batch {
    Batch { put, ..Batch::new(Partition::of(partition)) }
}

pub(crate) fn try_commit(engine: &RocksEngine, batch: Batch) -> Result<Committed, CommitError> {
    wait(commit(engine, batch))
}
