//! Whose device lists changed: from memory, else from the log, else from the rows.

use hearth_ports::{Heads, Key, Partition, Position, Table};

use crate::{
    LoadError, Positions, Store, UserNumber,
    tables::users::{DeviceListRow, device_list_key},
};

/// Entries of the log that are read to find changes that memory does not have, as after a restart: some hours of a busy
/// server. Who was away for longer asks for the rows of those whom it concerns.
const LOG_ENTRIES_MAX: usize = 200_000;

/// Rows that are read at once.
const ROWS_AT_ONCE: usize = 1_000;

impl Store {
    /// Whose device lists changed after these positions, each once; `None` if that is too long ago to be found out:
    /// [`Self::device_lists_changed`] tells it of given users.
    pub async fn device_lists_since(&self, since: &Positions) -> Result<Option<Vec<UserNumber>>, LoadError> {
        if let Some(known) = self.live.device_lists_since(since) {
            return Ok(Some(known));
        }
        // Who comes first after a restart reads for all.
        let _turn = self.live.device_lists_turn.lock().await;
        if let Some(known) = self.live.device_lists_since(since) {
            return Ok(Some(known));
        }
        let log = self.read_log(since, LOG_ENTRIES_MAX).await?;
        if log.entries.len() >= LOG_ENTRIES_MAX {
            return Ok(None);
        }
        let changes = log.entries.iter();
        let changes = changes.filter_map(|(partition, position, entry)| {
            entry.device_list_of().map(|user| (*partition, *position, user))
        });
        let changes: Vec<(Partition, Position, UserNumber)> = changes.collect();
        self.live.extend_device_lists(since, &changes);
        let mut users: Vec<UserNumber> = changes.into_iter().map(|(.., user)| user).collect();
        users.sort_unstable();
        users.dedup();
        Ok(Some(users))
    }

    /// Whose of these users' device lists changed after these positions.
    pub async fn device_lists_changed(
        &self,
        since: &Positions,
        users: Vec<UserNumber>,
    ) -> Result<Vec<UserNumber>, LoadError> {
        let mut changed = Vec::new();
        for users in users.chunks(ROWS_AT_ONCE) {
            let keys: Vec<Key> = users.iter().map(|user| device_list_key(*user)).collect();
            let rows = self.multi_get::<DeviceListRow>(Table::Us, &keys).await?;
            let newer = users
                .iter()
                .zip(rows)
                .filter(|(user, row)| row.is_some_and(|row| row.position > since.at(user.partition()).0));
            changed.extend(newer.map(|(user, _)| *user));
        }
        Ok(changed)
    }
}

/// The lower position of each partition.
pub(crate) fn lower(one: &Positions, other: &Positions) -> Positions {
    let mut all = one.to_array();
    for (place, other) in all.iter_mut().zip(other.to_array()) {
        *place = other.min(*place);
    }
    Positions::from(&Heads(all))
}
