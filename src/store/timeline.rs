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

/// Fewer rows than this are read backwards, one by one.
const NEWEST_ROWS_MIN: usize = 24;

/// The first rows of a longer stretch, which show how densely a room's events follow each other.
const SAMPLE_ROWS: usize = 4;

/// So often it is guessed where the rest of a stretch begins, each time from all that is known; what is missing then is
/// read backwards.
const GUESSES_MAX: usize = 3;

/// For each row that is missing at most so many are read onwards: where the room was so much busier before that there
/// are more, they are not worth it.
const ONWARDS_ROWS_MAX: usize = 2;

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
        let (start, end) = (range.start_bound().cloned(), range.end_bound().cloned());
        if reverse && limit >= NEWEST_ROWS_MIN {
            return self.newest(room, start, end, limit).await;
        }
        self.timeline_rows(room, start, end, limit, reverse).await
    }

    async fn timeline_rows(
        &self,
        room: RoomNumber,
        start: Bound<Order>,
        end: Bound<Order>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Order, TimelineRow)>, LoadError> {
        let rows = self.scan_all(Table::Tl, timeline_range(room, start, end), limit, reverse).await?;
        rows.iter().map(|row| Ok((timeline_order(&row.key)?, decode(&row.value)?))).collect()
    }

    /// The last rows of a range, newest first.
    ///
    /// A step back costs an engine a search through all that it has in memory, a step onwards a tenth of that. So the first
    /// few rows tell how far back the others will lie, and from there it is read onwards.
    async fn newest(
        &self,
        room: RoomNumber,
        start: Bound<Order>,
        end: Bound<Order>,
        limit: usize,
    ) -> Result<Vec<(Order, TimelineRow)>, LoadError> {
        let mut rows = self.timeline_rows(room, start, end, SAMPLE_ROWS, true).await?;
        if rows.len() < SAMPLE_ROWS {
            return Ok(rows);
        }
        for _ in 0..GUESSES_MAX {
            let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else { break };
            let (last, missing) = (*last, limit - rows.len());
            let span = (first.position - last.position).saturating_mul(missing as u64) / rows.len() as u64;
            let guessed = Order { position: last.position.saturating_sub(span), within: 0 };
            let from = match start {
                Bound::Included(order) | Bound::Excluded(order) if order >= guessed => start,
                _ => Bound::Included(guessed),
            };
            let rows_max = missing * ONWARDS_ROWS_MAX;
            let onwards = self.timeline_rows(room, from, Bound::Excluded(last), rows_max, false).await?;
            // Where it is full there may be more behind it, which are newer.
            if onwards.len() == rows_max {
                break;
            }
            rows.extend(onwards.into_iter().rev().take(missing));
            if rows.len() == limit || from == start || guessed.position == 0 {
                return Ok(rows);
            }
        }
        let end = rows.last().map_or(end, |(order, _)| Bound::Excluded(*order));
        rows.extend(self.timeline_rows(room, start, end, limit - rows.len(), true).await?);
        Ok(rows)
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

    /// The newest receipts of a room set after a position, newest first, at most `limit`: see
    /// [`Self::receipts_between`].
    pub async fn newest_receipts(
        &self,
        room: RoomNumber,
        after_position: u64,
        limit: usize,
    ) -> Result<Vec<(u64, ReceiptPlaceRow)>, LoadError> {
        let range = KeyRange {
            from: after(&receipt_place_key(room, after_position)),
            ..KeyRange::prefix(receipt_place_prefix(room))
        };
        let rows = self.scan_all(Table::Rm, range, limit, true).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        EventNumber, Write, encode,
        testing::{store, wait},
    };

    /// Busy and quiet times, and a gap that was filled in later.
    fn orders() -> Vec<Order> {
        let (mut orders, mut position) = (Vec::new(), 10);
        for (rows, gap) in [(60, 1), (30, 1_000), (300, 1), (40, 3), (9, 50_000), (100, 2)] {
            for _ in 0..rows {
                position += gap;
                orders.push(Order { position, within: u32::MAX });
            }
        }
        let filled = orders[200].position;
        orders.extend((1..=150).map(|below| Order { position: filled, within: u32::MAX - below }));
        orders.sort();
        orders
    }

    #[test]
    fn the_last_rows_are_the_same_however_busy_the_room_was() {
        let (_, store) = store();
        let (room, orders) = (RoomNumber(7), orders());
        let mut write = Write::new(room.partition());
        for (number, order) in (0..).zip(&orders) {
            let row = TimelineRow { event: Some(EventNumber(number)), state: StateVersion::EMPTY };
            write.put_bytes(Table::Tl, timeline_key(room, *order), encode(&row));
        }
        wait(store.commit(write)).expect("nothing stands against this commit");
        for limit in [NEWEST_ROWS_MIN, 30, 100, 365, 1_000] {
            for end in (0..orders.len()).step_by(13) {
                for start in [0, end / 2, end.saturating_sub(20), end] {
                    let range = (Bound::Excluded(orders[start]), Bound::Included(orders[end]));
                    let rows = wait(store.timeline(room, range, limit, true)).expect("it reads");
                    let found: Vec<Order> = rows.iter().map(|(order, _)| *order).collect();
                    let expected = orders[start..=end].iter().skip(1).rev().take(limit);
                    assert!(found.iter().eq(expected), "{limit} rows of {start} to {end}: {}", found.len());
                }
            }
        }
        let last = wait(store.timeline(room, .., 100, true)).expect("it reads");
        assert!(last.iter().map(|(order, _)| order).eq(orders.iter().rev().take(100)));
    }
}
