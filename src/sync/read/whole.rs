//! Waiting for the members of a room that was joined without them.

use std::time::Duration;

use ruma::RoomId;
use tokio::time::timeout;

use super::{ReadError, Reads};

/// How long a reader waits: less than clients and proxies wait for an answer.
const PATIENCE: Duration = Duration::from_secs(25);

impl Reads {
    /// Waits until a room has all its members; [`ReadError::NotYet`] if that takes too long. If they will not come, what is
    /// known is all there will be.
    pub(super) async fn whole(&self, room_id: &RoomId) -> Result<(), ReadError> {
        let Some(room) = self.store.room_number(room_id).await? else { return Ok(()) };
        match timeout(PATIENCE, self.store.until_whole(room)).await {
            Ok(is_whole) => Ok(is_whole.map(drop)?),
            Err(_) => Err(ReadError::NotYet),
        }
    }
}
