//! Rooms that only other servers know, as they tell them of their spaces.
//! [`GET /hierarchy`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid).

use std::{collections::HashMap, sync::Arc};

use hearth_store::{LoadError, tables::Membership};
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, UserId};
use serde::Deserialize;
use serde_json::Value;

use crate::{rooms::Rooms, summary::RoomSummary};

/// What is kept of other servers' answers, in bytes of their JSON.
const CACHE_BYTES: u64 = 8 << 20;

/// An answer of more bytes is not used: a space of a thousand rooms takes half of it.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How long an answer is good, in milliseconds. "Responses to this endpoint should be cached for a period of time."
const FRESH_MS: u64 = 5 * 60 * 1_000;

/// How long nobody is asked again who did not help, in milliseconds.
const FAILED_MS: u64 = 60 * 1_000;

/// Servers that are asked for one room.
const ASKED_MAX: usize = 3;

/// Servers of one `m.space.child` event that may be asked.
pub(crate) const VIA_MAX: usize = 5;

/// Rooms that are asked for on the way of one walk; what is remembered does not count.
const ASKS_OF_WALK_MAX: usize = 12;

/// Children of one room that are looked at.
const CHILDREN_MAX: usize = 1_000;

/// A room as another server tells it.
#[derive(Clone, Debug)]
pub(crate) struct FarRoom {
    pub(crate) summary: Arc<RoomSummary>,
    pub(crate) children: Vec<FarChild>,
}

/// An `m.space.child` event as another server tells it.
#[derive(Clone, Debug)]
pub(crate) struct FarChild {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) via: Vec<OwnedServerName>,
    /// The stripped event, with `origin_server_ts`.
    pub(crate) event: Value,
}

/// A space as another server tells it.
#[derive(Clone, Debug)]
pub(crate) struct FarSpace {
    pub(crate) room: FarRoom,
    /// Its children, as far as the other server knows them and lets us know.
    pub(crate) children: HashMap<OwnedRoomId, FarRoom>,
    bytes: usize,
}

#[derive(Clone)]
pub(crate) struct ByBytes;

type Key = (OwnedRoomId, bool);

/// An answer, or that there is none, and until when it is good, in milliseconds since the Unix epoch.
type Kept = (u64, Option<Arc<FarSpace>>);

impl Weighter<Key, Kept> for ByBytes {
    fn weight(&self, _key: &Key, (_, space): &Kept) -> u64 {
        space.as_ref().map_or(100, |space| space.bytes as u64 + 500)
    }
}

/// Other servers' spaces.
pub(crate) struct FarSpaces(Cache<Key, Kept, ByBytes>);

impl FarSpaces {
    pub(crate) fn new() -> Self {
        Self(Cache::with_weighter(256, CACHE_BYTES, ByBytes))
    }
}

/// One walk's view of rooms that only other servers know.
pub(crate) struct FarSight<'a> {
    user: &'a UserId,
    pub(crate) is_suggested_only: bool,
    /// Rooms that were told as children of others: what they are, but not what their own children are.
    told: HashMap<OwnedRoomId, FarRoom>,
    asks_left: usize,
}

impl<'a> FarSight<'a> {
    pub(crate) fn new(user: &'a UserId, is_suggested_only: bool) -> Self {
        Self { user, is_suggested_only, told: HashMap::new(), asks_left: ASKS_OF_WALK_MAX }
    }
}

impl Rooms {
    /// A room of which somebody asks before they join it. `None`: nobody tells it, or it is not for them.
    /// [Room summary](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias).
    pub async fn far_summary(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<Option<(Arc<RoomSummary>, Option<Membership>)>, LoadError> {
        let mut far = FarSight::new(user, false);
        let Some(room) = self.look_far(&mut far, room_id, via, false).await? else { return Ok(None) };
        let outside = self.outside(user, room_id).await?;
        Ok(Some((room.summary, outside.map(|row| row.membership))))
    }

    /// A room as another server tells it, if the user may see it. `goes_on`: its children will be looked at too.
    pub(crate) async fn look_far(
        &self,
        far: &mut FarSight<'_>,
        room_id: &RoomId,
        via: &[OwnedServerName],
        goes_on: bool,
    ) -> Result<Option<FarRoom>, LoadError> {
        let known = far.told.get(room_id).cloned();
        let is_enough = known.as_ref().is_some_and(|room| !goes_on || room.children.is_empty());
        let space = if is_enough { None } else { self.far_space(far, room_id, via).await? };
        if let Some(space) = &space {
            far.told.extend(space.children.iter().map(|(id, room)| (id.clone(), room.clone())));
        }
        let Some(room) = space.map(|space| space.room.clone()).or(known) else { return Ok(None) };
        let user = self.writer.store.user_number(far.user).await?;
        let membership = self.outside(far.user, room_id).await?.map(|row| row.membership);
        Ok(self.may_see_summary(&room.summary, user, membership).await?.then_some(room))
    }

    /// A space, or any room, as a server tells it that may be in it.
    async fn far_space(
        &self,
        far: &mut FarSight<'_>,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<Option<Arc<FarSpace>>, LoadError> {
        let now_ms = self.writer.clock.now_ms();
        let key = (room_id.to_owned(), far.is_suggested_only);
        if let Some((_, known)) = self.joins.spaces.0.get(&key).filter(|(until_ms, _)| now_ms < *until_ms) {
            return Ok(known);
        }
        let Some(left) = far.asks_left.checked_sub(1) else { return Ok(None) };
        far.asks_left = left;
        let outside = self.outside(far.user, room_id).await?;
        let candidates = self.candidates(room_id, outside.as_ref(), via).await?;
        let mut found = None;
        for server in candidates.iter().take(ASKED_MAX) {
            match self.writer.peers.hierarchy(server, room_id, far.is_suggested_only).await {
                Ok(answer) => found = parse(&answer, room_id).map(Arc::new),
                Err(error) => tracing::debug!(%room_id, %server, %error, "a space was not told"),
            }
            if found.is_some() {
                break;
            }
        }
        let good_ms = if found.is_some() { FRESH_MS } else { FAILED_MS };
        // Without anybody to ask there is nothing to remember: the next one may know a server.
        if !candidates.is_empty() {
            self.joins.spaces.0.insert(key, (now_ms.saturating_add(good_ms), found.clone()));
        }
        Ok(found)
    }
}

fn parse(answer: &[u8], room_id: &RoomId) -> Option<FarSpace> {
    #[derive(Deserialize)]
    struct Answer {
        room: Value,
        #[serde(default)]
        children: Vec<Value>,
    }
    if answer.len() > ANSWER_BYTES_MAX {
        return None;
    }
    let Answer { room, children } = serde_json::from_slice(answer).ok()?;
    let room = far_room(&room).filter(|room| room.summary.room_id == room_id)?;
    let children = children.iter().take(CHILDREN_MAX).filter_map(far_room);
    let children = children.map(|room| (room.summary.room_id.clone(), room)).collect();
    Some(FarSpace { room, children, bytes: answer.len() })
}

fn far_room(room: &Value) -> Option<FarRoom> {
    let text = |name: &str| room[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let allowed = room["allowed_room_ids"].as_array().into_iter().flatten().take(CHILDREN_MAX);
    let children = room["children_state"].as_array().into_iter().flatten().take(CHILDREN_MAX);
    let summary = RoomSummary {
        room_id: text("room_id")?.try_into().ok()?,
        version: text("room_version").unwrap_or_default(),
        room_type: text("room_type"),
        name: text("name"),
        topic: text("topic"),
        avatar_url: text("avatar_url"),
        canonical_alias: text("canonical_alias"),
        encryption: text("encryption"),
        join_rule: text("join_rule").unwrap_or_else(|| "public".to_owned()),
        allowed_room_ids: allowed.filter_map(|id| OwnedRoomId::try_from(id.as_str()?).ok()).collect(),
        is_world_readable: room["world_readable"] == true,
        guests_may_join: room["guest_can_join"] == true,
        joined: room["num_joined_members"].as_u64().and_then(|joined| u32::try_from(joined).ok()).unwrap_or(0),
        // We are told of it.
        is_federated: true,
    };
    Some(FarRoom { summary: Arc::new(summary), children: children.filter_map(far_child).collect() })
}

/// "If `via` is missing or invalid, the room is not a child."
fn far_child(event: &Value) -> Option<FarChild> {
    if event["type"] != "m.space.child" || !event["sender"].is_string() || !event["origin_server_ts"].is_u64() {
        return None;
    }
    let via = event["content"]["via"].as_array().filter(|via| !via.is_empty())?;
    let via = via.iter().take(VIA_MAX).filter_map(|server| OwnedServerName::try_from(server.as_str()?).ok());
    Some(FarChild {
        room_id: OwnedRoomId::try_from(event["state_key"].as_str()?).ok()?,
        via: via.collect(),
        event: event.clone(),
    })
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let child = |id: &str, via: Value| {
            json!({ "type": "m.space.child", "state_key": id, "sender": "@a:b", "origin_server_ts": 1,
                "content": { "via": via } })
        };
        let state = json!([
            child("!one:b", json!(["b", 5])), child("!two:b", json!([])), child("nothing", json!(["b"])), 7, null,
            { "type": "m.room.name", "state_key": "", "sender": "@a:b", "origin_server_ts": 1, "content": {} },
        ]);
        let answer = json!({
            "room": { "room_id": "!space:b", "room_type": "m.space", "children_state": state, "num_joined_members": -1 },
            "children": [{ "room_id": "!one:b", "join_rule": "restricted", "allowed_room_ids": ["!space:b", 3] }, {}, 3],
        });
        let space = parse(answer.to_string().as_bytes(), room_id!("!space:b")).unwrap();
        assert_eq!(space.room.children.len(), 1);
        assert_eq!(space.room.children[0].via, [ruma::owned_server_name!("b")]);
        assert_eq!(space.children[room_id!("!one:b")].summary.allowed_room_ids.len(), 1);
        assert!(parse(answer.to_string().as_bytes(), room_id!("!other:b")).is_none());
        assert!(parse(b"[]", room_id!("!space:b")).is_none());
        assert!(parse(&vec![b' '; ANSWER_BYTES_MAX + 1], room_id!("!space:b")).is_none());
    }
}
