//! What a room looks like from outside: for the directory, previews and spaces.

use std::sync::Arc;

use hearth_core::Event;
use hearth_ports::{Key, Table};
use hearth_store::{
    LoadError, RoomNumber, UserNumber,
    tables::{CurrentStateRow, Head, Membership, current_state_key},
};
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::Value;

use crate::{ReadError, member::guests_may_join, rooms::Rooms};

/// Summaries that are kept: some 500 bytes each.
const SUMMARIES_MAX: usize = 4_096;

/// Summaries by room, each with the head's position at which it was made.
pub(crate) struct Summaries(Cache<RoomNumber, (u64, Arc<RoomSummary>)>);

impl Summaries {
    pub(crate) fn new() -> Self {
        Self(Cache::new(SUMMARIES_MAX))
    }
}

/// A room from outside.
#[derive(Clone, Debug)]
pub struct RoomSummary {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: String,
    /// `type` of the create event.
    pub room_type: Option<String>,
    /// `m.room.name`, unless empty.
    pub name: Option<String>,
    /// `m.room.topic` as plain text.
    pub topic: Option<String>,
    /// `m.room.avatar`.
    pub avatar_url: Option<String>,
    /// `m.room.canonical_alias`.
    pub canonical_alias: Option<String>,
    /// The algorithm of `m.room.encryption`.
    pub encryption: Option<String>,
    /// `m.room.join_rules`; without one, `invite`.
    pub join_rule: String,
    /// The rooms whose members may join, where the join rule is a restricted one.
    pub allowed_room_ids: Vec<OwnedRoomId>,
    /// Anybody may read the history.
    pub is_world_readable: bool,
    /// Guests may join.
    pub guests_may_join: bool,
    /// How many users are in the room.
    pub joined: u32,
    /// Users of other servers may be in the room: `m.federate` of the create event.
    pub is_federated: bool,
}

/// The pairs of state that a summary is made of.
const KINDS: [&str; 8] = [
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
];

impl Rooms {
    /// A room as somebody sees it who may join it or read it, and their membership. `user`: `None` for somebody
    /// without an account.
    /// [Room summary](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias).
    pub async fn summary_for(
        &self,
        user: Option<&UserId>,
        room_id: &RoomId,
    ) -> Result<(Arc<RoomSummary>, Option<Membership>), ReadError> {
        let room = self.writer.store.room_number(room_id).await?.ok_or(ReadError::NotFound)?;
        let summary = self.summary(room).await?.ok_or(ReadError::NotFound)?;
        let number = match user {
            Some(user) => self.writer.store.user_number(user).await?,
            None => None,
        };
        let membership = match number {
            Some(number) => self.writer.store.membership(number, room).await?.map(|row| row.membership),
            None => None,
        };
        let may_see = self.may_see_summary(&summary, number, membership).await?;
        // To others the room does not exist.
        if may_see { Ok((summary, membership)) } else { Err(ReadError::NotFound) }
    }

    /// Whether a room's summary is for this user: a member, somebody who may join or knock, or anybody where the
    /// history is for all.
    pub(crate) async fn may_see_summary(
        &self,
        summary: &RoomSummary,
        user: Option<UserNumber>,
        membership: Option<Membership>,
    ) -> Result<bool, LoadError> {
        match membership {
            Some(Membership::Join | Membership::Invite) => return Ok(true),
            Some(Membership::Ban) => return Ok(false),
            Some(Membership::Knock | Membership::Leave) | None => {}
        }
        let is_open = matches!(&*summary.join_rule, "public" | "knock" | "knock_restricted");
        if is_open || summary.is_world_readable {
            return Ok(true);
        }
        let Some(user) = user.filter(|_| summary.join_rule == "restricted") else { return Ok(false) };
        for allowed in &summary.allowed_room_ids {
            let Some(room) = self.writer.store.room_number(allowed).await? else { continue };
            let row = self.writer.store.membership(user, room).await?;
            if row.is_some_and(|row| row.membership == Membership::Join) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether anybody may read the room's history.
    pub(crate) async fn is_world_readable(&self, room: RoomNumber) -> Result<bool, LoadError> {
        Ok(self.summary(room).await?.is_some_and(|summary| summary.is_world_readable))
    }

    /// The summary of a room; `None` if it is not there for readers.
    pub(crate) async fn summary(&self, room: RoomNumber) -> Result<Option<Arc<RoomSummary>>, LoadError> {
        let Some(head) = self.writer.store.head(room).await? else { return Ok(None) };
        if head.loading || head.purged {
            return Ok(None);
        }
        if let Some((_, summary)) = self.summaries.0.get(&room).filter(|(position, _)| *position == head.position) {
            return Ok(Some(summary));
        }
        let Some(room_id) = self.writer.store.room_id(room).await? else { return Ok(None) };
        let summary = Arc::new(self.load_summary(room, room_id, &head).await?);
        self.summaries.0.insert(room, (head.position, Arc::clone(&summary)));
        Ok(Some(summary))
    }

    async fn load_summary(
        &self,
        room: RoomNumber,
        room_id: OwnedRoomId,
        head: &Head,
    ) -> Result<RoomSummary, LoadError> {
        let store = &self.writer.store;
        let keys: Vec<Key> = KINDS.iter().map(|kind| current_state_key(room, kind, "")).collect();
        let rows = store.multi_get::<CurrentStateRow>(Table::Rm, &keys).await?;
        let numbers: Vec<_> = rows.iter().flatten().filter_map(|row| row.event).collect();
        let stored = store.events(room, &numbers).await?;
        let events: Vec<&Event> = stored.iter().flatten().map(|stored| &stored.event).collect();
        Ok(summarise(room_id, head, &events))
    }
}

fn summarise(room_id: OwnedRoomId, head: &Head, events: &[&Event]) -> RoomSummary {
    let event = |kind: &str| events.iter().find(|event| event.kind() == kind).copied();
    let content = |kind: &str| event(kind).and_then(|event| event.content_as::<Value>().ok()).unwrap_or_default();
    let text = |kind: &str, field: &str| {
        content(kind).get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let join_rules = content("m.room.join_rules");
    let join_rule = join_rules.get("join_rule").and_then(Value::as_str).unwrap_or("invite");
    let allowed = join_rules.get("allow").and_then(Value::as_array).into_iter().flatten();
    let allowed = allowed.filter(|allow| allow.get("type").and_then(Value::as_str) == Some("m.room_membership"));
    let allowed = allowed.filter_map(|allow| allow.get("room_id")?.as_str()?.to_owned().try_into().ok());
    let is_restricted = matches!(join_rule, "restricted" | "knock_restricted");
    RoomSummary {
        room_id,
        version: head.create.version.clone(),
        room_type: head.create.room_type.clone(),
        name: text("m.room.name", "name"),
        topic: text("m.room.topic", "topic"),
        avatar_url: text("m.room.avatar", "url"),
        canonical_alias: text("m.room.canonical_alias", "alias"),
        encryption: text("m.room.encryption", "algorithm"),
        join_rule: join_rule.to_owned(),
        allowed_room_ids: if is_restricted { allowed.collect() } else { Vec::new() },
        is_world_readable: text("m.room.history_visibility", "history_visibility").as_deref() == Some("world_readable"),
        guests_may_join: guests_may_join(event("m.room.guest_access")),
        joined: head.joined,
        is_federated: head.create.federate,
    }
}
