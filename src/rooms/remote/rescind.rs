//! Events of rooms that this server is not in: of interest is only that an invite or knock of ours has ended.

use hearth_core::{Event, RawEvent, RoomVersion};
use hearth_ports::EventBytes;
use hearth_store::tables::{Membership, OutsideRow};
use ruma::{OwnedEventId, OwnedUserId, RoomId, ServerName};
use serde::Deserialize;

use super::outside_row;
use crate::{HandshakeError, ReceiveError, SendError, receive::Received, rooms::Rooms};

/// As much of an event as tells whether it may concern us.
#[derive(Deserialize)]
struct Glance {
    #[serde(rename = "type")]
    kind: String,
    state_key: Option<OwnedUserId>,
    content: GlanceContent,
}

#[derive(Deserialize)]
struct GlanceContent {
    membership: Option<String>,
}

/// Events of one transaction that are looked at: of a room that we are not in there is hardly more than one to tell.
const EVENTS_MAX: usize = 50;

impl Rooms {
    /// Takes events of a room that this server is not in, one result each, in order.
    pub(crate) async fn receive_outside(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        events: Vec<EventBytes>,
    ) -> Vec<Received> {
        let mut results = Vec::with_capacity(events.len());
        // Of a room that we were in once the events can at least be named.
        let version = self.known_version(room_id).await;
        for (nth, bytes) in events.into_iter().enumerate() {
            let named = version.and_then(|version| RawEvent::parse(version, &bytes).ok());
            let event_id = named.map(|raw| raw.event_id().to_owned());
            let taken = match nth < EVENTS_MAX {
                true => self.receive_one_outside(origin, room_id, bytes).await,
                false => Err(ReceiveError::NotInRoom),
            };
            results.push(match taken {
                Ok(event_id) => Received { event_id: Some(event_id), result: Ok(()) },
                Err(error) => Received { event_id, result: Err(error) },
            });
        }
        results
    }

    async fn known_version(&self, room_id: &RoomId) -> Option<RoomVersion> {
        let room = self.writer.store.room_number(room_id).await.ok()??;
        Some(self.writer.store.room_identity(room).await.ok()??.version)
    }

    /// Takes an event of a room that this server is not in: a kick or ban of a user of ours who is invited or has knocked,
    /// by somebody of a server through which that came about. Without the room's state nobody else can be believed.
    async fn receive_one_outside(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        bytes: EventBytes,
    ) -> Result<OwnedEventId, ReceiveError> {
        let glance: Glance = serde_json::from_slice(&bytes).map_err(|_| ReceiveError::NotInRoom)?;
        let ends = matches!(glance.content.membership.as_deref(), Some("leave" | "ban"));
        let user = glance.state_key.filter(|user| user.server_name() == self.writer.server_name);
        let Some(user) = user.filter(|_| ends && glance.kind == "m.room.member") else {
            return Err(ReceiveError::NotInRoom);
        };
        let row = self.outside(&user, room_id).await?;
        let standing = row.filter(|row| matches!(row.membership, Membership::Invite | Membership::Knock));
        let Some(standing) = standing else { return Err(ReceiveError::NotInRoom) };
        let version = RoomVersion::parse(&standing.version).ok_or(ReceiveError::NotInRoom)?;
        let signed = self.check_one_signed(version, bytes).await.map_err(|error| match error {
            HandshakeError::Unavailable(text) => ReceiveError::Unavailable(text),
            _ => ReceiveError::NotInRoom,
        })?;
        let event = signed.into_event();
        if event.room_id() != room_id || !may_end(&standing, &event) {
            return Err(ReceiveError::NotInRoom);
        }
        let row = outside_row(&event, Membership::Leave, Vec::new(), &[]);
        let told = self.tell_outside(&user, room_id, &row).await.map_err(|error| match error {
            SendError::Unavailable(text) => ReceiveError::Unavailable(text),
            other => ReceiveError::Unavailable(other.to_string()),
        })?;
        if !told {
            // When it comes again, it goes the way of all events of rooms that are kept here.
            return Err(ReceiveError::Unavailable("the user has come into the room meanwhile".to_owned()));
        }
        tracing::info!(%room_id, %origin, %user, "an invite or knock from outside was ended");
        Ok(event.event_id().to_owned())
    }
}

/// Whether the event's sender is of a server that came with the invite, or that we knocked through.
fn may_end(standing: &OutsideRow, event: &Event) -> bool {
    standing.via.iter().any(|server| server == event.sender().server_name().as_str())
}
