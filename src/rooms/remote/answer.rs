//! What another server says of a room that we join: believed as far as signatures and the rules go.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use bytes::Bytes;
use hearth_core::{Event, Reason, RoomVersion, auth};
use hearth_ports::JoinAnswer;
use hearth_store::tables::Create;
use ruma::{OwnedEventId, RoomId};
use serde::Deserialize;

use super::order::in_order;
use crate::{SendError, rooms::Rooms};

/// Events of one answer. The largest public rooms have some 200,000; an answer's size in bytes is bounded where it is
/// read.
const EVENTS_MAX: usize = 500_000;

/// Events whose signatures are checked together: enough to ask for the keys of many servers at once, and few enough
/// that what they hold is small beside the answer itself.
const CHECKED_AT_ONCE: usize = 2_000;

/// An event of the answer.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// The event; [`Event::rejected`] if what authorises it does not.
    pub(crate) event: Event,
    /// Its auth events: places in [`GivenState::events`], all before its own.
    pub(crate) auths: Vec<usize>,
    /// It is part of the state, not only of what authorises it.
    pub(crate) in_state: bool,
}

/// A room's state before the join.
#[derive(Clone, Debug)]
pub(crate) struct GivenState {
    /// Each event behind those that authorise it.
    pub(crate) events: Vec<Given>,
    pub(crate) create: Create,
}

/// Why an answer is not used. The text names no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other server's answer is not usable: {0}")]
pub(crate) struct BadAnswer(String);

impl BadAnswer {
    fn new(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

impl From<Reason> for BadAnswer {
    fn from(reason: Reason) -> Self {
        Self(format!("its own state does not let us in: {reason}"))
    }
}

impl Rooms {
    /// Checks the answer to a join: signatures, auth chains, the create event, and that the state lets the join in.
    pub(super) async fn check_answer(
        &self,
        version: RoomVersion,
        room_id: &RoomId,
        join: &Event,
        answer: JoinAnswer,
    ) -> Result<GivenState, SendError> {
        let bad = |error: BadAnswer| SendError::Unreachable(error.to_string());
        let is_partial = answer.members_omitted;
        let unique = unique(answer).map_err(bad)?;
        let given = unique.len();
        let mut signed = Vec::with_capacity(given);
        for some in unique.chunks(CHECKED_AT_ONCE) {
            let bytes = some.iter().map(|(bytes, _)| bytes.clone()).collect();
            for (result, (_, in_state)) in self.check_signed(version, bytes).await.into_iter().zip(some) {
                // One bad event spoils only itself: what rests on it is refused below.
                let event = result.ok().map(|signed| signed.into_event()).filter(|event| event.room_id() == room_id);
                signed.extend(event.map(|event| (event, *in_state)));
            }
        }
        drop(unique);
        let (checked, join) = (signed.len(), join.clone());
        if checked < given {
            tracing::info!(%room_id, dropped = given - checked, given, "events of a join's answer are not what they say");
        }
        let state = hearth_ports::work(move || check_state(signed, &join, is_partial)).await;
        state.map_err(|error| SendError::Unavailable(error.to_string()))?.map_err(bad)
    }
}

/// The events of an answer, each once. Servers repeat the state in the auth chain.
fn unique(answer: JoinAnswer) -> Result<Vec<(Bytes, bool)>, BadAnswer> {
    if answer.state.len() + answer.auth_chain.len() > EVENTS_MAX {
        return Err(BadAnswer::new("it has too many events"));
    }
    let mut seen: HashSet<Bytes> = HashSet::with_capacity(answer.state.len());
    let mut all = Vec::with_capacity(answer.state.len() + answer.auth_chain.len() / 4);
    let events = answer.state.into_iter().map(|bytes| (bytes, true));
    for (bytes, in_state) in events.chain(answer.auth_chain.into_iter().map(|bytes| (bytes, false))) {
        if seen.insert(bytes.clone()) {
            all.push((bytes, in_state));
        }
    }
    Ok(all)
}

/// Puts the events in order, asks the rules of each by the events that it cites, and of the join by the whole state.
/// `events`: signed events of one room, and whether each is part of the state.
pub(super) fn check_state(events: Vec<(Event, bool)>, join: &Event, is_partial: bool) -> Result<GivenState, BadAnswer> {
    let mut all: Vec<Event> = Vec::with_capacity(events.len());
    let mut in_state: HashMap<OwnedEventId, bool> = HashMap::with_capacity(events.len());
    for (event, is_in_state) in events {
        // The same event may be there twice, signed by others or with other unsigned data.
        match in_state.entry(event.event_id().to_owned()) {
            Entry::Occupied(mut known) => *known.get_mut() |= is_in_state,
            Entry::Vacant(new) => {
                new.insert(is_in_state);
                all.push(event);
            }
        }
    }
    // From version 12 on everything rests on the create event without citing it.
    all.sort_by_key(|event| event.kind() != "m.room.create");
    let order = in_order(&all, Event::auth_events);
    let mut decided: Vec<Given> = Vec::with_capacity(order.len());
    let mut new_places: HashMap<OwnedEventId, usize> = HashMap::with_capacity(order.len());
    for place in order {
        let event = all[place].clone();
        let in_state = in_state.get(event.event_id()).copied().unwrap_or_default();
        let fetch = |id: &ruma::EventId| Some(decided[*new_places.get(id)?].event.clone());
        let auths: Vec<usize> = event.auth_events().iter().filter_map(|id| new_places.get(id).copied()).collect();
        let allowed = event.is_state()
            && auths.len() == event.auth_events().len()
            && auth::check_auth_events(&event, fetch).is_ok()
            && auth::check_against_auth_events(&event, fetch).is_ok();
        new_places.insert(event.event_id().to_owned(), decided.len());
        decided.push(Given { event: event.with_rejected(!allowed), auths, in_state });
    }
    let create = check_join(&decided, &new_places, join, is_partial)?;
    Ok(GivenState { events: decided, create })
}

/// Asks whether the state lets the join in. Returns what its create event says. Where memberships are left out
/// (`is_partial`), those stand in for them that the join itself cites.
fn check_join(
    events: &[Given],
    places: &HashMap<OwnedEventId, usize>,
    join: &Event,
    is_partial: bool,
) -> Result<Create, BadAnswer> {
    let mut state: HashMap<(&str, &str), &Event> = HashMap::new();
    for given in events.iter().filter(|given| given.in_state && !given.event.rejected()) {
        let Some(pair) = given.event.state_pair() else { continue };
        if state.insert(pair, &given.event).is_some() {
            return Err(BadAnswer::new("two events of its state are for the same key"));
        }
    }
    if is_partial {
        let cited = join.auth_events().iter().filter_map(|id| Some(&events[*places.get(id)?].event));
        for event in cited.filter(|event| event.kind() == "m.room.member" && !event.rejected()) {
            if let Some(pair) = event.state_pair() {
                state.entry(pair).or_insert(event);
            }
        }
    }
    let create = *state.get(&("m.room.create", "")).ok_or(BadAnswer::new("it has no create event"))?;
    let fetch = |id: &ruma::EventId| Some(events[*places.get(id)?].event.clone());
    auth::check_auth_events(join, fetch)?;
    auth::check_against_auth_events(join, fetch)?;
    auth::check_against(join, |kind, key| state.get(&(kind, key)).map(|event| Event::clone(event)))?;
    Ok(create_of(create))
}

/// What never changes about a room, by its create event.
pub(crate) fn create_of(event: &Event) -> Create {
    #[derive(Default, Deserialize)]
    struct Content {
        #[serde(rename = "m.federate")]
        federate: Option<serde_json::Value>,
        #[serde(rename = "type")]
        room_type: Option<serde_json::Value>,
    }
    let content: Content = event.content_as().unwrap_or_default();
    Create {
        version: event.version().to_string(),
        federate: content.federate.and_then(|federate| federate.as_bool()).unwrap_or(true),
        room_type: content.room_type.and_then(|kind| kind.as_str().map(str::to_owned)),
    }
}
