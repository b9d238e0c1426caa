//! Taking the member event that another server made of a template.
//! [`PUT /send_join`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid).

use std::sync::Arc;

use hearth_core::{Event, Limits, RawEvent, RoomVersion, auth, auth_types, check_json, cosign};
use hearth_ports::{EventBytes, Handshake, JoinAnswer};
use hearth_store::{RoomNumber, StoredEvent};
use ruma::{EventId, RoomId, ServerName, UserId};
use serde::Deserialize;

use super::{HandshakeError, membership_name};
use crate::{
    receive::{Arriving, Place},
    rooms::Rooms,
};

impl Rooms {
    /// Takes another server's user into the room. The answer is the room's state before that, what authorises it, and
    /// the event, signed by us too where one of ours vouches for it.
    pub async fn accept_join(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: EventBytes,
        omit_members: bool,
    ) -> Result<JoinAnswer, HandshakeError> {
        let (room, checked) = self.check_handshake(origin, Handshake::Join, room_id, event_id.as_str(), event).await?;
        // Behind what other servers are asked for, whose slowness is nobody else's concern; before the event is in the room,
        // since what is refused must not have happened.
        let _turn = self.serving.join_turn(origin).await.ok_or(HandshakeError::Busy)?;
        let stored = self.append_checked(room, checked).await?;
        self.join_answer(origin, room, &stored, omit_members).await
    }

    /// Lets another server's user out: a member, or somebody who rejects an invite or takes back a knock.
    pub async fn accept_leave(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: impl AsRef<str>,
        event: EventBytes,
    ) -> Result<(), HandshakeError> {
        self.accept_member(origin, Handshake::Leave, room_id, event_id.as_ref(), event).await.map(drop)
    }

    /// Takes the knock of another server's user. The answer is what they may know of the room: full events, the create
    /// event among them.
    pub async fn accept_knock(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: EventBytes,
    ) -> Result<Vec<EventBytes>, HandshakeError> {
        let (room, _) = self.accept_member(origin, Handshake::Knock, room_id, event_id.as_str(), event).await?;
        self.preview(room, None).await
    }

    /// Checks the event and puts it into the room, unless it is there already.
    async fn accept_member(
        &self,
        origin: &ServerName,
        handshake: Handshake,
        room_id: &RoomId,
        event_id: &str,
        bytes: EventBytes,
    ) -> Result<(RoomNumber, Arc<StoredEvent>), HandshakeError> {
        let (room, checked) = self.check_handshake(origin, handshake, room_id, event_id, bytes).await?;
        Ok((room, self.append_checked(room, checked).await?))
    }

    /// Checks the event by itself and by the room as it is now, with what other servers must be asked for. Nothing of it is
    /// stored.
    async fn check_handshake(
        &self,
        origin: &ServerName,
        handshake: Handshake,
        room_id: &RoomId,
        event_id: &str,
        bytes: EventBytes,
    ) -> Result<(RoomNumber, Checked), HandshakeError> {
        let (room, head) = self.room_for_handshake(origin, room_id).await?;
        let version = RoomVersion::parse(&head.create.version).ok_or(HandshakeError::UnknownRoom)?;
        let raw = RawEvent::parse(version, &bytes)?;
        if raw.event_id().as_str() != event_id {
            return Err(HandshakeError::malformed("the event has another id than the path says"));
        }
        // Old room versions let it be, but those to whom we relay it sign and check it in another spelling.
        if check_json(raw.unchecked().json(), &Limits::EVENT).is_err() {
            return Err(HandshakeError::malformed("the event is not canonical JSON: numbers must be integers"));
        }
        check_member(raw.unchecked(), room_id, membership_name(handshake), origin)?;
        if let Some(stored) = self.standing(room, raw.unchecked()).await? {
            return Ok((room, Checked::Standing(stored)));
        }
        self.check_prevs(room, raw.unchecked()).await?;
        let bytes = match self.vouches(room, handshake, raw.unchecked()).await? {
            true => {
                let (key, server) = (&self.writer.signing_key, &self.writer.server_name);
                let signed = cosign(raw.unchecked(), key, server);
                signed.map_err(|error| HandshakeError::Malformed(error.to_string()))?.json().clone()
            }
            false => bytes,
        };
        let signed = self.check_one_signed(version, bytes).await?;
        self.check_present(room, signed.event()).await?;
        let (event, place) = (signed.into_event(), Place::AfterPrevs);
        let mut arriving = Arriving { event, place, origin: Some(origin.to_owned()), relay: true };
        self.ask_policy_server(room, &mut arriving).await?;
        Ok((room, Checked::New(Box::new(arriving))))
    }

    /// Puts the event into the room, unless it is there already.
    async fn append_checked(&self, room: RoomNumber, checked: Checked) -> Result<Arc<StoredEvent>, HandshakeError> {
        let arriving = match checked {
            Checked::Standing(stored) => return Ok(stored),
            Checked::New(arriving) => *arriving,
        };
        let event = arriving.event.clone();
        self.append_arriving(room, arriving).await?;
        let stored = self.standing(room, &event).await?;
        stored.ok_or_else(|| HandshakeError::Unavailable("an accepted event is not stored".to_owned()))
    }

    /// The event, if it is part of the room; an error if it was refused before.
    async fn standing(&self, room: RoomNumber, event: &Event) -> Result<Option<Arc<StoredEvent>>, HandshakeError> {
        let Some(stored) = self.writer.store.event_by_id(room, event.event_id()).await? else { return Ok(None) };
        // In room versions 1 and 2 who makes an event chooses its id: a stranger could name any event that they know of, and be
        // told it and the state before it.
        if event.version().has_chosen_event_ids() && stored.event.reference_hash() != event.reference_hash() {
            return Err(HandshakeError::malformed("another event has this id"));
        }
        match stored.accepted() {
            true => Ok(Some(stored)),
            false => Err(HandshakeError::forbidden("the room's rules do not let this event in")),
        }
    }

    /// Has the room's policy server sign the event, where there is one; an error if it does not. Before anything of the
    /// event is stored, as in [`Self::check_present`].
    async fn ask_policy_server(&self, room: RoomNumber, arriving: &mut Arriving) -> Result<(), HandshakeError> {
        let writer = &self.writer;
        writer.complete_policies(room, std::slice::from_mut(arriving)).await?;
        let active = writer.active(room);
        let mut cache = active.cache.lock().await;
        let cache = writer.load(&mut cache, room).await?;
        match writer.is_recommended(cache, &arriving.event).await? {
            true => Ok(()),
            false => Err(HandshakeError::forbidden("the room's policy server does not let this event in")),
        }
    }

    /// Templates cite events that this server has; what cites others was not made of one.
    async fn check_prevs(&self, room: RoomNumber, event: &Event) -> Result<(), HandshakeError> {
        let prevs = self.writer.store.event_numbers(room, event.prev_events()).await?;
        if prevs.is_empty() || prevs.contains(&None) {
            return Err(HandshakeError::malformed("the event does not follow those of a template of this server"));
        }
        Ok(())
    }

    /// Asks the room's present state, before anything of the event is stored: events that are received are kept even where
    /// they are refused, but nobody needs those that come by handshakes.
    async fn check_present(&self, room: RoomNumber, event: &Event) -> Result<(), HandshakeError> {
        let writer = &self.writer;
        let active = writer.active(room);
        let mut cache = active.cache.lock().await;
        let cache = writer.load(&mut cache, room).await?;
        let types = auth_types(event.version(), event.kind(), event.sender(), event.state_key(), event.content())?;
        for (kind, state_key) in types.iter().map(|(kind, key)| (&**kind, &**key)).chain([("m.room.create", "")]) {
            cache.entry(&writer.store, kind, state_key).await?;
        }
        Ok(auth::check_against(event, |kind, state_key| cache.known_event(kind, state_key))?)
    }

    /// Whether our signature is needed, because a user of ours is named who lets the other one in. That the other one
    /// may come in is asked again here: the template may be old, or never have been asked for.
    async fn vouches(&self, room: RoomNumber, handshake: Handshake, event: &Event) -> Result<bool, HandshakeError> {
        #[derive(Deserialize)]
        struct Content {
            join_authorised_via_users_server: Option<String>,
        }
        let rules = &event.version().rules().authorization;
        if handshake != Handshake::Join || !rules.restricted_join_rule {
            return Ok(false);
        }
        let content: Content = event
            .content_as()
            .map_err(|_| HandshakeError::malformed("join_authorised_via_users_server must be a user id"))?;
        let Some(voucher) = content.join_authorised_via_users_server else { return Ok(false) };
        let voucher = <&UserId>::try_from(voucher.as_str())
            .map_err(|_| HandshakeError::malformed("join_authorised_via_users_server must be a user id"))?;
        if voucher.server_name() != self.writer.server_name {
            return Ok(false);
        }
        let active = self.writer.active(room);
        let mut cache = active.cache.lock().await;
        let cache = self.writer.load(&mut cache, room).await?;
        self.voucher_for(cache, event.sender()).await?;
        Ok(true)
    }
}

/// A member event that may go into the room.
enum Checked {
    /// It is there already.
    Standing(Arc<StoredEvent>),
    New(Box<Arriving>),
}

/// What every event of a handshake must be: a membership that a user of `origin` sets for themselves.
pub(super) fn check_member(
    event: &Event,
    room_id: &RoomId,
    membership: &str,
    origin: &ServerName,
) -> Result<(), HandshakeError> {
    if event.room_id() != room_id {
        return Err(HandshakeError::malformed("the event is of another room"));
    }
    if event.kind() != "m.room.member" || event.state_key() != Some(event.sender().as_str()) {
        return Err(HandshakeError::malformed("the event does not set its sender's membership"));
    }
    if event.membership().is_none_or(|is| is.as_str() != membership) {
        return Err(HandshakeError::Malformed(format!("the event's membership is not {membership}")));
    }
    if event.sender().server_name() != origin {
        return Err(HandshakeError::forbidden("the event's sender is not a user of your server"));
    }
    Ok(())
}
