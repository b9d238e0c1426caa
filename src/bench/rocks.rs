//! RocksDB on a real disk, gone when the bench is over.

use std::{path::Path, sync::Arc};

use hearth_ports::Engine;
use hearth_store_rocksdb::{Options, RocksEngine};
use tempfile::TempDir;

/// What a small server gives to RocksDB, in bytes.
const MEMORY_BYTES: usize = 128 << 20;

/// A folder for one RocksDB.
pub struct RocksFolder(TempDir);

impl RocksFolder {
    /// An empty folder in `parent`: benches pass `CARGO_TARGET_TMPDIR`.
    pub fn new(parent: &str) -> Self {
        Self(tempfile::tempdir_in(parent).expect("a folder can be made in target"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The store in it; one at a time.
    pub fn open(&self) -> Arc<dyn Engine> {
        let options = Options::new(MEMORY_BYTES, |reason| panic!("RocksDB failed: {reason}"));
        RocksEngine::open(self.0.path().join("db"), options).expect("an empty folder can be opened")
    }
}
