//! Reading of rooms that were joined without their members, and of events that are not complete yet.

use hearth_ports::{Entry, Key, KeyRange, Table};

use crate::{
    Corrupt, LoadError, RoomNumber, Row as _, Store,
    codec::{decode, read_u64},
    tables::{PartialRow, UnfinishedRow, WaitingRow, partial_key, partial_prefix, unfinished_prefix, waiting_prefix},
};

/// Jobs that are read at the start. More rooms than that are not joined at once.
const JOBS_MAX: usize = 100_000;

/// Waiting events that are read at once to count them: each may have 64 kB.
const COUNTED_AT_ONCE: usize = 100;

impl Store {
    /// The rooms whose members are being fetched, or were when the server stopped.
    pub async fn partial_rooms(&self) -> Result<Vec<(RoomNumber, PartialRow)>, LoadError> {
        let rows = self.scan_all(Table::Rm, KeyRange::prefix(partial_prefix()), JOBS_MAX, false).await?;
        let room = |row: &Entry| read_u64(PartialRow::NAME, row.key.get(1..).unwrap_or_default()).map(RoomNumber);
        rows.iter().map(|row| Ok((room(row)?, decode(&row.value)?))).collect()
    }

    /// Waits until a room has its members; `false`: it never will, as all of ours have left before they came. How long is
    /// the caller's affair.
    pub async fn until_whole(&self, room: RoomNumber) -> Result<bool, LoadError> {
        loop {
            let completed = self.live.room_completed();
            if !self.head(room).await?.is_some_and(|head| head.partial) {
                return Ok(true);
            }
            if self.get_bytes(Table::Rm, &partial_key(room)).await?.is_none() {
                return Ok(false);
            }
            completed.await;
        }
    }

    /// The oldest events of other servers that wait for a room's members, with their keys.
    pub async fn waiting_events(&self, room: RoomNumber, rows_max: usize) -> Result<Vec<(Key, WaitingRow)>, LoadError> {
        let rows = self.scan_all(Table::Ev, KeyRange::prefix(waiting_prefix(room)), rows_max, false).await?;
        rows.into_iter().map(|row| Ok::<_, Corrupt>((row.key, decode(&row.value)?)).map_err(LoadError::from)).collect()
    }

    /// How many events of other servers wait for a room's members.
    pub async fn count_waiting_events(&self, room: RoomNumber) -> Result<usize, LoadError> {
        let (mut range, mut count) = (KeyRange::prefix(waiting_prefix(room)), 0);
        loop {
            let rows = self.scan_in_passing(Table::Ev, range.clone(), COUNTED_AT_ONCE).await?;
            let Some(last) = rows.last() else { return Ok(count) };
            count += rows.len();
            range.from = [&last.key[..], &[0]].concat().into();
        }
    }

    /// The events of other servers that lack what they rest on, with their keys.
    pub async fn unfinished_events(
        &self,
        room: RoomNumber,
        rows_max: usize,
    ) -> Result<Vec<(Key, UnfinishedRow)>, LoadError> {
        let range = KeyRange::prefix(unfinished_prefix(Some(room)));
        let rows = self.scan_all(Table::Ev, range, rows_max, false).await?;
        rows.into_iter().map(|row| Ok::<_, Corrupt>((row.key, decode(&row.value)?)).map_err(LoadError::from)).collect()
    }

    /// The rooms that have such events.
    pub async fn unfinished_rooms(&self) -> Result<Vec<RoomNumber>, LoadError> {
        let mut rooms = Vec::new();
        let mut range = KeyRange::prefix(unfinished_prefix(None));
        while let Some(row) = self.scan_all(Table::Ev, range.clone(), 1, false).await?.pop() {
            let room = RoomNumber(read_u64(UnfinishedRow::NAME, row.key.get(1..9).unwrap_or_default())?);
            rooms.push(room);
            // Behind the last row of this room.
            match KeyRange::prefix(unfinished_prefix(Some(room))).until {
                Some(next) => range.from = next,
                None => break,
            }
        }
        Ok(rooms)
    }
}
