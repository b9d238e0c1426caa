//! A space as other servers may know it.
//! [`GET /hierarchy`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid).

use std::{cmp::Reverse, sync::Arc};

use hearth_store::{LoadError, RoomNumber};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};

use super::{HierarchyRoom, stripped};
use crate::{ReadError, rooms::Rooms, summary::RoomSummary};

/// Children that are told of in one answer, at some 500 bytes each.
const ROOMS_MAX: usize = 500;

/// `m.space.child` events in one answer, of the space and its children together. Where they are used up children are
/// told of as if they had none left.
const CHILD_EVENTS_MAX: usize = 5_000;

/// A space as another server may know it.
#[derive(Clone, Debug)]
pub struct ServerHierarchy {
    /// The room that was asked for.
    pub room: HierarchyRoom,
    /// Its children, as far as the server may know them and we do.
    pub children: Vec<HierarchyRoom>,
    /// Children that we know and the server has no way into.
    pub inaccessible: Vec<OwnedRoomId>,
}

/// Whether another server may know a room.
enum Standing {
    /// We are not in it, and have nothing to tell.
    Unknown,
    /// The server has no way in.
    Inaccessible,
    /// It has.
    Visible(RoomNumber, Arc<RoomSummary>),
}

impl Rooms {
    /// A space and its children, one step deep, in order; a room that is no space has none.
    pub async fn hierarchy_for_server(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        is_suggested_only: bool,
    ) -> Result<ServerHierarchy, ReadError> {
        if !self.acl_allows(room_id, origin).await? {
            return Err(ReadError::Forbidden("the room's access list keeps your server out"));
        }
        let Standing::Visible(room, summary) = self.standing_of(origin, room_id).await? else {
            return Err(ReadError::NotFound);
        };
        let mut events_left = CHILD_EVENTS_MAX;
        let (room, ids) = self.room_of_space(room, summary, is_suggested_only, &mut events_left).await?;
        let mut found = ServerHierarchy { room, children: Vec::new(), inaccessible: Vec::new() };
        for child in ids.into_iter().take(ROOMS_MAX) {
            match self.standing_of(origin, &child).await? {
                Standing::Unknown => {}
                Standing::Inaccessible => found.inaccessible.push(child),
                Standing::Visible(room, summary) => {
                    let (room, _) = self.room_of_space(room, summary, is_suggested_only, &mut events_left).await?;
                    found.children.push(room);
                }
            }
        }
        Ok(found)
    }

    /// Servers that may help to join a room, at most `limit`: this one first, if it is in it, then those of which most
    /// users are.
    pub async fn servers_to_join(&self, room_id: &RoomId, limit: usize) -> Result<Vec<OwnedServerName>, ReadError> {
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(ReadError::NotFound)?;
        let mut servers = store.servers_in_room(room).await?;
        let own = &self.writer.server_name;
        servers.sort_by_cached_key(|(server, joined)| (server != own, Reverse(*joined), server.clone()));
        Ok(servers.into_iter().take(limit).map(|(server, _)| server).collect())
    }

    /// The room with its own children, and their ids.
    async fn room_of_space(
        &self,
        room: RoomNumber,
        summary: Arc<RoomSummary>,
        is_suggested_only: bool,
        events_left: &mut usize,
    ) -> Result<(HierarchyRoom, Vec<OwnedRoomId>), LoadError> {
        let mut children = match summary.room_type.as_deref() {
            Some("m.space") if *events_left > 0 => self.children(room, is_suggested_only).await?,
            _ => Vec::new(),
        };
        children.truncate(*events_left);
        *events_left -= children.len();
        let told = children.iter().map(stripped).collect();
        let ids = children.into_iter().map(|child| child.room_id).collect();
        Ok((HierarchyRoom { summary, children: told }, ids))
    }

    /// "All the space-room's children the requesting server could feasibly peek/join": those that it is in, that are
    /// open, or that let in the members of a room that it is in.
    async fn standing_of(&self, origin: &ServerName, room_id: &RoomId) -> Result<Standing, ReadError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(Standing::Unknown) };
        let Some(head) = store.head(room).await? else { return Ok(Standing::Unknown) };
        let Some(summary) = self.summary(room).await? else { return Ok(Standing::Unknown) };
        if store.joined_from(room, &self.writer.server_name).await? == 0 {
            return Ok(Standing::Unknown);
        }
        if store.joined_from(room, origin).await? > 0 {
            return Ok(Standing::Visible(room, summary));
        }
        if !head.create.federate || head.blocked || !self.acl_allows(room_id, origin).await? {
            return Ok(Standing::Inaccessible);
        }
        let is_open = matches!(&*summary.join_rule, "public" | "knock" | "knock_restricted");
        if is_open || summary.is_world_readable {
            return Ok(Standing::Visible(room, summary));
        }
        for allowed in &summary.allowed_room_ids {
            let Some(allowed) = store.room_number(allowed).await? else { continue };
            if store.joined_from(allowed, origin).await? > 0 {
                return Ok(Standing::Visible(room, summary));
            }
        }
        Ok(Standing::Inaccessible)
    }
}
