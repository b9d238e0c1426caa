//! The event nearest to a time, where our history has gaps.
//! [`GET /timestamp_to_event`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid).

use hearth_store::{LoadError, Order, RoomNumber};
use ruma::{OwnedEventId, OwnedServerName, RoomId, ServerName};
use tokio::time::timeout;

use super::backfill::{FETCH_TIME, Past, Target};
use crate::{SendError, rooms::Rooms};

/// Servers that are asked.
const SERVERS_MAX: usize = 3;

/// Gaps among which the one is sought that an event belongs into.
const GAPS_MAX: usize = 100;

impl Rooms {
    /// An event that another server has nearer to a time than `known_ms`, the time of the one that was found here (all in
    /// milliseconds since the Unix epoch): it is fetched, so that whoever asked can read it. `None`: there is none, or
    /// our history has no gaps, or nobody answers in time.
    pub async fn fetch_near(
        &self,
        room_id: &RoomId,
        at_ms: u64,
        backwards: bool,
        known_ms: Option<u64>,
    ) -> Result<Option<(OwnedEventId, u64)>, SendError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(None) };
        let is_in = store.joined_from(room, &self.writer.server_name).await? > 0;
        if !is_in || self.is_partial(room).await? || store.gaps(room, .., 1, false).await?.is_empty() {
            return Ok(None);
        }
        match timeout(FETCH_TIME, self.ask_near(room, room_id, at_ms, backwards, known_ms)).await {
            Ok(found) => found,
            Err(_) => {
                tracing::info!(%room_id, "no event near a time was fetched in time");
                Ok(None)
            }
        }
    }

    /// Asks one server after the other.
    async fn ask_near(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        at_ms: u64,
        backwards: bool,
        known_ms: Option<u64>,
    ) -> Result<Option<(OwnedEventId, u64)>, SendError> {
        for server in self.others_in_room(room_id).await?.iter().take(SERVERS_MAX) {
            let Ok((event_id, ts_ms)) = self.writer.peers.event_near(server, room_id, at_ms, backwards).await else {
                continue;
            };
            let is_right = if backwards { ts_ms <= at_ms } else { ts_ms >= at_ms };
            let is_nearer = known_ms.is_none_or(|known_ms| known_ms.abs_diff(at_ms) > ts_ms.abs_diff(at_ms));
            if !(is_right && is_nearer) {
                continue;
            }
            if let Some(ts_ms) = self.fetch_one(room, room_id, server, &event_id).await? {
                return Ok(Some((event_id, ts_ms)));
            }
        }
        Ok(None)
    }

    /// Puts one event of another server's history into ours, and tells its time; `None`: it could not be had.
    async fn fetch_one(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        server: &ServerName,
        event_id: &OwnedEventId,
    ) -> Result<Option<u64>, SendError> {
        let store = &self.writer.store;
        if !self.are_placed(room, std::slice::from_ref(event_id)).await?.contains(&true) {
            let Ok(bytes) = self.writer.peers.event(server, event_id).await else { return Ok(None) };
            let Some(identity) = store.room_identity(room).await? else { return Ok(None) };
            let Some(Ok(signed)) = self.check_signed(identity.version, vec![bytes]).await.pop() else {
                return Ok(None);
            };
            let event = signed.into_event();
            if event.event_id() != event_id || event.room_id() != room_id {
                return Ok(None);
            }
            let ts_ms = event.origin_server_ts();
            let events = vec![event];
            let server: OwnedServerName = server.to_owned();
            self.fetch_auth(room, room_id, &server, &events).await?;
            let past: Past = self.with_states(room, room_id, &server, events, 1).await?;
            let gap = self.gap_of(room, ts_ms).await?;
            if let Some(gap) = gap.filter(|_| !past.events.is_empty()) {
                self.store_past(room, Target::Middle { gap }, &past).await?;
            }
        }
        let stored = store.event_by_id(room, event_id).await?;
        Ok(stored.filter(|stored| stored.accepted()).map(|stored| stored.event.origin_server_ts()))
    }

    /// The gap that an event of this time belongs into: the lowest of those with a later event above them.
    async fn gap_of(&self, room: RoomNumber, ts_ms: u64) -> Result<Option<Order>, LoadError> {
        let store = &self.writer.store;
        let gaps = store.gaps(room, .., GAPS_MAX, false).await?;
        for (order, _) in &gaps {
            let rows = store.timeline(room, *order..=*order, 1, false).await?;
            let Some(number) = rows.first().and_then(|(_, row)| row.event) else { continue };
            let above = store.event(room, number).await?;
            if above.is_some_and(|above| above.event.origin_server_ts() >= ts_ms) {
                return Ok(Some(*order));
            }
        }
        Ok(gaps.last().map(|(order, _)| *order))
    }
}
