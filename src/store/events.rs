//! Reading events.

use std::sync::{Arc, OnceLock};

use bytes::{Buf as _, Bytes};
use hearth_core::{Event, format};
use hearth_ports::{Key, KeyRange, Table};
use ruma::{EventId, OwnedEventId};

use crate::{
    Corrupt, EventNumber, LoadError, RoomNumber, Row as _, Store,
    cache::Weight,
    codec::{decode_with_rest, read_u32},
    id16,
    identifiers::RoomIdentity,
    store::after,
    tables::{EventFlags, EventHeader, event_index_key, event_key},
};

/// Fewer events than this are read one by one.
const RANGE_EVENTS_MIN: usize = 4;

/// Events are read as a range of rows if it has at most so many rows for each of them.
const RANGE_ROWS_PER_EVENT_MAX: usize = 2;

/// Where the number stands in the key of an `Ev` row.
const EVENT_KEY_NUMBER: usize = 9;

/// An event as it is stored, shared by all who read it.
#[derive(Debug)]
pub struct StoredEvent {
    /// Its number in its room.
    pub number: EventNumber,
    /// What is known of it beside its JSON.
    pub header: EventHeader,
    /// The event; [`Event::rejected`] is as the header has it.
    pub event: Event,
    client: OnceLock<Bytes>,
}

impl StoredEvent {
    pub(crate) fn new(number: EventNumber, header: EventHeader, event: Event) -> Self {
        let event = event.with_rejected(header.flags.has(EventFlags::REJECTED));
        Self { number, header, event, client: OnceLock::new() }
    }

    /// The event as clients see it, without `room_id` and `unsigned`; made once.
    pub fn client_json(&self) -> &Bytes {
        self.client.get_or_init(|| format::client_json(&self.event, false))
    }

    /// Whether it became part of what readers see of the room: neither rejected, nor soft-failed, nor an outlier, nor a
    /// redaction that is held back.
    pub fn accepted(&self) -> bool {
        let not = EventFlags::REJECTED.with(EventFlags::SOFT_FAILED);
        let EventFlags(not) = not.with(EventFlags::OUTLIER).with(EventFlags::HELD);
        self.header.flags.0 & not == 0
    }
}

impl Weight for StoredEvent {
    fn weight(&self) -> u64 {
        // The client's form may come later and is shorter than the event; what is parsed is the rest.
        2 * self.event.json().len() as u64 + 600
    }
}

/// What of events that come from the engine stays in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// The events, decoded.
    Events,
    /// Their rows, as far as the engine likes.
    Rows,
    Nothing,
}

impl Store {
    /// An event by its number.
    pub async fn event(&self, room: RoomNumber, number: EventNumber) -> Result<Option<Arc<StoredEvent>>, LoadError> {
        if let Some(event) = self.caches.events.get(&(room, number)) {
            return Ok(Some(event));
        }
        Ok(self.events(room, &[number]).await?.pop().flatten())
    }

    /// Events by their numbers, in the order of `numbers`.
    pub async fn events(
        &self,
        room: RoomNumber,
        numbers: &[EventNumber],
    ) -> Result<Vec<Option<Arc<StoredEvent>>>, LoadError> {
        let forgotten = self.caches.forgotten();
        let (events, read) = self.read_events(room, numbers, Keep::Events).await?;
        if !read.is_empty() {
            let fresh: Vec<_> = read.into_iter().filter_map(|at| events[at].clone()).collect();
            self.caches.insert_events(room, &fresh, forgotten);
        }
        Ok(events)
    }

    /// The same for a passage through history that nobody may take again soon: what is not in memory stays out of it.
    pub async fn events_in_passing(
        &self,
        room: RoomNumber,
        numbers: &[EventNumber],
    ) -> Result<Vec<Option<Arc<StoredEvent>>>, LoadError> {
        Ok(self.read_events(room, numbers, Keep::Rows).await?.0)
    }

    /// The same for so much of a room that not even the engine should keep it in memory.
    pub async fn events_of_bulk(
        &self,
        room: RoomNumber,
        numbers: &[EventNumber],
    ) -> Result<Vec<Option<Arc<StoredEvent>>>, LoadError> {
        Ok(self.read_events(room, numbers, Keep::Nothing).await?.0)
    }

    /// Events by their numbers, and the indexes of those that were not in memory.
    async fn read_events(
        &self,
        room: RoomNumber,
        numbers: &[EventNumber],
        keep: Keep,
    ) -> Result<(Vec<Option<Arc<StoredEvent>>>, Vec<usize>), LoadError> {
        let mut events: Vec<_> = numbers.iter().map(|number| self.caches.events.get(&(room, *number))).collect();
        let missing: Vec<usize> = (0..numbers.len()).filter(|at| events[*at].is_none()).collect();
        if missing.is_empty() {
            return Ok((events, missing));
        }
        let Some(identity) = self.room_identity(room).await? else { return Ok((events, Vec::new())) };
        let wanted: Vec<EventNumber> = missing.iter().map(|at| numbers[*at]).collect();
        for (at, row) in missing.iter().zip(self.event_rows(room, &wanted, keep).await?) {
            let Some(row) = row else { continue };
            events[*at] = Some(Arc::new(decode_event(&identity, numbers[*at], row, keep == Keep::Events)?));
        }
        Ok((events, missing))
    }

    /// `Ev` rows in the order of `numbers`, read as one range where they lie together, as those of a page mostly do: the
    /// next row costs a fraction of finding it by its key.
    async fn event_rows(
        &self,
        room: RoomNumber,
        numbers: &[EventNumber],
        keep: Keep,
    ) -> Result<Vec<Option<Bytes>>, LoadError> {
        let (first, last) =
            numbers.iter().fold((u32::MAX, 0), |(low, high), number| (low.min(number.0), high.max(number.0)));
        let span = (u64::from(last) + 1).saturating_sub(first.into()) as usize;
        if numbers.len() < RANGE_EVENTS_MIN || span > numbers.len() * RANGE_ROWS_PER_EVENT_MAX {
            let keys: Vec<Key> = numbers.iter().map(|number| event_key(room, *number)).collect();
            return Ok(match keep {
                Keep::Nothing => self.engine().multi_get_in_passing(Table::Ev, &keys).await?,
                Keep::Events | Keep::Rows => self.engine().multi_get(Table::Ev, &keys).await?,
            });
        }
        let (from, until) = (event_key(room, EventNumber(first)), after(&event_key(room, EventNumber(last))));
        let range = KeyRange { from, until: Some(until) };
        let entries = match keep {
            Keep::Nothing => self.scan_in_passing(Table::Ev, range, span).await?,
            Keep::Events | Keep::Rows => self.scan_all(Table::Ev, range, span, false).await?,
        };
        let mut rows: Vec<Option<Bytes>> = vec![None; span];
        for entry in entries {
            let number = read_u32("event key", entry.key.get(EVENT_KEY_NUMBER..).unwrap_or_default())?;
            if let Some(row) = rows.get_mut(number.wrapping_sub(first) as usize) {
                *row = Some(entry.value);
            }
        }
        Ok(numbers.iter().map(|number| rows[(number.0 - first) as usize].clone()).collect())
    }

    /// The number of an event; `None` if it is not stored here.
    pub async fn event_number(&self, room: RoomNumber, event_id: &EventId) -> Result<Option<EventNumber>, LoadError> {
        let hash = id16(event_id.as_str());
        if let Some(number) = self.caches.events_by_id.get(&(room, hash)) {
            return Ok(Some(number));
        }
        let key = event_index_key(event_id.as_str(), room);
        let Some(bytes) = self.get_bytes(Table::Ix, &key).await? else { return Ok(None) };
        let number = EventNumber(read_u32("event number", &bytes)?);
        self.caches.events_by_id.insert((room, hash), number);
        Ok(Some(number))
    }

    /// The numbers of events, in the order of `event_ids`.
    pub async fn event_numbers(
        &self,
        room: RoomNumber,
        event_ids: &[OwnedEventId],
    ) -> Result<Vec<Option<EventNumber>>, LoadError> {
        let keys: Vec<Key> = event_ids.iter().map(|id| event_index_key(id.as_str(), room)).collect();
        let rows = self.engine().multi_get(Table::Ix, &keys).await?;
        let number = |row: &Option<Bytes>| row.as_deref().map(|bytes| read_u32("event number", bytes)).transpose();
        rows.iter().map(|row| Ok(number(row)?.map(EventNumber))).collect()
    }

    /// An event by its id.
    pub async fn event_by_id(
        &self,
        room: RoomNumber,
        event_id: &EventId,
    ) -> Result<Option<Arc<StoredEvent>>, LoadError> {
        match self.event_number(room, event_id).await? {
            Some(number) => self.event(room, number).await,
            None => Ok(None),
        }
    }

    /// The event is read anew from now on. [`Write::rewrite_event`](crate::Write::rewrite_event) does it by itself.
    pub fn forget_event(&self, room: RoomNumber, number: EventNumber) {
        self.caches.forget_event(room, number);
    }
}

/// Reads an `Ev` row. `keep`: the event will be kept in memory.
pub(crate) fn decode_event(
    identity: &RoomIdentity,
    number: EventNumber,
    row: Bytes,
    keep: bool,
) -> Result<StoredEvent, Corrupt> {
    let (header, json_bytes): (EventHeader, usize) = decode_with_rest(&row)?;
    let corrupt = |reason: String| Corrupt { what: EventHeader::NAME, reason };
    let mut json = row;
    json.advance(json.len() - json_bytes);
    if keep {
        // A copy of its own: the row's buffer may belong to a far larger block of the engine.
        json = Bytes::copy_from_slice(&json);
    }
    let id: OwnedEventId = EventId::parse(&header.event_id).map_err(|_| corrupt("its id is none".to_owned()))?;
    let event = Event::from_store(identity.version, id, identity.room_id.clone(), json);
    let event = event.map_err(|error| corrupt(error.to_string()))?;
    Ok(StoredEvent::new(number, header, event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Write,
        tables::put_event,
        testing::{TestRoom, open, store, wait},
    };

    #[test]
    fn a_page_is_complete_whatever_is_missing_or_in_memory() {
        let (engine, store) = store();
        let room = TestRoom::new(&store, "!r:b.c");
        let mut numbers: Vec<EventNumber> = (0..40).map(|_| room.send("m.room.message", None)).collect();
        let gone = [numbers[0], numbers[7], numbers[39]];
        let mut write = Write::new(room.number.partition());
        gone.iter().for_each(|number| write.delete(Table::Ev, event_key(room.number, *number)));
        wait(store.commit(write)).expect("nothing stands against this commit");
        numbers.reverse();
        for cached in [&[][..], &[20], &[0, 1, 2, 3, 5, 8, 13, 21, 34]] {
            let store = open(engine.clone());
            for at in cached {
                wait(store.event(room.number, numbers[*at])).expect("it reads");
            }
            let events = wait(store.events_in_passing(room.number, &numbers)).expect("it reads");
            for (number, event) in numbers.iter().zip(events) {
                let expected = (!gone.contains(number)).then_some(*number);
                assert_eq!(event.map(|event| event.number), expected);
            }
        }
    }

    #[test]
    fn what_is_read_in_passing_is_not_kept() {
        let (engine, store) = store();
        let room = TestRoom::new(&store, "!r:b.c");
        let numbers: Vec<EventNumber> = (0..10).map(|_| room.send("m.room.message", None)).collect();
        let store = open(engine);
        wait(store.events_in_passing(room.number, &numbers)).expect("it reads");
        assert_eq!(store.caches.events.len(), 0);
        wait(store.events(room.number, &numbers)).expect("it reads");
        assert_eq!(store.caches.events.len(), 10);
    }

    #[test]
    fn a_kept_event_is_the_one_that_is_stored() {
        let (engine, store) = store();
        let room = TestRoom::new(&store, "!r:b.c");
        let like = wait(store.event(room.number, EventNumber::FIRST)).expect("it reads").expect("it is there");
        let mut write = Write::new(room.number.partition());
        let number = EventNumber(7);
        let position = [write.position(), write.position()][1];
        put_event(&mut write, room.number, number, &like.header, like.event.json(), Some(position));
        write.keep_event(room.number, number, like.header.clone(), like.event.clone(), position);
        // It is not there before it is committed, and stays away if it is not.
        let mut refused = write.clone();
        refused.require(Table::Rm, crate::tables::head_key(room.number), None);
        wait(store.commit(refused)).expect_err("the room has a head");
        assert!(wait(store.event(room.number, number)).expect("it reads").is_none());
        wait(store.commit(write)).expect("nothing stands against this commit");
        let kept = store.caches.events.get(&(room.number, number)).expect("it is kept");
        let stored = wait(open(engine).event(room.number, number)).expect("it reads").expect("it is there");
        assert_eq!((&kept.header, kept.event.json()), (&stored.header, stored.event.json()));
        assert!(kept.header.position > like.header.position);
    }
}
