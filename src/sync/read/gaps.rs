//! Gaps of history on the way of somebody who reads backwards: other servers may have what is missing there.

use std::ops::Bound;

use hearth_store::Order;
use ruma::RoomId;

use super::{Direction, MessagesQuery, ReadError, Reader, Reads, messages::LIMIT_MAX};

impl Reads {
    /// The first gap that a page of [`Reads::messages`] would pass over or end at, as the place of the event just above it.
    /// Only for readers who are in the room: others do not make us ask.
    pub async fn gap_ahead(
        &self,
        reader: &Reader,
        room_id: &RoomId,
        query: &MessagesQuery,
    ) -> Result<Option<Order>, ReadError> {
        if query.direction == Direction::Forward {
            return Ok(None);
        }
        let view = self.open(reader, room_id).await?;
        if !view.is_joined() {
            return Ok(None);
        }
        let from = match &query.from {
            Some(token) => view.place(token)?,
            None => Order::END,
        };
        let limit = query.limit.clamp(1, LIMIT_MAX);
        let rows = self.store.timeline(view.number, ..=from, limit, true).await?;
        // The gap in front of a page's last event is on the way of the next page.
        let below = match rows.last() {
            Some((last, _)) if rows.len() == limit => Bound::Excluded(*last),
            _ => Bound::Unbounded,
        };
        // A gap has the place of the event above it, which may be where the page before ended.
        let above = Bound::Included(just_above(from));
        let gaps = self.store.gaps(view.number, (below, above), 1, true).await?;
        Ok(gaps.first().map(|(order, _)| *order))
    }
}

/// The next place.
fn just_above(order: Order) -> Order {
    match order.within.checked_add(1) {
        Some(within) => Order { within, ..order },
        None => Order { position: order.position.saturating_add(1), within: 0 },
    }
}
