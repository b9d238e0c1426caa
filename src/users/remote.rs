//! What other servers tell of their users: receipts and presence. Typing goes by [`Users::set_typing`].
//!
//! The caller has found that the server may speak for the user and in the room.

use std::time::Duration;

use hearth_store::tables::{Membership, ReceiptPlaceRow};
use ruma::{EventId, RoomId, UserId};
use tokio::time::Instant;

use crate::{
    Fault, PresenceState, ReceiptError, Users,
    presence::{STATUS_BYTES_MAX, Told},
    receipt_writer::Wish,
    receipts::{MAIN, check_length},
};

/// A presence that is not told again for so long is over: servers that go away do not say so. They remind each other
/// somewhat more often.
const TOLD_FOR: Duration = Duration::from_secs(30 * 60);

/// A user of another server, as that server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePresence {
    /// Whether they are there.
    pub state: PresenceState,
    /// What they say about it.
    pub status_msg: Option<String>,
    /// How long ago they last did something, in milliseconds.
    pub last_active_ago_ms: u64,
    /// They do something now.
    pub currently_active: bool,
}

impl Users {
    /// Sets the public receipt of another server's user who is in the room. `ts_ms`: when the user read, in milliseconds
    /// since the Unix epoch; a time to come counts as now. Like [`Self::set_receipt`] it only moves forward, and takes
    /// about a tenth of a second. The event need not be known here yet.
    pub async fn set_remote_receipt(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        thread: Option<&str>,
        event_id: &EventId,
        ts_ms: u64,
    ) -> Result<(), ReceiptError> {
        check_length(event_id)?;
        if self.is_local(user_id) {
            return Err(ReceiptError::NotJoined);
        }
        let room = self.joined_room(user_id, room_id).await?.ok_or(ReceiptError::NotJoined)?;
        let user = self.number(user_id).await?.ok_or(ReceiptError::NotJoined)?;
        // A row for each thread: only for threads that can be, so that nobody fills the store with others.
        if let Some(root) = thread.filter(|thread| *thread != MAIN) {
            let root = <&EventId>::try_from(root).map_err(|_| ReceiptError::UnknownThread)?;
            self.store.event_number(room, root).await.map_err(Fault::from)?.ok_or(ReceiptError::UnknownThread)?;
        }
        let wish = Wish {
            place: ReceiptPlaceRow { user, private: false, thread: thread.unwrap_or_default().to_owned() },
            user_id: user_id.to_owned(),
            event_id: event_id.to_owned(),
            ts_ms: ts_ms.min(self.clock.now_ms()),
        };
        Ok(self.receipts.set(room, wish).await?)
    }

    /// Takes note of the presence of another server's user, for half an hour or until it is told again. Says whether it
    /// did: not if presence is switched off, the user is in no room known here, or too many others are remembered.
    pub async fn set_remote_presence(&self, user_id: &UserId, presence: RemotePresence) -> Result<bool, Fault> {
        if !self.settings.presence || self.is_local(user_id) {
            return Ok(false);
        }
        let Some(user) = self.number(user_id).await? else { return Ok(false) };
        let rooms = self.store.user_rooms(user).await?;
        if !rooms.iter().any(|(_, row)| row.membership == Membership::Join) || !self.has_room_for_presence(user_id) {
            return Ok(false);
        }
        let status_msg = presence.status_msg.filter(|message| !message.is_empty());
        let told = Told {
            state: presence.state,
            status_msg: status_msg.map(|message| message.chars().take(STATUS_BYTES_MAX / 4).collect()),
            active_ago: Duration::from_millis(presence.last_active_ago_ms),
            currently_active: presence.currently_active && presence.state == PresenceState::Online,
            until: Instant::now() + TOLD_FOR,
        };
        self.tell_of(user_id, user, told).await?;
        Ok(true)
    }
}
