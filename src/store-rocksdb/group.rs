//! A commit group: many batches, each checked against the store and those before it, written as one.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use hearth_ports::{
    Batch, CommitError, Committed, Heads, Key, Partition, Position, Requirement, Table, Unavailable, log_rows,
};
use rocksdb::{DB, WriteBatch, WriteOptions};

use crate::{open::head_key, read};

/// Builds one write out of many batches.
pub(crate) struct Group<'db> {
    db: &'db DB,
    write: WriteBatch,
    /// What the batches so far leave in each row that they touch; `None` where they delete it.
    overlay: HashMap<(Table, Key), Option<Bytes>>,
    heads: Heads,
    /// The last position handed out, to whichever partition.
    counter: Position,
    /// By partition.
    log: BTreeMap<u8, Vec<(Position, Bytes)>>,
    /// Partitions whose head the group moves.
    moved: [bool; Partition::COUNT],
}

impl<'db> Group<'db> {
    /// An empty group on what is committed.
    pub(crate) fn new(db: &'db DB, heads: Heads) -> Self {
        let counter = heads.0.iter().copied().max().unwrap_or_default();
        let moved = [false; Partition::COUNT];
        Self { db, write: WriteBatch::default(), overlay: HashMap::new(), heads, counter, log: BTreeMap::new(), moved }
    }

    /// Adds a batch, or leaves the group as it was.
    pub(crate) fn add(&mut self, batch: &Batch) -> Result<Committed, CommitError> {
        batch.validate()?;
        for required in &batch.require {
            if !self.holds(required)? {
                return Err(CommitError::Conflict);
            }
        }
        let index = usize::from(batch.partition.index());
        let committed = batch.committed(self.heads.0[index], self.counter);
        for (table, key) in &batch.delete {
            self.write.delete_cf(read::family(self.db, *table), key);
            self.overlay.insert((*table, key.clone()), None);
        }
        for put in &batch.put {
            let row = put.filled(committed.first);
            self.write.put_cf(read::family(self.db, put.table), &row.key, &row.value);
            self.overlay.insert((put.table, row.key), Some(row.value));
        }
        if batch.positions > 0 {
            self.heads.0[index] = committed.last;
            self.counter = committed.last;
            self.moved[index] = true;
        }
        if !batch.log.is_empty() {
            self.log.entry(batch.partition.index()).or_default().extend(batch.log_items(committed.first));
        }
        Ok(committed)
    }

    fn holds(&self, required: &Requirement) -> Result<bool, Unavailable> {
        // The key is cloned by reference count only.
        if let Some(value) = self.overlay.get(&(required.table, required.key.clone())) {
            return Ok(*value == required.value);
        }
        let found = read::get_pinned(self.db, required.table, &required.key)?;
        Ok(found.as_deref() == required.value.as_deref())
    }

    /// Writes all of it, durably, and returns the heads that are now true.
    pub(crate) fn commit(mut self) -> Result<Heads, rocksdb::Error> {
        for (partition, items) in std::mem::take(&mut self.log) {
            let last = self.heads.0[usize::from(partition)];
            for row in log_rows(Partition::of(u64::from(partition)), last, &items) {
                self.write.put_cf(read::family(self.db, Table::Tl), &row.key, &row.value);
            }
        }
        for (partition, head) in (0_u8..).zip(self.heads.0) {
            if self.moved[usize::from(partition)] {
                self.write.put(head_key(partition), head.0.to_be_bytes());
            }
        }
        if !self.write.is_empty() {
            let mut durably = WriteOptions::default();
            durably.set_sync(true);
            self.db.write_opt(self.write, &durably)?;
        }
        Ok(self.heads)
    }
}
