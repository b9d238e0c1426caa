//! Gaps of history on the way of somebody who reads backwards: other servers may have what is missing there.

use std::ops::Bound;

use hearth_store::Order;
use ruma::RoomId;

use super::{Direction, MessagesQuery, ReadError, Reader, Reads, messages::LIMIT_MAX};

/// A gap of history that a reader comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapAhead {
    /// The place of the event just above it.
    pub order: Order,
    /// A page would pass over it, or end at it. If not, only one does whose filter leaves events out.
    pub is_on_page: bool,
}

impl Reads {
    /// The first gap that a page of [`Reads::messages`] comes to, below `behind` if that is given. Only for readers who are
    /// in the room: others do not make us ask.
    pub async fn gap_ahead(
        &self,
        reader: &Reader,
        room_id: &RoomId,
        query: &MessagesQuery,
        behind: Option<GapAhead>,
    ) -> Result<Option<GapAhead>, ReadError> {
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
        // A gap has the place of the event above it, which may be where the page before ended.
        let above = behind.map_or(Bound::Included(just_above(from)), |gap| Bound::Excluded(gap.order));
        let gaps = self.store.gaps(view.number, (Bound::Unbounded, above), 1, true).await?;
        let Some((order, _)) = gaps.first() else { return Ok(None) };
        let limit = query.limit.clamp(1, LIMIT_MAX);
        let rows = self.store.timeline(view.number, ..=from, limit, true).await?;
        // The gap in front of a page's last event is on the way of the next page.
        let is_on_page = rows.len() < limit || rows.last().is_some_and(|(last, _)| order > last);
        Ok(Some(GapAhead { order: *order, is_on_page }))
    }
}

/// The next place.
fn just_above(order: Order) -> Order {
    match order.within.checked_add(1) {
        Some(within) => Order { within, ..order },
        None => Order { position: order.position.saturating_add(1), within: 0 },
    }
}
