//! Sending to other servers: what happens here is followed in the log, and each server is told its part.
//!
//! `follow.rs` reads the log and asks `targets.rs` which servers an event goes to; each server has a queue (`queue.rs`,
//! pure), which a task of its own empties (`deliver.rs`), one transaction at a time, so that nobody waits for a server that
//! hangs. A server that is not reached is left alone for longer and longer (`backoff.rs`), and when it is back it is told
//! the newest of each room that it is in (`catch_up.rs`): the rest it fetches.
//!
//! What must not be lost is in the log or in a row before anything is sent: after a crash it is sent once more, never not
//! at all. Nothing here decides anything about an event, or waits for a server before it reads on.

mod backoff;
mod catch_up;
mod deliver;
mod device_lists;
mod ephemeral;
mod follow;
mod newcomers;
mod portion;
mod queue;
mod receipts;
mod rows;
mod slots;
mod sources;
mod status;
mod superseded;
mod targets;
#[cfg(test)]
mod tests;
mod transaction;
mod transmit;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Weak, atomic::AtomicU64},
    time::Duration,
};

use hearth_ports::{Clock, Entropy};
use hearth_store::{
    CommitError, Corrupt, EventNumber, LoadError, Positions, RoomNumber, Store, Unavailable, tables::QueuedRow,
};
use hearth_users::Users;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue as RawJsonValue;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{MissedTickBehavior, interval, sleep},
};

pub use status::{DestinationStatus, Standing};
pub use transmit::Transmit;

use follow::{Pages, Reader};
use newcomers::Newcomers;
use queue::Queue;
use slots::Slots;
use sources::Watched;
use status::Totals;
use targets::Targets;

/// The largest EDU that is kept in a row, in bytes: as large as an event.
const EDU_BYTES_MAX: usize = 65_536;

/// The longest name of a server that anything is sent to, in bytes: what the grammar of names allows, and keys hold.
const SERVER_NAME_BYTES_MAX: usize = 255;

/// How often timers, the cursor and presence are looked at.
const TICK: Duration = Duration::from_secs(1);

/// The log is read so long after it was read last: what comes meanwhile is read at once.
const GATHER: Duration = Duration::from_millis(10);

/// After an error of the store the log is read again after so long.
const TROUBLE: Duration = Duration::from_secs(1);

/// Destinations that are remembered; beyond it those that want nothing are forgotten.
const DESTINATIONS_MAX: usize = 50_000;

/// The gauges are set every so many ticks: it takes a look at every destination.
const GAUGES_EVERY: u64 = 5;

/// What of the configuration this obeys.
#[derive(Clone, Copy, Debug)]
pub struct OutboundSettings {
    /// Whether other servers are told who is online.
    pub presence: bool,
    /// Whether other servers are told who types.
    pub typing: bool,
    /// Whether other servers are told what was read.
    pub receipts: bool,
}

impl Default for OutboundSettings {
    fn default() -> Self {
        Self { presence: true, typing: true, receipts: true }
    }
}

/// What sending stands on.
pub struct OutboundParts {
    /// The log, rooms, and the rows of destinations.
    pub store: Arc<Store>,
    /// Typing and presence.
    pub users: Arc<Users>,
    /// The time: when a destination is tried again.
    pub clock: Arc<dyn Clock>,
    /// Chance: so that not all are tried at once.
    pub entropy: Arc<dyn Entropy>,
    /// The way out.
    pub transmit: Arc<dyn Transmit>,
    /// Our name.
    pub server_name: OwnedServerName,
    /// The configuration.
    pub settings: OutboundSettings,
}

/// Sends to other servers. See the module.
pub struct Outbound {
    parts: OutboundParts,
    targets: Targets,
    /// By name. Held for map operations only; where a queue's lock is held too, this one was taken first.
    destinations: Mutex<HashMap<OwnedServerName, Arc<Destination>>>,
    slots: Slots,
    /// When destinations are to be looked at again, in milliseconds since the Unix epoch. Never held together with another.
    timers: Mutex<BTreeSet<(u64, OwnedServerName)>>,
    reader: tokio::sync::Mutex<Reader>,
    /// The reader has dealt with all up to here.
    read: Mutex<Positions>,
    /// What it has read and is not delivered.
    pages: Mutex<Pages>,
    /// How many transactions were made in this process.
    transactions: AtomicU64,
    /// What other servers were told of presence and typing.
    watched: Mutex<Watched>,
    /// Who is to be told who is there.
    newcomers: Mutex<Newcomers>,
    /// Events of which the log has said that they cannot be sent.
    unsendable: Mutex<HashSet<(RoomNumber, EventNumber)>>,
}

/// Another server.
struct Destination {
    name: OwnedServerName,
    /// Held for its own operations only.
    queue: Mutex<Queue>,
}

/// Why something was not queued for a server.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// It is too large to be sent.
    #[error("the EDU has {0} bytes, more than can be sent")]
    TooLarge(usize),
    /// Ours: try again.
    #[error("the store did not take it: {0}")]
    Unavailable(#[from] CommitError),
}

impl Outbound {
    /// Begins to send: where an earlier process stopped, or with what happens from now on. Must be called within a tokio
    /// runtime; ends when the answer is dropped.
    pub async fn start(parts: OutboundParts) -> Result<Arc<Self>, LoadError> {
        let outbound = Self::open(parts).await?;
        let typing = outbound.parts.users.typing_changes();
        tokio::spawn(Self::keep_reading(Arc::downgrade(&outbound)));
        tokio::spawn(Self::keep_time(Arc::downgrade(&outbound)));
        tokio::spawn(Self::keep_telling(Arc::downgrade(&outbound), typing));
        Ok(outbound)
    }

    /// Everything but the tasks that drive it.
    async fn open(parts: OutboundParts) -> Result<Arc<Self>, LoadError> {
        let reader = Reader::open(&parts.store).await?;
        let now_ms = parts.clock.now_ms();
        let mut destinations: HashMap<OwnedServerName, Queue> = HashMap::new();
        for (server, row) in rows::destinations(&parts.store).await? {
            destinations.insert(server, Queue::from_row(row, now_ms));
        }
        for server in rows::queued_servers(&parts.store).await? {
            destinations.entry(server).or_default().rows_stored();
        }
        let destinations = destinations.into_iter().map(|(name, queue)| {
            let destination = Destination { name: name.clone(), queue: Mutex::new(queue) };
            (name, Arc::new(destination))
        });
        let read = reader.read().clone();
        let outbound = Arc::new(Self {
            targets: Targets::new(parts.store.clone(), parts.server_name.clone()),
            destinations: Mutex::new(destinations.collect()),
            slots: Slots::default(),
            timers: Mutex::default(),
            pages: Mutex::new(Pages::new(read.clone())),
            read: Mutex::new(read),
            reader: tokio::sync::Mutex::new(reader),
            transactions: AtomicU64::new(0),
            watched: Mutex::new(Watched::new(parts.users.serial())),
            newcomers: Mutex::default(),
            unsendable: Mutex::default(),
            parts,
        });
        outbound.all().iter().for_each(|destination| outbound.wake(destination));
        Ok(outbound)
    }

    /// A server was heard: if it was left alone, it is tried now.
    pub fn note_alive(self: &Arc<Self>, server: &ServerName) {
        let known = self.destinations.lock().get(server).cloned();
        let Some(destination) = known else { return };
        let is_tried = destination.queue.lock().note_alive(self.parts.clock.now_ms());
        if is_tried {
            self.wake(&destination);
        }
    }

    /// Takes every server of this channel for heard, as long as both live: for requests of ours that reach a server again.
    pub fn follow_alive(self: &Arc<Self>, mut alive: Receiver<OwnedServerName>) {
        let outbound = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                match alive.recv().await {
                    Ok(server) => match outbound.upgrade() {
                        Some(this) => this.note_alive(&server),
                        None => return,
                    },
                    // Who is missed is tried later all the same.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    /// Queues an EDU that must reach a server, however long that takes, in the order in which they are queued: durable when
    /// this returns. It may arrive twice. Nothing is queued for ourselves. Of very many that wait for a server, those are
    /// dropped that a newer one supersedes: see `superseded.rs`.
    pub async fn queue_edu(self: &Arc<Self>, server: &ServerName, edu: &RawJsonValue) -> Result<(), QueueError> {
        if edu.get().len() > EDU_BYTES_MAX {
            return Err(QueueError::TooLarge(edu.get().len()));
        }
        if let Some(destination) = self.destination(server) {
            self.queue_row(&destination, QueuedRow::Edu { json: edu.get().to_owned() }).await?;
        }
        Ok(())
    }

    /// Stores something for a destination and lets it be sent.
    async fn queue_row(self: &Arc<Self>, destination: &Arc<Destination>, row: QueuedRow) -> Result<(), CommitError> {
        rows::put_queued(&self.parts.store, &destination.name, &row).await?;
        self.row_stored(destination).await;
        Ok(())
    }

    /// The log says that others stored something for a server: messages to devices.
    async fn note_queued(self: &Arc<Self>, server: &str) {
        let server = <&ServerName>::try_from(server).ok();
        if let Some(destination) = server.and_then(|server| self.destination(server)) {
            self.row_stored(&destination).await;
        }
    }

    async fn row_stored(self: &Arc<Self>, destination: &Arc<Destination>) {
        let are_many = destination.queue.lock().rows_stored();
        if are_many {
            self.drop_superseded(destination).await;
        }
        self.wake(destination);
    }

    /// How a server stands; `None`: nothing was sent to it lately.
    pub fn status(&self, server: &ServerName) -> Option<DestinationStatus> {
        let destination = self.destinations.lock().get(server).cloned()?;
        let status = destination.queue.lock().status();
        Some(status.of(destination.name.clone()))
    }

    /// How all servers stand that are not reached or not caught up, by name.
    pub fn troubled(&self) -> Vec<DestinationStatus> {
        let status = |destination: Arc<Destination>| {
            let status = destination.queue.lock().status();
            (status.standing != Standing::Healthy).then(|| status.of(destination.name.clone()))
        };
        let mut troubled: Vec<_> = self.all().into_iter().filter_map(status).collect();
        troubled.sort_by(|a, b| a.server.cmp(&b.server));
        troubled
    }

    fn all(&self) -> Vec<Arc<Destination>> {
        self.destinations.lock().values().cloned().collect()
    }

    /// The place of a server; `None` for ourselves and for names that nobody can have.
    fn destination(&self, server: &ServerName) -> Option<Arc<Destination>> {
        if *server == *self.parts.server_name || server.as_str().len() > SERVER_NAME_BYTES_MAX {
            return None;
        }
        let mut destinations = self.destinations.lock();
        if let Some(known) = destinations.get(server) {
            return Some(known.clone());
        }
        let new = Arc::new(Destination { name: server.to_owned(), queue: Mutex::default() });
        destinations.insert(server.to_owned(), new.clone());
        Some(new)
    }

    /// Reads the log as it grows.
    async fn keep_reading(outbound: Weak<Self>) {
        loop {
            let Some(this) = outbound.upgrade() else { return };
            let changed = this.parts.store.live().log_changed();
            let followed = this.follow().await;
            drop(this);
            match followed {
                Ok(true) => {}
                Ok(false) => {
                    sleep(GATHER).await;
                    // Whoever waits for ever must not keep the store.
                    tokio::select! {
                        () = changed => {}
                        () = sleep(TICK) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "other servers are not told of what happens for now");
                    sleep(TROUBLE).await;
                }
            }
        }
    }

    /// Does what time brings.
    async fn keep_time(outbound: Weak<Self>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for nth in 0.. {
            ticks.tick().await;
            let Some(this) = outbound.upgrade() else { return };
            this.tick(nth).await;
        }
    }

    async fn tick(self: &Arc<Self>, nth: u64) {
        let now_ms = self.parts.clock.now_ms();
        self.wake_due(now_ms);
        self.save_cursor(now_ms).await;
        if self.parts.settings.presence {
            self.tell_presence().await;
            self.greet().await;
        }
        if nth.is_multiple_of(GAUGES_EVERY) {
            self.take_stock();
        }
    }

    /// Sets the gauges, and forgets destinations if there are very many.
    fn take_stock(&self) {
        let all = self.all();
        let mut totals = Totals::default();
        all.iter().for_each(|destination| totals.add(&destination.queue.lock().status()));
        totals.publish();
        if all.len() > DESTINATIONS_MAX {
            drop(all);
            // Under the map's lock nobody else comes to hold one.
            let forgettable = |destination: &Arc<Destination>| {
                Arc::strong_count(destination) == 1 && destination.queue.lock().is_forgettable()
            };
            self.destinations.lock().retain(|_, destination| !forgettable(destination));
        }
    }
}

/// A commit that failed, where only the store can be to blame. What cannot be written will never be.
fn as_load_error(error: CommitError) -> LoadError {
    match error {
        CommitError::Unavailable(error) => error.into(),
        CommitError::Conflict => Unavailable(error.to_string()).into(),
        CommitError::Malformed(_) => Corrupt { what: "batch", reason: error.to_string() }.into(),
    }
}

/// What was loaded; nothing, where it is damaged: it gets no better by being read again, and the rest must not wait for it.
fn unless_corrupt<T: Default>(loaded: Result<T, LoadError>) -> Result<T, LoadError> {
    match loaded {
        Err(LoadError::Corrupt(error)) => {
            tracing::error!(%error, "what is damaged is not sent");
            Ok(T::default())
        }
        loaded => loaded,
    }
}
