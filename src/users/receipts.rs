//! Read receipts and read markers. (Modules "Receipts" and "Read and unread markers".)

use hearth_core::ID_BYTES_MAX;
use hearth_ports::KeyRange;
use hearth_store::{
    RoomNumber, Table, UserNumber,
    tables::{Membership, ReceiptPlaceRow, ReceiptRow, receipt_key, receipt_prefix},
};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use crate::{
    AccountDataError, Fault, Users,
    receipt_writer::{Wish, is_forward, place_of},
};

/// Account data that holds the fully read marker.
const FULLY_READ: &str = "m.fully_read";

/// The thread of events that are in none.
pub(crate) const MAIN: &str = "main";

/// Who sees a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptKind {
    /// `m.read`
    Public,
    /// `m.read.private`: its user alone.
    Private,
}

impl ReceiptKind {
    /// The name in the specification.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "m.read",
            Self::Private => "m.read.private",
        }
    }
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Who sees it.
    pub kind: ReceiptKind,
    /// `None` is unthreaded; else `main` or a thread root.
    pub thread: Option<String>,
    /// Up to and with this event.
    pub event_id: OwnedEventId,
    /// When it was set, in milliseconds since the Unix epoch.
    pub ts_ms: u64,
}

/// Why a receipt was not set.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The room is not known here, or the user is not in it.
    #[error("not in the room")]
    NotJoined,
    /// The room has no event that could be this thread's root.
    #[error("no such thread")]
    UnknownThread,
    /// No event has an id of more than [`ID_BYTES_MAX`] bytes.
    #[error("the event id is too long")]
    IdTooLong,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Users {
    /// Sets a receipt of a user who is in the room. It only moves forward: one for an event that stands before the
    /// present one is no error, but changes nothing. Takes about a tenth of a second, because those of a room are
    /// gathered and written together.
    pub async fn set_receipt(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        kind: ReceiptKind,
        thread: Option<&str>,
        event_id: &EventId,
    ) -> Result<(), ReceiptError> {
        check_length(event_id)?;
        let (user, room) = self.joined(user_id, room_id).await?;
        // A row for each thread: only for threads that can be, so that nobody fills the store with others.
        if let Some(root) = thread.filter(|thread| *thread != MAIN) {
            let root = <&EventId>::try_from(root).map_err(|_| ReceiptError::UnknownThread)?;
            self.store.event_number(room, root).await.map_err(Fault::from)?.ok_or(ReceiptError::UnknownThread)?;
        }
        let thread = thread.unwrap_or_default().to_owned();
        let wish = Wish {
            place: ReceiptPlaceRow { user, private: kind == ReceiptKind::Private, thread },
            user_id: user_id.to_owned(),
            event_id: event_id.to_owned(),
            ts_ms: self.clock.now_ms(),
        };
        Ok(self.receipts.set(room, wish).await?)
    }

    /// Moves the fully read marker of a user who is in the room. It only moves forward.
    pub async fn set_fully_read(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(), ReceiptError> {
        check_length(event_id)?;
        let (_, room) = self.joined(user_id, room_id).await?;
        let old = self.account_data(user_id, Some(room_id), FULLY_READ).await?;
        let old = old.and_then(|content| serde_json::from_str::<Value>(&content).ok());
        let old = old.as_ref().and_then(|content| content.get("event_id")?.as_str());
        if let Some(Ok(old)) = old.map(EventId::parse) {
            let (_, old_order) = place_of(&self.store, room, &old).await?;
            let (_, order) = place_of(&self.store, room, event_id).await?;
            if old == event_id || !is_forward(old_order, order) {
                return Ok(());
            }
        }
        let content = json!({ "event_id": event_id }).to_string();
        match self.put_account_data(user_id, Some(room_id), FULLY_READ, &content).await {
            Ok(()) => Ok(()),
            Err(AccountDataError::NotFound | AccountDataError::TooLarge) => Err(ReceiptError::NotJoined),
            Err(AccountDataError::Fault(fault)) => Err(fault.into()),
        }
    }

    /// Receipts of a room that were set after one position, up to and with another, as this reader sees them, the oldest
    /// first. Of more than `limit` the newest, and as many at most of the reader's own, by which clients tell what is
    /// unread.
    pub async fn receipts_since(
        &self,
        room: RoomNumber,
        reader: UserNumber,
        since: hearth_store::Position,
        until: hearth_store::Position,
        limit: usize,
    ) -> Result<Vec<Receipt>, Fault> {
        let mut places = self.store.newest_receipts(room, since.0, limit).await?;
        if places.len() >= limit {
            let oldest = places.last().map_or(until.0, |(at, _)| at.saturating_sub(1)).min(until.0);
            places.extend(self.own_receipts(room, reader, (since.0, oldest), limit).await?);
        }
        places.retain(|(at, place)| *at <= until.0 && (!place.private || place.user == reader));
        places.reverse();
        let key = |place: &ReceiptPlaceRow| receipt_key(room, place.user, place.private, &place.thread);
        let keys: Vec<_> = places.iter().map(|(_, place)| key(place)).collect();
        let rows = self.store.multi_get::<ReceiptRow>(Table::Rm, &keys).await?;
        let receipts = places.into_iter().zip(rows).filter_map(|((_, place), row)| {
            let row = row?;
            Some(Receipt {
                user_id: UserId::parse(&*row.user_id).ok()?,
                kind: if place.private { ReceiptKind::Private } else { ReceiptKind::Public },
                thread: Some(place.thread).filter(|thread| !thread.is_empty()),
                event_id: EventId::parse(&*row.event_id).ok()?,
                ts_ms: row.ts_ms,
            })
        });
        Ok(receipts.collect())
    }

    /// The reader's own receipts of a room that were set after one position, up to and with another, the newest first, of
    /// so many at most.
    async fn own_receipts(
        &self,
        room: RoomNumber,
        reader: UserNumber,
        (since, until): (u64, u64),
        limit: usize,
    ) -> Result<Vec<(u64, ReceiptPlaceRow)>, Fault> {
        let prefix = receipt_prefix(room, reader);
        let thread_at = prefix.len() + 1;
        let rows = self.store.scan_all(Table::Rm, KeyRange::prefix(prefix), limit, false).await?;
        let mut own = Vec::new();
        for entry in rows {
            let row: ReceiptRow = hearth_store::decode(&entry.value)?;
            if row.position <= since || row.position > until {
                continue;
            }
            let thread = std::str::from_utf8(entry.key.get(thread_at..).unwrap_or_default());
            let thread = thread.map_err(|_| Fault::Broken("a receipt's key is no text".to_owned()))?.to_owned();
            let private = entry.key.get(thread_at - 1) == Some(&1);
            own.push((row.position, ReceiptPlaceRow { user: reader, private, thread }));
        }
        own.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Ok(own)
    }

    /// The number of a room to which this user is joined.
    pub async fn joined_room(&self, user_id: &UserId, room_id: &RoomId) -> Result<Option<RoomNumber>, Fault> {
        match self.joined(user_id, room_id).await {
            Ok((_, room)) => Ok(Some(room)),
            Err(ReceiptError::NotJoined | ReceiptError::UnknownThread | ReceiptError::IdTooLong) => Ok(None),
            Err(ReceiptError::Fault(fault)) => Err(fault),
        }
    }

    async fn joined(&self, user_id: &UserId, room_id: &RoomId) -> Result<(UserNumber, RoomNumber), ReceiptError> {
        let user = self.store.user_number(user_id).await.map_err(Fault::from)?.ok_or(ReceiptError::NotJoined)?;
        let room = self.store.room_number(room_id).await.map_err(Fault::from)?.ok_or(ReceiptError::NotJoined)?;
        let membership = self.store.membership(user, room).await.map_err(Fault::from)?;
        let is_joined = membership.is_some_and(|row| row.membership == Membership::Join);
        if is_joined { Ok((user, room)) } else { Err(ReceiptError::NotJoined) }
    }
}

/// A receipt may name an event that is not known here, so its id is anybody's text. "The length of an event ID, including
/// the `$` sigil and the domain where present, MUST NOT exceed 255 bytes."
pub(crate) fn check_length(event_id: &EventId) -> Result<(), ReceiptError> {
    if event_id.as_str().len() > ID_BYTES_MAX { Err(ReceiptError::IdTooLong) } else { Ok(()) }
}
