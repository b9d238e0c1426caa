//! How the items of the log are laid out in rows of [`Table::Tl`](crate::Table::Tl), the same for every engine.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::{Batch, Entry, Partition, Position};

/// Position and length that stand before each body.
pub(crate) const ITEM_HEAD_BYTES: usize = 12;

/// The key of the log row whose last position is this: `L`, partition, position.
pub fn log_key(partition: Partition, last: Position) -> Bytes {
    let mut key = BytesMut::with_capacity(10);
    key.put_u8(b'L');
    key.put_u8(partition.index());
    key.put_u64(last.0);
    key.freeze()
}

/// The rows for the items that a commit group adds to one partition, `last` being its last position there. The items
/// are in order.
///
/// It is one row, unless that would exceed what a value may hold: then each row but the last has the position of its
/// last item as key, which is as good for those who read on from a position.
pub fn log_rows(partition: Partition, last: Position, items: &[(Position, Bytes)]) -> Vec<Entry> {
    let mut rows = Vec::new();
    let mut value = BytesMut::new();
    let mut reached = Position::ZERO;
    // Two rows can't share a key, so the items of one position stay in one row.
    for items in items.chunk_by(|(one, _), (next, _)| one == next) {
        let bytes: usize = items.iter().map(|(_, body)| ITEM_HEAD_BYTES + body.len()).sum();
        if !value.is_empty() && value.len() + bytes > Batch::VALUE_BYTES_MAX {
            rows.push(Entry { key: log_key(partition, reached), value: value.split().freeze() });
        }
        for (position, body) in items {
            value.put_u64(position.0);
            value.put_u32(u32::try_from(body.len()).expect("a batch is smaller than 4 GiB"));
            value.put_slice(body);
            reached = *position;
        }
    }
    if !value.is_empty() {
        rows.push(Entry { key: log_key(partition, last), value: value.freeze() });
    }
    rows
}

/// The items of a log row, in order; `None` if the bytes are no such row.
pub fn read_log_row(value: &Bytes) -> Option<Vec<(Position, Bytes)>> {
    let mut items = Vec::new();
    let mut rest = value.clone();
    while !rest.is_empty() {
        let position = u64::from_be_bytes(take(&mut rest, 8)?.as_ref().try_into().ok()?);
        let length = u32::from_be_bytes(take(&mut rest, 4)?.as_ref().try_into().ok()?);
        items.push((Position(position), take(&mut rest, usize::try_from(length).ok()?)?));
    }
    Some(items)
}

/// The first bytes, if there are so many.
fn take(rest: &mut Bytes, bytes: usize) -> Option<Bytes> {
    (bytes <= rest.len()).then(|| rest.split_to(bytes))
}
