//! What waits for one destination, and what is to be done next about it. Pure: time and chance are handed in, rows are
//! written and requests sent by `deliver.rs`, which tells here how it went.
//!
//! An event in the queue holds the page of the log that it was read from, and the reader's cursor stays before the oldest
//! page that is held: after a crash it is read again. A destination that is not reached would hold it for days, so it
//! gets a row that says how far it is; from then on nothing is held for it, and after a crash it catches up from there.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use hearth_ports::{Key, PeerError};
use hearth_store::{EventNumber, Positions, RoomNumber, tables::DestinationRow};

use super::{
    backoff::{PAUSE_MS_MAX, WISHED_PAUSE_MS_MAX, pause_ms},
    catch_up::{CatchUp, Progress},
    ephemeral::{Ephemeral, News, ReceiptNews},
    portion::{Portion, Size},
    rows::{positions_of, positions_to_row},
    status::{Standing, Status},
    superseded::Unswept,
    transaction::{PDUS_MAX, Parts, Transaction, sendable_edu, short},
};

/// Events that wait for one destination, 24 bytes each. Beyond it, it catches up on the newest of each room: it gets no
/// slower by being told of every one.
pub(super) const EVENTS_MAX: usize = 4_000;

/// Events that wait for one that is not reached: 10 transactions.
const FAILING_EVENTS_MAX: usize = 500;

/// With more events waiting than this, a row says how far a destination is: the cursor must not wait for the slowest.
const BACKLOG_EVENTS: usize = 250;

/// After so many failures in a row, some minutes, a destination counts as absent: nothing is kept in memory for it.
pub(super) const ABSENT_AFTER: u32 = 5;

/// A destination that makes itself heard is tried at once, but not more often than this, in milliseconds: it may reach
/// us although we don't reach it.
const ALIVE_EVERY_MS: u64 = 60_000;

/// After trouble of our own (the store can't be read) a destination rests so long, in milliseconds.
const STUMBLE_MS: u64 = 5_000;

/// A page of the log: while anybody holds it, the cursor stays before it.
#[derive(Debug)]
pub(super) struct Page {
    /// The positions before the page.
    pub(super) after: Positions,
}

/// An event on its way to a destination.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) room: RoomNumber,
    pub(super) event: EventNumber,
    /// The destination is not in the room after this event, so catching up on its rooms would not find it.
    pub(super) parting: bool,
    /// Held until the event has arrived, or a row says that the destination is behind.
    pub(super) page: Option<Arc<Page>>,
}

/// What became of an event that was to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits, or catching up will find it.
    Done,
    /// It must be stored as a row: nothing else would find it.
    MustStore,
}

/// Why and how long a destination is left alone.
#[derive(Clone, Debug)]
struct Failing {
    since_ms: u64,
    retry_at_ms: u64,
    /// It asked for that, though it is well: before, it is not tried even if it makes itself heard.
    wished_until_ms: u64,
    failures: u32,
    last_error: String,
}

/// A transaction that was not answered yet.
#[derive(Debug)]
struct InFlight {
    transaction: Arc<Transaction>,
    taken: Taken,
    events: Vec<Outgoing>,
    /// EDUs in it that are stored nowhere and may not be lost yet.
    edus: Vec<String>,
    /// As [`Queue::receipts_after`], of those in it.
    receipts_after: Option<Positions>,
}

/// What a transaction was made of.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// So many events from the queue's front.
    pub(super) events: usize,
    /// Rows that are to be deleted once they have arrived.
    pub(super) rows: Vec<Key>,
    /// Where catching up goes on, if it was part of that.
    pub(super) progress: Option<Progress>,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing, or nothing yet.
    Rest,
    /// Say in a row how far it is.
    FallBehind,
    /// Send this, perhaps again.
    Send(Arc<Transaction>),
    /// Make a transaction of what waits: [`Queue::composed`] or [`Queue::stumbled`] follows.
    Compose(Compose),
    /// It has everything: delete its row.
    Recover,
}

/// What a transaction may be made of.
#[derive(Debug)]
pub(super) struct Compose {
    /// There may be rows.
    pub(super) rows: bool,
    /// The first events of the queue; none while catching up.
    pub(super) events: Vec<Outgoing>,
    /// It is catching up.
    pub(super) catch_up: Option<CatchUp>,
    /// How much.
    pub(super) size: Size,
}

/// What a delivery changes in the store.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// Rows that have arrived.
    pub(super) rows: Vec<Key>,
    /// How far the destination now is, if that must be said.
    pub(super) row: Option<DestinationRow>,
}

/// What is to be stored of a destination that is behind.
#[derive(Debug)]
pub(super) struct Falling {
    pub(super) row: DestinationRow,
    /// Events that only a row would keep.
    pub(super) partings: HashSet<(RoomNumber, EventNumber)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    events: VecDeque<Outgoing>,
    ephemeral: Ephemeral,
    /// The receipts that wait were all set after these positions; `None`: none wait.
    receipts_after: Option<Positions>,
    /// There may be rows to be sent.
    has_rows: bool,
    unswept: Unswept,
    in_flight: Option<InFlight>,
    portion: Portion,
    /// Rows that are given up, until they are deleted: the destination does not take them.
    given_up: Vec<Key>,
    failing: Option<Failing>,
    /// Our own trouble: nothing is tried before this time.
    rests_until_ms: u64,
    /// It has a row, which says that it has everything up to here.
    since: Option<Positions>,
    /// Events after this were not queued.
    lost_from: Option<Positions>,
    catch_up: Option<CatchUp>,
    /// It was reached since it was last not reached.
    proven: bool,
    last_alive_ms: u64,
    /// A task deals with it, or waits for its turn to.
    pub(super) scheduled: bool,
}

impl Queue {
    /// A destination that has this row after a restart.
    pub(super) fn from_row(row: DestinationRow, now_ms: u64) -> Self {
        let since = positions_of(&row.caught_up);
        let failing = (row.failures > 0).then(|| Failing {
            since_ms: row.failing_since_ms,
            // A clock that was put back must not make the pause longer.
            retry_at_ms: row.retry_at_ms.min(now_ms.saturating_add(PAUSE_MS_MAX)),
            wished_until_ms: 0,
            failures: row.failures,
            last_error: row.last_error,
        });
        Self { failing, lost_from: Some(since.clone()), since: Some(since), ..Self::default() }
    }

    /// Adds an event.
    pub(super) fn push(&mut self, mut outgoing: Outgoing) -> Pushed {
        let events_max = if self.failing.is_some() { FAILING_EVENTS_MAX } else { EVENTS_MAX };
        if self.events.len() >= events_max && self.lost_from.is_none() {
            self.lost_from = outgoing.page.as_ref().map(|page| page.after.clone());
        }
        match (self.lost_from.is_some(), self.since.is_some(), outgoing.parting) {
            (true, _, true) | (_, true, true) => Pushed::MustStore,
            (true, _, false) => Pushed::Done,
            (false, has_row, _) => {
                if has_row {
                    outgoing.page = None;
                }
                self.events.push_back(outgoing);
                Pushed::Done
            }
        }
    }

    /// Adds what is of no worth later; for a server that is away it is lost.
    pub(super) fn push_news(&mut self, news: News) {
        if self.failing.is_none() {
            self.ephemeral.push(news);
        }
    }

    /// Adds a receipt that was read from the log after these positions. A server that is absent will be told of it when it
    /// catches up.
    pub(super) fn push_receipt(&mut self, news: Arc<ReceiptNews>, after: &Positions) {
        if self.failing.as_ref().is_none_or(|failing| failing.failures < ABSENT_AFTER) {
            self.ephemeral.push(News::Receipt(news));
            self.receipts_after.get_or_insert_with(|| after.clone());
        }
    }

    /// Adds receipts that the destination missed. What is known of their places already is newer.
    pub(super) fn push_missed_receipts(&mut self, missed: Vec<Arc<ReceiptNews>>) {
        missed.into_iter().for_each(|news| self.ephemeral.push_missed(news));
    }

    /// A row was stored, or rows of before were found. Whether it is time to look which of them are superseded.
    pub(super) fn rows_stored(&mut self) -> bool {
        self.has_rows = true;
        self.unswept.stored()
    }

    /// All rows were looked at, and so many are left.
    pub(super) fn rows_swept(&mut self, left: usize) {
        self.unswept = Unswept::after(left);
    }

    /// When something is to be done: now (`Some` of the past), later, or, until something comes, never.
    pub(super) fn due_at_ms(&self) -> Option<u64> {
        let retry_at_ms = self.failing.as_ref().map_or(0, |failing| failing.retry_at_ms);
        // One that was not reached and is wanted for nothing keeps its row: the next attempt continues the series.
        let recovers = self.since.is_some() && self.failing.is_none();
        (self.has_work() || recovers).then_some(retry_at_ms.max(self.rests_until_ms))
    }

    /// It has everything, and nothing is known of it that would be missed.
    pub(super) fn is_forgettable(&self) -> bool {
        !self.scheduled && self.due_at_ms().is_none() && self.failing.is_none()
    }

    /// The log's cursor waits for what is queued or in flight.
    pub(super) fn holds_log(&self) -> bool {
        self.since.is_none()
    }

    /// It was reached since it was last not reached.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    fn has_work(&self) -> bool {
        self.in_flight.is_some()
            || self.has_rows
            || !self.events.is_empty()
            || !self.ephemeral.is_empty()
            || self.lost_from.is_some()
            || self.catch_up.is_some()
    }

    /// What to do next. `read`: the log's reader has dealt with all up to here, asked before this call.
    pub(super) fn step(&mut self, now_ms: u64, read: &Positions) -> Step {
        if self.due_at_ms().is_none_or(|due_at_ms| now_ms < due_at_ms) {
            return Step::Rest;
        }
        if let Some(in_flight) = &self.in_flight {
            return Step::Send(in_flight.transaction.clone());
        }
        if self.since.is_none() && (self.lost_from.is_some() || self.events.len() > BACKLOG_EVENTS) {
            return Step::FallBehind;
        }
        if !self.has_work() {
            self.since = None;
            return Step::Recover;
        }
        if self.events.is_empty()
            && self.catch_up.is_none()
            && let Some(from) = self.lost_from.take()
        {
            self.catch_up = Some(CatchUp { from, to: read.clone(), next: None });
        }
        let events = match self.catch_up {
            Some(_) => Vec::new(),
            None => self.events.iter().take(PDUS_MAX).cloned().collect(),
        };
        let (rows, catch_up) = (std::mem::take(&mut self.has_rows), self.catch_up.clone());
        Step::Compose(Compose { rows, events, catch_up, size: self.portion.size() })
    }

    /// A transaction was made, or there was nothing to make one of; then the answer is the rows that were nothing. What may
    /// be lost goes into the place that is left in `parts`.
    pub(super) fn composed(
        &mut self,
        taken: Taken,
        mut parts: Parts,
        make: impl FnOnce(Parts) -> Option<Transaction>,
    ) -> Vec<Key> {
        // There may be more of them.
        self.has_rows |= !taken.rows.is_empty();
        let events = self.events.drain(..taken.events.min(self.events.len())).collect();
        let edus = self.add_ephemeral(&mut parts);
        let receipts_after = self.receipts_after.clone();
        if self.ephemeral.is_empty() {
            self.receipts_after = None;
        }
        match make(parts) {
            Some(transaction) => {
                let transaction = Arc::new(transaction);
                self.in_flight = Some(InFlight { transaction, taken, events, edus, receipts_after });
                Vec::new()
            }
            None => {
                self.advance(taken.progress);
                taken.rows
            }
        }
    }

    /// The answer is those that would be missed.
    fn add_ephemeral(&mut self, parts: &mut Parts) -> Vec<String> {
        let mut kept = Vec::new();
        while !parts.is_full_of_edus()
            && let Some(edu) = self.ephemeral.take()
        {
            let json = match sendable_edu(edu.json) {
                Ok(json) => json,
                Err(error) => {
                    tracing::error!(%error, "what we say cannot be sent: dropped");
                    continue;
                }
            };
            let copy = (!edu.is_fleeting).then(|| json.clone());
            if let Err(json) = parts.push_edu(json) {
                self.ephemeral.put_back(std::iter::once(json));
                break;
            }
            kept.extend(copy);
        }
        kept
    }

    /// What was to be done could not be, and the reason is ours.
    pub(super) fn stumbled(&mut self, now_ms: u64) {
        self.has_rows = true;
        self.rests_until_ms = now_ms.saturating_add(STUMBLE_MS);
    }

    fn advance(&mut self, progress: Option<Progress>) {
        let Some(catch_up) = &mut self.catch_up else { return };
        match progress {
            Some(Progress::At(place)) => catch_up.next = Some(place),
            Some(Progress::Through) => {
                self.since = Some(catch_up.to.clone());
                self.catch_up = None;
            }
            Some(Progress::Alone) => (self.catch_up, self.failing) = (None, None),
            None => {}
        }
    }

    /// The transaction in flight was taken.
    pub(super) fn delivered(&mut self) -> Delivered {
        self.proven = true;
        self.portion.taken();
        let was_failing = self.failing.take().is_some();
        let Some(InFlight { taken, .. }) = self.in_flight.take() else { return Delivered::default() };
        let caught_up = taken.progress == Some(Progress::Through);
        self.advance(taken.progress);
        // With nothing left to do, the row is deleted next.
        let since = self.since.as_ref().filter(|_| self.has_work() && (was_failing || caught_up));
        let row = since.map(|since| DestinationRow { caught_up: positions_to_row(since), ..DestinationRow::default() });
        Delivered { rows: taken.rows, row }
    }

    /// The transaction in flight was not taken. `wished_until_ms`: the server asked to be left alone until then. Whether what
    /// is in it was given up.
    pub(super) fn failed(&mut self, now_ms: u64, error: &PeerError, wished_until_ms: Option<u64>, random: u16) -> bool {
        self.proven = false;
        self.ephemeral.forget_fleeting();
        let before = self.failing.take();
        let failures = before.as_ref().map_or(0, |failing| failing.failures);
        let failures = failures.saturating_add(1);
        let wished_until_ms = wished_until_ms.unwrap_or(0).min(now_ms.saturating_add(WISHED_PAUSE_MS_MAX));
        self.failing = Some(Failing {
            since_ms: before.map_or(now_ms, |failing| failing.since_ms),
            retry_at_ms: now_ms.saturating_add(pause_ms(failures, random)).max(wished_until_ms),
            wished_until_ms,
            failures,
            last_error: short(&error.to_string()),
        });
        let gave_up = match error {
            PeerError::Refused { status: 413, .. } => self.refused(true),
            // A time will not come at which it takes this, or at which we can send it.
            PeerError::Refused { status: 400 | 422, .. } | PeerError::Malformed(_) => self.refused(false),
            _ => false,
        };
        if gave_up && let Some(failing) = &mut self.failing {
            // It answers. What comes next is not to wait as if it had not for long.
            failing.failures = 1;
            failing.retry_at_ms = now_ms.saturating_add(pause_ms(1, random));
        }
        gave_up
    }

    /// The destination does not take this transaction, whatever the time. Alone, its item is tried a few times and then given
    /// up; that is the answer. Otherwise the items are sent one by one from now on.
    fn refused(&mut self, too_large: bool) -> bool {
        let Some(in_flight) = self.in_flight.take() else { return false };
        let (items, body_bytes) = (in_flight.transaction.items, in_flight.transaction.body.len());
        if items > 1 {
            self.portion.refused(items, body_bytes, too_large);
            self.has_rows = true;
            self.ephemeral.put_back(in_flight.edus.into_iter());
            in_flight.events.into_iter().rev().for_each(|outgoing| self.events.push_front(outgoing));
            self.receipts_after = in_flight.receipts_after.or(self.receipts_after.take());
            return false;
        }
        if !self.portion.refused_alone() {
            self.in_flight = Some(in_flight);
            return false;
        }
        self.given_up.extend(in_flight.taken.rows);
        self.advance(in_flight.taken.progress);
        true
    }

    /// What the store must know before the reader goes on without this destination. `read` as in [`Self::step`].
    pub(super) fn falling(&self, read: &Positions) -> Falling {
        let held = || self.in_flight.iter().flat_map(|in_flight| &in_flight.events).chain(&self.events);
        let oldest = held().find_map(|outgoing| outgoing.page.as_ref()).map(|page| &page.after);
        let in_flight = self.in_flight.as_ref().and_then(|in_flight| in_flight.receipts_after.as_ref());
        let lost_from = self.lost_from.as_ref();
        let oldest = [oldest, in_flight, self.receipts_after.as_ref(), lost_from].into_iter().flatten();
        // They come from one reader, which only goes on.
        let oldest = oldest.reduce(|one, other| if one.covers(other) { other } else { one });
        let caught_up = self.since.as_ref().or(oldest).unwrap_or(read);
        let partings = held().filter(|outgoing| outgoing.parting).map(|outgoing| (outgoing.room, outgoing.event));
        let row = DestinationRow { caught_up: positions_to_row(caught_up), ..DestinationRow::default() };
        let row = match &self.failing {
            Some(failing) => DestinationRow {
                failing_since_ms: failing.since_ms,
                retry_at_ms: failing.retry_at_ms,
                failures: failing.failures,
                last_error: failing.last_error.clone(),
                ..row
            },
            None => row,
        };
        Falling { row, partings: partings.collect() }
    }

    /// It is stored: nothing is held any more. The answer is rows that are given up and to be deleted.
    pub(super) fn fell(&mut self, falling: &Falling) -> Vec<Key> {
        let stored = |outgoing: &Outgoing| falling.partings.contains(&(outgoing.room, outgoing.event));
        // What was queued meanwhile and would be lost otherwise goes on holding its page.
        let release = |outgoing: &mut Outgoing| {
            if !outgoing.parting || stored(outgoing) {
                (outgoing.page, outgoing.parting) = (None, false);
            }
        };
        self.events.retain(|outgoing| !(outgoing.parting && stored(outgoing)));
        self.events.iter_mut().for_each(release);
        self.in_flight.iter_mut().flat_map(|in_flight| &mut in_flight.events).for_each(release);
        self.has_rows |= !falling.partings.is_empty();
        let since = self.since.get_or_insert_with(|| positions_of(&falling.row.caught_up)).clone();
        if self.failing.as_ref().is_some_and(|failing| failing.failures >= ABSENT_AFTER) {
            self.forget_all(since);
        }
        std::mem::take(&mut self.given_up)
    }

    /// It is absent: when it is back, it catches up.
    fn forget_all(&mut self, since: Positions) {
        self.in_flight = None;
        self.events.retain(|outgoing| outgoing.parting);
        (self.ephemeral, self.receipts_after) = (Ephemeral::default(), None);
        self.catch_up = None;
        self.lost_from = Some(since);
    }

    /// It made itself heard. Whether it is now to be tried.
    pub(super) fn note_alive(&mut self, now_ms: u64) -> bool {
        let Some(failing) = &mut self.failing else { return false };
        if failing.retry_at_ms <= now_ms
            || now_ms < failing.wished_until_ms
            || now_ms.abs_diff(self.last_alive_ms) < ALIVE_EVERY_MS
        {
            return false;
        }
        self.last_alive_ms = now_ms;
        failing.retry_at_ms = now_ms;
        true
    }

    /// How it stands, for the operator.
    pub(super) fn status(&self) -> Status {
        let behind = self.lost_from.is_some() || self.catch_up.is_some();
        let standing = match &self.failing {
            Some(failing) => Standing::Failing {
                since_ms: failing.since_ms,
                retry_at_ms: failing.retry_at_ms,
                failures: failing.failures,
                last_error: failing.last_error.clone(),
            },
            None if behind => Standing::CatchingUp,
            None => Standing::Healthy,
        };
        Status {
            standing,
            queued_events: self.events.len(),
            queued_ephemeral: self.ephemeral.len(),
            in_flight: self.in_flight.is_some(),
            behind,
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
