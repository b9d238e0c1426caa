//! The fast way from stored bytes to an event: one borrowing pass, no tree.

use std::{borrow::Cow, fmt, sync::OnceLock};

use bytes::Bytes;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue as RawJsonValue;

use super::{Cited, Inner, StoredError};
use crate::{INTEGER_MAX, RoomVersion};

#[derive(Deserialize)]
struct Fields<'a, L> {
    auth_events: L,
    #[serde(borrow)]
    content: &'a RawJsonValue,
    depth: Number,
    origin_server_ts: Number,
    prev_events: L,
    #[serde(borrow, default)]
    redacts: Option<&'a RawJsonValue>,
    sender: OwnedUserId,
    state_key: Option<Box<str>>,
    #[serde(rename = "type")]
    kind: Box<str>,
}

/// The events in a list, if they were read at all.
pub(super) trait List {
    fn into_ids(self) -> Option<Vec<OwnedEventId>>;
}

impl List for References {
    fn into_ids(self) -> Option<Vec<OwnedEventId>> {
        Some(self.0)
    }
}

impl List for IgnoredAny {
    fn into_ids(self) -> Option<Vec<OwnedEventId>> {
        None
    }
}

/// `L` says whether what the event cites is read now.
pub(super) fn parse<L: List + for<'de> Deserialize<'de>>(
    version: RoomVersion,
    event_id: OwnedEventId,
    room_id: OwnedRoomId,
    json: Bytes,
) -> Result<Inner, StoredError> {
    let text = std::str::from_utf8(&json).map_err(|error| StoredError(error.to_string()))?;
    let fields: Fields<'_, L> = serde_json::from_str(text).map_err(|error| StoredError(error.to_string()))?;
    let content = fields.content.get();
    // Distance between two addresses of one buffer: the raw value borrows from it.
    let content_from = content.as_ptr().addr() - text.as_ptr().addr();
    let content_to = content_from + content.len();
    let redacts = match (&*fields.kind, version.redacts_in_content()) {
        ("m.room.redaction", true) => redacts_of_content(content),
        // An id that is none redacts nothing.
        ("m.room.redaction", false) => fields.redacts.and_then(|raw| serde_json::from_str(raw.get()).ok()),
        _ => None,
    };
    let cited = match (fields.prev_events.into_ids(), fields.auth_events.into_ids()) {
        (Some(prev_events), Some(auth_events)) => OnceLock::from(Cited { prev_events, auth_events }),
        _ => OnceLock::new(),
    };
    Ok(Inner {
        version,
        event_id,
        room_id,
        sender: fields.sender,
        kind: fields.kind,
        state_key: fields.state_key,
        redacts,
        origin_server_ts: fields.origin_server_ts.0.min(INTEGER_MAX),
        depth: fields.depth.0,
        cited,
        content_from,
        content_to,
        json,
        raw_content: OnceLock::new(),
        rules_kind: OnceLock::new(),
        rules_content: OnceLock::new(),
    })
}

/// What an event cites; nothing if its bytes are damaged.
pub(super) fn cited(text: &str) -> Cited {
    #[derive(Deserialize)]
    struct Lists {
        auth_events: References,
        prev_events: References,
    }
    let lists = serde_json::from_str(text)
        .map(|Lists { auth_events, prev_events }| Cited { prev_events: prev_events.0, auth_events: auth_events.0 });
    lists.unwrap_or_default()
}

fn redacts_of_content(content: &str) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        redacts: Cow<'a, str>,
    }
    // Content of another shape, or an id that is none, redacts nothing.
    let content: Content<'_> = serde_json::from_str(content).ok()?;
    OwnedEventId::try_from(content.redacts.as_ref()).ok()
}

/// A time or depth. Events of old room versions hold what their senders wrote: negative, too large, with a fraction.
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(u64::try_from(value).unwrap_or(0)))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Number, E> {
                // `as` saturates at both ends.
                Ok(Number(value as u64))
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

/// Cited events: `[[id, {"sha256": …}], …]` in room versions 1 and 2, `[id, …]` since.
pub(super) struct References(Vec<OwnedEventId>);

impl<'de> Deserialize<'de> for References {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = References;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of events")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<References, A::Error> {
                let mut ids = Vec::with_capacity(items.size_hint().unwrap_or(4).min(16));
                while let Some(Reference(id)) = items.next_element()? {
                    ids.push(id);
                }
                Ok(References(ids))
            }
        }
        deserializer.deserialize_seq(ListVisitor)
    }
}

struct Reference(OwnedEventId);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ReferenceVisitor;
        impl<'de> Visitor<'de> for ReferenceVisitor {
            type Value = Reference;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an event id, alone or with its hash")
            }
            fn visit_str<E: de::Error>(self, id: &str) -> Result<Reference, E> {
                OwnedEventId::try_from(id).map(Reference).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Reference, A::Error> {
                let id = pair.next_element::<Reference>()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
                while pair.next_element::<IgnoredAny>()?.is_some() {}
                Ok(id)
            }
        }
        deserializer.deserialize_any(ReferenceVisitor)
    }
}
