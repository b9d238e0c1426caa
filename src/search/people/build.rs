//! The first index of a database that has none, or one of another version.

use std::collections::BTreeSet;

use hearth_ports::{KeyRange, Page, Table};
use hearth_store::{
    Cursor, LoadError, Positions, RoomNumber, Write, decode, encode,
    tables::{
        BuildRow, build_key, build_partition, head_key, heads_prefix,
        users::{account_of_key, accounts_prefix},
    },
};

use super::{
    People,
    follow::{CURSOR, unless_damaged},
    index::as_load_error,
};

/// What the index holds. Raised when the same people would be found by other words.
const VERSION: u32 = 1;

/// Rooms, or accounts, between two looks at how far it is.
const PAGE: usize = 64;

impl People {
    /// Makes the index unless there is one, and gives the positions up to which it is true. A crash leads back to the last
    /// page of rooms.
    ///
    /// The cursor is stored before the first row is read: whatever changes from then on is in the log behind it.
    pub(super) async fn build(&self, cursor: &mut Cursor) -> Result<Positions, LoadError> {
        let stored = self.store.get_bytes(Table::Mi, &build_key(CURSOR)).await?;
        let known: Option<BuildRow> = stored.as_deref().map(decode).transpose()?;
        let mut row = match known.filter(|row| row.version == VERSION) {
            Some(row) if row.is_done => return Ok(cursor.positions.clone()),
            Some(row) => row,
            None => {
                let now = self.store.live().positions();
                if cursor.positions != now {
                    *cursor = self.store.advance_cursor(cursor, &now).await.map_err(as_load_error)?;
                }
                let row = BuildRow { version: VERSION, behind: None, is_done: false };
                self.put_build(&row).await?;
                row
            }
        };
        tracing::info!("the index of the user directory is being made");
        while let Some(last) = self.build_rooms(row.behind).await? {
            row.behind = Some(last);
            self.put_build(&row).await?;
        }
        self.build_accounts().await?;
        self.put_build(&BuildRow { is_done: true, ..row }).await?;
        tracing::info!("the index of the user directory is made");
        Ok(cursor.positions.clone())
    }

    /// Does the next rooms; `None`: there are none.
    async fn build_rooms(&self, behind: Option<RoomNumber>) -> Result<Option<RoomNumber>, LoadError> {
        let mut range = KeyRange::prefix(heads_prefix());
        if let Some(behind) = behind {
            range.from = [&head_key(behind)[..], &[0]].concat().into();
        }
        let mut last = None;
        for row in self.store.scan_bytes(Table::Rm, range, Page::first(PAGE)).await? {
            let number = row.key.get(heads_prefix().len()..).and_then(|bytes| bytes.try_into().ok());
            let Some(room) = number.map(|number| RoomNumber(u64::from_be_bytes(number))) else { continue };
            unless_damaged(self.index.refresh_room(room, &BTreeSet::new(), true).await)?;
            last = Some(room);
        }
        Ok(last)
    }

    async fn build_accounts(&self) -> Result<(), LoadError> {
        let mut range = KeyRange::prefix(accounts_prefix());
        loop {
            let rows = self.store.scan_bytes(Table::Us, range.clone(), Page::first(PAGE)).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            range.from = [&last.key[..], &[0]].concat().into();
            for user in rows.iter().filter_map(|row| account_of_key(&row.key)) {
                unless_damaged(self.index.refresh_account(user).await)?;
            }
        }
    }

    async fn put_build(&self, row: &BuildRow) -> Result<(), LoadError> {
        let mut write = Write::new(build_partition(CURSOR));
        write.put_bytes(Table::Mi, build_key(CURSOR), encode(row));
        self.store.commit(write).await.map(drop).map_err(as_load_error)
    }
}
