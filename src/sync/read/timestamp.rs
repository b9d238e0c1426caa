//! The event closest to a point in time.
//! [Client-server API](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event).

use std::ops::Bound;

use hearth_store::Order;
use ruma::{OwnedEventId, RoomId};

use super::{
    ReadError, Reader, Reads,
    messages::{Direction, MessagesQuery},
    room::RoomView,
};

/// The event found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundEvent {
    /// Its id.
    pub event_id: OwnedEventId,
    /// When its sender's server says it was sent, in milliseconds since the Unix epoch.
    pub origin_server_ts_ms: u64,
}

/// Events around the place found that are looked at, since servers' clocks differ and history is filled in later.
const NEIGHBOURS: usize = 50;

/// Steps of the search: positions have 64 bits.
const STEPS_MAX: usize = 64;

impl Reads {
    /// The closest event that the reader may see at or after a time (`Forward`), or at or before it (`Backward`).
    pub async fn event_at(
        &self,
        reader: &Reader,
        room_id: &RoomId,
        ts_ms: u64,
        direction: Direction,
    ) -> Result<FoundEvent, ReadError> {
        let mut view = self.open(reader, room_id).await?;
        let near = self.search(&view, ts_ms).await?;
        let query = |direction| MessagesQuery {
            from: None,
            to: None,
            direction,
            limit: NEIGHBOURS,
            filter: hearth_view::RoomEventFilter::default(),
        };
        let mut shown = self.page(&mut view, near, None, &query(Direction::Backward)).await?.events;
        shown.extend(self.page(&mut view, near, None, &query(Direction::Forward)).await?.events);
        let times = shown.iter().map(|shown| (shown.event.event.origin_server_ts(), shown));
        let found = match direction {
            Direction::Forward => times.filter(|(ts, _)| *ts >= ts_ms).min_by_key(|(ts, shown)| (*ts, shown.order)),
            Direction::Backward => times.filter(|(ts, _)| *ts <= ts_ms).max_by_key(|(ts, shown)| (*ts, shown.order)),
        };
        let (origin_server_ts_ms, shown) = found.ok_or(ReadError::NotFound("event"))?;
        Ok(FoundEvent { event_id: shown.event.event.event_id().to_owned(), origin_server_ts_ms })
    }

    /// A place in the timeline such that, as far as times rise with places, what is before it was sent before `ts_ms` and
    /// what is behind it later.
    async fn search(&self, view: &RoomView<'_>, ts_ms: u64) -> Result<Order, ReadError> {
        let present = self.store.live().positions().at(view.number.partition()).0;
        let (mut low, mut high) = (0, present.min(view.until.position).saturating_add(1));
        for _ in 0..STEPS_MAX {
            if low >= high {
                break;
            }
            let middle = low + (high - low) / 2;
            let from = Order { position: middle, within: 0 };
            let rows = self
                .store
                .timeline(view.number, (Bound::Included(from), Bound::Included(view.until)), 1, false)
                .await?;
            let Some((order, row)) = rows.first() else {
                high = middle;
                continue;
            };
            let stored = match row.event {
                Some(event) => self.store.event(view.number, event).await?,
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
}
