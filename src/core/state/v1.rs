//! State resolution of room version 1. [Room version 1](https://spec.matrix.org/v1.19/rooms/v1/#state-resolution).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use ruma::{EventId, OwnedEventId, events::StateEventType};
use sha1::{Digest, Sha1};

use super::{ResolveError, StateMap};
use crate::{Event, auth};

type Key = (StateEventType, String);

/// "The resolved state is built up in a number of passes; we use R to refer to the results so far."
///
/// Keys of one pass are resolved apart from each other, against the R before the pass, so that their order does not
/// matter.
pub(super) fn resolve(
    states: &[StateMap],
    fetch: impl Fn(&EventId) -> Option<Event>,
) -> Result<StateMap, ResolveError> {
    let (mut resolved, conflicts) = split(states);
    let mut conflicts: BTreeMap<Key, Vec<Event>> = conflicts
        .into_iter()
        .map(|(key, ids)| (key, ids.iter().filter_map(|id| fetch(id)).filter(|event| !event.rejected()).collect()))
        .collect();
    for kind in [StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules, StateEventType::RoomMember] {
        let (pass, rest) = conflicts.into_iter().partition(|(key, _)| key.0 == kind);
        conflicts = rest;
        let winners: Vec<_> = winners(pass, |events| last_allowed(events, &resolved, &fetch));
        resolved.extend(winners);
    }
    let winners = winners(conflicts, |events| deepest_allowed(events, &resolved, &fetch));
    resolved.extend(winners);
    Ok(resolved)
}

fn winners(
    conflicts: BTreeMap<Key, Vec<Event>>,
    pick: impl Fn(Vec<Event>) -> Option<Event>,
) -> Vec<(Key, OwnedEventId)> {
    let picked = conflicts.into_iter().map(|(key, events)| (key, pick(events)));
    picked.filter_map(|(key, event)| Some((key, event?.event_id().to_owned()))).collect()
}

/// "The union of the states, excluding any conflicting events", and the conflicts: "different event ids for the same
/// (event type, state key)".
fn split(states: &[StateMap]) -> (StateMap, BTreeMap<Key, BTreeSet<OwnedEventId>>) {
    let mut seen: HashMap<&Key, BTreeSet<&OwnedEventId>> = HashMap::new();
    for (key, id) in states.iter().flatten() {
        seen.entry(key).or_default().insert(id);
    }
    let mut agreed = StateMap::new();
    let mut conflicts = BTreeMap::new();
    for (key, ids) in seen {
        match (ids.len(), ids.first()) {
            (1, Some(id)) => {
                agreed.insert(key.clone(), (*id).clone());
            }
            _ => {
                conflicts.insert(key.clone(), ids.into_iter().cloned().collect());
            }
        }
    }
    (agreed, conflicts)
}

/// "Sort the list by ascending depth then descending sha1(event_id). Add the first event in the list to R. For each
/// subsequent event, check that the event would be allowed by the authorisation rules for a room in state R. If so,
/// update R with the event and continue; if it would not be allowed, stop."
fn last_allowed(
    mut events: Vec<Event>,
    resolved: &StateMap,
    fetch: &impl Fn(&EventId) -> Option<Event>,
) -> Option<Event> {
    events.sort_by_cached_key(|event| (event.depth(), Reverse(sha1(event.event_id()))));
    let mut events = events.into_iter();
    let mut winner = events.next()?;
    for event in events {
        if !is_allowed(&event, resolved, Some(&winner), fetch) {
            break;
        }
        winner = event;
    }
    Some(winner)
}

/// "Pick the event with the highest depth and lowest sha1(event_id) that passes authentication in R."
fn deepest_allowed(
    mut events: Vec<Event>,
    resolved: &StateMap,
    fetch: &impl Fn(&EventId) -> Option<Event>,
) -> Option<Event> {
    events.sort_by_cached_key(|event| (Reverse(event.depth()), sha1(event.event_id())));
    events.into_iter().find(|event| is_allowed(event, resolved, None, fetch))
}

/// By the state `resolved`, in which `newest` stands in its own place.
fn is_allowed(
    event: &Event,
    resolved: &StateMap,
    newest: Option<&Event>,
    fetch: &impl Fn(&EventId) -> Option<Event>,
) -> bool {
    let state = |kind: &str, state_key: &str| {
        let newest = newest.filter(|event| event.state_pair() == Some((kind, state_key)));
        newest.cloned().or_else(|| fetch(resolved.get(&(StateEventType::from(kind), state_key.to_owned()))?))
    };
    auth::check_against(event, state).is_ok()
}

fn sha1(id: &EventId) -> [u8; 20] {
    Sha1::digest(id.as_bytes()).into()
}
