//! Reading where a room's history has gaps.

use std::ops::{Bound, RangeBounds};

use hearth_ports::{KeyRange, Table};

use crate::{
    Corrupt, LoadError, Order, RoomNumber, Row as _, Store,
    codec::decode,
    key,
    store::after,
    tables::{GapRow, backward_prefix, gap_key, held_prefix},
};

impl Store {
    /// At most `limit` gaps of a room's timeline, by the places of the live events behind them, oldest first, or with
    /// `reverse` newest first.
    pub async fn gaps(
        &self,
        room: RoomNumber,
        range: impl RangeBounds<Order>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Order, GapRow)>, LoadError> {
        let whole = KeyRange::prefix(key(b'G').room(room).build());
        let from = match range.start_bound() {
            Bound::Included(order) => gap_key(room, *order),
            Bound::Excluded(order) => after(&gap_key(room, *order)),
            Bound::Unbounded => whole.from,
        };
        let until = match range.end_bound() {
            Bound::Included(order) => Some(after(&gap_key(room, *order))),
            Bound::Excluded(order) => Some(gap_key(room, *order)),
            Bound::Unbounded => whole.until,
        };
        let rows = self.scan_all(Table::Tl, KeyRange { from, until }, limit, reverse).await?;
        let order = |key: &[u8]| {
            let corrupt = || Corrupt { what: GapRow::NAME, reason: "its key has no order".to_owned() };
            key.get(9..).and_then(Order::from_bytes).ok_or_else(corrupt)
        };
        rows.iter().map(|row| Ok((order(&row.key)?, decode(&row.value)?))).collect()
    }

    /// Whether the room has backward extremities, and whether redactions wait for their targets.
    pub async fn is_awaiting(&self, room: RoomNumber) -> Result<(bool, bool), LoadError> {
        let backward = self.scan_all(Table::Tl, KeyRange::prefix(backward_prefix(room)), 1, false).await?;
        let held = self.scan_all(Table::Tl, KeyRange::prefix(held_prefix(room)), 1, false).await?;
        Ok((!backward.is_empty(), !held.is_empty()))
    }
}
