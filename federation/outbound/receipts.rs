//! What our users have read: told as it happens, and to a server that was away once more, the newest of each.

use std::sync::Arc;

use hearth_store::{
    LoadError, Position, RoomNumber, Table,
    tables::{ReceiptPlaceRow, ReceiptRow, receipt_key},
};
use ruma::{EventId, OwnedRoomId, UserId};

use super::{Outbound, ephemeral::ReceiptNews, queue::Page};

/// Receipts of one room, those of other servers' users too, that are looked at for a server that was away. The older ones
/// of a room that is read by more are not told again.
const ROOM_RECEIPTS_MAX: usize = 1_000;

impl Outbound {
    /// Tells of the receipt that was set at this position, if it stands and is of one of our users.
    pub(super) async fn tell_receipt(
        self: &Arc<Self>,
        page: &Page,
        room: RoomNumber,
        at: Position,
    ) -> Result<(), LoadError> {
        if self.targets.is_ours_alone(room) {
            return Ok(());
        }
        let places = self.parts.store.receipts_between(room, at.0.saturating_sub(1), at.0, 1).await?;
        let Some(room_id) = self.parts.store.room_id(room).await? else { return Ok(()) };
        let Some(news) = self.receipts_at(room, &room_id, places).await?.pop() else { return Ok(()) };
        let servers = self.servers_now(room).await?;
        for server in &servers {
            let Some(destination) = self.destination(server) else { continue };
            destination.queue.lock().push_receipt(news.clone(), &page.after);
            self.wake(&destination);
        }
        Ok(())
    }

    /// The newest receipts of our users in a room that were set after a position.
    pub(super) async fn missed_receipts(
        &self,
        room: RoomNumber,
        from: Position,
    ) -> Result<Vec<Arc<ReceiptNews>>, LoadError> {
        if !self.parts.settings.receipts {
            return Ok(Vec::new());
        }
        let places = self.parts.store.newest_receipts(room, from.0, ROOM_RECEIPTS_MAX).await?;
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let Some(room_id) = self.parts.store.room_id(room).await? else { return Ok(Vec::new()) };
        self.receipts_at(room, &room_id, places).await
    }

    /// Of these places the public receipts of our users that stand there.
    async fn receipts_at(
        &self,
        room: RoomNumber,
        room_id: &OwnedRoomId,
        places: Vec<(u64, ReceiptPlaceRow)>,
    ) -> Result<Vec<Arc<ReceiptNews>>, LoadError> {
        let places: Vec<_> = places.into_iter().map(|(_, place)| place).filter(|place| !place.private).collect();
        let key = |place: &ReceiptPlaceRow| receipt_key(room, place.user, place.private, &place.thread);
        let keys: Vec<_> = places.iter().map(key).collect();
        let rows = self.parts.store.multi_get::<ReceiptRow>(Table::Rm, &keys).await?;
        let news = places.into_iter().zip(rows).filter_map(|(place, row)| {
            let row = row?;
            Some(Arc::new(ReceiptNews {
                room_id: room_id.clone(),
                user_id: UserId::parse(&*row.user_id)
                    .ok()
                    .filter(|user| user.server_name() == self.parts.server_name)?,
                thread: place.thread,
                event_id: EventId::parse(&*row.event_id).ok()?,
                ts_ms: row.ts_ms,
            }))
        });
        Ok(news.collect())
    }
}
