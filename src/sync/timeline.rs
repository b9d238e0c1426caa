//! A stretch of a room's timeline, read backwards from its end.

use std::ops::Bound;

use hearth_store::{LoadError, Order, RoomNumber, StateVersion, Store, tables::TimelineRow};
use hearth_view::{PageToken, RoomEventFilter, delta::Window};

use crate::{SyncError, gate::Shown, view::RoomView};

/// Events of a timeline without a wish of the client.
pub(crate) const LIMIT_DEFAULT: usize = 10;

/// The most events of one room's timeline, so that an answer stays within some megabytes for a room.
pub(crate) const LIMIT_MAX: usize = 500;

/// Rows read beyond the limit: the one that shows that there are more, and the one that has the state before.
const ROWS_BEYOND: usize = 2;

/// Rows read at first by who follows a room: mostly one is new, and the one before it has the state before.
const FIRST_ROWS: usize = 2;

/// Rows read at a time by searches that go on: events that a filter or the gate passes over.
const NEXT_ROWS: usize = 200;

/// Rows that the search in one room goes through before it is given up and the client told to look further by itself.
const ROWS_MAX: usize = 5_000;

/// Rows that the searches of one answer go through beyond what each room is read at first.
pub(crate) const ROWS_OF_ANSWER_MAX: usize = 50_000;

/// Bytes of events in one room's timeline; it always has one event if there is one.
const BYTES_MAX: usize = 1 << 20;

/// The rows of a timeline up to some place, as far as they were read, newest first.
pub(crate) struct Tape {
    room: RoomNumber,
    /// The end.
    pub(crate) upto: Order,
    pub(crate) rows: Vec<(Order, TimelineRow)>,
    /// There are no older rows.
    is_whole: bool,
}

impl Tape {
    /// The newest rows at or before `upto`: down to the first at or before `since`, and at most as many as a timeline of
    /// `limit` events needs that passes nothing over.
    pub(crate) async fn read(
        store: &Store,
        room: RoomNumber,
        (since, upto): (Option<Order>, Order),
        limit: usize,
    ) -> Result<Self, LoadError> {
        let mut tape = Self { room, upto, rows: Vec::new(), is_whole: false };
        let rows = limit.saturating_add(ROWS_BEYOND);
        if since.is_some() {
            tape.go_on(store, rows.min(FIRST_ROWS)).await?;
        }
        if tape.rows.len() < rows && !since.map_or(tape.is_whole, |since| tape.reaches(since)) {
            tape.go_on(store, rows - tape.rows.len()).await?;
        }
        Ok(tape)
    }

    async fn go_on(&mut self, store: &Store, rows: usize) -> Result<(), LoadError> {
        let upper = self.rows.last().map_or(Bound::Included(self.upto), |(order, _)| Bound::Excluded(*order));
        let page = store.timeline(self.room, (Bound::Unbounded, upper), rows, true).await?;
        self.is_whole = page.len() < rows;
        self.rows.extend(page);
        Ok(())
    }

    /// Whether all rows behind this place were read.
    pub(crate) fn reaches(&self, since: Order) -> bool {
        self.is_whole || self.rows.last().is_some_and(|(last, _)| *last <= since)
    }

    /// The state at the tape's end.
    pub(crate) fn state_now(&self) -> StateVersion {
        self.rows.first().map_or(StateVersion::EMPTY, |(_, row)| row.state)
    }

    /// The state after the last event at or before this place.
    pub(crate) async fn state_at(&self, store: &Store, order: Order) -> Result<StateVersion, LoadError> {
        match self.rows.iter().find(|(known, _)| *known <= order) {
            Some((_, row)) => Ok(row.state),
            None if self.is_whole => Ok(StateVersion::EMPTY),
            None => store.state_at(self.room, order).await,
        }
    }
}

/// What is told of a timeline.
pub(crate) struct Timeline {
    /// Oldest first.
    pub(crate) events: Vec<Shown>,
    /// There is more between these events and the last sync.
    pub(crate) limited: bool,
    /// Where reading backwards goes on: just before the events.
    pub(crate) start: PageToken,
}

impl Timeline {
    /// Nothing of a timeline up to here.
    pub(crate) fn none(upto: Order) -> Self {
        Self { events: Vec::new(), limited: false, start: PageToken { position: upto.position, within: upto.within } }
    }

    /// The newest events of a tape that are behind `after` and that the reader may see and wants to.
    pub(crate) async fn gather(
        view: &mut RoomView<'_>,
        tape: &mut Tape,
        after: Option<Order>,
        filter: &RoomEventFilter,
    ) -> Result<Self, SyncError> {
        let limit = filter.events.limit_or(LIMIT_DEFAULT, LIMIT_MAX);
        let mut window = Window::new(limit);
        let (mut from, mut bytes) = (0, 0);
        'search: loop {
            let rows = tape.rows.get(from..).unwrap_or_default();
            let fresh = after.map_or(rows.len(), |after| rows.iter().take_while(|(order, _)| *order > after).count());
            for shown in view.sights(&rows[..fresh], filter).await? {
                let size = shown.event.event.json().len();
                if bytes > 0 && bytes + size > BYTES_MAX {
                    window.give_up();
                    break 'search;
                }
                bytes += size;
                if !window.offer(shown) {
                    break 'search;
                }
            }
            if fresh < rows.len() || tape.is_whole {
                break;
            }
            from = tape.rows.len();
            let at_first = (limit + ROWS_BEYOND).saturating_sub(from);
            if at_first == 0 && (from >= ROWS_MAX || !view.look.may_search(NEXT_ROWS)) {
                window.give_up();
                break;
            }
            tape.go_on(&view.look.syncs.store, if at_first > 0 { at_first } else { NEXT_ROWS }).await?;
        }
        let (events, limited) = window.close();
        let start = match events.first() {
            Some(first) => PageToken::before(first.order.position, first.order.within),
            None => PageToken { position: tape.upto.position, within: tape.upto.within },
        };
        Ok(Self { events, limited, start })
    }

    /// The place just before the events.
    pub(crate) const fn start_order(&self) -> Order {
        Order { position: self.start.position, within: self.start.within }
    }
}
