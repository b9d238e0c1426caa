//! Reading heads and timelines.

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use hearth_ports::{Key, KeyRange, Table};

use crate::{
    Corrupt, LoadError, Order, RoomNumber, Row as _, StateVersion, Store,
    codec::decode,
    key,
    store::after,
    tables::{Head, ReceiptPlaceRow, TimelineRow, head_key, receipt_place_key, receipt_place_prefix, timeline_key},
};

impl Store {
    /// The head of a room.
    pub async fn head(&self, room: RoomNumber) -> Result<Option<Head>, LoadError> {
        self.get(Table::Rm, &head_key(room)).await
    }

    /// The head, and its bytes for [`Write::require`](crate::Write::require).
    pub async fn head_bytes(&self, room: RoomNumber) -> Result<Option<(Bytes, Head)>, LoadError> {
        let Some(bytes) = self.get_bytes(Table::Rm, &head_key(room)).await? else { return Ok(None) };
        let head = decode(&bytes)?;
        Ok(Some((bytes, head)))
    }

    /// At most `limit` events of a room's timeline, oldest first, or with `reverse` newest first.
    ///
    /// The range says itself whether its ends belong to it: `(Bound::Excluded(since), Bound::Included(upto))`, `..end`.
    pub async fn timeline(
        &self,
        room: RoomNumber,
        range: impl RangeBounds<Order>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Order, TimelineRow)>, LoadError> {
        let range = timeline_range(room, range.start_bound().cloned(), range.end_bound().cloned());
        let rows = self.scan_all(Table::Tl, range, limit, reverse).await?;
        rows.iter().map(|row| Ok((timeline_order(&row.key)?, decode(&row.value)?))).collect()
    }

    /// The room's current state as it was after the timeline's last event at or before this place;
    /// [`StateVersion::EMPTY`] before the first.
    pub async fn state_at(&self, room: RoomNumber, order: Order) -> Result<StateVersion, LoadError> {
        let last = self.timeline(room, ..=order, 1, true).await?;
        Ok(last.first().map_or(StateVersion::EMPTY, |(_, row)| row.state))
    }

    /// The receipts of a room set after one position, up to another, oldest first, at most `limit`, with their
    /// positions. The receipt's own row is under [`receipt_key`](crate::tables::receipt_key) and may be newer.
    pub async fn receipts_between(
        &self,
        room: RoomNumber,
        after_position: u64,
        up_to: u64,
        limit: usize,
    ) -> Result<Vec<(u64, ReceiptPlaceRow)>, LoadError> {
        let from = after(&receipt_place_key(room, after_position));
        let range = KeyRange { from, until: Some(after(&receipt_place_key(room, up_to))) };
        let rows = self.scan_all(Table::Rm, range, limit, false).await?;
        rows.iter().map(|row| Ok((receipt_place(&row.key)?, decode(&row.value)?))).collect()
    }

    /// The position at which a receipt was last set in a room; 0: never.
    pub(crate) async fn last_receipt(&self, room: RoomNumber) -> Result<u64, LoadError> {
        let rows = self.scan_all(Table::Rm, KeyRange::prefix(receipt_place_prefix(room)), 1, true).await?;
        Ok(rows.first().map(|row| receipt_place(&row.key)).transpose()?.unwrap_or(0))
    }
}

fn timeline_range(room: RoomNumber, from: Bound<Order>, until: Bound<Order>) -> KeyRange {
    let whole = KeyRange::prefix(key(b'T').room(room).build());
    let from = match from {
        Bound::Included(order) => timeline_key(room, order),
        Bound::Excluded(order) => after(&timeline_key(room, order)),
        Bound::Unbounded => whole.from,
    };
    let until = match until {
        Bound::Included(order) => Some(after(&timeline_key(room, order))),
        Bound::Excluded(order) => Some(timeline_key(room, order)),
        Bound::Unbounded => whole.until,
    };
    KeyRange { from, until }
}

/// The place that a timeline row's key names.
pub(crate) fn timeline_order(key: &Key) -> Result<Order, Corrupt> {
    let order = key.get(9..).and_then(Order::from_bytes);
    order.ok_or_else(|| Corrupt { what: TimelineRow::NAME, reason: "its key has no order".to_owned() })
}

fn receipt_place(key: &Key) -> Result<u64, Corrupt> {
    crate::codec::read_u64("receipt place key", key.get(9..).unwrap_or_default())
}
