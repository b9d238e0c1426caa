//! Opening: the format marker, the lock, the database, the heads.
//!
//! Beside RocksDB's files a folder holds `hearth.format`, one line that says which layout lies there, and `hearth.lock`.
//! The marker is a file of its own so that it is read before RocksDB is let near a folder that it might change.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use hearth_ports::{Heads, Partition, Position};
use parking_lot::Mutex;
use rocksdb::{DB, IteratorMode, WriteBatch, WriteOptions};

use crate::{Options, Shared};

/// The layout that this code writes. It is raised when older code could no longer read it.
const FORMAT: u32 = 1;
/// What the marker begins with.
const FORMAT_NAME: &str = "hearth-store-rocksdb";
const FORMAT_FILE: &str = "hearth.format";
const LOCK_FILE: &str = "hearth.lock";
/// The file every RocksDB database has.
const CURRENT_FILE: &str = "CURRENT";
/// Beside a running server files may vanish between listing and opening them; the next listing is newer.
const READ_ONLY_ATTEMPTS: u32 = 10;
/// After the first attempt, growing with each: what disturbed it, a file that was written out, is over soon.
const READ_ONLY_PAUSE: Duration = Duration::from_millis(10);

/// Why a store was not opened. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open, or another engine in this one.
    #[error("the store at {0} is in use by another process; stop it first")]
    InUse(PathBuf),
    /// A newer version wrote it.
    #[error(
        "the store at {path} has format {found}, but this version knows no newer one than {FORMAT}; use a newer version"
    )]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// There is a database which is not one of ours, or an incomplete checkpoint.
    #[error(
        "the folder {0} holds something that is not a hearth store, or an unfinished copy of one; name another folder"
    )]
    Unrecognised(PathBuf),
    /// There is no store, and it was to be read only.
    #[error("there is no store at {0}")]
    Absent(PathBuf),
    /// The disk, its permissions, or damage.
    #[error("the store at {path} can't be opened: {reason}")]
    Failed {
        /// Where it is.
        path: PathBuf,
        /// For the operator.
        reason: String,
    },
}

impl OpenError {
    pub(crate) fn failed(path: &Path, reason: &dyn std::fmt::Display) -> Self {
        Self::Failed { path: path.to_owned(), reason: reason.to_string() }
    }
}

pub(crate) fn open(path: &Path, options: &Options) -> Result<Shared, OpenError> {
    let failed = |error: io::Error| OpenError::failed(path, &error);
    if let Format::Nothing = check_format(path)? {
        fs::create_dir_all(path).map_err(failed)?;
    }
    let lock = lock(path)?;
    // Asked again, as another process may have been here until it gave the lock back.
    if let Format::Nothing = check_format(path)? {
        write_format(path).map_err(failed)?;
    }
    let db = DB::open_cf_descriptors(&options.database(), path, options.families());
    let db = db.map_err(|error| OpenError::failed(path, &error))?;
    Ok(Shared { heads: Mutex::new(heads(path, &db)?), db, _lock: Some(lock) })
}

pub(crate) fn open_read_only(path: &Path, options: &Options) -> Result<Shared, OpenError> {
    if let Format::Nothing = check_format(path)? {
        return Err(OpenError::Absent(path.to_owned()));
    }
    let mut database = options.database();
    database.create_if_missing(false);
    database.create_missing_column_families(false);
    // All files are opened at once and kept: a running server may unlink them, which leaves open ones readable.
    database.set_max_open_files(-1);
    // The logs that the manifest names are looked for here too. Besides, RocksDB that is told not to do so wants to strike
    // them out of the manifest, and reads through a null pointer where it may not write.
    let mut attempt = 0;
    loop {
        attempt += 1;
        let logs = logs(path)?;
        let error = match DB::open_cf_descriptors_read_only(&database, path, options.families(), false) {
            // A log that was written out meanwhile may be in neither the files nor the logs that were read.
            Ok(db) if logs.is_subset(&self::logs(path)?) => {
                return Ok(Shared { heads: Mutex::new(heads(path, &db)?), db, _lock: None });
            }
            Ok(_) => OpenError::failed(path, &"the server writes faster than its store can be opened; try again"),
            Err(error) => OpenError::failed(path, &error),
        };
        if attempt == READ_ONLY_ATTEMPTS {
            return Err(error);
        }
        pause(attempt * READ_ONLY_PAUSE);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command opens a store so, on a thread of its own, and has nothing else to do"
)]
fn pause(time: Duration) {
    thread::sleep(time);
}

/// The write-ahead logs in the folder, by name.
fn logs(path: &Path) -> Result<BTreeSet<OsString>, OpenError> {
    let names = fs::read_dir(path).and_then(|entries| {
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        names
            .filter(|name| name.as_ref().map_or(true, |name| Path::new(name).extension() == Some("log".as_ref())))
            .collect()
    });
    names.map_err(|error: io::Error| OpenError::failed(path, &error))
}

enum Format {
    /// An empty or absent folder.
    Nothing,
    /// A store that this code can read.
    Ours,
}

fn check_format(path: &Path) -> Result<Format, OpenError> {
    let text = match fs::read_to_string(path.join(FORMAT_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match path.join(CURRENT_FILE).exists() {
                true => Err(OpenError::Unrecognised(path.to_owned())),
                false => Ok(Format::Nothing),
            };
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(OpenError::Unrecognised(path.to_owned()));
        }
        Err(error) => return Err(OpenError::failed(path, &error)),
    };
    match text.trim_end().strip_prefix(FORMAT_NAME).and_then(|number| number.trim_start().parse().ok()) {
        Some(FORMAT) => Ok(Format::Ours),
        Some(found) if found > FORMAT => Err(OpenError::Newer { path: path.to_owned(), found }),
        _ => Err(OpenError::Unrecognised(path.to_owned())),
    }
}

/// Marks a folder as ours; after a crash the marker is there whole or not at all.
pub(crate) fn write_format(path: &Path) -> io::Result<()> {
    let unfinished = path.join("hearth.format.new");
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{FORMAT_NAME} {FORMAT}")?;
    file.sync_all()?;
    fs::rename(unfinished, path.join(FORMAT_FILE))?;
    File::open(path)?.sync_all()
}

/// The lock is the system's and goes with the process, however that ends.
fn lock(path: &Path) -> Result<File, OpenError> {
    let file = File::options().create(true).truncate(false).write(true).open(path.join(LOCK_FILE));
    let file = file.map_err(|error| OpenError::failed(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::failed(path, &error)),
    }
}

/// Sets all heads to the highest of them plus `by`, durably.
pub(crate) fn raise_positions(path: &Path, options: &Options, by: u64) -> Result<(), OpenError> {
    if let Format::Nothing = check_format(path)? {
        return Err(OpenError::Absent(path.to_owned()));
    }
    let shared = open(path, options)?;
    let highest = shared.heads.lock().0.into_iter().max().unwrap_or_default();
    let raised = highest.0.checked_add(by).ok_or_else(|| OpenError::failed(path, &"its positions are used up"))?;
    let mut write = WriteBatch::default();
    for partition in (0_u8..).take(Partition::COUNT) {
        write.put(head_key(partition), raised.to_be_bytes());
    }
    let mut durably = WriteOptions::default();
    durably.set_sync(true);
    shared.db.write_opt(write, &durably).map_err(|error| OpenError::failed(path, &error))
}

/// The row of the default family that holds a partition's head.
pub(crate) fn head_key(partition: u8) -> [u8; 2] {
    [b'h', partition]
}

fn heads(path: &Path, db: &DB) -> Result<Heads, OpenError> {
    let mut heads = Heads([Position::ZERO; Partition::COUNT]);
    for row in db.iterator(IteratorMode::Start) {
        let (key, value) = row.map_err(|error| OpenError::failed(path, &error))?;
        let damaged = || OpenError::failed(path, &"a head row is damaged");
        let [b'h', partition] = *key else { return Err(damaged()) };
        let head = heads.0.get_mut(usize::from(partition)).ok_or_else(damaged)?;
        *head = Position(u64::from_be_bytes((*value).try_into().map_err(|_| damaged())?));
    }
    Ok(heads)
}
