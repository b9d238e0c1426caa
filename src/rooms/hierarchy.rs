//! The rooms of a space. [Spaces](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy).

mod servers;

pub use servers::ServerHierarchy;

use std::{collections::HashSet, sync::Arc};

use hearth_core::Event;
use hearth_store::{LoadError, RoomNumber, UserNumber};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    ReadError,
    remote::{FarSight, VIA_MAX},
    rooms::Rooms,
    summary::RoomSummary,
};

/// Rooms on a page where the client names no number, and at most.
const PAGE_ROOMS: usize = 50;

/// How deep a walk goes at most, whatever the client asks for.
const DEPTH_MAX: u32 = 20;

/// Rooms that one walk looks at: a page far behind costs the walk up to it.
const WALK_ROOMS_MAX: usize = 2_000;

/// Children of one space that are looked at.
const CHILDREN_MAX: usize = 1_000;

/// What of a space is asked for.
#[derive(Clone, Debug, Default)]
pub struct HierarchyQuery {
    /// Only children that their space suggests.
    pub is_suggested_only: bool,
    /// Rooms on a page.
    pub limit: Option<u32>,
    /// How many steps from the space; 0 is the space alone.
    pub max_depth: Option<u32>,
    /// The token of an earlier answer to the same question.
    pub from: Option<String>,
}

/// A page of a space's rooms, depth first.
#[derive(Clone, Debug)]
pub struct HierarchyPage {
    /// The rooms.
    pub rooms: Vec<HierarchyRoom>,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
}

/// A room of a space.
#[derive(Clone, Debug)]
pub struct HierarchyRoom {
    /// The room from outside.
    pub summary: Arc<RoomSummary>,
    /// Its `m.space.child` events, stripped, each with `origin_server_ts`.
    pub children: Vec<Value>,
}

/// Where an earlier page ended, with the question that it answered.
struct Place {
    depth_max: u32,
    is_suggested_only: bool,
    skip: usize,
}

impl Place {
    fn parse(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let depth_max = parts.next()?.parse().ok()?;
        let is_suggested_only = match parts.next()? {
            "a" => false,
            "s" => true,
            _ => return None,
        };
        let skip = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Self { depth_max, is_suggested_only, skip })
    }

    fn token(&self) -> String {
        format!("{}.{}.{}", self.depth_max, if self.is_suggested_only { "s" } else { "a" }, self.skip)
    }
}

/// A child of a space, as its `m.space.child` event has it.
struct Child {
    room_id: OwnedRoomId,
    event: Event,
    order: Option<String>,
    is_suggested: bool,
}

/// A room that a walk will come to, and who may know it.
struct Open {
    room_id: OwnedRoomId,
    depth: u32,
    via: Vec<OwnedServerName>,
}

/// A room that a walk has come to: its children's ids, who may know them, and their events as clients see them.
struct Met {
    summary: Arc<RoomSummary>,
    children: Vec<(OwnedRoomId, Vec<OwnedServerName>, Value)>,
}

impl Rooms {
    /// A page of a space's rooms that the user may see. Rooms that this server is not in are as other servers tell them.
    pub async fn hierarchy(
        &self,
        user: &UserId,
        space: &RoomId,
        query: &HierarchyQuery,
    ) -> Result<HierarchyPage, ReadError> {
        let depth_max = query.max_depth.unwrap_or(DEPTH_MAX).min(DEPTH_MAX);
        let place = match &query.from {
            Some(token) => Place::parse(token).ok_or(ReadError::BadToken)?,
            None => Place { depth_max, is_suggested_only: query.is_suggested_only, skip: 0 },
        };
        if (place.depth_max, place.is_suggested_only) != (depth_max, query.is_suggested_only) {
            // "suggested_only and max_depth cannot change on paginated requests"
            return Err(ReadError::BadToken);
        }
        let limit =
            query.limit.map_or(PAGE_ROOMS, |limit| usize::try_from(limit).unwrap_or(PAGE_ROOMS).min(PAGE_ROOMS));
        let number = self.writer.store.user_number(user).await?;
        let wanted = (place.skip + limit + 1).min(WALK_ROOMS_MAX);
        let mut rooms = self.walk((user, number), space, &place, wanted).await?;
        if rooms.is_empty() {
            return Err(ReadError::Forbidden("you may not see this room"));
        }
        let has_more = rooms.len() > place.skip + limit;
        rooms.truncate(place.skip + limit);
        let page: Vec<HierarchyRoom> = rooms.split_off(place.skip.min(rooms.len()));
        let next = has_more.then(|| Place { skip: place.skip + limit, ..place }.token());
        Ok(HierarchyPage { rooms: page, next })
    }

    /// The first so many rooms, depth first, each once.
    async fn walk(
        &self,
        user: (&UserId, Option<UserNumber>),
        space: &RoomId,
        place: &Place,
        wanted: usize,
    ) -> Result<Vec<HierarchyRoom>, LoadError> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut far = FarSight::new(user.0, place.is_suggested_only);
        let mut open = vec![Open { room_id: space.to_owned(), depth: 0, via: Vec::new() }];
        while let Some(next) = open.pop() {
            if found.len() >= wanted || seen.len() >= WALK_ROOMS_MAX {
                break;
            }
            if !seen.insert(next.room_id.clone()) {
                continue;
            }
            let goes_on = next.depth < place.depth_max;
            let Some(Met { summary, children }) = self.meet(user.1, &mut far, &next, goes_on).await? else { continue };
            if goes_on {
                let depth = next.depth + 1;
                let below = children.iter().rev();
                open.extend(below.map(|(room_id, via, _)| Open { room_id: room_id.clone(), depth, via: via.clone() }));
            }
            found.push(HierarchyRoom { summary, children: children.into_iter().map(|(.., event)| event).collect() });
        }
        Ok(found)
    }

    /// A room on the way, as it is kept here or, if this server is not in it, as another server tells it. `None`: nobody
    /// tells it, or it is not for this user.
    async fn meet(
        &self,
        user: Option<UserNumber>,
        far: &mut FarSight<'_>,
        next: &Open,
        goes_on: bool,
    ) -> Result<Option<Met>, LoadError> {
        let here = self.visible(user, &next.room_id).await?;
        let is_in = match &here {
            Some((room, _)) => self.writer.store.joined_from(*room, &self.writer.server_name).await? > 0,
            None => false,
        };
        if !is_in && let Some(room) = self.look_far(far, &next.room_id, &next.via, goes_on).await? {
            let children = room.children.into_iter().map(|child| (child.room_id, child.via, child.event)).collect();
            return Ok(Some(Met { summary: room.summary, children }));
        }
        let Some((room, summary)) = here else { return Ok(None) };
        let children = match summary.room_type.as_deref() {
            Some("m.space") => self.children(room, far.is_suggested_only).await?,
            _ => Vec::new(),
        };
        let children = children.into_iter().map(|child| (child.room_id.clone(), via_of(&child), stripped(&child)));
        Ok(Some(Met { children: children.collect(), summary }))
    }

    /// A room that the user may see.
    async fn visible(
        &self,
        user: Option<UserNumber>,
        room_id: &RoomId,
    ) -> Result<Option<(RoomNumber, Arc<RoomSummary>)>, LoadError> {
        let Some(room) = self.writer.store.room_number(room_id).await? else { return Ok(None) };
        let Some(summary) = self.summary(room).await? else { return Ok(None) };
        let membership = match user {
            Some(user) => self.writer.store.membership(user, room).await?.map(|row| row.membership),
            None => None,
        };
        Ok(self.may_see_summary(&summary, user, membership).await?.then_some((room, summary)))
    }

    /// A space's children in order: those with a valid `order` first, then by time, then by id.
    async fn children(&self, room: RoomNumber, is_suggested_only: bool) -> Result<Vec<Child>, LoadError> {
        let store = &self.writer.store;
        let rows = store.current_state_of_kind(room, "m.space.child", None, CHILDREN_MAX).await?;
        let numbers: Vec<_> = rows.iter().filter_map(|(_, row)| row.event).collect();
        let events = store.events(room, &numbers).await?;
        let mut children: Vec<Child> = events.iter().flatten().filter_map(|stored| child(&stored.event)).collect();
        children.retain(|child| child.is_suggested || !is_suggested_only);
        children.sort_by(|one, other| {
            let rank = |child: &Child| (child.order.is_none(), child.order.clone(), child.event.origin_server_ts());
            rank(one).cmp(&rank(other)).then_with(|| one.room_id.cmp(&other.room_id))
        });
        Ok(children)
    }
}

/// "If `via` is missing or invalid, the room is not a child."
fn child(event: &Event) -> Option<Child> {
    let content: Map<String, Value> = event.content_as().ok()?;
    let via = content.get("via")?.as_array()?;
    if via.is_empty() || !via.iter().all(Value::is_string) {
        return None;
    }
    // "Strings of printable ASCII, at most 50 characters; others are as if absent."
    let order = content.get("order").and_then(Value::as_str);
    let order = order.filter(|order| order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
    Some(Child {
        room_id: OwnedRoomId::try_from(event.state_key()?).ok()?,
        order: order.map(str::to_owned),
        is_suggested: content.get("suggested").and_then(Value::as_bool) == Some(true),
        event: event.clone(),
    })
}

/// Servers that may know a child, by the event that names it.
fn via_of(child: &Child) -> Vec<OwnedServerName> {
    let content: Map<String, Value> = child.event.content_as().unwrap_or_default();
    let via = content.get("via").and_then(Value::as_array).into_iter().flatten().take(VIA_MAX);
    via.filter_map(|server| OwnedServerName::try_from(server.as_str()?).ok()).collect()
}

fn stripped(child: &Child) -> Value {
    let event = &child.event;
    json!({
        "type": event.kind(),
        "state_key": event.state_key(),
        "sender": event.sender(),
        "content": event.content_as::<Value>().unwrap_or_default(),
        "origin_server_ts": event.origin_server_ts(),
    })
}
