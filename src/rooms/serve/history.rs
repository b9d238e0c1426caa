//! Single events, and stretches of a room's graph.
//! [Backfilling](https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events).

use std::{
    collections::{BinaryHeap, HashSet},
    ops::Bound,
    sync::Arc,
};

use hearth_ports::{EventBytes, MissingEvents};
use hearth_store::{EventNumber, LoadError, Order, RoomNumber, StoredEvent, tables::EventFlags};
use hearth_view::Sight;
use ruma::{EventId, OwnedEventId, RoomId, ServerName};

use super::{ServeError, gate::Gate};
use crate::rooms::Rooms;

/// Events of one answer to `/backfill`: at 64 kB each, 6.5 MB.
const BACKFILL_MAX: usize = 100;

/// Events of one answer to `/get_missing_events`. Who misses more has better ways.
const MISSING_MAX: usize = 50;

/// Events that a request names as a place to walk from or to: as many as one event cites, and some more.
const NAMED_MAX: usize = 50;

/// Events that a request names as those that it has: its newest, of which there are many in a room that has branched much.
const EARLIEST_MAX: usize = 1_000;

/// Events that are looked at for one answer, also those that are then not in it.
const VISITED_MAX: usize = 1_000;

/// Events around the place found that are looked at, since servers' clocks differ and history is filled in later.
const NEIGHBOURS: usize = 50;

impl Rooms {
    /// One event, whatever room it is in.
    /// [`GET /event`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1eventeventid).
    pub async fn serve_event(&self, origin: &ServerName, event_id: &EventId) -> Result<EventBytes, ServeError> {
        let store = &self.writer.store;
        let mut refused = ServeError::NotFound;
        for (room, number) in store.rooms_of_event(event_id).await? {
            let Some(room_id) = store.room_id(room).await? else { continue };
            match self.room_for_server(origin, &room_id).await {
                Ok(room) => {
                    let stored = store.event(room, number).await?.ok_or(ServeError::NotFound)?;
                    if stored.event.event_id() != event_id {
                        continue;
                    }
                    let given = Gate::new(self, room, origin).await?.give(&stored).await?;
                    return given.ok_or(ServeError::NotFound);
                }
                Err(error @ ServeError::Unavailable(_)) => return Err(error),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// These events and those before them, deepest first, at most `limit`. Ids that the room does not have are passed
    /// over.
    /// [`GET /backfill`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid).
    pub async fn serve_backfill(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<EventBytes>, ServeError> {
        let room = self.room_for_server(origin, room_id).await?;
        let limit = limit.clamp(1, BACKFILL_MAX);
        let mut gate = Gate::new(self, room, origin).await?;
        let mut walk = Walk::new(self, room);
        let from = &from[..from.len().min(NAMED_MAX)];
        walk.add(self.numbers_of(room, from).await?).await?;
        let mut given = Vec::new();
        while given.len() < limit
            && let Some(stored) = walk.open.pop()
        {
            given.extend(gate.give(&stored.0).await?);
            walk.add(stored.0.header.prevs.clone()).await?;
        }
        Ok(given)
    }

    /// The events between two ends of the graph, the ends not included, oldest first.
    /// [`POST /get_missing_events`](https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1get_missing_eventsroomid).
    pub async fn serve_missing(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        wanted: &MissingEvents,
    ) -> Result<Vec<EventBytes>, ServeError> {
        let latest = &wanted.latest[..wanted.latest.len().min(NAMED_MAX)];
        let (room, latest) = self.room_until(origin, room_id, latest).await?;
        let limit = wanted.limit.clamp(1, MISSING_MAX);
        let mut gate = Gate::new(self, room, origin).await?;
        let mut walk = Walk::new(self, room);
        let earliest = &wanted.earliest[..wanted.earliest.len().min(EARLIEST_MAX)];
        walk.seen.extend(self.numbers_of(room, earliest).await?);
        walk.seen.extend(latest.iter().map(|stored| stored.number));
        let mut next: Vec<EventNumber> = latest.iter().flat_map(|stored| &stored.header.prevs).copied().collect();
        // Breadth first: all of one step back before any of the next.
        let mut given: Vec<(u64, EventNumber, EventBytes)> = Vec::new();
        while !next.is_empty() && given.len() < limit {
            walk.add(std::mem::take(&mut next)).await?;
            for Deepest(stored) in std::mem::take(&mut walk.open).into_sorted_vec().into_iter().rev() {
                if stored.event.depth() < wanted.min_depth || given.len() == limit {
                    continue;
                }
                next.extend(&stored.header.prevs);
                let bytes = gate.give(&stored).await?;
                given.extend(bytes.map(|bytes| (stored.event.depth(), stored.number, bytes)));
            }
        }
        given.sort_by_key(|(depth, number, _)| (*depth, *number));
        Ok(given.into_iter().map(|(.., bytes)| bytes).collect())
    }

    /// The event nearest to a time that this server's users may see, with its time, both in milliseconds since the Unix
    /// epoch.
    /// [`GET /timestamp_to_event`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid).
    pub async fn serve_event_near(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        at_ms: u64,
        backwards: bool,
    ) -> Result<(OwnedEventId, u64), ServeError> {
        let room = self.room_for_server(origin, room_id).await?;
        let store = &self.writer.store;
        let near = store.timeline_near(room, Order::END, at_ms).await?;
        let mut rows = store.timeline(room, (Bound::Unbounded, Bound::Included(near)), NEIGHBOURS, true).await?;
        rows.extend(store.timeline(room, (Bound::Excluded(near), Bound::Unbounded), NEIGHBOURS, false).await?);
        let numbers: Vec<EventNumber> = rows.into_iter().filter_map(|(_, row)| row.event).collect();
        let mut gate = Gate::new(self, room, origin).await?;
        let mut found: Vec<Arc<StoredEvent>> = Vec::new();
        for stored in store.events(room, &numbers).await?.into_iter().flatten() {
            if gate.sight(&stored).await? == Sight::Show {
                found.push(stored);
            }
        }
        let times = found.iter().map(|stored| (stored.event.origin_server_ts(), stored.header.order(), stored));
        let nearest = if backwards {
            times.filter(|(ts, ..)| *ts <= at_ms).max_by_key(|(ts, order, _)| (*ts, *order))
        } else {
            times.filter(|(ts, ..)| *ts >= at_ms).min_by_key(|(ts, order, _)| (*ts, *order))
        };
        let (ts, _, stored) = nearest.ok_or(ServeError::NotFound)?;
        Ok((stored.event.event_id().to_owned(), ts))
    }

    /// The numbers of these events, as far as the room has them.
    async fn numbers_of(&self, room: RoomNumber, ids: &[OwnedEventId]) -> Result<Vec<EventNumber>, LoadError> {
        Ok(self.writer.store.event_numbers(room, ids).await?.into_iter().flatten().collect())
    }
}

/// A walk back through a room's graph.
struct Walk<'a> {
    rooms: &'a Rooms,
    room: RoomNumber,
    /// Not to be gone to: met before, or behind the walk's end.
    seen: HashSet<EventNumber>,
    visited: usize,
    open: BinaryHeap<Deepest>,
}

impl<'a> Walk<'a> {
    fn new(rooms: &'a Rooms, room: RoomNumber) -> Self {
        Self { rooms, room, seen: HashSet::new(), visited: 0, open: BinaryHeap::new() }
    }

    /// Adds events that were not met before, unless too many were looked at already. Where an event's place in the graph
    /// is not known, no walk goes on.
    async fn add(&mut self, mut numbers: Vec<EventNumber>) -> Result<(), LoadError> {
        let left = VISITED_MAX.saturating_sub(self.visited);
        numbers.retain(|number| !self.seen.contains(number));
        numbers.truncate(left);
        self.visited += numbers.len();
        self.seen.extend(&numbers);
        let stored = self.rooms.writer.store.events(self.room, &numbers).await?.into_iter().flatten();
        self.open.extend(stored.filter(|stored| !stored.header.flags.has(EventFlags::OUTLIER)).map(Deepest));
        Ok(())
    }
}

/// Ordered by depth, then by number.
struct Deepest(Arc<StoredEvent>);

impl Deepest {
    fn rank(&self) -> (u64, EventNumber) {
        (self.0.event.depth(), self.0.number)
    }
}

impl PartialEq for Deepest {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Deepest {}

impl PartialOrd for Deepest {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Deepest {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}
