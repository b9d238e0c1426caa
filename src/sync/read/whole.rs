//! Waiting for the members of a room that was joined without them.

use std::{pin::pin, time::Duration};

use futures_util::future::{Either, select};
use hearth_store::{Table, tables::partial_key};
use ruma::RoomId;
use tokio::time::{Instant, sleep_until};

use super::{ReadError, Reads};

/// How long a reader waits: less than clients and proxies wait for an answer.
const PATIENCE: Duration = Duration::from_secs(25);

impl Reads {
    /// Waits until a room has all its members; [`ReadError::NotYet`] if that takes too long.
    pub(super) async fn whole(&self, room_id: &RoomId) -> Result<(), ReadError> {
        let Some(room) = self.store.room_number(room_id).await? else { return Ok(()) };
        let mut end = pin!(sleep_until(Instant::now() + PATIENCE));
        loop {
            let changed = self.store.live().log_changed();
            if !self.store.head(room).await?.is_some_and(|head| head.partial) {
                return Ok(());
            }
            if self.store.get_bytes(Table::Rm, &partial_key(room)).await?.is_none() {
                // All of ours have left before they came: what is known is all there will be.
                return Ok(());
            }
            if let Either::Right(_) = select(pin!(changed), end.as_mut()).await {
                return Err(ReadError::NotYet);
            }
        }
    }
}
