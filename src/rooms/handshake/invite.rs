//! Invites of our users by other servers.
//! [`PUT /invite`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid).

use std::time::Duration;

use hearth_core::{Event, RawEvent, RoomVersion, SignedEvent, cosign};
use hearth_ports::EventBytes;
use hearth_store::tables::Membership;
use ruma::{EventId, OwnedServerName, RoomId, ServerName, UserId};
use serde_json::Value;

use super::HandshakeError;
use crate::{
    remote::{outside_row, preview_events, stripped_of},
    rooms::Rooms,
};

/// Servers that are kept with an invite, to come in through.
const VIA_MAX: usize = 10;

/// How long an invite waits for the members of a room that was only just joined: servers wait some 30 s for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// An invite as another server sends it.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The room's version, as the other server writes it.
    pub room_version: String,
    /// The member event, signed by the inviter's server.
    pub event: EventBytes,
    /// State that tells what the room is: full events.
    pub invite_room_state: Vec<EventBytes>,
    /// More servers that may help to get in.
    pub via: Vec<OwnedServerName>,
}

impl Rooms {
    /// Takes the invite of a user of ours: the answer is the event with our signature too. Of a room that this server is
    /// not in the user is told; in a room that it is in the event goes the way of all received events.
    ///
    /// The caller has found that the user has an account here and wants invites.
    pub async fn accept_invite(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        invitation: Invitation,
    ) -> Result<EventBytes, HandshakeError> {
        let Some(version) = RoomVersion::parse(&invitation.room_version) else {
            return Err(HandshakeError::IncompatibleVersion(invitation.room_version));
        };
        let raw = RawEvent::parse(version, &invitation.event)?;
        if raw.event_id() != event_id {
            return Err(HandshakeError::malformed("the event has another id than the path says"));
        }
        let target = self.check_invite(raw.unchecked(), origin, room_id)?;
        let is_in_room = self.check_room(origin, room_id, version).await?;
        // Signed before it is checked, so that what is checked is what we give back; nobody sees it if it fails.
        let (key, server) = (&self.writer.signing_key, &self.writer.server_name);
        let signed = cosign(raw.unchecked(), key, server);
        let signed = signed.map_err(|error| HandshakeError::Malformed(error.to_string()))?;
        let signed = self.check_one_signed(version, signed.json().clone()).await?;
        let bytes = signed.event().json().clone();
        if is_in_room {
            self.take_invite(origin, room_id, signed).await?;
            return Ok(bytes);
        }
        let stripped = self.check_preview(version, room_id, &invitation.invite_room_state).await?;
        let mut via = vec![origin.to_owned()];
        via.extend(invitation.via.into_iter().filter(|server| server != origin).take(VIA_MAX - 1));
        let row = outside_row(signed.event(), Membership::Invite, stripped, &via);
        if !self.tell_outside(&target, room_id, &row).await? {
            // They have come in meanwhile.
            self.take_invite(origin, room_id, signed).await?;
            return Ok(bytes);
        }
        tracing::info!(%room_id, %origin, %target, "invited from outside");
        Ok(bytes)
    }

    /// What the event must be: an invite of a user of ours by a user of `origin`. Returns who is invited.
    fn check_invite(
        &self,
        event: &Event,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<ruma::OwnedUserId, HandshakeError> {
        if event.room_id() != room_id {
            return Err(HandshakeError::malformed("the event is of another room"));
        }
        if event.membership().is_none_or(|is| is.as_str() != "invite") {
            return Err(HandshakeError::malformed("the event is no invite"));
        }
        if event.sender().server_name() != origin {
            return Err(HandshakeError::malformed("the event's sender is not a user of your server"));
        }
        let content: serde_json::Map<String, Value> = event.content_as().unwrap_or_default();
        // Whose identifier it is, the identity server has said to the inviter's server: the room's rules see to that.
        let bound = content.get("third_party_invite").map(|invite| invite["signed"]["mxid"].as_str());
        if bound.is_some_and(|bound| bound != event.state_key()) {
            return Err(HandshakeError::malformed("the third-party invite is another user's"));
        }
        let target = event.state_key().and_then(|user| <&UserId>::try_from(user).ok());
        let target = target.filter(|user| user.server_name() == self.writer.server_name);
        target.map(ToOwned::to_owned).ok_or(HandshakeError::malformed("the invited user is not of this server"))
    }

    /// Whether this server is in the room; an error if it will have nothing to do with it.
    async fn check_room(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        version: RoomVersion,
    ) -> Result<bool, HandshakeError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(false) };
        let Some(head) = store.head(room).await? else { return Ok(false) };
        if head.blocked || head.purged {
            return Err(HandshakeError::forbidden("the room is blocked on this server"));
        }
        if head.create.version != version.as_str() {
            return Err(HandshakeError::malformed("the room has another version"));
        }
        if head.loading || store.joined_from(room, &self.writer.server_name).await? == 0 {
            return Ok(false);
        }
        self.check_access(origin, room_id).await?;
        if !self.wait_whole(room, PATIENCE).await? {
            return Err(HandshakeError::Busy);
        }
        Ok(true)
    }

    /// The state given along, stripped. From room version 12 on all of it must be truly signed.
    async fn check_preview(
        &self,
        version: RoomVersion,
        room_id: &RoomId,
        given: &[EventBytes],
    ) -> Result<Vec<String>, HandshakeError> {
        let stripped = stripped_of(version, room_id, given);
        let stripped = stripped.map_err(|error| HandshakeError::Malformed(error.to_string()))?;
        if version.has_hashed_room_id() {
            let events = preview_events(version, room_id, given);
            let bytes = events.iter().map(|event| event.json().clone()).collect();
            if self.check_signed(version, bytes).await.iter().any(Result::is_err) {
                return Err(HandshakeError::malformed("an event of the state given along is not truly signed"));
            }
        }
        Ok(stripped)
    }

    /// An invite into a room that this server is in. It comes by transaction too, and with what it may rest on: here it is
    /// only refused if the rules are against it.
    async fn take_invite(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        signed: SignedEvent,
    ) -> Result<(), HandshakeError> {
        let room = self.writer.store.room_number(room_id).await?.ok_or(HandshakeError::UnknownRoom)?;
        match self.append_handshake(room, signed, Some(origin.to_owned()), false).await {
            Err(error @ (HandshakeError::Forbidden(_) | HandshakeError::Unavailable(_))) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
