//! Rooms from outside, as other servers are shown them.

use hearth_rooms::{HierarchyRoom, RoomSummary};
use serde::Serialize;
use serde_json::Value;

/// A `PublishedRoomsChunk`; with a version, a `RoomSummary`.
#[derive(Serialize)]
pub(super) struct RoomJson<'a> {
    room_id: &'a str,
    num_joined_members: u32,
    world_readable: bool,
    guest_can_join: bool,
    join_rule: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    canonical_alias: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    allowed_room_ids: &'a [ruma::OwnedRoomId],
    #[serde(skip_serializing_if = "Option::is_none")]
    children_state: Option<&'a [Value]>,
}

impl<'a> RoomJson<'a> {
    /// A room of the directory.
    pub(super) fn published(room: &'a RoomSummary) -> Self {
        Self {
            room_id: room.room_id.as_str(),
            num_joined_members: room.joined,
            world_readable: room.is_world_readable,
            guest_can_join: room.guests_may_join,
            join_rule: &room.join_rule,
            name: room.name.as_deref(),
            topic: room.topic.as_deref(),
            avatar_url: room.avatar_url.as_deref(),
            canonical_alias: room.canonical_alias.as_deref(),
            room_type: room.room_type.as_deref(),
            room_version: None,
            encryption: None,
            allowed_room_ids: &[],
            children_state: None,
        }
    }

    /// A room of a space.
    pub(super) fn of_space(room: &'a HierarchyRoom) -> Self {
        let summary = &room.summary;
        Self {
            room_version: Some(&summary.version),
            encryption: summary.encryption.as_deref(),
            allowed_room_ids: &summary.allowed_room_ids,
            children_state: Some(&room.children),
            ..Self::published(summary)
        }
    }
}
