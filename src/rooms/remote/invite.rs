//! Inviting users of other servers: their server signs the event before it goes into the room.
//! [Inviting to a room](https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room).

use hearth_core::Event;
use hearth_store::RoomNumber;
use ruma::OwnedEventId;

use super::{partial::PATIENCE, send_error};
use crate::{
    SendError,
    member::{MemberIntent, Wish},
    policy::Policy,
    rooms::{MemberChange, Rooms},
};

impl Rooms {
    /// Invites a user of another server. The room does not wait meanwhile: what happens in it stands beside the invite.
    pub(crate) async fn invite_remote(&self, change: MemberChange) -> Result<OwnedEventId, SendError> {
        let store = &self.writer.store;
        let room = store.room_number(&change.room_id).await?.ok_or(SendError::UnknownRoom)?;
        if !self.wait_whole(room, PATIENCE).await? {
            return Err(SendError::Busy);
        }
        let preview = self.preview(room, Some(&change.sender)).await.map_err(SendError::from)?;
        let server = change.target.server_name().to_owned();
        let (event, policy) = match self.propose_invite(room, change).await? {
            Ok(proposed) => proposed,
            Err(standing) => return Ok(standing),
        };
        let event = match policy {
            Some(policy) => self.writer.sign_by_policy(&policy, &event).await?,
            None => event,
        };
        let signed = self.writer.peers.invite(&server, &event, preview).await.map_err(send_error)?;
        let signed = self.check_one_signed(event.version(), signed).await;
        let signed = signed.map_err(|error| SendError::Unreachable(error.to_string()))?;
        // The same id, room and content hash: nothing but signatures can differ. In room versions 1 and 2 the id says
        // nothing, the reference hash does.
        let (is, was) = (signed.event(), &event);
        let is_same = is.event_id() == was.event_id() && is.room_id() == was.room_id();
        if !is_same || is.reference_hash() != was.reference_hash() {
            return Err(SendError::Unreachable("the other server returned another event than it was sent".to_owned()));
        }
        let event_id = is.event_id().to_owned();
        self.append_handshake(room, signed, None, false).await.map_err(SendError::from)?;
        Ok(event_id)
    }

    /// The invite as it would go into the room now, with the room's policy server, or the event that says the same
    /// already.
    async fn propose_invite(
        &self,
        room: RoomNumber,
        change: MemberChange,
    ) -> Result<Result<(Event, Option<Policy>), OwnedEventId>, SendError> {
        let writer = &self.writer;
        let MemberChange { sender, target, action, content, .. } = change;
        let intent = MemberIntent { sender, target, wish: Wish::Act(action, content), guest: false, ts_ms: None };
        let active = writer.active(room);
        let mut cache = active.cache.lock().await;
        let cache = writer.load(&mut cache, room).await?;
        if cache.head.blocked {
            return Err(SendError::forbidden("the room is blocked on this server"));
        }
        if !cache.head.create.federate {
            return Err(SendError::forbidden("the room is for users of this server only"));
        }
        match writer.propose_member(cache, &intent, true).await? {
            Ok(proposal) => {
                let event = writer.accept(cache, proposal, None).await?.event;
                Ok(Ok((event, writer.policy(cache).await?)))
            }
            Err(standing) => Ok(Err(standing)),
        }
    }
}
