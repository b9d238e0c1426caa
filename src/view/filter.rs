//! Filters: which events of which rooms, in which form, a client wants.
//!
//! [Client-server API, filtering](https://spec.matrix.org/v1.19/client-server-api/#filtering). Read strictly: whatever
//! has the wrong type is refused when the filter is made, so that no reader has to guess. Unknown fields are let be.

use hearth_core::Event;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Deserializer, de};

use crate::event_json::{EventFormat, Fields};

/// The most entries of one list in a filter: more than anybody has rooms open, few enough to be searched per event.
const LIST_ITEMS_MAX: usize = 2_000;

/// Longer event types than this do not exist, so that longer patterns need not be tried.
const PATTERN_BYTES_MAX: usize = hearth_core::ID_BYTES_MAX;

/// A text that is not a filter; the message says where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFilter(pub String);

impl std::fmt::Display for BadFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not a filter: {}", self.0)
    }
}

impl std::error::Error for BadFilter {}

/// The whole filter of a sync.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Filter {
    #[serde(deserialize_with = "fields")]
    event_fields: Option<Fields>,
    #[serde(deserialize_with = "federation")]
    event_format: bool,
    /// Presence of other users.
    #[serde(deserialize_with = "object")]
    pub presence: EventFilter,
    /// The user's account data that belongs to no room.
    #[serde(deserialize_with = "object")]
    pub account_data: EventFilter,
    /// All that belongs to rooms.
    #[serde(deserialize_with = "object")]
    pub room: RoomFilter,
}

/// The part of a [`Filter`] about rooms.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RoomFilter {
    rooms: Option<Ids<OwnedRoomId>>,
    not_rooms: Option<Ids<OwnedRoomId>>,
    /// Rooms that were left are told of in a first sync too.
    #[serde(deserialize_with = "or_default")]
    pub include_leave: bool,
    /// The user's account data of rooms.
    pub account_data: RoomEventFilter,
    /// Receipts and typing.
    pub ephemeral: RoomEventFilter,
    /// State that is not in the timeline.
    pub state: RoomEventFilter,
    /// The timeline.
    pub timeline: RoomEventFilter,
}

/// Which events: by type and sender.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    /// At most so many.
    pub limit: Option<u64>,
    senders: Option<Ids<OwnedUserId>>,
    not_senders: Option<Ids<OwnedUserId>>,
    types: Option<Patterns>,
    not_types: Option<Patterns>,
}

/// Which events of rooms.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RoomEventFilter {
    /// By type and sender.
    #[serde(flatten)]
    pub events: EventFilter,
    rooms: Option<Ids<OwnedRoomId>>,
    not_rooms: Option<Ids<OwnedRoomId>>,
    contains_url: Option<bool>,
    /// Member events only of those who sent an event in the answer.
    #[serde(deserialize_with = "or_default")]
    pub lazy_load_members: bool,
    /// With `lazy_load_members`: also member events that were sent before.
    #[serde(deserialize_with = "or_default")]
    pub include_redundant_members: bool,
    /// Counts by thread.
    #[serde(deserialize_with = "or_default")]
    pub unread_thread_notifications: bool,
}

impl Filter {
    /// Reads a filter as clients write it.
    pub fn parse(json: &[u8]) -> Result<Self, BadFilter> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let filter = object(&mut deserializer).and_then(|filter| deserializer.end().map(|()| filter));
        filter.map_err(|error| BadFilter(error.to_string()))
    }

    /// The form of every event in the answer, whose places name their rooms.
    pub fn format(&self) -> EventFormat {
        EventFormat { federation: self.event_format, fields: self.event_fields.clone(), names_room: false }
    }
}

impl RoomFilter {
    /// Whether the room is looked at at all.
    pub fn allows_room(&self, room_id: &str) -> bool {
        listed(self.rooms.as_ref(), self.not_rooms.as_ref(), room_id)
    }
}

impl EventFilter {
    /// Whether an event of this type from this sender passes; `None` is nobody in particular (typing, receipts, account
    /// data), and passes whatever the filter says of senders.
    pub fn allows(&self, kind: &str, sender: Option<&str>) -> bool {
        let by_sender = sender.is_none_or(|sender| listed(self.senders.as_ref(), self.not_senders.as_ref(), sender));
        by_sender && self.allows_type(kind)
    }

    /// Whether events of this type can pass.
    pub fn allows_type(&self, kind: &str) -> bool {
        !self.not_types.as_ref().is_some_and(|patterns| patterns.matches(kind))
            && self.types.as_ref().is_none_or(|patterns| patterns.matches(kind))
    }

    /// Whether nothing can pass, whatever the limit: `types` or `senders` is the empty list.
    pub fn is_nothing(&self) -> bool {
        self.types.as_ref().is_some_and(Patterns::is_empty)
            || self.senders.as_ref().is_some_and(|senders| senders.0.is_empty())
    }

    /// Whether everything passes, but for the limit.
    pub fn is_everything(&self) -> bool {
        self.senders.is_none() && self.not_senders.is_none() && self.types.is_none() && self.not_types.is_none()
    }

    /// At most so many events: `default` without a wish, never above `max`.
    pub fn limit_or(&self, default: usize, max: usize) -> usize {
        self.limit.map_or(default, |limit| usize::try_from(limit).unwrap_or(max)).min(max)
    }
}

impl RoomEventFilter {
    /// Reads a filter as `/messages` and `/context` take it.
    pub fn parse(json: &[u8]) -> Result<Self, BadFilter> {
        serde_json::from_slice(json).map_err(|error| BadFilter(error.to_string()))
    }

    /// Whether events of this room can pass.
    pub fn allows_room(&self, room_id: &str) -> bool {
        listed(self.rooms.as_ref(), self.not_rooms.as_ref(), room_id)
    }

    /// Whether this event passes. The room is asked separately, once: [`Self::allows_room`].
    pub fn allows(&self, event: &Event) -> bool {
        self.events.allows(event.kind(), Some(event.sender().as_str()))
            && self.contains_url.is_none_or(|wanted| has_url(event) == wanted)
    }

    /// Whether every event passes, but for rooms and the limit.
    pub fn is_everything(&self) -> bool {
        self.events.is_everything() && self.contains_url.is_none()
    }
}

/// "Events with a `url` key in their content", whatever its value.
fn has_url(event: &Event) -> bool {
    #[derive(Default)]
    struct Present(bool);
    impl<'de> Deserialize<'de> for Present {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            de::IgnoredAny::deserialize(deserializer).map(|_| Self(true))
        }
    }
    #[derive(Deserialize)]
    struct Content {
        #[serde(default)]
        url: Present,
    }
    event.content_as::<Content>().is_ok_and(|content| content.url.0)
}

fn listed<I: AsRef<str> + Ord>(only: Option<&Ids<I>>, not: Option<&Ids<I>>, id: &str) -> bool {
    !not.is_some_and(|ids| ids.contains(id)) && only.is_none_or(|ids| ids.contains(id))
}

/// Identifiers, sorted.
#[derive(Clone, Debug, PartialEq)]
struct Ids<I>(Vec<I>);

impl<I: AsRef<str> + Ord> Ids<I> {
    fn contains(&self, id: &str) -> bool {
        self.0.binary_search_by(|known| known.as_ref().cmp(id)).is_ok()
    }
}

impl<'de, I: Deserialize<'de> + AsRef<str> + Ord> Deserialize<'de> for Ids<I> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut ids = Vec::<I>::deserialize(deserializer)?;
        bounded(&ids)?;
        ids.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
        ids.dedup();
        Ok(Self(ids))
    }
}

/// Event types; "a `*` can be used as a wildcard to match any sequence of characters".
#[derive(Clone, Debug, PartialEq)]
struct Patterns {
    /// Sorted.
    exact: Vec<String>,
    wild: Vec<String>,
}

impl Patterns {
    fn matches(&self, kind: &str) -> bool {
        self.exact.binary_search_by(|exact| exact.as_str().cmp(kind)).is_ok()
            || self.wild.iter().any(|pattern| matches(pattern.as_bytes(), kind.as_bytes()))
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wild.is_empty()
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let patterns = Vec::<String>::deserialize(deserializer)?;
        bounded(&patterns)?;
        let (wild, mut exact): (Vec<_>, Vec<_>) = patterns.into_iter().partition(|pattern| pattern.contains('*'));
        exact.sort();
        if wild.iter().any(|pattern| pattern.len() > PATTERN_BYTES_MAX) {
            return Err(de::Error::custom("a pattern is longer than any event type"));
        }
        Ok(Self { exact, wild })
    }
}

/// Whether `pattern` matches all of `text`. Only the last `*` is ever tried again, so the time is bounded by the
/// product of the lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut text_at) = (0, 0);
    // Behind the last star, and where its match ends so far.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(text_at) {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                star = Some((at, text_at));
            }
            Some(wanted) if wanted == byte => {
                at += 1;
                text_at += 1;
            }
            _ => {
                let Some((behind, matched)) = star else { return false };
                (at, text_at) = (behind, matched + 1);
                star = Some((behind, matched + 1));
            }
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

fn bounded<T, E: de::Error>(list: &[T]) -> Result<(), E> {
    if list.len() > LIST_ITEMS_MAX {
        Err(E::custom(format!("a list has more than {LIST_ITEMS_MAX} entries")))
    } else {
        Ok(())
    }
}

/// A struct from an object only: serde would take an array of its fields as well.
fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Object<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Object<T> {
        type Value = T;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(de::value::MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(Object(std::marker::PhantomData))
}

/// `null` counts as absent.
fn or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(deserializer)?.unwrap_or_default())
}

fn fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Fields>, D::Error> {
    let Some(paths) = Option::<Vec<String>>::deserialize(deserializer)? else { return Ok(None) };
    bounded(&paths)?;
    Ok(Some(Fields::new(paths.iter().map(String::as_str))))
}

fn federation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("client") => Ok(false),
        Some("federation") => Ok(true),
        Some(_) => Err(de::Error::custom("event_format is `client` or `federation`")),
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
