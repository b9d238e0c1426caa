//! The pipeline of a room: what waits is decided together and committed as one batch, one batch at a time.
//!
//! The queue and the cache make it fast; what makes it right is that every batch requires the room's head and its
//! transaction ids to be what was read.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use futures_channel::oneshot;
use hearth_core::SigningKey;
use hearth_ports::{Clock, Entropy, Peers, Table};
use hearth_store::{CommitError, LoadError, RoomNumber, Store, tables::TransactionRow};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{EventId, OwnedEventId, OwnedServerName};

use crate::{
    append::Group,
    cache::RoomCache,
    error::SendError,
    policy::Unsigned,
    receive::{Cpu, Fetches},
    request::{Decision, Intent, Request},
    resolve::Results,
};

/// Rooms whose head is kept in memory. A room that falls out costs a few reads when it is written again.
const ACTIVE_ROOMS_MAX: usize = 512;

/// Requests that may wait for one room. Beyond it the server is slower than those who write: they are told so.
const WAITING_MAX: usize = 1_000;

/// What the waiting requests of one room may hold, in bytes. The one that reaches it is still taken.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// Requests that are decided together. It bounds how long the first of them waits for the last one's signature.
pub(crate) const GROUP_MAX: usize = 128;

/// A batch that has grown to so many bytes takes no more events; engines like batches of at most 1 MB.
pub(crate) const GROUP_BYTES: usize = 900_000;

/// A group that lost so many races in a row gives up. With one writing node there are none to lose.
pub(crate) const ATTEMPTS_MAX: u32 = 6;

/// The pause after the first lost race would be at most twice this; it doubles with each one, and begins with the
/// second.
const PAUSE_MS: u64 = 4;

/// Writes events into rooms.
pub(crate) struct Writer {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) signing_key: Arc<SigningKey>,
    pub(crate) server_name: OwnedServerName,
    /// The time of the newest create event, in milliseconds since the Unix epoch.
    pub(crate) last_creation_ms: AtomicU64,
    /// What checks and resolutions of others' events may take of the processors.
    pub(crate) cpu: Cpu,
    /// What states were resolved into.
    pub(crate) results: Results,
    /// What is being fetched for others' events.
    pub(crate) fetches: Fetches,
    active: Cache<RoomNumber, Arc<ActiveRoom>>,
}

/// A room that is being written, or was not long ago.
pub(crate) struct ActiveRoom {
    number: RoomNumber,
    /// Guards who drives; never held across an await.
    queue: Mutex<Queue>,
    /// Held by the driver for one group, and by who needs the room to stand still meanwhile.
    pub(crate) cache: tokio::sync::Mutex<Option<RoomCache>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// What the waiting requests hold, in bytes.
    bytes: usize,
    /// A task is settling requests and will look here again before it ends.
    is_driven: bool,
}

/// A request and where its answer goes.
pub(crate) struct Waiting {
    request: Request,
    answer: oneshot::Sender<Result<Sent, SendError>>,
}

/// The event that a request led to.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) event_id: OwnedEventId,
    /// It did not go into the room yet: the room's policy server has to sign it.
    pub(crate) unsigned: Option<Box<Unsigned>>,
}

impl From<OwnedEventId> for Sent {
    fn from(event_id: OwnedEventId) -> Self {
        Self { event_id, unsigned: None }
    }
}

impl Writer {
    pub(crate) fn new(
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        peers: Arc<dyn Peers>,
        signing_key: Arc<SigningKey>,
        server_name: OwnedServerName,
    ) -> Self {
        let active = Cache::new(ACTIVE_ROOMS_MAX);
        Self {
            store,
            clock,
            entropy,
            peers,
            signing_key,
            server_name,
            last_creation_ms: AtomicU64::new(0),
            cpu: Cpu::new(),
            results: Results::new(),
            fetches: Fetches::new(),
            active,
        }
    }

    /// Hands a request to the room's queue and waits for its answer. A caller that goes away leaves it in the queue.
    pub(crate) async fn submit(self: &Arc<Self>, room: RoomNumber, request: Request) -> Result<Sent, SendError> {
        let active = self.active(room);
        let (answer, answered) = oneshot::channel();
        let is_idle = {
            let mut queue = active.queue.lock();
            if queue.waiting.len() >= WAITING_MAX || queue.bytes >= WAITING_BYTES_MAX {
                return Err(SendError::Busy);
            }
            queue.bytes += request.size_bytes();
            queue.waiting.push_back(Waiting { request, answer });
            !std::mem::replace(&mut queue.is_driven, true)
        };
        if is_idle {
            tokio::spawn(Driver { writer: Arc::clone(self), room: active }.run());
        }
        answered.await.unwrap_or_else(|_| Err(SendError::Unavailable("the room's writer stopped".to_owned())))
    }

    /// The room's place in memory.
    pub(crate) fn active(&self, number: RoomNumber) -> Arc<ActiveRoom> {
        let made = self.active.get_or_insert_with::<_, std::convert::Infallible>(&number, || {
            Ok(Arc::new(ActiveRoom { number, queue: Mutex::default(), cache: tokio::sync::Mutex::default() }))
        });
        made.unwrap_or_else(|impossible| match impossible {})
    }

    /// Decides a group and commits it, in as many batches as it needs and each again after a lost race.
    async fn settle(&self, cache: &mut Option<RoomCache>, room: RoomNumber, mut group: VecDeque<Waiting>) {
        let mut lost = 0;
        while !group.is_empty() {
            self.pause_after(lost).await;
            let loaded = match self.load(cache, room).await {
                Ok(loaded) => loaded,
                Err(error) => return answer_all(group, &error),
            };
            match self.attempt(loaded, group).await {
                Ok(Settled { is_known, rest }) => {
                    if !is_known {
                        *cache = None;
                    }
                    group = rest;
                    lost = 0;
                }
                Err(Failed { group: back, error }) => {
                    *cache = None;
                    lost += 1;
                    if !matches!(error, SendError::Conflict) || lost == ATTEMPTS_MAX {
                        return answer_all(back, &error);
                    }
                    metrics::counter!("rooms_conflicts").increment(1);
                    group = back;
                }
            }
        }
    }

    /// The room's cache, read if it is not there.
    pub(crate) async fn load<'a>(
        &self,
        cache: &'a mut Option<RoomCache>,
        room: RoomNumber,
    ) -> Result<&'a mut RoomCache, SendError> {
        self.load_known(cache, room).await?.ok_or(SendError::UnknownRoom)
    }

    /// The same; `None`: there is no such room for writers.
    pub(crate) async fn load_known<'a>(
        &self,
        cache: &'a mut Option<RoomCache>,
        room: RoomNumber,
    ) -> Result<Option<&'a mut RoomCache>, LoadError> {
        if cache.as_ref().is_none_or(|cache| cache.is_ahead) {
            *cache = None;
            *cache = RoomCache::load(&self.store, room).await?;
        }
        Ok(cache.as_mut())
    }

    pub(crate) async fn pause_after(&self, lost: u32) {
        if lost < 2 {
            return;
        }
        let mut random = [0; 2];
        self.entropy.fill(&mut random);
        let longest = PAUSE_MS << lost;
        let pause = u64::from(u16::from_be_bytes(random)) % (longest + 1);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Decides and commits once. Whoever fails a rule fails alone; an error of the store or a conflict is of all.
    async fn attempt(&self, cache: &mut RoomCache, waiting: VecDeque<Waiting>) -> Result<Settled, Failed> {
        let mut settled: Vec<(Waiting, Result<Sent, SendError>)> = Vec::with_capacity(waiting.len());
        let mut answered = match self.answered(&waiting).await {
            Ok(answered) => answered,
            Err(error) => return Err(Failed { group: waiting, error: error.into() }),
        };
        let mut group = Group::new(self, cache);
        let mut waiting = waiting.into_iter();
        while let Some(next) = waiting.next() {
            let key = next.request.transaction.as_ref().map(|transaction| transaction.key.clone());
            let result = match key.as_ref().and_then(|key| answered.get(key)) {
                Some(event_id) => Ok(event_id.clone().into()),
                None => self.decide_and_append(cache, &mut group, &next.request).await,
            };
            match result {
                Ok(sent) => {
                    let key = key.filter(|_| sent.unsigned.is_none());
                    answered.extend(key.map(|key| (key, sent.event_id.clone())));
                    settled.push((next, Ok(sent)));
                }
                Err(Refused::Alone(error)) => settled.push((next, Err(error))),
                Err(Refused::All(error)) => {
                    let all = settled.into_iter().map(|(waiting, _)| waiting).chain([next]).chain(waiting).collect();
                    return Err(Failed { group: all, error });
                }
            }
            if group.write.size_bytes() >= GROUP_BYTES {
                break;
            }
        }
        self.commit(cache, group, settled, waiting.collect()).await
    }

    async fn decide_and_append(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        request: &Request,
    ) -> Result<Sent, Refused> {
        let event_id = match &request.intent {
            Intent::Signed(intent) => {
                let placed = self.place_signed(cache, group, request, intent).await;
                placed.map_err(|error| Refused::All(error.into()))?.map_err(Refused::Alone)?;
                intent.event.event_id().to_owned()
            }
            _ => match self.decide(cache, group, request).await.map_err(Refused::Alone)? {
                Decision::Stands(event_id) => return Ok(event_id.into()),
                Decision::Unsigned(unsigned) => {
                    return Ok(Sent { event_id: unsigned.event.event_id().to_owned(), unsigned: Some(unsigned) });
                }
                Decision::Append(accepted) => {
                    let event_id = accepted.event.event_id().to_owned();
                    group.append(cache, *accepted).await.map_err(|error| Refused::All(error.into()))?;
                    event_id
                }
            },
        };
        if let Some(transaction) = &request.transaction {
            let row = TransactionRow { answer: event_id.to_string(), answered_ts_ms: self.clock.now_ms() };
            group.write.require_absent(Table::Ix, transaction.key.clone());
            group.write.put(Table::Ix, transaction.key.clone(), &row);
        }
        Ok(event_id.into())
    }

    /// Commits what was decided and answers everybody; `rest` did not fit.
    async fn commit(
        &self,
        cache: &mut RoomCache,
        group: Group<'_>,
        settled: Vec<(Waiting, Result<Sent, SendError>)>,
        rest: VecDeque<Waiting>,
    ) -> Result<Settled, Failed> {
        let mut is_known = true;
        if let Some(own) = group.last_event_id().map(ToOwned::to_owned) {
            metrics::histogram!("rooms_group_requests").record(settled.len() as f64);
            if let Err(error) = self.commit_group(cache, group).await {
                // A batch whose fate is unknown is all there or not at all: one of its events tells.
                let in_doubt = matches!(error, CommitError::Unavailable(_));
                if !in_doubt || !self.is_stored(cache.number, &own).await {
                    let group = settled.into_iter().map(|(waiting, _)| waiting).chain(rest).collect();
                    return Err(Failed { group, error: error.into() });
                }
                is_known = false;
            }
        }
        for (waiting, result) in settled {
            // A caller that has gone away does not want its answer.
            drop(waiting.answer.send(result));
        }
        Ok(Settled { is_known, rest })
    }

    /// Commits a batch and brings the cache up to it. After an error the cache is ahead of the store: drop it.
    pub(crate) async fn commit_group(&self, cache: &mut RoomCache, group: Group<'_>) -> Result<(), CommitError> {
        let (write, finished) = group.finish(cache);
        let committed = self.store.commit(write).await?;
        let (head_bytes, position) = finished.head_bytes(&committed);
        cache.committed(head_bytes, position);
        self.results.keep(cache.number, finished.resolved);
        Ok(())
    }

    pub(crate) async fn is_stored(&self, room: RoomNumber, event_id: &EventId) -> bool {
        matches!(self.store.event_number(room, event_id).await, Ok(Some(_)))
    }

    /// What the transaction ids of these requests were answered before.
    async fn answered(&self, waiting: &VecDeque<Waiting>) -> Result<HashMap<Bytes, OwnedEventId>, LoadError> {
        let transactions = waiting.iter().filter_map(|waiting| waiting.request.transaction.as_ref());
        let keys: Vec<Bytes> = transactions.map(|transaction| transaction.key.clone()).collect();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = self.store.multi_get::<TransactionRow>(Table::Ix, &keys).await?;
        let found = keys.into_iter().zip(rows).filter_map(|(key, row)| Some((key, row?.answer.try_into().ok()?)));
        Ok(found.collect())
    }
}

/// Why a request was not decided in favour.
enum Refused {
    /// It alone.
    Alone(SendError),
    /// Nothing of the group can be committed.
    All(SendError),
}

/// A group was settled, or the first part of it.
struct Settled {
    /// The cache is what the store holds. Else the commit's result was lost: it is there, but what it made of the head
    /// was not seen.
    is_known: bool,
    /// What did not fit into the batch.
    rest: VecDeque<Waiting>,
}

/// A group that was not committed.
struct Failed {
    group: VecDeque<Waiting>,
    error: SendError,
}

fn answer_all(group: VecDeque<Waiting>, error: &SendError) {
    for waiting in group {
        // A caller that has gone away does not want its answer.
        drop(waiting.answer.send(Err(error.clone())));
    }
}

/// The task that settles a room's requests until none waits.
struct Driver {
    writer: Arc<Writer>,
    room: Arc<ActiveRoom>,
}

impl Driver {
    async fn run(self) {
        while let Some(group) = self.next_group() {
            let mut cache = self.room.cache.lock().await;
            self.writer.settle(&mut cache, self.room.number, group).await;
        }
    }

    /// The requests that wait, up to [`GROUP_MAX`]. `None`: none waits, and whoever comes next drives.
    fn next_group(&self) -> Option<VecDeque<Waiting>> {
        let mut queue = self.room.queue.lock();
        if queue.waiting.is_empty() {
            queue.is_driven = false;
            return None;
        }
        let count = queue.waiting.len().min(GROUP_MAX);
        let group: VecDeque<Waiting> = queue.waiting.drain(..count).collect();
        let bytes: usize = group.iter().map(|waiting| waiting.request.size_bytes()).sum();
        queue.bytes = queue.bytes.saturating_sub(bytes);
        Some(group)
    }
}

impl Drop for Driver {
    /// After a panic the room must not stay without a driver: those who wait are told, the next one drives.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.room.queue.lock();
            queue.is_driven = false;
            queue.waiting.clear();
            queue.bytes = 0;
        }
    }
}
