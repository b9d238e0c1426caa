//! What a server missed while it was away: of each room that it is in, the newest events of ours, and what our users
//! have read since. What lies between the events it fetches itself, if it wants to.

use std::{ops::Bound, sync::Arc};

use hearth_ports::{Key, KeyRange, Table};
use hearth_store::{
    EventNumber, LoadError, Order, Position, Positions, RoomNumber, StoredEvent, decode,
    tables::{Head, ServerRoomRow, head_key, server_room_key, server_rooms_prefix},
};
use ruma::ServerName;

use super::{Outbound, ephemeral::ReceiptNews, transaction::Parts, unless_corrupt};

/// Rooms looked at in one step.
const ROOMS_AT_ONCE: usize = 256;

/// Events of a timeline that are read at once in search of one of ours.
const EVENTS_AT_ONCE: usize = 100;

/// Events of a timeline that are looked at. Where others wrote so many since, they lead the server to ours.
const EVENTS_MAX: usize = 1_000;

/// Receipts of one step, unless one room has more: as many as may wait for one destination.
const RECEIPTS_AT_ONCE: usize = 1_000;

/// Catching up on the newest events of the rooms that we share.
#[derive(Clone, Debug)]
pub(super) struct CatchUp {
    /// Events up to here have arrived.
    pub(super) from: Positions,
    /// Once it is through, all up to here has.
    pub(super) to: Positions,
    /// `None`: at the beginning.
    pub(super) next: Option<Place>,
}

/// Where catching up goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The rooms before this one are through.
    room: RoomNumber,
    /// And of this one the events that are to be sent, up to this one.
    sent: Option<EventNumber>,
}

/// How far catching up is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on here.
    At(Place),
    /// All rooms are through.
    Through,
    /// We share no room with it: it may be as it is.
    Alone,
}

/// Some of what a server missed.
pub(super) struct Missed {
    pub(super) receipts: Vec<Arc<ReceiptNews>>,
    /// Where to go on once it has them.
    pub(super) progress: Progress,
}

impl Outbound {
    /// Adds the next events that a server missed, as far as there is place.
    pub(super) async fn missed(
        &self,
        server: &ServerName,
        catch_up: &CatchUp,
        parts: &mut Parts,
    ) -> Result<Missed, LoadError> {
        let mut receipts = Vec::new();
        let rooms = self.shared_rooms(server, catch_up.next.map(|next| next.room)).await?;
        if rooms.is_empty() && catch_up.next.is_none() {
            return Ok(Missed { receipts, progress: Progress::Alone });
        }
        let keys: Vec<Key> = rooms.iter().map(|room| head_key(*room)).collect();
        let heads = self.parts.store.multi_get::<Head>(Table::Rm, &keys).await?;
        for (room, head) in rooms.iter().zip(heads) {
            let from = catch_up.from.at(room.partition());
            let Some(head) = head.filter(|head| !head.loading && !head.purged) else { continue };
            let newest = match head.position > from.0 {
                true => unless_corrupt(self.newest(server, *room, &head, from).await)?,
                false => Vec::new(),
            };
            let read = unless_corrupt(self.missed_receipts(*room, from).await)?;
            let mut sent = catch_up.next.filter(|next| next.room == *room).and_then(|next| next.sent);
            if !receipts.is_empty() && receipts.len() + read.len() > RECEIPTS_AT_ONCE {
                return Ok(Missed { receipts, progress: Progress::At(Place { room: *room, sent }) });
            }
            for stored in newest {
                if sent.is_some_and(|sent| stored.number <= sent) {
                    continue;
                }
                let json = self.if_sendable(*room, &stored, stored.event.json().clone());
                if json.is_some_and(|json| !parts.push_pdu(json)) {
                    return Ok(Missed { receipts, progress: Progress::At(Place { room: *room, sent }) });
                }
                sent = Some(stored.number);
            }
            receipts.extend(read);
        }
        let last = rooms.last().filter(|_| rooms.len() == ROOMS_AT_ONCE);
        let progress = last.and_then(|last| last.0.checked_add(1)).map_or(Progress::Through, |next| {
            // No room need have this number: it is where the next page begins.
            Progress::At(Place { room: RoomNumber(next), sent: None })
        });
        Ok(Missed { receipts, progress })
    }

    /// Rooms that a server is in, by number, from this one on.
    async fn shared_rooms(&self, server: &ServerName, from: Option<RoomNumber>) -> Result<Vec<RoomNumber>, LoadError> {
        let mut range = KeyRange::prefix(server_rooms_prefix(server));
        let prefix_bytes = range.from.len();
        if let Some(from) = from {
            range.from = server_room_key(server, from);
        }
        let rows = self.parts.store.scan_all(Table::Rm, range, ROOMS_AT_ONCE, false).await?;
        let mut rooms = Vec::with_capacity(rows.len());
        for row in rows {
            let ServerRoomRow { server: name } = decode(&row.value)?;
            let room = row.key.get(prefix_bytes..).and_then(|room| <[u8; 8]>::try_from(room).ok());
            // The key has a hash: another name may share it.
            rooms.extend(room.filter(|_| name == server.as_str()).map(|room| RoomNumber(u64::from_be_bytes(room))));
        }
        Ok(rooms)
    }

    /// The newest events of ours in a room after a position that go to this server: those that nothing cites yet, else the
    /// last one.
    async fn newest(
        &self,
        server: &ServerName,
        room: RoomNumber,
        head: &Head,
        from: Position,
    ) -> Result<Vec<Arc<StoredEvent>>, LoadError> {
        let numbers: Vec<_> = head.extremities.iter().map(|extremity| extremity.event).collect();
        let mut newest = Vec::new();
        for stored in self.parts.store.events(room, &numbers).await?.into_iter().flatten() {
            let is_missed = stored.header.position > from.0 && self.targets.is_ours(&stored);
            if is_missed && self.targets.goes_to(room, &stored, server).await? {
                newest.push(stored);
            }
        }
        if newest.is_empty() {
            newest.extend(self.last_of_ours(server, room, from).await?);
        }
        newest.sort_by_key(|stored| stored.number);
        Ok(newest)
    }

    async fn last_of_ours(
        &self,
        server: &ServerName,
        room: RoomNumber,
        from: Position,
    ) -> Result<Option<Arc<StoredEvent>>, LoadError> {
        let store = &self.parts.store;
        let (after, mut end) = (Bound::Excluded(Order::live(from)), Bound::Unbounded);
        for _ in 0..EVENTS_MAX / EVENTS_AT_ONCE {
            let rows = store.timeline(room, (after, end), EVENTS_AT_ONCE, true).await?;
            let numbers: Vec<_> = rows.iter().filter_map(|(_, row)| row.event).collect();
            let events = store.events(room, &numbers).await?;
            if let Some(stored) = events.into_iter().flatten().find(|stored| self.targets.is_ours(stored)) {
                return Ok(self.targets.goes_to(room, &stored, server).await?.then_some(stored));
            }
            match rows.last() {
                Some((order, _)) if rows.len() == EVENTS_AT_ONCE => end = Bound::Excluded(*order),
                _ => break,
            }
        }
        Ok(None)
    }
}
