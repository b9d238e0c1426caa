//! Which servers may take part in a room.
//! [Server access control lists](https://spec.matrix.org/v1.19/client-server-api/#mroomserver_acl).

use hearth_core::Event;
use hearth_store::LoadError;
use ruma::{RoomId, ServerName, events::room::server_acl::RoomServerAclEventContent};
use serde_json::{Map, Value};

use crate::{ReadError, rooms::Rooms};

impl Rooms {
    /// Whether the room's access list lets a server take part. A room that is not known here, or has no list, lets all.
    pub async fn acl_allows(&self, room_id: &RoomId, server: &ServerName) -> Result<bool, ReadError> {
        Ok(self.is_allowed(room_id, server).await?)
    }

    pub(super) async fn is_allowed(&self, room_id: &RoomId, server: &ServerName) -> Result<bool, LoadError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(true) };
        let stored = store.current_state_event(room, "m.room.server_acl", "").await?;
        Ok(stored.is_none_or(|stored| list_of(&stored.event).is_allowed(server)))
    }
}

/// The list of an event. What is malformed in it counts as absent: "This defaults to an empty list when not provided,
/// effectively disallowing every server", and "defaults to true if missing or otherwise not a boolean".
fn list_of(event: &Event) -> RoomServerAclEventContent {
    let content: Map<String, Value> = event.content_as().unwrap_or_default();
    let patterns = |key: &str| {
        let items = content.get(key).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let allow_ip_literals = content.get("allow_ip_literals").and_then(Value::as_bool).unwrap_or(true);
    RoomServerAclEventContent::new(allow_ip_literals, patterns("allow"), patterns("deny"))
}
