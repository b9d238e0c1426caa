//! Events, timelines and their log entries.

use hearth_core::{Limits, Numbers, check_json, json};
use hearth_ports::{Entry, Key, KeyRange, Page, Partition, Position, Table, Unavailable, log_key, read_log_row};

use super::{Pages, key_u32, loaded, read, room::RoomCheck};
use crate::{
    EventNumber, LogEntry, Order, RoomIdentity, StateVersion, StoredEvent,
    events::decode_event,
    id16, key,
    tables::{AUTH_BLOCK, EventFlags, EventHeader, Head, TimelineRow, event_key, timeline_key},
    timeline::timeline_order,
};

/// The timeline's newest rows whose log entries are looked for; older ones may have been trimmed.
const RECENT_ROWS: usize = 200;

impl RoomCheck<'_> {
    pub(super) async fn check_events(&mut self, identity: &RoomIdentity, head: &Head) -> Result<(), Unavailable> {
        let mut cited = Vec::new();
        let mut pages = Pages::new(Table::Ev, KeyRange::prefix(key(b'E').room(self.room).build()));
        while let Some(page) = pages.next(self.store).await? {
            self.rows += page.len() as u64;
            let mut events = Vec::with_capacity(page.len());
            for row in &page {
                let Some(number) = key_u32(&row.key, 9).filter(|_| row.key.len() == 13).map(EventNumber) else {
                    self.problem("the key of an event has no number");
                    continue;
                };
                self.stored.insert(number.0);
                match decode_event(identity, number, row.value.clone(), true) {
                    Ok(event) => events.push(event),
                    Err(error) => self.problem(format!("event {}: {error}", number.0)),
                }
            }
            for event in &events {
                self.check_event(event, head);
                self.check_auths(event).await?;
                cited.extend(event.header.prevs.iter().map(|prev| (event.number, *prev)));
            }
            self.check_index(&events).await?;
            self.check_places(&events).await?;
        }
        for (event, prev) in cited {
            self.check_stored(prev, format_args!("event {} has as previous", event.0));
        }
        Ok(())
    }

    fn check_event(&mut self, event: &StoredEvent, head: &Head) {
        let StoredEvent { number, header, .. } = event;
        let (number, flags) = (*number, header.flags);
        if number >= head.next_event {
            self.problem(format!("event {} has a number that the head has not given out", number.0));
        }
        if !is_own_id(event) {
            self.problem(format!("event {}: its id {} is not its hash", number.0, header.event_id));
        }
        for (version, which) in [(header.state_before, "before"), (header.state_after, "after")] {
            if version == StateVersion::UNKNOWN && event.accepted() && header.within == u32::MAX {
                self.problem(format!("event {}: the state {which} it is not known", number.0));
            }
            self.want_state(version, || format!("event {}", number.0));
        }
        for auth in header.auths.iter().filter(|auth| **auth >= number) {
            self.problem(format!("event {} has event {} as auth event, which is not before it", number.0, auth.0));
        }
        for auth in header.auths.iter().filter(|auth| **auth < number) {
            self.check_stored(*auth, format_args!("event {} has as auth event", number.0));
        }
        if flags.has(EventFlags::REDACTED) != header.redacted_by.is_some() {
            self.problem(format!("event {} is not sure whether it is redacted", number.0));
        }
    }

    /// The auth graph says of a state event what its header says.
    async fn check_auths(&mut self, event: &StoredEvent) -> Result<(), Unavailable> {
        if !event.event.is_state() {
            return Ok(());
        }
        let number = event.number.0;
        match loaded(self.store.auth_block(self.room, number / AUTH_BLOCK, number).await)? {
            Ok(block) => {
                let mut expected: Vec<u32> = event.header.auths.iter().map(|auth| auth.0).collect();
                let mut found = block.auths(number).to_vec();
                expected.sort_unstable();
                expected.dedup();
                found.sort_unstable();
                if expected != found {
                    self.problem(format!("event {number}: the auth graph has {found:?}, the event {expected:?}"));
                }
            }
            Err(problem) => self.problem(format!("event {number}: {problem}")),
        }
        Ok(())
    }

    /// The ids lead to the numbers.
    async fn check_index(&mut self, events: &[StoredEvent]) -> Result<(), Unavailable> {
        let key = |event: &StoredEvent| crate::tables::event_index_key(&event.header.event_id, self.room);
        let keys: Vec<Key> = events.iter().map(key).collect();
        let rows = self.store.engine().multi_get(Table::Ix, &keys).await?;
        for (event, row) in events.iter().zip(rows) {
            if row.as_deref() != Some(&event.number.0.to_be_bytes()) {
                let id = &event.header.event_id;
                self.problem(format!("event {}: its id {id} does not lead to it", event.number.0));
            }
        }
        Ok(())
    }

    /// Accepted events are in the timeline where they say, others are not.
    async fn check_places(&mut self, events: &[StoredEvent]) -> Result<(), Unavailable> {
        let keys: Vec<Key> = events.iter().map(|event| timeline_key(self.room, event.header.order())).collect();
        let rows = self.store.engine().multi_get(Table::Tl, &keys).await?;
        for (event, row) in events.iter().zip(rows) {
            let number = event.number;
            let row = match row.as_deref().map(read::<TimelineRow>).transpose() {
                Ok(row) => row,
                // Told where timelines are looked at.
                Err(_) => continue,
            };
            let is_there = row.is_some_and(|row| row.event == Some(number));
            if event.accepted() && !is_there {
                self.problem(format!("event {} is not in the timeline where it says", number.0));
            } else if !event.accepted() && is_there {
                self.problem(format!("event {} was not accepted, but is in the timeline", number.0));
            }
        }
        Ok(())
    }

    pub(super) async fn check_timeline(&mut self, head: &Head) -> Result<(), Unavailable> {
        let mut last = None;
        let mut pages = Pages::new(Table::Tl, KeyRange::prefix(key(b'T').room(self.room).build()));
        while let Some(page) = pages.next(self.store).await? {
            self.rows += page.len() as u64;
            let rows = self.read_timeline(&page);
            let keys = rows.iter().map(|(_, row)| event_key(self.room, row.event.unwrap_or(EventNumber(0))));
            let keys: Vec<Key> = keys.collect();
            let events = self.store.engine().multi_get(Table::Ev, &keys).await?;
            for ((order, row), event) in rows.iter().zip(events) {
                let Some(number) = row.event else { continue };
                let header = event.as_deref().map(read::<EventHeader>);
                match header {
                    Some(Ok(header)) if header.order() == *order => {}
                    // Told where events are looked at.
                    Some(Err(_)) => {}
                    Some(Ok(_)) => self.problem(format!("the timeline has event {} at another place", number.0)),
                    None => self.problem(format!("the timeline has event {}, which is not stored", number.0)),
                }
            }
            last = rows.last().copied().or(last);
        }
        match last {
            Some((order, row)) => {
                if row.state != head.state {
                    let (last, current) = (row.state.0, head.state.0);
                    self.problem(format!("the timeline ends with state version {last}, the head has {current}"));
                }
                if order.position > head.position {
                    self.problem("the timeline goes on behind the head's position");
                }
            }
            None => self.problem("its timeline is empty"),
        }
        self.check_log().await
    }

    fn read_timeline(&mut self, page: &[Entry]) -> Vec<(Order, TimelineRow)> {
        let mut rows = Vec::with_capacity(page.len());
        for row in page {
            match (timeline_order(&row.key), read::<TimelineRow>(&row.value)) {
                (Ok(order), Ok(timeline)) => {
                    self.want_state(timeline.state, || format!("the timeline at position {}", order.position));
                    if timeline.state == StateVersion::UNKNOWN {
                        self.problem(format!("the timeline at position {} has no state", order.position));
                    }
                    rows.push((order, timeline));
                }
                (Err(error), _) => self.problem(error),
                (_, Err(error)) => self.problem(format!("{error}: row {:02x?}", &row.key[..])),
            }
        }
        rows
    }

    /// The newest live events have their entries in the log.
    async fn check_log(&mut self) -> Result<(), Unavailable> {
        // What is wrong with these rows was told above.
        let Ok(rows) = loaded(self.store.timeline(self.room, .., RECENT_ROWS, true).await)? else { return Ok(()) };
        let partition = self.room.partition();
        let Some(begin) = log_begin(self.store, partition).await? else { return Ok(()) };
        for (order, row) in rows {
            if order.within != u32::MAX || order.position < begin.0 {
                continue;
            }
            if !self.is_logged(partition, Position(order.position), row.event).await? {
                self.problem(format!("the event at position {} is not in the log", order.position));
            }
        }
        Ok(())
    }

    async fn is_logged(
        &self,
        partition: Partition,
        position: Position,
        event: Option<EventNumber>,
    ) -> Result<bool, Unavailable> {
        let range = KeyRange { from: log_key(partition, position), ..log_range(partition) };
        let rows = self.store.engine().scan(Table::Tl, range, Page::first(1)).await?;
        let items = rows.first().and_then(|row| read_log_row(&row.value)).unwrap_or_default();
        Ok(items.iter().any(|(at, body)| {
            *at == position
                && matches!(LogEntry::decode(body), Ok(LogEntry::Event(note))
                    if note.room == self.room && note.event == event)
        }))
    }
}

fn log_range(partition: Partition) -> KeyRange {
    KeyRange::prefix(vec![b'L', partition.index()])
}

/// The first position that the log of a partition still has.
async fn log_begin(store: &crate::Store, partition: Partition) -> Result<Option<Position>, Unavailable> {
    let rows = store.engine().scan(Table::Tl, log_range(partition), Page::first(1)).await?;
    let items = rows.first().and_then(|row| read_log_row(&row.value)).unwrap_or_default();
    Ok(items.first().map(|(position, _)| *position))
}

/// Whether the event is what its id says: ids are hashes since room version 3, in one alphabet or the other.
fn is_own_id(event: &StoredEvent) -> bool {
    if event.event.version().has_chosen_event_ids() {
        return true;
    }
    let limits = Limits { depth_max: json::RECEIVED_DEPTH_MAX, numbers: Numbers::Lenient };
    if check_json(event.event.json(), &limits).is_err() {
        return false;
    }
    let id = event.header.event_id.replace('-', "+").replace('_', "/");
    id.strip_prefix('$') == Some(&event.event.reference_hash())
}

/// Where an index row leads: the room, and the hash of the id.
pub(super) fn index_parts(key: &Key) -> Option<([u8; 16], u64)> {
    let hash = key.get(1..17)?.try_into().ok()?;
    Some((hash, u64::from_be_bytes(key.get(17..)?.try_into().ok()?)))
}

/// Whether an event's row belongs to the id of this hash.
pub(super) fn has_id(row: &[u8], hash: [u8; 16]) -> bool {
    read::<EventHeader>(row).is_ok_and(|header| id16(&header.event_id) == hash)
}
