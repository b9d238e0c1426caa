//! Getting out of rooms that this server is not in: rejecting an invite, taking back a knock.
//! [Leaving rooms](https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites).

use std::{sync::Arc, time::Duration};

use hearth_core::{Event, References, RoomVersion};
use hearth_ports::Handshake;
use hearth_store::{
    RoomNumber,
    tables::{Membership, OutsideRow},
};
use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};

use super::{Failed, outside_row, template::Place};
use crate::{
    SendError,
    rooms::{MemberChange, Rooms},
};

/// What a user waits for other servers to take their leave. After that they are out for themselves; the others are told
/// as soon as one of them can be.
const PATIENCE: Duration = Duration::from_secs(8);

/// What ends: the invite or knock that the user was told of.
struct Standing {
    event_id: OwnedEventId,
    version: RoomVersion,
    depth: u64,
    row: Option<OutsideRow>,
}

impl Rooms {
    /// Leaves: here, if this server is in the room, else through another, and if none takes it for the user alone.
    pub(super) async fn get_out(self: &Arc<Self>, change: MemberChange) -> Result<OwnedEventId, SendError> {
        // Who comes in from another device meanwhile would be in after they have left.
        self.wait_for_join(&change.room_id).await;
        let outside = self.outside(&change.target, &change.room_id).await?;
        if outside.is_none() && self.is_kept_here(&change.room_id).await? {
            return self.change_member_here(change).await;
        }
        if let Some(row) = outside.as_ref().filter(|row| row.membership == Membership::Leave) {
            return id_of(&row.event_id);
        }
        let Some(standing) = self.standing_outside(&change, outside).await? else {
            return Err(SendError::forbidden("you are not in this room"));
        };
        let candidates = self.candidates(&change.room_id, standing.row.as_ref(), &[]).await?;
        let (rooms, asked) = (Arc::clone(self), change.clone());
        let task = tokio::spawn(async move { rooms.leave_through(&asked, &candidates).await });
        let taken = tokio::time::timeout(PATIENCE, task).await;
        let event = match taken {
            Ok(Ok(Ok(event))) => event,
            Ok(Ok(Err(failed))) => {
                tracing::info!(room_id = %change.room_id, error = %failed.error, "left without another server's help");
                self.leave_alone(&change, &standing)?
            }
            Ok(Err(_)) | Err(_) => self.leave_alone(&change, &standing)?,
        };
        let row = outside_row(&event, Membership::Leave, Vec::new(), &[]);
        if self.tell_outside(&change.target, &change.room_id, &row).await? {
            // Leaving by two devices at once is leaving once.
            let told = self.outside(&change.target, &change.room_id).await?;
            return told.map_or_else(|| Ok(event.event_id().to_owned()), |told| id_of(&told.event_id));
        }
        // Meanwhile they have come in.
        self.change_member_here(change).await
    }

    /// The membership that the user has in a room that this server is not in; `None`: none that could end.
    async fn standing_outside(
        &self,
        change: &MemberChange,
        outside: Option<OutsideRow>,
    ) -> Result<Option<Standing>, SendError> {
        if let Some(row) = outside {
            let version = RoomVersion::parse(&row.version);
            let version = version.ok_or_else(|| SendError::IncompatibleVersion(row.version.clone()))?;
            let room_id = change.room_id.clone();
            let event = Event::parse_stored(version, id_of(&row.event_id)?, room_id, row.event.clone().into());
            let event = event.map_err(|error| SendError::Unavailable(error.to_string()))?;
            return Ok(Some(Standing {
                event_id: id_of(&row.event_id)?,
                version,
                depth: event.depth(),
                row: Some(row),
            }));
        }
        let store = &self.writer.store;
        let Some(room) = store.room_number(&change.room_id).await? else { return Ok(None) };
        self.standing_inside(room, change).await
    }

    /// The same from the room as it was when this server was last in it.
    async fn standing_inside(&self, room: RoomNumber, change: &MemberChange) -> Result<Option<Standing>, SendError> {
        let store = &self.writer.store;
        let Some(user) = store.user_number(&change.target).await? else { return Ok(None) };
        let Some(row) = store.membership(user, room).await? else { return Ok(None) };
        if !matches!(row.membership, Membership::Invite | Membership::Knock) {
            return Ok(None);
        }
        let Some(stored) = store.event(room, row.event).await? else { return Ok(None) };
        let event = &stored.event;
        let (event_id, version) = (event.event_id().to_owned(), event.version());
        Ok(Some(Standing { event_id, version, depth: event.depth(), row: None }))
    }

    async fn leave_through(&self, change: &MemberChange, candidates: &[OwnedServerName]) -> Result<Event, Failed> {
        let mut worst = Failed::next(&"no server is known that is in the room");
        for server in candidates {
            match self.leave_once(change, server).await {
                Ok(event) => return Ok(event),
                Err(failed) => worst = failed,
            }
        }
        Err(worst)
    }

    async fn leave_once(&self, change: &MemberChange, server: &ServerName) -> Result<Event, Failed> {
        let (event, _) = self.event_through(server, Handshake::Leave, change).await?;
        self.writer.peers.send_leave(server, &event).await?;
        Ok(event)
    }

    /// A leave that only the user is shown.
    fn leave_alone(&self, change: &MemberChange, standing: &Standing) -> Result<Event, SendError> {
        let cited = vec![standing.event_id.clone()];
        let references = References {
            prev_events: cited.clone(),
            auth_events: cited,
            depth: standing.depth.saturating_add(1),
            ..References::default()
        };
        let place = Place { references, voucher: None };
        let mut content = change.content.clone();
        content.insert("membership".to_owned(), "leave".into());
        self.member_event(standing.version, &change.room_id, &change.target, &place, &content)
    }
}

fn id_of(text: &str) -> Result<OwnedEventId, SendError> {
    let id = <&EventId>::try_from(text).map(ToOwned::to_owned);
    id.map_err(|error| SendError::Unavailable(format!("a stored event id does not read: {error}")))
}
