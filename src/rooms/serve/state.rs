//! A room's state at an event, and what authorises it.
//! [Retrieving events](https://spec.matrix.org/v1.19/server-server-api/#retrieving-events).

use hearth_ports::{EventBytes, StateEvents, StateIds};
use hearth_store::{Corrupt, EventNumber, LoadError, RoomNumber, StateVersion, tables::EventFlags};
use ruma::{EventId, OwnedEventId, RoomId, ServerName};

use super::ServeError;
use crate::rooms::Rooms;

/// Events that are read at once.
const EVENTS_AT_ONCE: usize = 500;

/// The numbers of a state's events and of those of its auth chain.
pub(crate) struct StateNumbers {
    pub(crate) state: Vec<EventNumber>,
    pub(crate) auth_chain: Vec<EventNumber>,
}

impl Rooms {
    /// The state before an event, as events.
    /// [`GET /state`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1stateroomid).
    pub async fn serve_state(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        at: &EventId,
    ) -> Result<StateEvents, ServeError> {
        let (room, _) = self.room_until(origin, room_id, &[at.to_owned()]).await?;
        let _turn = self.serving.state_turn(origin).await?;
        let StateNumbers { state, auth_chain } = self.state_before(room, at).await?;
        let state = self.event_bytes(room, &state).await?;
        Ok(StateEvents { state, auth_chain: self.event_bytes(room, &auth_chain).await? })
    }

    /// The same as ids.
    /// [`GET /state_ids`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid).
    pub async fn serve_state_ids(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        at: &EventId,
    ) -> Result<StateIds, ServeError> {
        let (room, _) = self.room_until(origin, room_id, &[at.to_owned()]).await?;
        let _turn = self.serving.chain_turn(origin).await?;
        let StateNumbers { state, auth_chain } = self.state_before(room, at).await?;
        let state = self.event_ids(room, &state).await?;
        Ok(StateIds { state, auth_chain: self.event_ids(room, &auth_chain).await? })
    }

    /// An event's auth chain.
    /// [`GET /event_auth`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1event_authroomideventid).
    pub async fn serve_event_auth(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Vec<EventBytes>, ServeError> {
        let (room, _) = self.room_until(origin, room_id, &[event_id.to_owned()]).await?;
        let _turn = self.serving.chain_turn(origin).await?;
        let store = &self.writer.store;
        let stored = store.event_by_id(room, event_id).await?.ok_or(ServeError::NotFound)?;
        let mut chain = store.auth_chain(room, &stored.header.auths).await?;
        chain.extend(&stored.header.auths);
        chain.sort_unstable();
        chain.dedup();
        Ok(self.event_bytes(room, &chain).await?)
    }

    /// The state before an event. One whose state is not known counts as not there, and so does one that was rejected: it
    /// is no part of the room, and nobody should build on what this server says of it.
    async fn state_before(&self, room: RoomNumber, at: &EventId) -> Result<StateNumbers, ServeError> {
        let stored = self.writer.store.event_by_id(room, at).await?.ok_or(ServeError::NotFound)?;
        let version = stored.header.state_before;
        // Half a state would be a wrong one.
        let is_whole = !self.is_partial(room).await?;
        let flags = stored.header.flags;
        let is_apart = flags.has(EventFlags::OUTLIER) || flags.has(EventFlags::REJECTED);
        if !is_whole || version == StateVersion::UNKNOWN || is_apart {
            return Err(ServeError::NotFound);
        }
        Ok(self.state_numbers(room, version).await?)
    }

    /// A version of the state and its auth chain.
    pub(crate) async fn state_numbers(
        &self,
        room: RoomNumber,
        version: StateVersion,
    ) -> Result<StateNumbers, LoadError> {
        let store = &self.writer.store;
        let state: Vec<EventNumber> =
            store.state_all(room, version).await?.into_iter().map(|(_, event)| event).collect();
        let auth_chain = store.auth_chain(room, &state).await?;
        Ok(StateNumbers { state, auth_chain })
    }

    /// Events as they are stored. All must be there.
    pub(crate) async fn event_bytes(
        &self,
        room: RoomNumber,
        numbers: &[EventNumber],
    ) -> Result<Vec<EventBytes>, LoadError> {
        self.events_as(room, numbers, |stored| stored.event.json().clone()).await
    }

    async fn event_ids(&self, room: RoomNumber, numbers: &[EventNumber]) -> Result<Vec<OwnedEventId>, LoadError> {
        self.events_as(room, numbers, |stored| stored.event.event_id().to_owned()).await
    }

    async fn events_as<T>(
        &self,
        room: RoomNumber,
        numbers: &[EventNumber],
        form: impl Fn(&hearth_store::StoredEvent) -> T,
    ) -> Result<Vec<T>, LoadError> {
        let mut all = Vec::with_capacity(numbers.len());
        for some in numbers.chunks(EVENTS_AT_ONCE) {
            let events = self.writer.store.events(room, some).await?;
            for (number, stored) in some.iter().zip(events) {
                let missing =
                    || Corrupt { what: "state", reason: format!("room {:x} has no event {}", room.0, number.0) };
                let stored = stored.ok_or_else(missing)?;
                all.push(form(&stored));
            }
            // Reads that find all in memory never wait, and others want their turn.
            tokio::task::yield_now().await;
        }
        Ok(all)
    }
}
