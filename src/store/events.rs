//! Reading events.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hearth_core::{Event, format};
use hearth_ports::{Key, Table};
use ruma::{EventId, OwnedEventId};

use crate::{
    Corrupt, EventNumber, LoadError, RoomNumber, Row as _, Store,
    cache::Weight,
    codec::{decode_with_rest, read_u32},
    id16,
    identifiers::RoomIdentity,
    tables::{EventFlags, EventHeader, event_index_key, event_key},
};

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
    client_in_room: OnceLock<Bytes>,
}

impl StoredEvent {
    /// The event as clients see it, with `room_id`, without `unsigned`; made once.
    pub fn client_json(&self) -> &Bytes {
        self.client.get_or_init(|| format::client_json(&self.event, true))
    }

    /// The same without `room_id`, for answers whose place names the room.
    pub fn client_json_in_room(&self) -> &Bytes {
        self.client_in_room.get_or_init(|| format::client_json(&self.event, false))
    }

    /// Whether it became part of the room: neither rejected, nor soft-failed, nor an outlier.
    pub fn accepted(&self) -> bool {
        let EventFlags(not) = EventFlags::REJECTED.with(EventFlags::SOFT_FAILED).with(EventFlags::OUTLIER);
        self.header.flags.0 & not == 0
    }
}

impl Weight for StoredEvent {
    fn weight(&self) -> u64 {
        // The client's forms may come later and are each about as long as the event; what is parsed is the rest.
        3 * self.event.json().len() as u64 + 600
    }
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
        let mut events: Vec<_> = numbers.iter().map(|number| self.caches.events.get(&(room, *number))).collect();
        let missing: Vec<usize> = (0..numbers.len()).filter(|at| events[*at].is_none()).collect();
        if missing.is_empty() {
            return Ok(events);
        }
        let Some(identity) = self.room_identity(room).await? else { return Ok(events) };
        let forgotten = self.caches.forgotten();
        let keys: Vec<Key> = missing.iter().map(|at| event_key(room, numbers[*at])).collect();
        let rows = self.engine().multi_get(Table::Ev, &keys).await?;
        let mut fresh = Vec::with_capacity(missing.len());
        for (at, row) in missing.into_iter().zip(rows) {
            let Some(row) = row else { continue };
            let event = Arc::new(decode_event(&identity, numbers[at], &row)?);
            fresh.push(event.clone());
            events[at] = Some(event);
        }
        self.caches.insert_events(room, &fresh, forgotten);
        Ok(events)
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

/// Reads an `Ev` row.
pub(crate) fn decode_event(identity: &RoomIdentity, number: EventNumber, row: &Bytes) -> Result<StoredEvent, Corrupt> {
    let (header, json_bytes): (EventHeader, usize) = decode_with_rest(row)?;
    let corrupt = |reason: String| Corrupt { what: EventHeader::NAME, reason };
    // A copy of its own: the row's buffer may belong to a far larger block of the engine.
    let json = Bytes::copy_from_slice(&row[row.len() - json_bytes..]);
    let id: OwnedEventId = EventId::parse(&header.event_id).map_err(|_| corrupt("its id is none".to_owned()))?;
    let event = Event::parse_stored(identity.version, id, identity.room_id.clone(), json);
    let event = event.map_err(|error| corrupt(error.to_string()))?;
    let event = event.with_rejected(header.flags.has(EventFlags::REJECTED));
    Ok(StoredEvent { number, header, event, client: OnceLock::new(), client_in_room: OnceLock::new() })
}
