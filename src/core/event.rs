//! An event: a node of a room's graph, parsed once and cheap to share.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
    events::{TimelineEventType, room::member::MembershipState},
    state_res,
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue as RawJsonValue;

use crate::{RoomVersion, hash, json, redact};

mod levels;
mod stored;

/// A well-formed event. That it is well-formed says nothing about whether it may be believed: see [`crate::receive`].
#[derive(Clone)]
pub struct Event {
    inner: Arc<Inner>,
    rejected: bool,
}

struct Inner {
    version: RoomVersion,
    event_id: OwnedEventId,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    kind: Box<str>,
    state_key: Option<Box<str>>,
    redacts: Option<OwnedEventId>,
    origin_server_ts: u64,
    depth: u64,
    /// Of an event from a store it is read when somebody asks: those who only show events never do.
    cited: OnceLock<Cited>,
    /// Where `content` lies in `json`, in bytes.
    content_from: usize,
    content_to: usize,
    json: Bytes,
    raw_content: OnceLock<Box<RawJsonValue>>,
    /// The type and content as ruma's rules want to see them; most events are never asked.
    rules_kind: OnceLock<TimelineEventType>,
    rules_content: OnceLock<Option<Box<RawJsonValue>>>,
}

/// The events that an event cites.
#[derive(Default)]
struct Cited {
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
}

/// Stored bytes that are not an event: the store is damaged, or they never went through a check.
#[derive(Debug, thiserror::Error)]
#[error("not an event: {0}")]
pub struct StoredError(pub(crate) String);

impl Event {
    /// Parses the bytes of [`Event::json`]. Checks shape, not truth: for events that we have built or checked before.
    pub fn parse_stored(
        version: RoomVersion,
        event_id: OwnedEventId,
        room_id: OwnedRoomId,
        json: Bytes,
    ) -> Result<Self, StoredError> {
        let inner = stored::parse::<stored::References>(version, event_id, room_id, json)?;
        Ok(Self { inner: Arc::new(inner), rejected: false })
    }

    /// The same for bytes that went through [`Self::parse_stored`] before they were stored: what the event cites is read
    /// only when it is asked for, and of damaged bytes it may then be nothing.
    pub fn from_store(
        version: RoomVersion,
        event_id: OwnedEventId,
        room_id: OwnedRoomId,
        json: Bytes,
    ) -> Result<Self, StoredError> {
        let inner = stored::parse::<IgnoredAny>(version, event_id, room_id, json)?;
        Ok(Self { inner: Arc::new(inner), rejected: false })
    }

    /// The event's id: chosen by the sender in room versions 1 and 2, else `$` and the reference hash.
    pub fn event_id(&self) -> &EventId {
        &self.inner.event_id
    }

    /// The room's id; for a create event of version 12 it is derived from the event's own hash.
    pub fn room_id(&self) -> &RoomId {
        &self.inner.room_id
    }

    /// The version of the event's room.
    pub fn version(&self) -> RoomVersion {
        self.inner.version
    }

    /// The event's `type`.
    pub fn kind(&self) -> &str {
        &self.inner.kind
    }

    /// Present, even if empty, on state events.
    pub fn state_key(&self) -> Option<&str> {
        self.inner.state_key.as_deref()
    }

    /// Who sent it.
    pub fn sender(&self) -> &UserId {
        &self.inner.sender
    }

    /// The `content` as a JSON text.
    pub fn content(&self) -> &RawJsonValue {
        self.inner.raw_content.get_or_init(|| {
            RawJsonValue::from_string(self.content_json().to_owned()).expect("the content was parsed as JSON before")
        })
    }

    /// The `content` as a JSON text, without any copy.
    pub fn content_json(&self) -> &str {
        std::str::from_utf8(&self.inner.json[self.inner.content_from..self.inner.content_to])
            .expect("the content was parsed as text before")
    }

    /// The `content` as a type of the caller's choice.
    pub fn content_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.content_json())
    }

    /// What the sender's server says was the time, in milliseconds since the Unix epoch, at most 2^53 − 1.
    pub fn origin_server_ts(&self) -> u64 {
        self.inner.origin_server_ts
    }

    /// One more than the deepest event before it, as the sender has it.
    pub fn depth(&self) -> u64 {
        self.inner.depth
    }

    /// The events just before it.
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.cited().prev_events
    }

    /// The state events that it claims allow it.
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.cited().auth_events
    }

    fn cited(&self) -> &Cited {
        self.inner.cited.get_or_init(|| stored::cited(self.json_str()))
    }

    /// The target of an `m.room.redaction`, wherever the room's version puts it.
    pub fn redacts(&self) -> Option<&EventId> {
        self.inner.redacts.as_deref()
    }

    /// The federation format: canonical, with hashes and signatures, without `unsigned`. This is what is stored.
    pub fn json(&self) -> &Bytes {
        &self.inner.json
    }

    /// [`Event::json`] as text.
    pub fn json_str(&self) -> &str {
        std::str::from_utf8(&self.inner.json).expect("the event was parsed as text before")
    }

    /// Whether it is a state event.
    pub fn is_state(&self) -> bool {
        self.inner.state_key.is_some()
    }

    /// The key of the state that it sets: type and state key.
    pub fn state_pair(&self) -> Option<(&str, &str)> {
        Some((self.kind(), self.state_key()?))
    }

    /// Whether this is the room's create event.
    pub fn is_create(&self) -> bool {
        self.kind() == "m.room.create" && self.state_key() == Some("")
    }

    /// `content.membership` of an `m.room.member` state event.
    pub fn membership(&self) -> Option<MembershipState> {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            membership: Cow<'a, str>,
        }
        if self.kind() != "m.room.member" || !self.is_state() {
            return None;
        }
        let content: Content<'_> = self.content_as().ok()?;
        Some(MembershipState::from(content.membership))
    }

    /// Whether the event failed the checks on receipt and so never becomes part of any state.
    pub fn rejected(&self) -> bool {
        self.rejected
    }

    /// The same event with this verdict.
    pub fn with_rejected(mut self, rejected: bool) -> Self {
        self.rejected = rejected;
        self
    }

    /// The reference hash in unpadded base64, as `prev_events` and `auth_events` cite it in room versions 1 and 2.
    /// [Server-server API](https://spec.matrix.org/v1.19/server-server-api/#calculating-the-reference-hash-for-an-event).
    pub fn reference_hash(&self) -> String {
        let limits = json::Limits { depth_max: json::RECEIVED_DEPTH_MAX, numbers: json::Numbers::Lenient };
        let tree = json::parse(self.json(), &limits).expect("the event was parsed as JSON before");
        let object = tree.as_object().expect("the event was parsed as an object before");
        hash::base64(&redact::reference_hash(object, self.kind(), self.version().rules()))
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No content: debug output ends up in logs.
        formatter
            .debug_struct("Event")
            .field("event_id", &self.inner.event_id)
            .field("kind", &self.inner.kind)
            .field("state_key", &self.inner.state_key)
            .field("sender", &self.inner.sender)
            .field("rejected", &self.rejected)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.inner.event_id == other.inner.event_id && self.inner.room_id == other.inner.room_id
    }
}

impl Eq for Event {}

impl state_res::Event for Event {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.inner.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        // "If the event has a room_id, reject" is asked of the event as sent.
        (!(self.inner.version.has_hashed_room_id() && self.is_create())).then_some(&self.inner.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.inner.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.inner.origin_server_ts))
    }

    fn event_type(&self) -> &TimelineEventType {
        self.inner.rules_kind.get_or_init(|| TimelineEventType::from(self.kind()))
    }

    fn content(&self) -> &RawJsonValue {
        let levels = self.inner.rules_content.get_or_init(|| levels::normalised(self));
        levels.as_deref().unwrap_or_else(|| Event::content(self))
    }

    fn state_key(&self) -> Option<&str> {
        Event::state_key(self)
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.cited().prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.cited().auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.inner.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}
