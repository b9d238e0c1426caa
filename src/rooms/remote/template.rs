//! What another server's template may say. Pure.
//!
//! What is made of it is signed in our name, so that only its place in the graph is taken over, and who vouches for a
//! restricted join; everything else must be what we asked for.

use std::collections::BTreeMap;

use hearth_core::{EVENT_BYTES_MAX, ID_BYTES_MAX, INTEGER_MAX, References, RoomVersion};
use hearth_ports::{Handshake, Template};
use ruma::{OwnedEventId, OwnedUserId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::handshake::membership_name;

/// Previous events that a template may cite. [Event format](https://spec.matrix.org/v1.19/rooms/v1/#event-format-1).
const PREV_EVENTS_MAX: usize = 20;

/// Auth events that a template may cite. [Event format](https://spec.matrix.org/v1.19/rooms/v1/#event-format-1).
const AUTH_EVENTS_MAX: usize = 10;

/// The longest reference hash in base64, in bytes: SHA-256 with padding.
const HASH_BYTES_MAX: usize = 44;

/// What is taken from a template.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Where the event goes.
    pub(crate) references: References,
    /// The user of the other server who vouches for a restricted join.
    pub(crate) voucher: Option<OwnedUserId>,
}

/// Why a template is not used. The text names no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other server's template is not what was asked for: {0}")]
pub(crate) struct BadTemplate(&'static str);

#[derive(Deserialize)]
struct Proto {
    room_id: String,
    sender: String,
    state_key: String,
    #[serde(rename = "type")]
    kind: String,
    content: Map<String, Value>,
    prev_events: Vec<Value>,
    auth_events: Vec<Value>,
    #[serde(default)]
    depth: Value,
}

/// Checks a template field by field. `server`: whose it is.
pub(crate) fn place_of(
    template: &Template,
    handshake: Handshake,
    room_id: &RoomId,
    user: &UserId,
    server: &ServerName,
) -> Result<Place, BadTemplate> {
    if template.event.len() > EVENT_BYTES_MAX {
        return Err(BadTemplate("it is too large"));
    }
    let proto: Proto = serde_json::from_slice(&template.event).map_err(|_| BadTemplate("a field is missing"))?;
    let expected = [
        (proto.room_id.as_str(), room_id.as_str(), "room_id"),
        (&proto.sender, user.as_str(), "sender"),
        (&proto.state_key, user.as_str(), "state_key"),
        (&proto.kind, "m.room.member", "type"),
        (
            proto.content.get("membership").and_then(Value::as_str).unwrap_or_default(),
            membership_name(handshake),
            "content.membership",
        ),
    ];
    if let Some((.., field)) = expected.into_iter().find(|(is, should, _)| is != should) {
        return Err(BadTemplate(field));
    }
    let mut hashes = BTreeMap::new();
    let prev_events = cited(template.version, &proto.prev_events, PREV_EVENTS_MAX, &mut hashes);
    let prev_events = prev_events.filter(|events| !events.is_empty()).ok_or(BadTemplate("prev_events"))?;
    let auth_events = cited(template.version, &proto.auth_events, AUTH_EVENTS_MAX, &mut hashes);
    let auth_events = auth_events.filter(|events| !events.is_empty()).ok_or(BadTemplate("auth_events"))?;
    let depth = proto.depth.as_u64().ok_or(BadTemplate("depth"))?.min(INTEGER_MAX);
    let voucher = voucher(template.version, handshake, &proto.content, server)?;
    Ok(Place { references: References { prev_events, auth_events, depth, hashes }, voucher })
}

/// The ids of a list of cited events; in room versions 1 and 2 their hashes go into `hashes`.
fn cited(
    version: RoomVersion,
    items: &[Value],
    items_max: usize,
    hashes: &mut BTreeMap<OwnedEventId, String>,
) -> Option<Vec<OwnedEventId>> {
    if items.len() > items_max {
        return None;
    }
    let mut ids: Vec<OwnedEventId> = Vec::with_capacity(items.len());
    for item in items {
        let (id, hash) = match (version.has_chosen_event_ids(), item) {
            (true, Value::Array(pair)) => (pair.first()?.as_str()?, pair.get(1)?.get("sha256").and_then(Value::as_str)),
            (false, Value::String(id)) => (id.as_str(), None),
            _ => return None,
        };
        if id.len() > ID_BYTES_MAX || hash.is_some_and(|hash| hash.len() > HASH_BYTES_MAX) {
            return None;
        }
        let id = OwnedEventId::try_from(id).ok()?;
        if ids.contains(&id) {
            return None;
        }
        hashes.extend(hash.map(|hash| (id.clone(), hash.to_owned())));
        ids.push(id);
    }
    Some(ids)
}

/// "An arbitrary user ID belonging to the resident server in the room being joined that is able to issue invites."
fn voucher(
    version: RoomVersion,
    handshake: Handshake,
    content: &Map<String, Value>,
    server: &ServerName,
) -> Result<Option<OwnedUserId>, BadTemplate> {
    const FIELD: &str = "join_authorised_via_users_server";
    let Some(voucher) = content.get(FIELD) else { return Ok(None) };
    if handshake != Handshake::Join || !version.rules().authorization.restricted_join_rule {
        return Ok(None);
    }
    let voucher = voucher.as_str().and_then(|voucher| OwnedUserId::try_from(voucher).ok());
    match voucher.filter(|voucher| voucher.server_name() == server && voucher.as_str().len() <= ID_BYTES_MAX) {
        Some(voucher) => Ok(Some(voucher)),
        None => Err(BadTemplate(FIELD)),
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
