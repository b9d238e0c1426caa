//! Reading what is in force in a room now, and who is where.

use std::sync::Arc;

use hearth_ports::{Key, KeyRange, Table};

use crate::{
    Corrupt, LoadError, RoomNumber, Row as _, StateKeyNumber, StateVersion, Store, UserNumber,
    codec::{decode, read_u64},
    events::StoredEvent,
    store::after,
    tables::{
        CurrentStateRow, MembershipRow, StateKeyRow, current_state_key, current_state_prefix, member_rooms_key,
        member_rooms_prefix, state_key_key,
    },
};

/// The rooms of one user that are read at once. More than any user of sense is in; the rest would not be seen.
const USER_ROOMS_MAX: usize = 100_000;

impl Store {
    /// The current state's entry for a pair; it may be there without an event.
    pub async fn current_state_row(
        &self,
        room: RoomNumber,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<CurrentStateRow>, LoadError> {
        self.get(Table::Rm, &current_state_key(room, kind, state_key)).await
    }

    /// The event that is in force for a pair.
    pub async fn current_state_event(
        &self,
        room: RoomNumber,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, LoadError> {
        match self.current_state_row(room, kind, state_key).await?.and_then(|row| row.event) {
            Some(number) => self.event(room, number).await,
            None => Ok(None),
        }
    }

    /// The current state's entries of one type behind the state key `behind` (`None`: from the first), by state key, at
    /// most `rows_max`.
    pub async fn current_state_of_kind(
        &self,
        room: RoomNumber,
        kind: &str,
        behind: Option<&str>,
        rows_max: usize,
    ) -> Result<Vec<(String, CurrentStateRow)>, LoadError> {
        let prefix = current_state_prefix(room, kind);
        let mut range = KeyRange::prefix(prefix.clone());
        if let Some(behind) = behind {
            range.from = after(&current_state_key(room, kind, behind));
        }
        let rows = self.scan_all(Table::Rm, range, rows_max, false).await?;
        let state_key = |key: &Key| {
            let text = std::str::from_utf8(&key[prefix.len()..]);
            let corrupt = |_| Corrupt { what: CurrentStateRow::NAME, reason: "its state key is not text".to_owned() };
            text.map(str::to_owned).map_err(corrupt)
        };
        rows.iter().map(|row| Ok((state_key(&row.key)?, decode(&row.value)?))).collect()
    }

    /// The members of a room, past ones too, by user id: see [`Self::current_state_of_kind`].
    pub async fn current_members(
        &self,
        room: RoomNumber,
        behind: Option<&str>,
        rows_max: usize,
    ) -> Result<Vec<(String, CurrentStateRow)>, LoadError> {
        self.current_state_of_kind(room, "m.room.member", behind, rows_max).await
    }

    /// The rooms that a user is, or was, in.
    pub async fn user_rooms(&self, user: UserNumber) -> Result<Vec<(RoomNumber, MembershipRow)>, LoadError> {
        let range = KeyRange::prefix(member_rooms_prefix(user));
        let rows = self.scan_all(Table::Rm, range, USER_ROOMS_MAX, false).await?;
        let room = |key: &Key| read_u64("membership key", key.get(9..).unwrap_or_default()).map(RoomNumber);
        rows.iter().map(|row| Ok((room(&row.key)?, decode(&row.value)?))).collect()
    }

    /// A user's membership of a room; `None` if there never was one.
    pub async fn membership(&self, user: UserNumber, room: RoomNumber) -> Result<Option<MembershipRow>, LoadError> {
        self.get(Table::Rm, &member_rooms_key(user, room)).await
    }

    /// The number of a pair of type and state key; `None` if the room never set it.
    pub async fn state_key_number(
        &self,
        room: RoomNumber,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyNumber>, LoadError> {
        let key = current_state_key(room, kind, state_key);
        let hash = hash16(&key);
        if let Some(number) = self.caches.state_key_numbers.get(&hash) {
            return Ok(Some(number));
        }
        let Some(row) = self.get::<CurrentStateRow>(Table::Rm, &key).await? else { return Ok(None) };
        self.caches.state_key_numbers.insert(hash, row.state_key);
        Ok(Some(row.state_key))
    }

    /// The pair that a number stands for.
    pub async fn state_key(
        &self,
        room: RoomNumber,
        number: StateKeyNumber,
    ) -> Result<Option<Arc<StateKeyRow>>, LoadError> {
        Ok(self.state_keys(room, &[number]).await?.pop().flatten())
    }

    /// The pairs that numbers stand for, in the order of `numbers`.
    pub async fn state_keys(
        &self,
        room: RoomNumber,
        numbers: &[StateKeyNumber],
    ) -> Result<Vec<Option<Arc<StateKeyRow>>>, LoadError> {
        let mut pairs: Vec<_> = numbers.iter().map(|number| self.caches.state_keys.get(&(room, *number))).collect();
        let missing: Vec<usize> = (0..numbers.len()).filter(|at| pairs[*at].is_none()).collect();
        if missing.is_empty() {
            return Ok(pairs);
        }
        let keys: Vec<Key> = missing.iter().map(|at| state_key_key(room, numbers[*at])).collect();
        let rows = self.multi_get::<StateKeyRow>(Table::St, &keys).await?;
        for (at, row) in missing.into_iter().zip(rows) {
            let Some(row) = row.map(Arc::new) else { continue };
            self.caches.state_keys.insert((room, numbers[at]), row.clone());
            pairs[at] = Some(row);
        }
        Ok(pairs)
    }

    /// The event that a version of the state has for a pair.
    pub async fn state_event(
        &self,
        room: RoomNumber,
        version: StateVersion,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, LoadError> {
        let Some(number) = self.state_key_number(room, kind, state_key).await? else { return Ok(None) };
        match self.state_get(room, version, number).await? {
            Some(event) => self.event(room, event).await,
            None => Ok(None),
        }
    }
}

fn hash16(key: &[u8]) -> [u8; 16] {
    let hash = blake3::hash(key);
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}
