//! What may happen in a room. [Authorisation rules](https://spec.matrix.org/v1.19/server-server-api/#authorization-rules).
//!
//! The rules themselves are ruma's; here they meet our events, and failures get a text that a client may see.

use std::{borrow::Cow, fmt};

use ruma::{
    EventId, UserId,
    events::{StateEventType, TimelineEventType},
    state_res,
};
use serde::Deserialize;
use serde_json::value::RawValue as RawJsonValue;

use crate::{Event, RoomVersion, SignedEvent};

mod power_levels;

pub use power_levels::{Level, PowerLevels};

/// Why the room's rules refuse an event. The text names no secret and may be shown to clients (`M_FORBIDDEN`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Box<str>);

impl Reason {
    /// A reason of the caller's own.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Reason {}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// An event that the room's rules allow.
#[derive(Clone, Debug)]
pub struct AuthorisedEvent(Event);

impl AuthorisedEvent {
    /// The event.
    pub fn event(&self) -> &Event {
        &self.0
    }

    /// The same, owned.
    pub fn into_event(self) -> Event {
        self.0
    }
}

/// The state that decides on an event: which of it is in force goes into `auth_events`. Version 12 leaves the create
/// event out, though [`admit`] still asks for it.
/// [Auth events selection](https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection).
pub fn auth_types(
    version: RoomVersion,
    kind: &str,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawJsonValue,
) -> Result<Vec<(String, String)>, Reason> {
    let kind = TimelineEventType::from(kind);
    let types = state_res::auth_types_for_event(&kind, sender, state_key, content, &version.rules().authorization)?;
    Ok(types.into_iter().map(|(kind, state_key)| (kind.to_string(), state_key)).collect())
}

/// Decides on an event of our own against the room's state: its `auth_events` must come from that state, and the
/// rules must allow it there. `state` is asked by type and state key.
pub fn admit(event: &Event, state: impl Fn(&str, &str) -> Option<Event>) -> Result<AuthorisedEvent, Reason> {
    let types = auth_types(event.version(), event.kind(), event.sender(), event.state_key(), event.content())?;
    let mut known: Vec<Event> = types.iter().filter_map(|(kind, state_key)| state(kind, state_key)).collect();
    if event.version().has_hashed_room_id() {
        known.extend(state("m.room.create", ""));
    }
    check_auth_events(event, |id| known.iter().find(|event| event.event_id() == id).cloned())?;
    check_against(event, state)?;
    Ok(AuthorisedEvent(event.clone()))
}

/// Decides on an event of another server: by the events that it cites (check 4 on receipt), then by the state before
/// it (check 5). Check 6, the current state, is [`check_against`] and only soft-fails.
pub fn admit_received(
    event: SignedEvent,
    fetch: impl Fn(&EventId) -> Option<Event>,
    state_before: impl Fn(&str, &str) -> Option<Event>,
) -> Result<AuthorisedEvent, Reason> {
    let event = event.into_event();
    check_auth_events(&event, &fetch)?;
    check_against_auth_events(&event, &fetch)?;
    check_against(&event, state_before)?;
    Ok(AuthorisedEvent(event))
}

/// The rules that look only at the event and the events that it cites.
pub fn check_auth_events(event: &Event, fetch: impl Fn(&EventId) -> Option<Event>) -> Result<(), Reason> {
    if event.kind() == "m.room.create" {
        check_create_version(event)?;
    }
    Ok(state_res::check_state_independent_auth_rules(&event.version().rules().authorization, event, fetch)?)
}

/// "If `content.room_version` is present and is not a recognised version, reject": we recognise the one by which the
/// event was parsed. Absent means version 1.
fn check_create_version(event: &Event) -> Result<(), Reason> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        room_version: Option<Cow<'a, str>>,
    }
    let content: Content<'_> = event.content_as().map_err(|_| Reason::new("malformed `room_version`"))?;
    match content.room_version.as_deref().unwrap_or("1") == event.version().as_str() {
        true => Ok(()),
        false => Err(Reason::new("the room has another version than its create event says")),
    }
}

/// The remaining rules, by the state that the cited events make up.
pub fn check_against_auth_events(event: &Event, fetch: impl Fn(&EventId) -> Option<Event>) -> Result<(), Reason> {
    let mut cited: Vec<Event> = event.auth_events().iter().filter_map(|id| fetch(id)).collect();
    if event.version().has_hashed_room_id() {
        let create = EventId::parse(format!("${}", event.room_id().strip_sigil()));
        cited.extend(create.ok().and_then(|id| fetch(&id)));
    }
    check_against(event, |kind, state_key| {
        cited.iter().find(|event| event.state_pair() == Some((kind, state_key))).cloned()
    })
}

/// The remaining rules, by any state, asked by type and state key.
pub fn check_against(event: &Event, state: impl Fn(&str, &str) -> Option<Event>) -> Result<(), Reason> {
    let fetch = |kind: &StateEventType, state_key: &str| state(&kind.to_string(), state_key);
    Ok(state_res::check_state_dependent_auth_rules(&event.version().rules().authorization, event, fetch)?)
}
