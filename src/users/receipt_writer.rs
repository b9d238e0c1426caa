//! Receipts are many and small: those of a room that come within a moment are written as one batch.
//!
//! Gathering makes it cheap; what makes it right is that the batch requires each row that it takes the place of.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hearth_ports::Key;
use hearth_store::{
    EventNumber, Order, RoomNumber, Store, Table, Write,
    tables::{ReceiptPlaceRow, ReceiptRow, put_receipt, receipt_key},
};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedUserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    Fault,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// How long the first receipt of a room waits for others. Nobody notices a tenth of a second, and a message that a
/// hundred people read at once costs one commit.
pub(crate) const GATHER_FOR: Duration = Duration::from_millis(100);

/// Receipts in one batch. Each writes two rows of at most some 700 bytes, as ids are bounded, and requires one: together they stay below the
/// 1 MB that engines like.
pub(crate) const GROUP_MAX: usize = 256;

/// Receipts that may wait, of all rooms together: some 10 MB at the longest ids. Beyond it the server is slower than
/// those who read: they are told so.
const WAITING_MAX: usize = 10_000;

/// A receipt to be set.
pub(crate) struct Wish {
    /// Whose and of what kind.
    pub(crate) place: ReceiptPlaceRow,
    /// The user id of the same.
    pub(crate) user_id: OwnedUserId,
    /// Up to and with this event.
    pub(crate) event_id: OwnedEventId,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub(crate) ts_ms: u64,
}

/// Writes receipts. One for the server.
pub(crate) struct ReceiptWriter {
    store: Arc<Store>,
    /// Rooms whose driver runs, and what waits for it. Held for map operations only.
    rooms: Mutex<HashMap<RoomNumber, Vec<Waiting>>>,
    /// One for each receipt that waits or is being written.
    places: Arc<Semaphore>,
}

/// A receipt and where its answer goes.
struct Waiting {
    wish: Wish,
    answer: oneshot::Sender<Result<(), Fault>>,
    /// Given back when it is dropped.
    _place: OwnedSemaphorePermit,
}

/// All that waits for one row, in order of arrival.
struct Row {
    key: Key,
    waiting: Vec<Waiting>,
}

impl ReceiptWriter {
    pub(crate) fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self { store, rooms: Mutex::default(), places: Arc::new(Semaphore::new(WAITING_MAX)) })
    }

    /// Sets a receipt, together with others of the room, and answers when it is durable. A caller that goes away takes
    /// nothing back.
    pub(crate) async fn set(self: &Arc<Self>, room: RoomNumber, wish: Wish) -> Result<(), Fault> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Fault::Unavailable("too many receipts wait".to_owned()))?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { wish, answer, _place: place };
        let is_driven = match self.rooms.lock().entry(room) {
            Entry::Occupied(mut others) => {
                others.get_mut().push(waiting);
                true
            }
            Entry::Vacant(none) => {
                none.insert(vec![waiting]);
                false
            }
        };
        if !is_driven {
            tokio::spawn(Driver { writer: Arc::clone(self), room }.run());
        }
        answered.await.unwrap_or_else(|_| Err(Fault::Unavailable("the writer of receipts stopped".to_owned())))
    }

    /// Writes these, each batch again after a lost race, and answers them.
    async fn settle(&self, room: RoomNumber, group: Vec<Waiting>) {
        metrics::histogram!("users_receipts_group").record(group.len() as f64);
        let rows = rows(room, group);
        let results = match self.write(room, &rows).await {
            Ok(results) => results,
            // The batch cannot be written: that must be one of them, and the others are not to suffer from it.
            Err(Fault::Broken(_)) if rows.len() > 1 => self.write_each(room, &rows).await,
            Err(fault) => vec![Err(fault); rows.len()],
        };
        for (row, result) in rows.into_iter().zip(results) {
            for waiting in row.waiting {
                // A caller that has gone away does not want its answer.
                drop(waiting.answer.send(result.clone()));
            }
        }
    }

    /// Decides and commits these as one batch, again after a lost race. An error is one of them all.
    async fn write(&self, room: RoomNumber, rows: &[Row]) -> Result<Vec<Result<(), Fault>>, Fault> {
        for _ in 0..COMMIT_ATTEMPTS {
            match self.attempt(room, rows).await? {
                Some(results) => return Ok(results),
                None => metrics::counter!("users_receipts_conflicts").increment(1),
            }
        }
        Err(Fault::contended())
    }

    /// Writes each of these by itself.
    async fn write_each(&self, room: RoomNumber, rows: &[Row]) -> Vec<Result<(), Fault>> {
        let mut results = Vec::with_capacity(rows.len());
        for row in rows {
            let written = self.write(room, std::slice::from_ref(row)).await;
            results.push(written.and_then(|results| results.into_iter().collect()));
        }
        results
    }

    /// Decides and commits once; `None`: a race was lost. A row that can't be decided fails alone.
    async fn attempt(&self, room: RoomNumber, rows: &[Row]) -> Result<Option<Vec<Result<(), Fault>>>, Fault> {
        let keys: Vec<Key> = rows.iter().map(|row| row.key.clone()).collect();
        let stored = self.store.engine().multi_get(Table::Rm, &keys).await?;
        let mut events = Events { store: &self.store, room, known: HashMap::new() };
        let mut write = Write::new(room.partition());
        let mut is_empty = true;
        let mut results = Vec::with_capacity(rows.len());
        for (row, stored) in rows.iter().zip(stored) {
            let decided = decide(&mut events, row, stored.as_ref()).await;
            results.push(decided.map(|change| {
                let Some((place, new, old)) = change else { return };
                is_empty = false;
                put_receipt(&mut write, room, place, &new, stored.zip(old.as_ref()));
            }));
        }
        let is_done = is_empty || committed(self.store.commit(write).await)?;
        Ok(is_done.then_some(results))
    }
}

/// What waits, by the row that it is for.
fn rows(room: RoomNumber, group: Vec<Waiting>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::with_capacity(group.len());
    let mut by_key: HashMap<Key, usize> = HashMap::with_capacity(group.len());
    for waiting in group {
        let place = &waiting.wish.place;
        let key = receipt_key(room, place.user, place.private, &place.thread);
        match by_key.entry(key) {
            Entry::Occupied(index) => rows[*index.get()].waiting.push(waiting),
            Entry::Vacant(none) => {
                rows.push(Row { key: none.key().clone(), waiting: vec![waiting] });
                none.insert(rows.len() - 1);
            }
        }
    }
    rows
}

/// A receipt that changes: its place, what it becomes, what it was.
type Change<'a> = Option<(&'a ReceiptPlaceRow, ReceiptRow, Option<ReceiptRow>)>;

/// What becomes of a row if each of its wishes is fulfilled in turn. A receipt only moves forward: a wish that would move
/// it back is fulfilled by what is there.
async fn decide<'a>(events: &mut Events<'_>, row: &'a Row, stored: Option<&Bytes>) -> Result<Change<'a>, Fault> {
    let old: Option<ReceiptRow> = stored.map(|bytes| hearth_store::decode(bytes)).transpose()?;
    let mut newest: Option<&Wish> = None;
    for Waiting { wish, .. } in &row.waiting {
        let standing = newest.map(|wish| wish.event_id.as_str()).or(old.as_ref().map(|old| old.event_id.as_str()));
        let is_forward = match standing {
            None => true,
            Some(standing) => events.is_forward(standing, &wish.event_id).await?,
        };
        if is_forward {
            newest = Some(wish);
        }
    }
    let Some(wish) = newest else { return Ok(None) };
    let new = ReceiptRow {
        position: 0,
        event_id: wish.event_id.to_string(),
        event: events.find(&wish.event_id).await?.0,
        ts_ms: wish.ts_ms,
        user_id: wish.user_id.to_string(),
    };
    Ok(Some((&wish.place, new, old)))
}

/// Events of a room that receipts name: those of one moment mostly name the same.
struct Events<'a> {
    store: &'a Store,
    room: RoomNumber,
    known: HashMap<OwnedEventId, Place>,
}

/// An event's number, if it is stored, and where it stands in the timeline, if it does.
type Place = (Option<EventNumber>, Option<Order>);

impl Events<'_> {
    async fn find(&mut self, event_id: &EventId) -> Result<Place, Fault> {
        if let Some(place) = self.known.get(event_id) {
            return Ok(*place);
        }
        let place = place_of(self.store, self.room, event_id).await?;
        self.known.insert(event_id.to_owned(), place);
        Ok(place)
    }

    /// See [`is_forward`].
    async fn is_forward(&mut self, old: &str, new: &EventId) -> Result<bool, Fault> {
        let Ok(old) = EventId::parse(old) else { return Ok(true) };
        Ok(old != new && is_forward(self.find(&old).await?.1, self.find(new).await?.1))
    }
}

/// What is known of an event's place.
pub(crate) async fn place_of(store: &Store, room: RoomNumber, event_id: &EventId) -> Result<Place, Fault> {
    let Some(event) = store.event_by_id(room, event_id).await? else { return Ok((None, None)) };
    Ok((Some(event.number), Some(event.header.order()).filter(|order| order.position > 0)))
}

/// Whether a marker moves forward from an event at `old` to another at `new`. An old event without a place gives way to
/// any other; a new one without a place gives way to an old one that has one.
pub(crate) fn is_forward(old: Option<Order>, new: Option<Order>) -> bool {
    match (old, new) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(old), Some(new)) => new > old,
    }
}

/// The task that writes a room's receipts until none waits.
struct Driver {
    writer: Arc<ReceiptWriter>,
    room: RoomNumber,
}

impl Driver {
    async fn run(self) {
        loop {
            tokio::time::sleep(GATHER_FOR).await;
            let Some(mut due) = self.due() else { return };
            while !due.is_empty() {
                let rest = due.split_off(due.len().min(GROUP_MAX));
                self.writer.settle(self.room, due).await;
                due = rest;
            }
        }
    }

    /// All that waits now. `None`: nothing does, and whoever comes next drives.
    fn due(&self) -> Option<Vec<Waiting>> {
        let mut rooms = self.writer.rooms.lock();
        let due = std::mem::take(rooms.get_mut(&self.room)?);
        if due.is_empty() {
            rooms.remove(&self.room);
        }
        Some(due).filter(|due| !due.is_empty())
    }
}

impl Drop for Driver {
    /// After a panic the room must not stay without a driver: those who wait are told, the next one drives.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.writer.rooms.lock().remove(&self.room);
        }
    }
}
