//! Finding events otherwise than by room and number: by id alone, by time; and the members of one server.

use std::ops::Bound;

use hearth_ports::{KeyRange, Page, Table};
use ruma::{EventId, ServerName, UserId};

use crate::{
    EventNumber, LoadError, Order, RoomNumber, StateKeyNumber, Store,
    codec::{read_u32, read_u64},
    id16, key,
    store::after,
    tables::{StateKeyRow, state_key_key},
};

/// Rooms that may have an event of the same id. Ids are hashes but in room versions 1 and 2, where anybody may choose one
/// that exists elsewhere: the rest would not be seen.
const ROOMS_OF_ID_MAX: usize = 16;

/// Steps of a search by time: positions have 64 bits.
const STEPS_MAX: usize = 64;

/// State keys read at once while the members of a server are sought.
const STATE_KEYS_AT_ONCE: usize = 5_000;

impl Store {
    /// The rooms that have an event of this id, and its number in each: mostly one.
    pub async fn rooms_of_event(&self, event_id: &EventId) -> Result<Vec<(RoomNumber, EventNumber)>, LoadError> {
        let prefix = key(b'e').raw(&id16(event_id.as_str())).build();
        let rows = self.scan_all(Table::Ix, KeyRange::prefix(prefix.clone()), ROOMS_OF_ID_MAX, false).await?;
        let found = rows.iter().map(|row| {
            let room = read_u64("event index key", row.key.get(prefix.len()..).unwrap_or_default())?;
            Ok((RoomNumber(room), EventNumber(read_u32("event number", &row.value)?)))
        });
        found.collect()
    }

    /// A place in a timeline up to `until` such that, as far as times rise with places, what is before it was sent before
    /// `ts_ms` (milliseconds since the Unix epoch) and what is behind it later.
    pub async fn timeline_near(&self, room: RoomNumber, until: Order, ts_ms: u64) -> Result<Order, LoadError> {
        let present = self.live().positions().at(room.partition()).0;
        let (mut low, mut high) = (0, present.min(until.position).saturating_add(1));
        for _ in 0..STEPS_MAX {
            if low >= high {
                break;
            }
            let middle = low + (high - low) / 2;
            let from = Order { position: middle, within: 0 };
            let rows = self.timeline(room, (Bound::Included(from), Bound::Included(until)), 1, false).await?;
            let Some((order, row)) = rows.first() else {
                high = middle;
                continue;
            };
            let stored = match row.event {
                Some(event) => self.event(room, event).await?,
                None => None,
            };
            if stored.is_some_and(|stored| stored.event.origin_server_ts() <= ts_ms) {
                low = order.position.saturating_add(1);
            } else {
                high = middle;
            }
        }
        Ok(Order { position: low, within: 0 })
    }

    /// Of the state keys from `from` on, up to but without `until`, those of this server's users' memberships.
    pub async fn member_keys_of(
        &self,
        room: RoomNumber,
        server: &ServerName,
        from: StateKeyNumber,
        until: StateKeyNumber,
    ) -> Result<Vec<StateKeyNumber>, LoadError> {
        let mut range = KeyRange { from: state_key_key(room, from), until: Some(state_key_key(room, until)) };
        let mut found = Vec::new();
        loop {
            let rows = self.scan::<StateKeyRow>(Table::St, range.clone(), Page::first(STATE_KEYS_AT_ONCE)).await?;
            let Some((last, _)) = rows.last() else { return Ok(found) };
            range.from = after(last);
            for (key, row) in rows {
                let is_of = |user: &str| <&UserId>::try_from(user).is_ok_and(|user| user.server_name() == server);
                if row.kind == "m.room.member" && is_of(&row.state_key) {
                    found.push(StateKeyNumber(read_u32("state key", key.get(9..).unwrap_or_default())?));
                }
            }
        }
    }
}
