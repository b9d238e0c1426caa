//! The store: an engine, the caches over what never changes, and what is known in memory of the newest positions.

use std::sync::Arc;

use bytes::Bytes;
use futures_channel::oneshot;
use hearth_ports::{CommitError, Committed, Done, Engine, Entry, Key, KeyRange, Page, Partition, Table, Unavailable};

use crate::{
    Corrupt, Row, UserNumber, Write,
    cache::Caches,
    codec::decode,
    live::Live,
    tables::{SchemaRow, schema_key, schema_partition},
    write::Commitment,
};

/// The layout of rows that this server writes.
pub const SCHEMA_VERSION: u32 = 3;

/// Rows read at once by scans that go on to the end of their range.
const SCAN_ROWS: usize = 1_000;

/// So often a commit reads the log because others were committed meanwhile; who comes last reads for all.
const CATCH_UPS_MAX: usize = 4;

/// How the store is set up.
#[derive(Clone, Copy, Debug)]
pub struct StoreSettings {
    /// Memory for all caches of this crate together, in bytes.
    pub cache_bytes_max: usize,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { cache_bytes_max: 64 << 20 }
    }
}

/// Why a read gives no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine can't be reached or failed: worth another try, later.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The database is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// Why a database is not opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Its rows are of a later layout than this server knows.
    #[error("the database has layout {found}, this server knows up to {known}: start a newer server")]
    Newer {
        /// What the database says.
        found: u32,
        /// [`SCHEMA_VERSION`].
        known: u32,
    },
    /// Its rows are of a layout from before the first release, which this server no longer reads.
    #[error("the database has layout {found}, this server reads {known} only: it was made by an unreleased server")]
    Older {
        /// What the database says.
        found: u32,
        /// [`SCHEMA_VERSION`].
        known: u32,
    },
    /// It can't be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It can't be written.
    #[error("the schema could not be written: {0}")]
    Commit(#[from] CommitError),
}

/// All that is stored, in terms of rows, rooms and users.
pub struct Store {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) live: Arc<Live>,
    pub(crate) caches: Arc<Caches>,
}

impl Store {
    /// Opens the database behind the engine; an empty one is given its schema row.
    pub async fn open(engine: Arc<dyn Engine>, settings: StoreSettings) -> Result<Arc<Self>, OpenError> {
        check_schema(&*engine).await?;
        let heads = engine.heads().await.map_err(LoadError::from)?;
        let live = Arc::new(Live::new(&heads, engine.single_counter()));
        Ok(Arc::new(Self { engine, live, caches: Arc::new(Caches::new(settings.cache_bytes_max)) }))
    }

    /// The engine, for what rows don't express.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// What is known in memory of the newest positions.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// One row.
    pub async fn get<R: Row>(&self, table: Table, key: &[u8]) -> Result<Option<R>, LoadError> {
        let bytes = self.get_bytes(table, key).await?;
        Ok(bytes.as_deref().map(decode).transpose()?)
    }

    /// One row, undecoded: as [`Write::require`] wants it.
    pub async fn get_bytes(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, LoadError> {
        Ok(self.engine.get(table, key).await?)
    }

    /// Many rows, in the order of `keys`.
    pub async fn multi_get<R: Row>(&self, table: Table, keys: &[Key]) -> Result<Vec<Option<R>>, LoadError> {
        let values = self.engine.multi_get(table, keys).await?;
        values.iter().map(|value| Ok(value.as_deref().map(decode).transpose()?)).collect()
    }

    /// One page of a range; see [`Engine::scan`] for how to go on.
    pub async fn scan<R: Row>(&self, table: Table, range: KeyRange, page: Page) -> Result<Vec<(Key, R)>, LoadError> {
        let entries = self.scan_bytes(table, range, page).await?;
        entries.into_iter().map(|entry| Ok((entry.key, decode(&entry.value)?))).collect()
    }

    /// One page of a range, undecoded.
    pub async fn scan_bytes(&self, table: Table, range: KeyRange, page: Page) -> Result<Vec<Entry>, LoadError> {
        Ok(self.engine.scan(table, range, page).await?)
    }

    /// The first, or with `reverse` the last, `rows_max` rows of a range, however many pages that takes.
    pub async fn scan_all(
        &self,
        table: Table,
        range: KeyRange,
        rows_max: usize,
        reverse: bool,
    ) -> Result<Vec<Entry>, LoadError> {
        self.scan_pages(table, range, rows_max, Page { reverse, ..Page::first(SCAN_ROWS) }).await
    }

    /// The first `rows_max` rows of a range, which nobody asks for again soon.
    pub async fn scan_in_passing(
        &self,
        table: Table,
        range: KeyRange,
        rows_max: usize,
    ) -> Result<Vec<Entry>, LoadError> {
        self.scan_pages(table, range, rows_max, Page { in_passing: true, ..Page::first(SCAN_ROWS) }).await
    }

    async fn scan_pages(
        &self,
        table: Table,
        mut range: KeyRange,
        rows_max: usize,
        like: Page,
    ) -> Result<Vec<Entry>, LoadError> {
        let mut rows: Vec<Entry> = Vec::new();
        while rows.len() < rows_max {
            let page = Page { rows_max: like.rows_max.min(rows_max - rows.len()), ..like };
            let entries = self.engine.scan(table, range.clone(), page).await?;
            let bytes: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
            let whole = entries.len() < page.rows_max && bytes < page.bytes_max;
            let Some(last) = entries.last() else { break };
            if page.reverse {
                range.until = Some(last.key.clone());
            } else {
                range.from = after(&last.key);
            }
            rows.extend(entries);
            if whole {
                break;
            }
        }
        Ok(rows)
    }

    /// Commits a batch and waits until it is durable and [`Live`] knows it: who asked then reads its own writes.
    ///
    /// Dropping the future does not take the batch back. [`CommitError::Unavailable`] leaves open whether it happened.
    pub async fn commit(&self, write: Write) -> Result<Committed, CommitError> {
        let partition = write.partition();
        let sharers = self.sharers(&write).await;
        let (sender, receiver) = oneshot::channel();
        // The receiver is gone only if the caller was dropped; the commit stands either way.
        self.submit_with(write, sharers, Box::new(move |result| drop(sender.send(result))));
        let result = receiver.await.unwrap_or_else(|_| Err(Unavailable("the engine stopped".to_owned()).into()));
        if self.live.is_behind(partition) || matches!(result, Err(CommitError::Unavailable(_))) {
            self.catch_up_with(partition).await;
        }
        result
    }

    /// Hands a batch to the engine; `done` is called with the result from the engine's own thread, after [`Live`] has
    /// applied it, must be quick and must not wait for a commit. For queues that do not wait one by one.
    pub fn submit(&self, write: Write, done: impl FnOnce(Result<Committed, CommitError>) + Send + 'static) {
        self.submit_with(write, Vec::new(), Box::new(done));
    }

    /// `sharers`: for each change of a device list, the rooms whose members want to know.
    fn submit_with(&self, write: Write, sharers: Vec<crate::live::Sharers>, done: Done) {
        let partition = write.partition();
        let (batch, Commitment { entries, rewritten, kept }) = write.into_parts();
        let (live, caches) = (self.live.clone(), self.caches.clone());
        let done: Done = Box::new(move |result| {
            // Unless it is certain that nothing happened, the old forms may be wrong.
            if !matches!(result, Err(CommitError::Conflict | CommitError::Malformed(_))) {
                rewritten.iter().for_each(|(room, number)| caches.forget_event(*room, *number));
            }
            if let Ok(committed) = &result {
                // Who is woken by what follows finds them.
                caches.keep_events(kept, committed.first);
                live.apply_commit(partition, *committed, &entries, &sharers);
            }
            done(result);
        });
        self.engine.submit(batch, done);
    }

    /// Reads the log until nothing of a partition is missing in memory.
    async fn catch_up_with(&self, partition: Partition) {
        for _ in 0..CATCH_UPS_MAX {
            if let Err(error) = self.catch_up().await {
                tracing::warn!(%error, "commits of uncertain outcome wait to be shown");
                return;
            }
            if !self.live.is_behind(partition) {
                return;
            }
        }
    }

    /// Who is told of the changes of device lists in this batch.
    async fn sharers(&self, write: &Write) -> Vec<crate::live::Sharers> {
        let mut sharers = Vec::new();
        for user in write.device_lists() {
            match self.user_rooms(user).await {
                Ok(rooms) => sharers.push((user, rooms.into_iter().map(|(room, _)| room).collect())),
                // Without the rooms everybody is woken, which costs but is right.
                Err(error) => tracing::warn!(%error, "the rooms of a user could not be read"),
            }
        }
        sharers
    }
}

impl Write {
    /// The users whose device lists this changes.
    fn device_lists(&self) -> impl Iterator<Item = UserNumber> + use<> {
        // A batch that ends all devices of a user has many entries of one.
        let users: std::collections::BTreeSet<_> =
            self.entries().iter().filter_map(|(_, entry)| entry.device_list_of()).collect();
        users.into_iter()
    }
}

/// The smallest key behind this one.
pub(crate) fn after(key: &[u8]) -> Key {
    [key, &[0]].concat().into()
}

async fn check_schema(engine: &dyn Engine) -> Result<(), OpenError> {
    let found = engine.get(Table::Mi, &schema_key()).await.map_err(LoadError::from)?;
    if let Some(found) = found {
        let SchemaRow { version: found } = decode(&found).map_err(LoadError::from)?;
        if found > SCHEMA_VERSION {
            return Err(OpenError::Newer { found, known: SCHEMA_VERSION });
        }
        if found < SCHEMA_VERSION {
            return Err(OpenError::Older { found, known: SCHEMA_VERSION });
        }
        return Ok(());
    }
    let mut write = Write::new(schema_partition());
    write.require_absent(Table::Mi, schema_key());
    write.put(Table::Mi, schema_key(), &SchemaRow { version: SCHEMA_VERSION });
    match hearth_ports::commit(engine, write.into_parts().0).await {
        // Another node was first.
        Ok(_) | Err(CommitError::Conflict) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
