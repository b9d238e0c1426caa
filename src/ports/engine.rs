//! The storage engine: an ordered map of bytes with conditional, positioned, atomic commits.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use futures_channel::oneshot;

use crate::{BoxFuture, log::ITEM_HEAD_BYTES};

/// A class of keys with one access pattern. What lies in each is the business of the `store` crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Events: header and body.
    Ev,
    /// Identifiers to numbers and back, tokens, transaction ids.
    Ix,
    /// Timelines and the log.
    Tl,
    /// State versions and the auth graph.
    St,
    /// Room heads, current state, memberships, receipts.
    Rm,
    /// Users: accounts, devices, account data, to-device.
    Us,
    /// Federation: destinations and their queues.
    Fd,
    /// All else: cursors, schema, jobs.
    Mi,
}

impl Table {
    /// Every table, in the order of its column family.
    pub const ALL: [Self; 8] = [Self::Ev, Self::Ix, Self::Tl, Self::St, Self::Rm, Self::Us, Self::Fd, Self::Mi];

    /// The short name that engines use on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ev => "ev",
            Self::Ix => "ix",
            Self::Tl => "tl",
            Self::St => "st",
            Self::Rm => "rm",
            Self::Us => "us",
            Self::Fd => "fd",
            Self::Mi => "mi",
        }
    }
}

/// A row's key; keys are ordered as bytes. At most [`Batch::KEY_BYTES_MAX`].
pub type Key = Bytes;

/// One of [`Partition::COUNT`] groups of rows whose commits are totally ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u8);

impl Partition {
    /// Fixed for ever: row keys and tokens depend on it.
    pub const COUNT: usize = 64;

    /// The partition that a number (of a room, a user, a hashed key) belongs to.
    pub const fn of(number: u64) -> Self {
        Self((number % Self::COUNT as u64) as u8)
    }

    /// 0 to 63.
    pub const fn index(self) -> u8 {
        self.0
    }
}

/// A place in the log of a partition. Positions rise in commit order and may have gaps; 0 is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Before every committed position.
    pub const ZERO: Self = Self(0);
    /// After every committed position.
    pub const MAX: Self = Self(u64::MAX);
}

/// The newest committed position of each partition, by [`Partition::index`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heads(pub [Position; Partition::COUNT]);

/// Which part of a [`Put`] a position is written into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillIn {
    /// The key.
    Key,
    /// The value.
    Value,
}

/// "Write the batch's position number `index` here", as 8 bytes, big-endian, over what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Key or value.
    pub place: FillIn,
    /// Byte offset of the 8 bytes.
    pub offset: u16,
    /// Which of the batch's positions: 0 is the first.
    pub index: u16,
}

/// A row to be written, in place of what was there.
#[derive(Clone, Debug)]
pub struct Put {
    /// The table.
    pub table: Table,
    /// The key, complete but for its fills.
    pub key: Key,
    /// The value, complete but for its fills.
    pub value: Bytes,
    /// Where positions go that are known at commit only. Mostly empty.
    pub fill: smallvec::SmallVec<[Fill; 2]>,
}

impl Put {
    /// The row as it is written when the batch's first position is `first`.
    pub fn filled(&self, first: Position) -> Entry {
        let (mut key, mut value) = (Cow::Borrowed(&self.key[..]), Cow::Borrowed(&self.value[..]));
        for fill in &self.fill {
            let bytes = match fill.place {
                FillIn::Key => key.to_mut(),
                FillIn::Value => value.to_mut(),
            };
            let position = first.0 + u64::from(fill.index);
            bytes[usize::from(fill.offset)..][..8].copy_from_slice(&position.to_be_bytes());
        }
        Entry { key: owned(key, &self.key), value: owned(value, &self.value) }
    }
}

/// Shares the original where nothing was written into it.
fn owned(bytes: Cow<'_, [u8]>, original: &Bytes) -> Bytes {
    match bytes {
        Cow::Borrowed(_) => original.clone(),
        Cow::Owned(bytes) => bytes.into(),
    }
}

/// The row is absent (`None`) or holds exactly these bytes.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// The table.
    pub table: Table,
    /// The key.
    pub key: Key,
    /// What must be there.
    pub value: Option<Bytes>,
}

/// One item of the log, for those who follow it.
///
/// The engine gathers the items of a commit group in one row of [`Table::Tl`]:
/// key `L`, partition (1 byte), the group's last position in this partition (8 bytes);
/// value: for each item its position (8 bytes), the length of its body (4 bytes), its body. Integers are big-endian.
/// [`log_rows`](crate::log_rows) and [`read_log_row`](crate::read_log_row) are this layout; a group whose items exceed
/// what a value may hold has several rows.
#[derive(Clone, Debug)]
pub struct LogItem {
    /// Which of the batch's positions this item has.
    pub index: u16,
    /// Opaque to the engine.
    pub body: Bytes,
}

/// A conditional write: all of it or none of it, in one partition.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Whose order this commit takes part in. Every row and requirement belongs to it.
    pub partition: Partition,
    /// How many positions the batch needs; they are consecutive.
    pub positions: u16,
    /// What must hold at commit, checked against all commits before this one.
    pub require: Vec<Requirement>,
    /// Rows to write; the last of equal keys wins.
    pub put: Vec<Put>,
    /// Rows to delete, before `put` is applied.
    pub delete: Vec<(Table, Key)>,
    /// Items for the log.
    pub log: Vec<LogItem>,
}

impl Batch {
    /// The most bytes a key may have.
    pub const KEY_BYTES_MAX: usize = 1_000;
    /// The most bytes a value may have.
    pub const VALUE_BYTES_MAX: usize = 90_000;
    /// The most bytes that a whole batch may have, keys and values; larger loads are split by their author.
    pub const BATCH_BYTES_MAX: usize = 8 << 20;

    /// An empty batch of this partition.
    pub fn new(partition: Partition) -> Self {
        Self { partition, positions: 0, require: Vec::new(), put: Vec::new(), delete: Vec::new(), log: Vec::new() }
    }

    /// Keys and values of all that is written and required, in bytes.
    pub fn size_bytes(&self) -> usize {
        let put: usize = self.put.iter().map(|put| put.key.len() + put.value.len()).sum();
        let require: usize = self.require.iter().map(|r| r.key.len() + r.value.as_ref().map_or(0, Bytes::len)).sum();
        let delete: usize = self.delete.iter().map(|(_, key)| key.len()).sum();
        let log: usize = self.log.iter().map(|item| item.body.len() + ITEM_HEAD_BYTES).sum();
        put + require + delete + log
    }

    /// Checks the limits, and that each fill and log item names a position that the batch has and bytes that exist.
    /// Engines call it on every submission.
    pub fn validate(&self) -> Result<(), BatchError> {
        if self.size_bytes() > Self::BATCH_BYTES_MAX {
            return Err(BatchError::TooLarge);
        }
        let keys = self.put.iter().map(|put| &put.key).chain(self.delete.iter().map(|(_, key)| key));
        let keys = keys.chain(self.require.iter().map(|required| &required.key));
        for key in keys {
            if key.is_empty() || key.len() > Self::KEY_BYTES_MAX {
                return Err(BatchError::Key);
            }
        }
        for put in &self.put {
            if put.value.len() > Self::VALUE_BYTES_MAX {
                return Err(BatchError::Value);
            }
            for fill in &put.fill {
                let room = match fill.place {
                    FillIn::Key => put.key.len(),
                    FillIn::Value => put.value.len(),
                };
                if fill.index >= self.positions || usize::from(fill.offset) + 8 > room {
                    return Err(BatchError::Fill);
                }
            }
        }
        self.validate_log()
    }

    /// The items of one position lie in one row, so together they are bounded like a value.
    fn validate_log(&self) -> Result<(), BatchError> {
        let mut bytes: BTreeMap<u16, usize> = BTreeMap::new();
        for item in &self.log {
            if item.index >= self.positions {
                return Err(BatchError::Fill);
            }
            *bytes.entry(item.index).or_default() += ITEM_HEAD_BYTES + item.body.len();
        }
        match bytes.values().all(|bytes| *bytes <= Self::VALUE_BYTES_MAX) {
            true => Ok(()),
            false => Err(BatchError::Value),
        }
    }

    /// What the batch is given by an engine that has handed out the positions up to `counter` (no less than `head`)
    /// when the partition's head is `head`.
    pub fn committed(&self, head: Position, counter: Position) -> Committed {
        if self.positions == 0 {
            return Committed { prev: head, first: head, last: head };
        }
        let (first, last) = (Position(counter.0 + 1), Position(counter.0 + u64::from(self.positions)));
        Committed { prev: head, first, last }
    }

    /// The items of the log by rising position, those of one position as they stand in [`Batch::log`].
    pub fn log_items(&self, first: Position) -> Vec<(Position, Bytes)> {
        let item = |item: &LogItem| (Position(first.0 + u64::from(item.index)), item.body.clone());
        let mut items: Vec<_> = self.log.iter().map(item).collect();
        items.sort_by_key(|(position, _)| *position);
        items
    }
}

/// A batch that breaks the contract: a mistake of its author, never of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// More than [`Batch::BATCH_BYTES_MAX`].
    #[error("the batch is too large")]
    TooLarge,
    /// A key is empty or longer than [`Batch::KEY_BYTES_MAX`].
    #[error("a key is empty or too long")]
    Key,
    /// A value is longer than [`Batch::VALUE_BYTES_MAX`], or the log items of one position are.
    #[error("a value is too long")]
    Value,
    /// A fill or log item points outside its row or at a position the batch does not have.
    #[error("a fill or log item points outside its batch")]
    Fill,
}

/// What a commit was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The partition's head just before this batch.
    pub prev: Position,
    /// The first of the batch's positions; with none, `prev`.
    pub first: Position,
    /// The last of the batch's positions; with none, `prev`.
    pub last: Position,
}

/// The store can't be reached or failed; the text is for the log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the storage engine is unavailable: {0}")]
pub struct Unavailable(pub String);

/// Why a batch was not, or may not have been, committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A requirement does not hold: load again and decide again.
    #[error("a requirement no longer holds")]
    Conflict,
    /// The batch breaks the contract; nothing was written.
    #[error("the batch is malformed: {0}")]
    Malformed(#[from] BatchError),
    /// It may or may not have happened.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Keys from `from` (included) to `until` (excluded).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key that may be returned.
    pub from: Key,
    /// The first key past the range; `None` is the table's end.
    pub until: Option<Key>,
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let from: Bytes = prefix.into();
        let until = successor(&from);
        Self { from, until }
    }
}

/// The smallest key that is larger than every key with this prefix.
fn successor(prefix: &[u8]) -> Option<Bytes> {
    let keep = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut key = prefix.get(..=keep)?.to_vec();
    if let Some(last) = key.last_mut() {
        *last += 1;
    }
    Some(key.into())
}

/// How much of a range one [`Engine::scan`] returns, and from which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most so many rows.
    pub rows_max: usize,
    /// The page ends with the row that reaches so many bytes of keys and values; it always has one row if there is one.
    pub bytes_max: usize,
    /// From the range's end backwards.
    pub reverse: bool,
    /// What comes from disk is not kept in memory: nobody asks for it again soon, and it would push out what is asked for.
    pub in_passing: bool,
}

impl Page {
    /// Bytes at which a page ends where the caller has no reason to say otherwise.
    pub const BYTES: usize = 1 << 20;

    /// The first `rows_max` rows.
    pub const fn first(rows_max: usize) -> Self {
        Self { rows_max, bytes_max: Self::BYTES, reverse: false, in_passing: false }
    }

    /// The last `rows_max` rows, last first.
    pub const fn last(rows_max: usize) -> Self {
        Self { reverse: true, ..Self::first(rows_max) }
    }
}

/// A row that a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
}

/// Called once with a batch's result. See [`Engine::submit`].
pub type Done = Box<dyn FnOnce(Result<Committed, CommitError>) + Send>;

/// An ordered map of bytes per [`Table`].
///
/// Reads see every commit whose result has been handed out, and possibly newer ones. There are no snapshots:
/// consistency across reads comes from positions.
pub trait Engine: Send + Sync {
    /// One row.
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, Unavailable>>;

    /// Many rows of a table, in the order of `keys`.
    fn multi_get<'a>(&'a self, table: Table, keys: &'a [Key])
    -> BoxFuture<'a, Result<Vec<Option<Bytes>>, Unavailable>>;

    /// The same, but what comes from disk is not kept in memory, as with [`Page::in_passing`].
    fn multi_get_in_passing<'a>(
        &'a self,
        table: Table,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, Unavailable>> {
        self.multi_get(table, keys)
    }

    /// One page of a range, bounded in rows and bytes. The next page begins just behind the last key returned (with
    /// `reverse`: just before it); a page with fewer rows than both bounds allow is the last.
    fn scan<'a>(&'a self, table: Table, range: KeyRange, page: Page) -> BoxFuture<'a, Result<Vec<Entry>, Unavailable>>;

    /// Commits a batch: all of it, durably, or none of it.
    ///
    /// `done` is called exactly once, from the engine's own thread, when the batch is durable and readable. Within a
    /// partition the calls come in commit order, without holes, whether or not anybody still waits for the answer:
    /// who applies commits to memory in `done` sees each of them once and in order. It must return quickly and must
    /// not wait for another commit.
    fn submit(&self, batch: Batch, done: Done);

    /// The newest committed position of each partition.
    fn heads(&self) -> BoxFuture<'_, Result<Heads, Unavailable>>;

    /// Whether one counter gives the positions of all partitions, so that one number says how far a reader of all is.
    /// Then the calls of `done` come in the order of all commits, not only of a partition's, and after a commit of
    /// unknown outcome no other succeeds.
    fn single_counter(&self) -> bool {
        false
    }
}

/// Submits a batch and waits for its result. Dropping the future does not take the batch back.
pub async fn commit(engine: &dyn Engine, batch: Batch) -> Result<Committed, CommitError> {
    let (sender, receiver) = oneshot::channel();
    // The receiver is gone only if the caller was dropped; the commit stands either way.
    engine.submit(batch, Box::new(move |result| drop(sender.send(result))));
    receiver.await.unwrap_or_else(|_| Err(Unavailable("the engine stopped".to_owned()).into()))
}
