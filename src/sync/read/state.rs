//! The state of a room: all of it, or one entry.
//! [Client-server API](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstate).

use std::sync::Arc;

use bytes::Bytes;
use hearth_store::{StateVersion, StoredEvent};
use hearth_view::EventFormat;
use ruma::RoomId;

use super::{ReadError, Reader, Reads, room::RoomView};

impl Reads {
    /// The answer of `/state`, as JSON: the present state, or for those who left the one they left behind.
    pub async fn state(&self, reader: &Reader, room_id: &RoomId) -> Result<Bytes, ReadError> {
        self.whole(room_id).await?;
        let view = self.open(reader, room_id).await?;
        let events = self.state_events(&view, view.state).await?;
        let mut out = Vec::with_capacity(512 * events.len() + 2);
        view.write_state(&mut out, &events).await?;
        Ok(out.into())
    }

    /// One entry of the state: its content, or with `whole` the event.
    pub async fn state_entry(
        &self,
        reader: &Reader,
        room_id: &RoomId,
        kind: &str,
        state_key: &str,
        whole: bool,
    ) -> Result<Bytes, ReadError> {
        if kind == "m.room.member" && state_key != reader.user_id.as_str() {
            self.whole(room_id).await?;
        }
        let view = self.open(reader, room_id).await?;
        let stored = self.store.state_event(view.number, view.state, kind, state_key).await?;
        let stored = stored.ok_or(ReadError::NotFound("state"))?;
        if !whole {
            return Ok(Bytes::copy_from_slice(stored.event.content_json().as_bytes()));
        }
        let mut out = Vec::with_capacity(1_024);
        view.gate.write_state(&mut out, &EventFormat::CLIENT, &stored).await?;
        Ok(out.into())
    }

    /// The events of a version of the state.
    pub(super) async fn state_events(
        &self,
        view: &RoomView<'_>,
        version: StateVersion,
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let entries = self.store.state_all(view.number, version).await?;
        let numbers: Vec<_> = entries.into_iter().map(|(_, event)| event).collect();
        Ok(self.store.events(view.number, &numbers).await?.into_iter().flatten().collect())
    }
}
