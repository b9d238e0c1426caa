//! Reading what users are told of rooms that this server is not in.

use hearth_ports::{KeyRange, Table};

use crate::{
    LoadError, RoomNumber, Store, UserNumber,
    codec::{decode, read_u64},
    tables::{OutsideRow, outside_key, outside_prefix},
};

/// Rooms of one user that are read at once, some of up to 90 kB. More invites than anybody answers; the rest would not be
/// seen.
const OUTSIDE_ROOMS_MAX: usize = 2_000;

impl Store {
    /// What a user was last told of a room from outside, whether or not it still counts.
    pub async fn outside(&self, user: UserNumber, room: RoomNumber) -> Result<Option<OutsideRow>, LoadError> {
        self.get(Table::Rm, &outside_key(user, room)).await
    }

    /// The rooms that a user was told of from outside.
    pub async fn outside_rooms(&self, user: UserNumber) -> Result<Vec<(RoomNumber, OutsideRow)>, LoadError> {
        let range = KeyRange::prefix(outside_prefix(user));
        let rows = self.scan_all(Table::Rm, range, OUTSIDE_ROOMS_MAX, false).await?;
        let decoded = rows.iter().map(|row| {
            let room = RoomNumber(read_u64("outside key", row.key.get(9..).unwrap_or_default())?);
            Ok((room, decode(&row.value)?))
        });
        decoded.collect()
    }
}
