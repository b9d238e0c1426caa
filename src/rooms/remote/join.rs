//! Coming into a room, or asking to, with the help of a server that is in it.
//! [Joining rooms](https://spec.matrix.org/v1.19/server-server-api/#joining-rooms).

use std::sync::Arc;

use hearth_core::{Event, SignedEvent};
use hearth_ports::{EventBytes, Handshake};
use hearth_store::tables::Membership;
use ruma::{OwnedEventId, OwnedServerName, RoomId, ServerName};

use super::{Failed, load::Join, outside_row, stripped_of, template::Place};
use crate::{
    ReceiveError, SendError,
    member::MemberAction,
    receive::Outcome,
    rooms::{MemberChange, Rooms},
};

impl Rooms {
    /// Joins or knocks: here, if this server is in the room, else through another.
    pub(super) async fn come_in(
        self: &Arc<Self>,
        change: MemberChange,
        via: &[OwnedServerName],
    ) -> Result<OwnedEventId, SendError> {
        let is_here = self.is_kept_here(&change.room_id).await?;
        if self.is_blocked(&change.room_id).await? {
            return Err(SendError::forbidden("the room is blocked on this server"));
        }
        let outside = self.outside(&change.target, &change.room_id).await?;
        let candidates = self.candidates(&change.room_id, outside.as_ref(), via).await?;
        if is_here || candidates.is_empty() {
            match self.change_member_here(change.clone()).await {
                // Nobody here may let them in, somebody elsewhere may.
                Err(SendError::Remote) if !candidates.is_empty() => {}
                result => return result,
            }
        }
        // Once another server has our event, it must be kept here too, whether or not anybody still waits for it.
        let rooms = Arc::clone(self);
        let task = tokio::spawn(async move {
            match change.action {
                MemberAction::Knock => rooms.knock_through(&change, &candidates).await,
                _ => rooms.join_through(change, &candidates).await,
            }
        });
        task.await.unwrap_or_else(|error| Err(SendError::Unavailable(error.to_string())))
    }

    /// Whether the room as it is kept here is the one that counts: a user of ours is in it, or, as far as is known,
    /// nobody else.
    pub(crate) async fn is_kept_here(&self, room_id: &RoomId) -> Result<bool, SendError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(false) };
        let Some(head) = store.head(room).await? else { return Ok(false) };
        if head.loading || head.purged {
            return Ok(false);
        }
        if store.joined_from(room, &self.writer.server_name).await? > 0 {
            return Ok(true);
        }
        Ok(self.others_in_room(room_id).await?.is_empty())
    }

    async fn join_through(
        self: &Arc<Self>,
        change: MemberChange,
        candidates: &[OwnedServerName],
    ) -> Result<OwnedEventId, SendError> {
        let room = self.joins.rooms.of(&change.room_id);
        let _room = room.lock().await;
        if self.is_kept_here(&change.room_id).await? {
            // Somebody else has come in meanwhile, or nobody here may let the user in.
            match self.change_member_here(change.clone()).await {
                Err(SendError::Remote) => {}
                result => return result,
            }
        }
        let mut worst = None;
        for server in candidates {
            match self.join_once(&change, server).await {
                Ok(event_id) => return self.welcome(&change, event_id).await,
                Err(failed) => {
                    let room_id = &change.room_id;
                    tracing::info!(%room_id, %server, error = %failed.error, "not joined through this server");
                    if failed.is_final {
                        return Err(failed.error);
                    }
                    worst = Some(failed.worse(worst));
                }
            }
        }
        Err(worst.unwrap_or(SendError::UnknownRoom))
    }

    /// Other servers know nothing of guests: whether the room takes them is seen once it is here.
    async fn welcome(&self, change: &MemberChange, event_id: OwnedEventId) -> Result<OwnedEventId, SendError> {
        if !change.guest || !self.unwelcome_guests(&change.room_id).await?.contains(&change.target) {
            return Ok(event_id);
        }
        let leave = MemberChange { action: MemberAction::Leave, content: Default::default(), ..change.clone() };
        self.change_member_here(leave).await?;
        Err(SendError::GuestsForbidden)
    }

    async fn is_blocked(&self, room_id: &RoomId) -> Result<bool, SendError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(false) };
        Ok(store.head(room).await?.is_some_and(|head| head.blocked || head.purged))
    }

    async fn join_once(self: &Arc<Self>, change: &MemberChange, server: &ServerName) -> Result<OwnedEventId, Failed> {
        let (event, place) = self.event_through(server, Handshake::Join, change).await?;
        // Not before: servers that give no template keep nobody's joins waiting.
        let _turn = self.joins.turns.take(&change.target).await.ok_or(SendError::Busy)?;
        let mut answer = self.writer.peers.send_join(server, &event, true).await?;
        let signed = self.signed_join(event, &place, answer.event.take()).await?;
        let event_id = signed.event().event_id().to_owned();
        if self.is_kept_here(&change.room_id).await? {
            return self.take_own_join(server, &change.room_id, signed).await;
        }
        let event = signed.into_event();
        let servers = answer.members_omitted.then(|| std::mem::take(&mut answer.servers_in_room));
        let given = self.check_answer(event.version(), &change.room_id, &event, answer).await;
        let given = given.map_err(|error| Failed { is_final: false, error })?;
        let join = Join { event: &event, guest: change.guest, through: server, servers: servers.as_deref() };
        let room = self.writer.load_room(&change.room_id, &given, &join).await?;
        self.complete_later(room);
        Ok(event_id)
    }

    /// A join of ours into a room that is kept here, which another server has let in. It may stand behind what is only on its
    /// way here: then it is completed like what others send, in time or later.
    async fn take_own_join(
        self: &Arc<Self>,
        server: &ServerName,
        room_id: &RoomId,
        signed: SignedEvent,
    ) -> Result<OwnedEventId, Failed> {
        let room = self.writer.store.room_number(room_id).await.map_err(SendError::from)?;
        let room = room.ok_or(SendError::UnknownRoom)?;
        let (event_id, json) = (signed.event().event_id().to_owned(), signed.event().json().clone());
        let refused = match self.append_received(room, signed, Some(server.to_owned()), false).await {
            Ok(Outcome::Accepted) => return Ok(event_id),
            Ok(Outcome::SoftFailed) => SendError::forbidden("the room's present state does not let this event in"),
            Ok(Outcome::Rejected(reason)) => SendError::Forbidden(reason),
            Err(ReceiveError::Incomplete(_)) => {
                let received = self.receive(server, room_id, vec![json]).await.pop();
                match received.map(|received| received.result) {
                    Some(Ok(()) | Err(ReceiveError::Incomplete(_))) => return Ok(event_id),
                    Some(Err(error)) => SendError::Unavailable(error.to_string()),
                    None => SendError::Unavailable("an event has no outcome".to_owned()),
                }
            }
            Err(error) => SendError::Unavailable(error.to_string()),
        };
        Err(refused.into())
    }

    /// The join as it goes into the room: with the signature of who vouches for it, where somebody does.
    async fn signed_join(
        &self,
        event: Event,
        place: &Place,
        returned: Option<EventBytes>,
    ) -> Result<SignedEvent, Failed> {
        let bytes = match (&place.voucher, returned) {
            (Some(_), Some(returned)) => returned,
            (Some(_), None) => return Err(Failed::next(&"the other server did not sign the join that it vouches for")),
            (None, _) => event.json().clone(),
        };
        let signed = self.check_one_signed(event.version(), bytes).await;
        let signed = signed.map_err(|error| Failed::next(&error))?;
        // The same id and content hash: nothing but signatures can differ.
        if signed.event().event_id() != event.event_id() || signed.event().room_id() != event.room_id() {
            return Err(Failed::next(&"the other server returned another event than it was sent"));
        }
        Ok(signed)
    }

    async fn knock_through(
        &self,
        change: &MemberChange,
        candidates: &[OwnedServerName],
    ) -> Result<OwnedEventId, SendError> {
        let mut worst = None;
        for server in candidates {
            match self.knock_once(change, server, candidates).await {
                Ok(event_id) => return Ok(event_id),
                Err(failed) if failed.is_final => return Err(failed.error),
                Err(failed) => worst = Some(failed.worse(worst)),
            }
        }
        Err(worst.unwrap_or(SendError::UnknownRoom))
    }

    async fn knock_once(
        &self,
        change: &MemberChange,
        server: &ServerName,
        via: &[OwnedServerName],
    ) -> Result<OwnedEventId, Failed> {
        let (event, _) = self.event_through(server, Handshake::Knock, change).await?;
        let given = self.writer.peers.send_knock(server, &event).await?;
        // The knock is made; a preview that is not what it should be is no reason to say otherwise.
        let stripped = stripped_of(event.version(), &change.room_id, &given).unwrap_or_else(|error| {
            tracing::info!(%server, %error, "the state of a room that was knocked on is not shown");
            Vec::new()
        });
        let first = std::iter::once(server.to_owned());
        let via: Vec<OwnedServerName> = first.chain(via.iter().filter(|other| *other != server).cloned()).collect();
        let row = outside_row(&event, Membership::Knock, stripped, &via);
        // Who has come in meanwhile has no need of it.
        self.tell_outside(&change.target, &change.room_id, &row).await?;
        Ok(event.event_id().to_owned())
    }
}
