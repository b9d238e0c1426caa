//! Reading the log: which servers must hear of what.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Weak},
};

use hearth_store::{
    CommitError, Cursor, EventNote, LoadError, LogEntry, Partition, Position, Positions, RoomNumber, Store,
    StoredEvent, tables::QueuedRow,
};

use super::{
    Outbound, as_load_error,
    queue::{Outgoing, Page, Pushed},
};

/// The reader's name in the store.
const CURSOR: &str = "federation";

/// Entries of the log in one page.
const PAGE_ENTRIES: usize = 256;

/// The cursor is stored at most once in so many milliseconds.
const CURSOR_EVERY_MS: u64 = 1_000;

/// The reader of the log.
pub(super) struct Reader {
    /// All up to here is queued.
    read: Positions,
    cursor: Cursor,
    /// When the cursor was stored, in milliseconds since the Unix epoch.
    saved_ms: u64,
    /// The page behind `read`, if the store failed before all of it was dealt with.
    broken_off: Option<BrokenOff>,
}

/// A page of the log of which some was queued: that is not queued again.
struct BrokenOff {
    page: Arc<Page>,
    passed: HashSet<Place>,
}

impl BrokenOff {
    /// A page behind these positions, of which nothing was looked at.
    fn at(read: &Positions) -> Self {
        Self { page: Arc::new(Page { after: read.clone() }), passed: HashSet::new() }
    }
}

/// An entry of the log: its partition and position, and how many entries of the page there have them before it.
type Place = (Partition, Position, usize);

impl Reader {
    /// Goes on where the last process was. A server that begins to federate begins with what happens from now on: nobody
    /// else can have been in its rooms before.
    pub(super) async fn open(store: &Store) -> Result<Self, LoadError> {
        let mut cursor = store.cursor(CURSOR).await?;
        if cursor.is_new() {
            let now = store.live().positions();
            cursor = store.advance_cursor(&cursor, &now).await.map_err(as_load_error)?;
        }
        Ok(Self { read: cursor.positions.clone(), cursor, saved_ms: 0, broken_off: None })
    }

    pub(super) fn read(&self) -> &Positions {
        &self.read
    }
}

/// The pages that were read, as long as something of them is on its way.
pub(super) struct Pages {
    /// Oldest first, each with the positions behind it.
    open: VecDeque<(Weak<Page>, Positions)>,
    done: Positions,
}

impl Pages {
    pub(super) fn new(done: Positions) -> Self {
        Self { open: VecDeque::new(), done }
    }

    /// A page was read: it is done when nobody holds it any more.
    fn close(&mut self, page: Arc<Page>, next: Positions) {
        let held = Arc::downgrade(&page);
        drop(page);
        match self.open.back_mut() {
            // Nothing of it is on its way: it is done with the one before.
            Some((_, before)) if held.strong_count() == 0 => *before = next,
            _ => self.open.push_back((held, next)),
        }
    }

    /// All up to here has arrived, or a row says to whom it has not.
    fn done(&mut self) -> &Positions {
        while self.open.front().is_some_and(|(held, _)| held.strong_count() == 0)
            && let Some((_, next)) = self.open.pop_front()
        {
            self.done = next;
        }
        &self.done
    }
}

/// Entries, each with its place. Those of one position are of one batch, and stand together.
fn places(entries: &[(Partition, Position, LogEntry)]) -> impl Iterator<Item = (Place, &LogEntry)> {
    let mut last: Option<Place> = None;
    entries.iter().map(move |(partition, position, entry)| {
        let nth = match last {
            Some((of, at, nth)) if (of, at) == (*partition, *position) => nth + 1,
            _ => 0,
        };
        let place = (*partition, *position, nth);
        last = Some(place);
        (place, entry)
    })
}

impl Outbound {
    /// Reads a page of the log and queues what other servers must hear of. Whether there may be more.
    pub(super) async fn follow(self: &Arc<Self>) -> Result<bool, LoadError> {
        let mut reader = self.reader.lock().await;
        let log = self.parts.store.read_log(&reader.read, PAGE_ENTRIES).await?;
        if log.next == reader.read {
            return Ok(false);
        }
        let begun = reader.broken_off.take();
        let mut begun = begun.unwrap_or_else(|| BrokenOff::at(&reader.read));
        // What was queued in rows is known first, so that a room key does not come behind its message.
        let (queued, others): (Vec<_>, Vec<_>) =
            places(&log.entries).partition(|(_, entry)| matches!(entry, LogEntry::Queued { .. }));
        let entries = queued.into_iter().chain(others);
        if let Err(error) = self.pass_on_all(&mut begun, entries).await {
            reader.broken_off = Some(begun);
            return Err(error);
        }
        let BrokenOff { page, .. } = begun;
        reader.read = log.next.clone();
        self.read.lock().clone_from(&log.next);
        self.pages.lock().close(page, log.next);
        Ok(log.entries.len() >= PAGE_ENTRIES)
    }

    /// Passes on what of a page was not before. What is damaged is passed over: it gets no better by being read again, and
    /// the rest must not wait for it.
    async fn pass_on_all<'a>(
        self: &Arc<Self>,
        begun: &mut BrokenOff,
        entries: impl Iterator<Item = (Place, &'a LogEntry)>,
    ) -> Result<(), LoadError> {
        for (place, entry) in entries {
            if begun.passed.contains(&place) {
                continue;
            }
            let (partition, position, _) = place;
            match self.pass_on(&begun.page, position, entry).await {
                Ok(()) => {}
                Err(LoadError::Corrupt(error)) => {
                    tracing::error!(?partition, ?position, %error, "other servers are not told of what is damaged");
                }
                Err(error @ LoadError::Unavailable(_)) => return Err(error),
            }
            begun.passed.insert(place);
        }
        Ok(())
    }

    async fn pass_on(self: &Arc<Self>, page: &Arc<Page>, at: Position, entry: &LogEntry) -> Result<(), LoadError> {
        match entry {
            LogEntry::Event(EventNote { room, event: Some(event), member }) => {
                if self.targets.is_ours_alone(*room) {
                    if member.is_none() {
                        return Ok(());
                    }
                    // Somebody comes or goes: from here on it may be others' too.
                    self.targets.forget(*room);
                }
                let stored = self.parts.store.event(*room, *event).await?;
                if let (Some(note), Some(stored)) = (member, &stored) {
                    self.note_newcomer(note, stored).await?;
                }
                if let Some(stored) = stored.as_ref().filter(|stored| self.targets.is_ours(stored)) {
                    self.pass_on_event(page, *room, stored).await?;
                }
                // What was looked at is the room before the event: alone then is not alone now.
                if member.is_some() && self.targets.is_ours_alone(*room) {
                    self.targets.forget(*room);
                }
                match member {
                    Some(member) => self.follow_lists(member, at, stored.as_deref()).await,
                    None => Ok(()),
                }
            }
            LogEntry::Event(EventNote { room, event: None, .. }) => {
                self.targets.forget(*room);
                Ok(())
            }
            LogEntry::Receipt { room, private: false, .. } if self.parts.settings.receipts => {
                self.tell_receipt(page, *room, at).await
            }
            LogEntry::Queued { server } => {
                self.note_queued(server).await;
                Ok(())
            }
            LogEntry::Device { user, device } => self.tell_device(*user, device, at).await,
            LogEntry::SigningKeys { user } => self.tell_signing_keys(*user).await,
            LogEntry::Membership(member) => self.follow_lists(member, at, None).await,
            LogEntry::Receipt { .. }
            | LogEntry::AccountData { .. }
            | LogEntry::ToDevice { .. }
            | LogEntry::DeviceList { .. }
            | LogEntry::OwnKeys { .. }
            | LogEntry::Account { .. } => Ok(()),
        }
    }

    async fn pass_on_event(
        self: &Arc<Self>,
        page: &Arc<Page>,
        room: RoomNumber,
        stored: &Arc<StoredEvent>,
    ) -> Result<(), LoadError> {
        for target in self.targets.of(room, stored).await? {
            let Some(destination) = self.destination(&target.server) else { continue };
            let event = stored.number;
            let outgoing = Outgoing { room, event, parting: target.parting, page: Some(page.clone()) };
            let pushed = destination.queue.lock().push(outgoing);
            match pushed {
                Pushed::Done => self.wake(&destination),
                Pushed::MustStore => {
                    let row = QueuedRow::Event { room, event };
                    self.queue_row(&destination, row).await.map_err(as_load_error)?;
                }
            }
        }
        Ok(())
    }

    /// Whether everything that is known to have happened was read.
    #[cfg(test)]
    pub(super) async fn reader_is_at_end(&self) -> bool {
        self.reader.lock().await.read.covers(&self.parts.store.live().positions())
    }

    /// Stores how far all is, at most once a second: see [`Outbound::save`].
    pub(super) async fn save_cursor(&self, now_ms: u64) {
        let mut reader = self.reader.lock().await;
        if now_ms.abs_diff(reader.saved_ms) >= CURSOR_EVERY_MS && self.advance(&mut reader).await {
            reader.saved_ms = now_ms;
        }
    }

    /// Stores how far everybody is but those of whom a row says otherwise: less is sent twice after a restart. It is done
    /// once a second anyway; this is for a process that ends.
    pub async fn save(&self) {
        let mut reader = self.reader.lock().await;
        self.advance(&mut reader).await;
    }

    /// Whether there was anything to store.
    async fn advance(&self, reader: &mut Reader) -> bool {
        let done = self.pages.lock().done().clone();
        if done == reader.cursor.positions {
            return false;
        }
        match self.parts.store.advance_cursor(&reader.cursor, &done).await {
            Ok(cursor) => reader.cursor = cursor,
            Err(CommitError::Conflict) => {
                // A commit whose outcome was not known, or another process at our data.
                tracing::warn!("the cursor of the log was moved by another");
                match self.parts.store.cursor(CURSOR).await {
                    Ok(cursor) => reader.cursor = cursor,
                    Err(error) => tracing::warn!(%error, "the cursor of the log could not be read"),
                }
            }
            Err(error) => tracing::warn!(%error, "the cursor of the log was not stored"),
        }
        true
    }
}
