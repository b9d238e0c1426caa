//! Which state is in force where a room's histories meet.
//! [Room state resolution](https://spec.matrix.org/v1.19/server-server-api/#room-state-resolution).

use std::collections::{HashMap, HashSet};

use ruma::{
    EventId, OwnedEventId, events::StateEventType, room_version_rules::StateResolutionVersion, state_res,
    state_res::utils::event_id_set::EventIdSet,
};

use crate::{Event, RoomVersion};

mod v1;

/// A set of events by id.
pub type EventIds = HashSet<OwnedEventId>;

/// State: event by type and state key.
pub type StateMap<T = OwnedEventId> = HashMap<(StateEventType, String), T>;

/// Why states cannot be resolved: an event is missing or not what the rules need it to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("state cannot be resolved: {0}")]
pub struct ResolveError(String);

/// Resolves states of one room into one, by the algorithm of the room's version. The result does not depend on the
/// order of the input.
///
/// - `states`: the states that meet. Keys on which all agree may be left out if no rule asks for them.
/// - `auth_chains`: for each state, all events reachable over `auth_events` from its events (room version 1 ignores
///   them).
/// - `fetch`: an event of the room by id; one that is not there counts as not verified.
/// - `subgraph`: for version 12, all events on a path along `auth_events` between two of the given conflicted events,
///   these included; see [`conflicted_subgraph`]. Not called for other versions.
pub fn resolve(
    version: RoomVersion,
    states: &[StateMap],
    auth_chains: Vec<EventIds>,
    fetch: impl Fn(&EventId) -> Option<Event>,
    subgraph: impl Fn(&EventIds) -> Option<EventIds>,
) -> Result<StateMap, ResolveError> {
    let rules = version.rules();
    match &rules.state_res {
        StateResolutionVersion::V2(v2) => state_res::resolve(
            &rules.authorization,
            v2,
            states,
            auth_chains.into_iter().map(|chain| chain.into_iter().collect::<EventIdSet<_>>()).collect(),
            fetch,
            |conflicted| {
                let conflicted = conflicted.values().flatten().cloned().collect();
                Some(subgraph(&conflicted)?.into_iter().collect())
            },
        )
        .map_err(|error| ResolveError(error.to_string())),
        _ => v1::resolve(states, fetch),
    }
}

/// The conflicted state subgraph, by walking the auth graph below the conflicted events.
/// [Room version 12](https://spec.matrix.org/v1.19/rooms/v12/#state-resolution).
///
/// `auth_events` lists an event's auth events; one that is unknown has none. Visits every event below the conflicted
/// ones, so a caller with an index of the graph does better by itself.
pub fn conflicted_subgraph(
    conflicted: &EventIds,
    auth_events: impl Fn(&EventId) -> Option<Vec<OwnedEventId>>,
) -> EventIds {
    // Below: everything reachable, each with its parents. Between: of these, what leads to a conflicted event.
    let mut parents: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    let mut to_visit: Vec<OwnedEventId> = conflicted.iter().cloned().collect();
    while let Some(id) = to_visit.pop() {
        if parents.contains_key(&id) {
            continue;
        }
        let above = auth_events(&id).unwrap_or_default();
        to_visit.extend(above.iter().cloned());
        parents.insert(id, above);
    }
    let mut children: HashMap<&EventId, Vec<&EventId>> = HashMap::new();
    for (child, above) in &parents {
        for parent in above {
            children.entry(parent).or_default().push(child);
        }
    }
    // Every visited event is an ancestor of a conflicted one (or is one), so being a descendant of one suffices.
    let mut between: HashSet<&EventId> = HashSet::new();
    let mut to_visit: Vec<&EventId> = conflicted.iter().map(|id| &**id).collect();
    while let Some(id) = to_visit.pop() {
        if between.insert(id) {
            to_visit.extend(children.get(id).into_iter().flatten());
        }
    }
    between.into_iter().map(ToOwned::to_owned).collect()
}
