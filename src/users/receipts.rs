//! Read receipts and read markers. (Modules "Receipts" and "Read and unread markers".)

use hearth_store::{
    Order, RoomNumber, Table, UserNumber, Write,
    tables::{Membership, ReceiptPlaceRow, ReceiptRow, put_receipt, receipt_key},
};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use crate::{
    AccountDataError, Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// Account data that holds the fully read marker.
const FULLY_READ: &str = "m.fully_read";

/// The thread of events that are in none.
const MAIN: &str = "main";

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
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Users {
    /// Sets a receipt of a user who is in the room. It only moves forward: one for an event that stands before the
    /// present one is no error, but changes nothing.
    pub async fn set_receipt(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        kind: ReceiptKind,
        thread: Option<&str>,
        event_id: &EventId,
    ) -> Result<(), ReceiptError> {
        let (user, room) = self.joined(user_id, room_id).await?;
        let private = kind == ReceiptKind::Private;
        // A row for each thread: only for threads that can be, so that nobody fills the store with others.
        if let Some(root) = thread.filter(|thread| *thread != MAIN) {
            let root = <&EventId>::try_from(root).map_err(|_| ReceiptError::UnknownThread)?;
            self.store.event_number(room, root).await.map_err(Fault::from)?.ok_or(ReceiptError::UnknownThread)?;
        }
        let thread = thread.unwrap_or_default().to_owned();
        let place = ReceiptPlaceRow { user, private, thread };
        let key = receipt_key(room, user, private, &place.thread);
        let event = self.store.event_number(room, event_id).await.map_err(Fault::from)?;
        let order = self.order_of(room, event_id).await?;
        for _ in 0..COMMIT_ATTEMPTS {
            let bytes = self.store.get_bytes(Table::Rm, &key).await.map_err(Fault::from)?;
            let old: Option<ReceiptRow> =
                bytes.as_ref().map(|bytes| hearth_store::decode(bytes)).transpose().map_err(Fault::from)?;
            if let Some(old) = &old
                && !self.is_forward(room, &old.event_id, event_id, order).await?
            {
                return Ok(());
            }
            let row = ReceiptRow {
                position: 0,
                event_id: event_id.to_string(),
                event,
                ts_ms: self.clock.now_ms(),
                user_id: user_id.to_string(),
            };
            let mut write = Write::new(room.partition());
            put_receipt(&mut write, room, &place, &row, bytes.zip(old.as_ref()));
            if committed(self.store.commit(write).await)? {
                return Ok(());
            }
        }
        Err(Fault::contended().into())
    }

    /// Moves the fully read marker of a user who is in the room. It only moves forward.
    pub async fn set_fully_read(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(), ReceiptError> {
        let (_, room) = self.joined(user_id, room_id).await?;
        let order = self.order_of(room, event_id).await?;
        let old = self.account_data(user_id, Some(room_id), FULLY_READ).await?;
        let old = old.and_then(|content| serde_json::from_str::<Value>(&content).ok());
        let old = old.as_ref().and_then(|content| content.get("event_id")?.as_str());
        if let Some(old) = old
            && !self.is_forward(room, old, event_id, order).await?
        {
            return Ok(());
        }
        let content = json!({ "event_id": event_id }).to_string();
        match self.put_account_data(user_id, Some(room_id), FULLY_READ, &content).await {
            Ok(()) => Ok(()),
            Err(AccountDataError::NotFound | AccountDataError::TooLarge) => Err(ReceiptError::NotJoined),
            Err(AccountDataError::Fault(fault)) => Err(fault.into()),
        }
    }

    /// Receipts of a room that were set after one position, up to and with another, as this reader sees them. At most
    /// `limit` of them, the oldest first.
    pub async fn receipts_since(
        &self,
        room: RoomNumber,
        reader: UserNumber,
        since: hearth_store::Position,
        until: hearth_store::Position,
        limit: usize,
    ) -> Result<Vec<Receipt>, Fault> {
        let places = self.store.receipts_between(room, since.0, until.0, limit).await?;
        let places: Vec<_> = places.into_iter().filter(|(_, place)| !place.private || place.user == reader).collect();
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

    /// The number of a room to which this user is joined.
    pub async fn joined_room(&self, user_id: &UserId, room_id: &RoomId) -> Result<Option<RoomNumber>, Fault> {
        match self.joined(user_id, room_id).await {
            Ok((_, room)) => Ok(Some(room)),
            Err(ReceiptError::NotJoined | ReceiptError::UnknownThread) => Ok(None),
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

    /// Where an event stands in its room's timeline, if it is there.
    async fn order_of(&self, room: RoomNumber, event_id: &EventId) -> Result<Option<Order>, Fault> {
        let event = self.store.event_by_id(room, event_id).await?;
        Ok(event.map(|event| event.header.order()).filter(|order| order.position > 0))
    }

    /// Whether the new event stands behind the old one. An old event without a place gives way to any other; a new one
    /// without a place gives way to an old one that has one.
    async fn is_forward(
        &self,
        room: RoomNumber,
        old: &str,
        new: &EventId,
        order: Option<Order>,
    ) -> Result<bool, Fault> {
        if old == new.as_str() {
            return Ok(false);
        }
        let Ok(old) = EventId::parse(old) else { return Ok(true) };
        let old = self.order_of(room, &old).await?;
        Ok(match (old, order) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(old), Some(new)) => new > old,
        })
    }
}
