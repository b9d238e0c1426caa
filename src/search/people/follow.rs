//! Reading the log: whose place in the index may have changed.

use std::collections::{BTreeMap, BTreeSet};

use hearth_ports::CommitError;
use hearth_store::{
    Cursor, EventNote, EventNumber, LoadError, LogEntry, MemberNote, Positions, RoomNumber, Store, UserNumber,
};
use ruma::UserId;
use tokio::time::{Duration, Instant};

use super::{People, index::as_load_error};

/// The reader's name in the store.
pub(super) const CURSOR: &str = "people";

/// Entries of the log in one page.
const PAGE_ENTRIES: usize = 256;

/// The cursor is stored at most so often.
const CURSOR_EVERY: Duration = Duration::from_secs(1);

/// How far the reader is.
pub(super) struct Reader {
    /// All up to here is in the index; `None`: there is no index yet.
    read: Option<Positions>,
    cursor: Cursor,
    saved: Instant,
}

/// What a page of the log may have changed.
#[derive(Default)]
struct Changes {
    rooms: BTreeMap<RoomNumber, RoomChange>,
    accounts: BTreeSet<UserNumber>,
}

#[derive(Default)]
struct RoomChange {
    members: BTreeSet<UserNumber>,
    /// Everybody may have.
    whole: bool,
}

impl Reader {
    pub(super) async fn open(store: &Store) -> Result<Self, LoadError> {
        let cursor = store.cursor(CURSOR).await?;
        Ok(Self { read: None, cursor, saved: Instant::now() })
    }
}

impl People {
    /// Brings the index up to what is known to have happened; an index that was never made is made first.
    pub async fn catch_up(&self) -> Result<(), LoadError> {
        let mut reader = self.reader.lock().await;
        if reader.read.is_none() {
            let from = self.build(&mut reader.cursor).await?;
            reader.read = Some(from);
        }
        while self.follow(&mut reader).await? {}
        self.save(&mut reader).await
    }

    /// Reads a page of the log and does what follows. Whether there was anything.
    async fn follow(&self, reader: &mut Reader) -> Result<bool, LoadError> {
        let Some(read) = &reader.read else { return Ok(false) };
        let log = self.store.read_log(read, PAGE_ENTRIES).await?;
        if log.next == *read {
            return Ok(false);
        }
        let mut changes = Changes::default();
        for (.., entry) in &log.entries {
            self.note(&mut changes, entry).await?;
        }
        self.apply(changes).await?;
        reader.read = Some(log.next);
        if reader.saved.elapsed() >= CURSOR_EVERY {
            self.save(reader).await?;
        }
        Ok(true)
    }

    async fn note(&self, changes: &mut Changes, entry: &LogEntry) -> Result<(), LoadError> {
        match entry {
            LogEntry::Event(EventNote { room, event, member }) => {
                let change = changes.rooms.entry(*room).or_default();
                change.members.extend(member.map(|member| member.user));
                match (event, member) {
                    (None, _) => change.whole = true,
                    (Some(event), None) => change.members.extend(self.redacted_member(*room, *event).await?),
                    (Some(_), Some(_)) => {}
                }
            }
            LogEntry::Membership(MemberNote { room, user, .. }) => {
                changes.rooms.entry(*room).or_default().members.insert(*user);
            }
            LogEntry::Account { user } => changes.accounts.extend([*user]),
            // Nothing else says anything of what people are called or where they are.
            _ => {}
        }
        Ok(())
    }

    /// Whose member event an event redacts, if it does.
    async fn redacted_member(&self, room: RoomNumber, event: EventNumber) -> Result<Option<UserNumber>, LoadError> {
        let Some(target) = self.store.event(room, event).await?.and_then(|event| event.header.redacts) else {
            return Ok(None);
        };
        let target = self.store.event(room, target).await?;
        let pair = target.as_ref().and_then(|target| target.event.state_pair());
        let user_id = pair.filter(|(kind, _)| *kind == "m.room.member").map(|(_, key)| <&UserId>::try_from(key));
        match user_id {
            Some(Ok(user_id)) => self.store.user_number(user_id).await,
            Some(Err(_)) | None => Ok(None),
        }
    }

    async fn apply(&self, mut changes: Changes) -> Result<(), LoadError> {
        for user in changes.accounts {
            unless_damaged(self.index.refresh_account(user).await)?;
            for room in self.index.rooms_of(user).await? {
                changes.rooms.entry(room).or_default().members.insert(user);
            }
        }
        for (room, change) in changes.rooms {
            unless_damaged(self.index.refresh_room(room, &change.members, change.whole).await)?;
        }
        Ok(())
    }

    /// Stores how far the reader is: what is behind it is looked at again after a restart, which changes nothing.
    async fn save(&self, reader: &mut Reader) -> Result<(), LoadError> {
        let Some(read) = &reader.read else { return Ok(()) };
        if *read == reader.cursor.positions || reader.saved.elapsed() < CURSOR_EVERY {
            return Ok(());
        }
        reader.saved = Instant::now();
        match self.store.advance_cursor(&reader.cursor, read).await {
            Ok(cursor) => reader.cursor = cursor,
            // A commit whose outcome was not known, or another process at our data.
            Err(CommitError::Conflict) => reader.cursor = self.store.cursor(CURSOR).await?,
            Err(error) => return Err(as_load_error(error)),
        }
        Ok(())
    }
}

/// A row that does not read spoils what is made of it, not everything that comes after.
pub(super) fn unless_damaged(result: Result<(), LoadError>) -> Result<(), LoadError> {
    if let Err(LoadError::Corrupt(error)) = &result {
        tracing::error!(%error, "somebody is missing in the user directory");
        return Ok(());
    }
    result
}
