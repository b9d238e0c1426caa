//! A disk that takes its time, and that a process which has lost its power no longer reaches.

use std::{future::ready, sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_ports::{
    Batch, BoxFuture, Done, Engine, Entry, Heads, Key, KeyRange, Page, Table, Unavailable, mem::MemEngine,
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::mpsc;

use crate::life::Life;

/// The longest that a commit takes, in milliseconds.
const COMMIT_MS_MAX: u64 = 4;

/// What one process sees of a server's disk.
pub(crate) struct Disk {
    kept: Arc<MemEngine>,
    queue: mpsc::UnboundedSender<(Batch, Done)>,
    life: Life,
    /// Callers of a process without power: they are never answered.
    lost: Mutex<Vec<Done>>,
}

impl Disk {
    /// What is on the disk, for a new process.
    pub(crate) fn open(kept: Arc<MemEngine>, life: Life, seed: u64) -> Arc<Self> {
        let (queue, batches) = mpsc::unbounded_channel();
        let disk = Arc::new(Self { kept: Arc::clone(&kept), queue, life: life.clone(), lost: Mutex::default() });
        tokio::spawn(write(Arc::clone(&disk), batches, StdRng::seed_from_u64(seed)));
        disk
    }
}

/// Commits what is submitted, in order. When the power fails, some of what waits is written and nobody is told.
async fn write(disk: Arc<Disk>, mut batches: mpsc::UnboundedReceiver<(Batch, Done)>, mut random: StdRng) {
    let life = disk.life.clone();
    while let Some(Some((batch, done))) = life.while_it_lasts(batches.recv()).await {
        // Mostly at once: the time of a commit matters where two of them race.
        let wait_ms = if random.random_bool(0.3) { random.random_range(0..=COMMIT_MS_MAX) } else { 0 };
        if wait_ms > 0 {
            let () = life.while_it_lasts(tokio::time::sleep(Duration::from_millis(wait_ms))).await.unwrap_or_default();
        }
        if !life.is_over() {
            disk.kept.submit(batch, done);
            continue;
        }
        disk.lost.lock().push(done);
        let mut next = Some(batch);
        while let Some(batch) = next.filter(|_| random.random_bool(0.5)) {
            disk.kept.submit(batch, Box::new(|_| {}));
            next = batches.try_recv().ok().map(|(batch, done)| {
                disk.lost.lock().push(done);
                batch
            });
        }
        break;
    }
    while let Some((_, done)) = batches.recv().await {
        disk.lost.lock().push(done);
    }
}

/// What the disk says, if the process has power. Reads are at once, whatever they say: who works for long waits for them
/// in the middle of it.
fn while_powered<'a, T: Send + 'a>(
    life: &Life,
    answer: BoxFuture<'a, Result<T, Unavailable>>,
) -> BoxFuture<'a, Result<T, Unavailable>> {
    if life.is_over() { Box::pin(ready(Err(Unavailable("no power".to_owned())))) } else { answer }
}

impl Engine for Disk {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, Unavailable>> {
        while_powered(&self.life, self.kept.get(table, key))
    }

    fn multi_get<'a>(
        &'a self,
        table: Table,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, Unavailable>> {
        while_powered(&self.life, self.kept.multi_get(table, keys))
    }

    fn scan<'a>(&'a self, table: Table, range: KeyRange, page: Page) -> BoxFuture<'a, Result<Vec<Entry>, Unavailable>> {
        while_powered(&self.life, self.kept.scan(table, range, page))
    }

    fn submit(&self, batch: Batch, done: Done) {
        if let Err(refused) = self.queue.send((batch, done)) {
            self.lost.lock().push(refused.0.1);
        }
    }

    fn heads(&self) -> BoxFuture<'_, Result<Heads, Unavailable>> {
        while_powered(&self.life, self.kept.heads())
    }
}
