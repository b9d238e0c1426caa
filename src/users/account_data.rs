//! Account data: what clients keep with the account, global or of a room. (Module "Client Config".)

use hearth_ports::{KeyRange, Page};
use hearth_store::{
    LogEntry, Position, RoomNumber, Table, UserNumber, Write, encode,
    tables::users::{
        ACCOUNT_DATA_POSITION_OFFSET, AccountDataIndexRow, AccountDataRow, account_data_index_key,
        account_data_index_prefix, account_data_key, account_data_prefix, account_data_room_of_key,
    },
};
use ruma::{RoomId, UserId};

use crate::{
    Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// The largest content, in bytes: what one row of the store holds.
pub const ACCOUNT_DATA_BYTES_MAX: usize = 80_000;

/// The longest type, in bytes, as for events.
const TYPE_BYTES_MAX: usize = 255;

/// Types of account data whose content the server itself keeps.
pub(crate) const PUSH_RULES: &str = "m.push_rules";
pub(crate) const IGNORED_USERS: &str = "m.ignored_user_list";

/// Rows of a page while reading all of something.
const PAGE: usize = 500;

/// One piece of account data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountData {
    /// Of which room; `None` is global.
    pub room: Option<RoomNumber>,
    /// The type.
    pub kind: String,
    /// The content, JSON of an object.
    pub content: String,
}

/// Why account data was not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AccountDataError {
    /// The account or the room is not known here.
    #[error("unknown account or room")]
    NotFound,
    /// The content or the type is too long.
    #[error("account data is too large")]
    TooLarge,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Users {
    /// Sets account data. `content` is JSON of an object.
    pub async fn put_account_data(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
        content: &str,
    ) -> Result<(), AccountDataError> {
        self.change_account_data(user_id, room_id, kind, |_| Ok(Some(content.to_owned()))).await
    }

    /// Account data of one type.
    pub async fn account_data(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
    ) -> Result<Option<String>, Fault> {
        if kind.len() > TYPE_BYTES_MAX {
            return Ok(None);
        }
        let Some(user) = self.store.user_number(user_id).await? else { return Ok(None) };
        if room_id.is_none() && kind == PUSH_RULES {
            return Ok(Some(self.push_rules_content(user).await?));
        }
        let Some(room) = self.account_data_room(room_id).await? else { return Ok(None) };
        let row = self.store.get::<AccountDataRow>(Table::Us, &account_data_key(user, room, kind)).await?;
        Ok(row.map(|row| row.content))
    }

    /// All account data of a user, global and of rooms. Push rules are among it, even if they are the default ones.
    pub async fn account_data_all(&self, user: UserNumber) -> Result<Vec<AccountData>, Fault> {
        let mut all = self.scan_account_data(account_data_prefix(user, None)).await?;
        all.retain(|data| !(data.room.is_none() && data.kind == PUSH_RULES));
        let content = self.push_rules_content(user).await?;
        all.push(AccountData { room: None, kind: PUSH_RULES.to_owned(), content });
        Ok(all)
    }

    /// All account data of a user for one room.
    pub async fn account_data_of_room(&self, user: UserNumber, room: RoomNumber) -> Result<Vec<AccountData>, Fault> {
        self.scan_account_data(account_data_prefix(user, Some(Some(room)))).await
    }

    /// Account data that changed after `since`, up to and with `until`. What changed again behind `until` is left out: it
    /// will be found by who reads on from there.
    pub async fn account_data_since(
        &self,
        user: UserNumber,
        since: Position,
        until: Position,
    ) -> Result<Vec<AccountData>, Fault> {
        let mut range = KeyRange::prefix(account_data_index_prefix(user));
        let Some(first) = since.0.checked_add(1) else { return Ok(Vec::new()) };
        range.from = account_data_index_key(user, first);
        if let Some(end) = until.0.checked_add(1) {
            range.until = Some(account_data_index_key(user, end));
        }
        let mut changed = Vec::new();
        loop {
            let page = self.store.scan::<AccountDataIndexRow>(Table::Us, range.clone(), Page::first(PAGE)).await?;
            let Some((last, _)) = page.last() else { return Ok(changed) };
            range.from = [&last[..], &[0]].concat().into();
            for (_, index) in page {
                changed.extend(self.account_data_of_index(user, index).await?);
            }
        }
    }

    async fn account_data_of_index(
        &self,
        user: UserNumber,
        index: AccountDataIndexRow,
    ) -> Result<Option<AccountData>, Fault> {
        let AccountDataIndexRow { room, kind } = index;
        if room.is_none() && kind == PUSH_RULES {
            let content = self.push_rules_content(user).await?;
            return Ok(Some(AccountData { room, kind, content }));
        }
        let row = self.store.get::<AccountDataRow>(Table::Us, &account_data_key(user, room, &kind)).await?;
        Ok(row.map(|row| AccountData { room, kind, content: row.content }))
    }

    /// Changes account data, decided from what is there; `Ok(None)` leaves it. The change may be asked several times.
    pub(crate) async fn change_account_data<E: From<AccountDataError> + From<Fault>>(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
        change: impl Fn(Option<String>) -> Result<Option<String>, E> + Send + Sync,
    ) -> Result<(), E> {
        if kind.len() > TYPE_BYTES_MAX {
            return Err(AccountDataError::TooLarge.into());
        }
        let user = self.store.user_number(user_id).await.map_err(Fault::from)?.ok_or(AccountDataError::NotFound)?;
        let room = self.account_data_room(room_id).await?.ok_or(AccountDataError::NotFound)?;
        let key = account_data_key(user, room, kind);
        for _ in 0..COMMIT_ATTEMPTS {
            let bytes = self.store.get_bytes(Table::Us, &key).await.map_err(Fault::from)?;
            let old: Option<AccountDataRow> =
                bytes.as_ref().map(|bytes| hearth_store::decode(bytes)).transpose().map_err(Fault::from)?;
            let Some(content) = change(old.as_ref().map(|old| old.content.clone()))? else { return Ok(()) };
            if content.len() > ACCOUNT_DATA_BYTES_MAX {
                return Err(AccountDataError::TooLarge.into());
            }
            let mut write = Write::new(user.partition());
            let at = write.position();
            write.require(Table::Us, key.clone(), bytes);
            if let Some(old) = old {
                write.delete(Table::Us, account_data_index_key(user, old.position));
            }
            write.put_at(Table::Us, key.clone(), &AccountDataRow { position: 0, content }, &[at]);
            let index = encode(&AccountDataIndexRow { room, kind: kind.to_owned() });
            let in_key = Some((ACCOUNT_DATA_POSITION_OFFSET, at));
            write.put_filled(Table::Us, account_data_index_key(user, 0), index, in_key, &[]);
            write.log(at, LogEntry::AccountData { user, room });
            if committed(self.store.commit(write).await)? {
                if room.is_none() && kind == IGNORED_USERS {
                    self.ignore_lists.remove([&user]);
                }
                return Ok(());
            }
        }
        Err(Fault::contended().into())
    }

    /// The room under which account data stands: `Some(None)` is global, `None` a room that is not known here.
    async fn account_data_room(&self, room_id: Option<&RoomId>) -> Result<Option<Option<RoomNumber>>, Fault> {
        match room_id {
            None => Ok(Some(None)),
            Some(room_id) => Ok(self.store.room_number(room_id).await?.map(Some)),
        }
    }

    async fn scan_account_data(&self, prefix: hearth_ports::Key) -> Result<Vec<AccountData>, Fault> {
        let mut range = KeyRange::prefix(prefix);
        let mut all = Vec::new();
        loop {
            let page = self.store.scan::<AccountDataRow>(Table::Us, range.clone(), Page::first(PAGE)).await?;
            let Some((last, _)) = page.last() else { return Ok(all) };
            range.from = [&last[..], &[0]].concat().into();
            for (key, row) in page {
                let (room, kind) = account_data_room_of_key(&key)
                    .ok_or_else(|| Fault::Broken("a key of account data does not read".to_owned()))?;
                all.push(AccountData { room, kind: kind.to_owned(), content: row.content });
            }
        }
    }
}
