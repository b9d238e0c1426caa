//! A space as other servers may know it.
//! [`GET /hierarchy`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid).

use std::{cmp::Reverse, sync::Arc};

use hearth_store::{LoadError, RoomNumber};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId, events::room::member::MembershipState};

use super::{HierarchyRoom, stripped};
use crate::{ReadError, rooms::Rooms, summary::RoomSummary};

/// Children that are told of in one answer, at some 500 bytes each.
const ROOMS_MAX: usize = 500;

/// `m.space.child` events in one answer, of the space and its children together. Where they are used up children are
/// told of as if they had none left.
const CHILD_EVENTS_MAX: usize = 5_000;

/// Members that are looked at for one answer, in search of invited users of the asking server: some 20 ms of reading.
/// Where they are used up, rooms count as if nobody of that server were invited.
const MEMBERS_MAX: usize = 20_000;

/// Members that are read at once.
const MEMBERS_AT_ONCE: usize = 1_000;

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

/// What may still be read for one answer.
struct Budget {
    child_events: usize,
    members: usize,
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
        let mut budget = Budget { child_events: CHILD_EVENTS_MAX, members: MEMBERS_MAX };
        let Standing::Visible(room, summary) = self.standing_of(origin, room_id, &mut budget).await? else {
            return Err(ReadError::NotFound);
        };
        let (room, ids) = self.room_of_space(room, summary, is_suggested_only, &mut budget).await?;
        let mut found = ServerHierarchy { room, children: Vec::new(), inaccessible: Vec::new() };
        for child in ids.into_iter().take(ROOMS_MAX) {
            match self.standing_of(origin, &child, &mut budget).await? {
                Standing::Unknown => {}
                Standing::Inaccessible => found.inaccessible.push(child),
                Standing::Visible(room, summary) => {
                    let (room, _) = self.room_of_space(room, summary, is_suggested_only, &mut budget).await?;
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
        budget: &mut Budget,
    ) -> Result<(HierarchyRoom, Vec<OwnedRoomId>), LoadError> {
        let mut children = match summary.room_type.as_deref() {
            Some("m.space") if budget.child_events > 0 => self.children(room, is_suggested_only).await?,
            _ => Vec::new(),
        };
        children.truncate(budget.child_events);
        budget.child_events -= children.len();
        let told = children.iter().map(stripped).collect();
        let ids = children.into_iter().map(|child| child.room_id).collect();
        Ok((HierarchyRoom { summary, children: told }, ids))
    }

    /// "All the space-room's children the requesting server could feasibly peek/join": those that it is in, that are
    /// open, that let in the members of a room that it is in, or to which a user of it is invited.
    async fn standing_of(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        budget: &mut Budget,
    ) -> Result<Standing, ReadError> {
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
        match self.has_invited(room, origin, budget).await? {
            true => Ok(Standing::Visible(room, summary)),
            false => Ok(Standing::Inaccessible),
        }
    }

    /// Whether a user of the server is invited to the room.
    async fn has_invited(&self, room: RoomNumber, server: &ServerName, budget: &mut Budget) -> Result<bool, LoadError> {
        let store = &self.writer.store;
        let mut behind: Option<String> = None;
        while budget.members > 0 {
            let wanted = MEMBERS_AT_ONCE.min(budget.members);
            let members = store.current_members(room, behind.as_deref(), wanted).await?;
            budget.members -= members.len().min(budget.members);
            let is_theirs = |user: &str| <&UserId>::try_from(user).is_ok_and(|user| user.server_name() == server);
            let theirs = members.iter().filter(|(user, _)| is_theirs(user));
            let numbers: Vec<_> = theirs.filter_map(|(_, row)| row.event).collect();
            let events = store.events(room, &numbers).await?;
            let mut memberships = events.iter().flatten().map(|stored| stored.event.membership());
            if memberships.any(|membership| membership == Some(MembershipState::Invite)) {
                return Ok(true);
            }
            if members.len() < wanted {
                break;
            }
            behind = members.into_iter().next_back().map(|(last, _)| last);
        }
        Ok(false)
    }
}
