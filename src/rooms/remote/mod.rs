//! Rooms that other servers are in: coming into them, asking to, leaving them, and inviting users of other servers.
//!
//! Start here, at which way a membership is changed: in the room as it is kept here, or with another server's help. What
//! other servers say is checked in [`template`] and [`answer`]; a room that we come into is stored by [`load`].

mod answer;
mod backfill;
mod by_address;
mod candidates;
mod invite;
mod join;
mod leave;
mod load;
mod near;
mod order;
mod outside;
mod partial;
mod rescind;
mod space;
mod template;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_core::{Draft, Event, RoomVersion, build};
use hearth_ports::{Handshake, PeerError};
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use serde_json::{Map, Value};

use crate::{
    SendError,
    member::MemberAction,
    rooms::{MemberChange, Rooms},
    turns::{Shares, Turns},
};
use backfill::FailedFills;
pub use by_address::Address;
pub(crate) use outside::{outside_row, preview_events, stripped_of};
use partial::Partial;
use space::FarSpaces;
pub(crate) use space::{FarSight, VIA_MAX};
use template::Place;

/// Whose joins through other servers may be answered with a whole room: four at once, since each may hold a hundred
/// megabytes for a while; one of each user, so that nobody's hanging server stops the joins of others. A turn is waited for
/// as long as a client may wait for other servers anyhow.
const JOINS: Shares =
    Shares { turns: 4, turns_of_one: 1, waiting: 1_000, waiting_of_one: 50, patience: Duration::from_secs(120) };

/// The part of an event id that we choose in room versions 1 and 2.
const OPAQUE_ID_CHARACTERS: usize = 18;

/// How long events of a room wait for a join of ours that is under way. Senders give a transaction up after a minute.
const JOIN_WAITED_FOR: Duration = Duration::from_secs(30);

/// What is kept in memory of rooms of which others know more.
pub(crate) struct Joins {
    /// Rooms that somebody comes into: who comes after waits and then finds the room here.
    rooms: RoomLocks,
    /// Of our users.
    turns: Turns<OwnedUserId>,
    /// Rooms into whose history somebody fetches: who comes after waits and then finds it here.
    fills: RoomLocks,
    failed_fills: FailedFills,
    spaces: FarSpaces,
    /// Rooms whose members are being fetched.
    partial: Partial,
}

impl Joins {
    pub(crate) fn new() -> Self {
        Self {
            rooms: RoomLocks::default(),
            turns: Turns::new(JOINS),
            fills: RoomLocks::default(),
            failed_fills: FailedFills::new(),
            spaces: FarSpaces::new(),
            partial: Partial::new(),
        }
    }
}

/// One lock for each room in which something is done that is not to be done twice at once.
#[derive(Default)]
struct RoomLocks(Mutex<HashMap<OwnedRoomId, Weak<tokio::sync::Mutex<()>>>>);

impl RoomLocks {
    fn of(&self, room_id: &RoomId) -> Arc<tokio::sync::Mutex<()>> {
        let mut rooms = self.0.lock();
        if let Some(lock) = rooms.get(room_id).and_then(Weak::upgrade) {
            return lock;
        }
        rooms.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        rooms.insert(room_id.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// The lock of a room that somebody is busy with.
    fn busy(&self, room_id: &RoomId) -> Option<Arc<tokio::sync::Mutex<()>>> {
        self.0.lock().get(room_id).and_then(Weak::upgrade)
    }
}

impl Rooms {
    /// Waits for a user of ours who is coming into a room. `false`: nobody is, or it takes too long.
    pub(crate) async fn wait_for_join(&self, room_id: &RoomId) -> bool {
        let Some(lock) = self.joins.rooms.busy(room_id) else { return false };
        tokio::time::timeout(JOIN_WAITED_FOR, lock.lock()).await.is_ok()
    }
}

/// Why one server did not help.
#[derive(Debug)]
struct Failed {
    error: SendError,
    /// No other server would say otherwise.
    is_final: bool,
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        Self { error, is_final: true }
    }
}

impl From<PeerError> for Failed {
    fn from(error: PeerError) -> Self {
        let error = send_error(error);
        let is_final = matches!(error, SendError::IncompatibleVersion(_));
        Self { error, is_final }
    }
}

impl Failed {
    /// This server's answer is no use; another's may be.
    fn next(reason: &impl ToString) -> Self {
        Self { error: SendError::Unreachable(reason.to_string()), is_final: false }
    }

    /// The one of two that says more: what a server said over that none was reached.
    fn worse(self, earlier: Option<SendError>) -> SendError {
        match (earlier, self.error) {
            (Some(refused @ SendError::Refused { .. }), _) => refused,
            (_, error) => error,
        }
    }
}

/// What another server's error is to a client.
pub(crate) fn send_error(error: PeerError) -> SendError {
    match error {
        PeerError::Refused { errcode, body, .. } if errcode == "M_INCOMPATIBLE_ROOM_VERSION" => {
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            SendError::IncompatibleVersion(body["room_version"].as_str().unwrap_or("unknown").to_owned())
        }
        PeerError::Refused { status, errcode, error, .. } => SendError::Refused { status, errcode, error },
        other => SendError::Unreachable(other.to_string()),
    }
}

impl Rooms {
    /// Changes a membership. Where nothing is to be done, the answer is the event that stands.
    pub async fn change_member(self: &Arc<Self>, change: MemberChange) -> Result<OwnedEventId, SendError> {
        self.change_member_via(change, &[]).await
    }

    /// Changes a membership; `via`: servers that may help where this one is not in the room. A room that is not known here
    /// is joined, knocked on or left through another server that is in it; a user of another server is invited with that
    /// server's consent.
    pub async fn change_member_via(
        self: &Arc<Self>,
        change: MemberChange,
        via: &[OwnedServerName],
    ) -> Result<OwnedEventId, SendError> {
        match change.action {
            MemberAction::Join | MemberAction::Knock => self.come_in(change, via).await,
            MemberAction::Leave => self.get_out(change).await,
            MemberAction::Invite if change.target.server_name() != self.writer.server_name => {
                self.invite_remote(change).await
            }
            MemberAction::Invite | MemberAction::Kick | MemberAction::Ban | MemberAction::Unban => {
                self.change_member_here(change).await
            }
        }
    }

    /// A member event of ours at the place that another server's template gives it.
    fn member_event(
        &self,
        version: RoomVersion,
        room_id: &RoomId,
        user: &UserId,
        place: &Place,
        content: &Map<String, Value>,
    ) -> Result<Event, SendError> {
        let writer = &self.writer;
        let draft = Draft::state("m.room.member", user.as_str(), user.to_owned(), content, writer.clock.now_ms())
            .expect("a map of values is JSON");
        let opaque_id = version.has_chosen_event_ids().then(|| writer.entropy.alphanumeric(OPAQUE_ID_CHARACTERS));
        let (key, server) = (&writer.signing_key, &writer.server_name);
        Ok(build(&draft, &place.references, Some(room_id), version, key, server, opaque_id.as_deref())?)
    }

    /// Asks a server for the place of a member event, and makes the event.
    async fn event_through(
        &self,
        server: &ServerName,
        handshake: Handshake,
        change: &MemberChange,
    ) -> Result<(Event, Place), Failed> {
        let (room_id, user) = (&change.room_id, &change.target);
        let peers = &self.writer.peers;
        let template = peers.make_member(server, handshake, room_id, user, &RoomVersion::ALL).await?;
        let known = match self.writer.store.room_number(room_id).await.map_err(SendError::from)? {
            Some(room) => self.writer.store.room_identity(room).await.map_err(SendError::from)?,
            None => None,
        };
        if known.is_some_and(|known| known.version != template.version) {
            return Err(Failed::next(&"the other server says that the room has another version"));
        }
        let place = template::place_of(&template, handshake, room_id, user, server);
        let place = place.map_err(|error| Failed::next(&error))?;
        let mut content = change.content.clone();
        content.remove("join_authorised_via_users_server");
        let membership = crate::handshake::membership_name(handshake);
        content.insert("membership".to_owned(), membership.into());
        if let Some(voucher) = &place.voucher {
            content.insert("join_authorised_via_users_server".to_owned(), voucher.as_str().into());
        }
        let event = self.member_event(template.version, room_id, user, &place, &content)?;
        Ok((event, place))
    }
}
