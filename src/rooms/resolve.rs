//! State resolution over stored states: only what differs is looked at.
//!
//! The rules are `hearth_core::resolve`'s. Here it is given the pairs in which the states differ and those that the rules
//! can ask for, the auth difference and (room version 12) the conflicted subgraph, found over numbers. The result is
//! that of the full call with whole states and whole auth chains; the tests hold one against the other.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    pin::pin,
    sync::Arc,
};

use futures_util::FutureExt as _;
use hearth_core::{Event, EventIds, ResolveError, RoomVersion, StateMap, auth_types};
use hearth_store::{EventNumber, LoadError, RoomNumber, StateKeyNumber, StateVersion};
use quick_cache::sync::Cache;
use ruma::{EventId, OwnedEventId, room_version_rules::StateResolutionVersion};

use crate::{
    append::{Group, PlaceError},
    cache::RoomCache,
    receive::ReceiveError,
};

/// Pairs in which states may differ. A room that was split for long has thousands; more would take minutes. Tests come to
/// fewer.
const CONFLICTS_MAX: usize = if cfg!(test) { 200 } else { 20_000 };

/// Events that are resolved: those in conflict, the auth difference, the subgraph; and those that they rest on.
const EVENTS_MAX: usize = 40_000;

/// What these events may be long together, in bytes. Memory is about twice that.
const EVENTS_BYTES_MAX: usize = 64 << 20;

/// Events that are read at once.
const EVENTS_AT_ONCE: usize = 500;

/// Events that the algorithm may ask for, each time it does: some seconds of a processor. Chains of power levels, which
/// it walks again for each event, could otherwise be made to cost any time.
const FETCHES_MAX: usize = 10_000_000;

/// Results that are kept: 64 bytes or so each.
const RESULTS_MAX: usize = 10_000;

/// How long states that would cost too much are not resolved again, in milliseconds: each event that joins them asks for it,
/// and so does each of those that are kept and tried again.
const REFUSED_MS: u64 = 300_000;

/// Such states that are remembered.
const REFUSED_MAX: usize = 1_000;

/// Pairs that nearly every rule asks for.
const HUB: [&str; 3] = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];

/// States of a room that meet.
type Meeting = (RoomNumber, Vec<StateVersion>);

/// What states were resolved into, which never changes; and those of which that would cost too much.
pub(crate) struct Results {
    resolved: Cache<Meeting, StateVersion>,
    /// Why, and until when that is believed, in milliseconds since the Unix epoch.
    refused: Cache<Meeting, (&'static str, u64)>,
}

impl Results {
    pub(crate) fn new() -> Self {
        Self { resolved: Cache::new(RESULTS_MAX), refused: Cache::new(REFUSED_MAX) }
    }

    /// Why these states are not resolved now.
    pub(crate) fn refused(&self, states: &Meeting, now_ms: u64) -> Option<PlaceError> {
        let (reason, until_ms) = self.refused.get(states)?;
        (now_ms < until_ms).then_some(PlaceError::TooMuch(reason))
    }

    /// Keeps what a committed batch has resolved.
    pub(crate) fn keep(&self, room: RoomNumber, resolved: HashMap<Vec<StateVersion>, StateVersion>) {
        for (versions, result) in resolved {
            self.resolved.insert((room, versions), result);
        }
    }
}

/// The events that each state has for a pair in which they differ.
type Conflicts = BTreeMap<StateKeyNumber, Vec<Option<EventNumber>>>;

impl Group<'_> {
    /// The state that these resolve into.
    /// [State resolution](https://spec.matrix.org/v1.19/server-server-api/#room-state-resolution).
    pub(crate) async fn resolve(
        &mut self,
        cache: &mut RoomCache,
        mut versions: Vec<StateVersion>,
    ) -> Result<StateVersion, PlaceError> {
        versions.sort_unstable();
        versions.dedup();
        if versions.len() < 2 {
            return Ok(versions.first().copied().unwrap_or(StateVersion::EMPTY));
        }
        if let Some(known) = self.resolved.get(&versions) {
            return Ok(*known);
        }
        let key = (cache.number, versions);
        let (results, now_ms) = (&self.writer.results, self.writer.clock.now_ms());
        if let Some(known) = results.resolved.get(&key) {
            return Ok(known);
        }
        if let Some(refused) = results.refused(&key, now_ms) {
            return Err(refused);
        }
        let changes = self.resolution(cache, &key.1).await;
        if let Err(PlaceError::TooMuch(reason)) = &changes
            // What this batch would have stored gets its number again, as something else.
            && key.1.iter().all(|version| *version < self.first_new_state)
        {
            results.refused.insert(key.clone(), (reason, now_ms + REFUSED_MS));
        }
        let (changes, (_, versions)) = (changes?, key);
        let new = cache.head.next_state;
        // The oldest version is the one most likely to be there still.
        let result = self.states.apply_or_find(versions[0], &changes, new).await?;
        if result == new {
            cache.is_ahead = true;
            cache.head.next_state = new.next();
        }
        self.resolved.insert(versions, result);
        Ok(result)
    }

    /// What makes the first of the versions the resolved one.
    async fn resolution(
        &mut self,
        cache: &mut RoomCache,
        versions: &[StateVersion],
    ) -> Result<Vec<(StateKeyNumber, Option<EventNumber>)>, PlaceError> {
        let conflicts = self.conflicts(versions).await?;
        let mut problem = Problem::new(cache.version, versions.len());
        let in_conflict: BTreeSet<EventNumber> = conflicts.values().flatten().flatten().copied().collect();
        let in_conflict: Vec<EventNumber> = in_conflict.into_iter().collect();
        let (mut difference, mut subgraph) = (Vec::new(), Vec::new());
        if let StateResolutionVersion::V2(rules) = &cache.version.rules().state_res {
            difference = self.auth_difference(cache, versions[0], &conflicts).await?;
            if rules.consider_conflicted_state_subgraph {
                subgraph = self.writer.store.auth_subgraph(cache.number, &in_conflict, &self.edges).await?;
            }
        }
        let mut all: Vec<EventNumber> = [&*in_conflict, &*difference, &*subgraph].concat();
        all.sort_unstable();
        all.dedup();
        if all.len() > EVENTS_MAX {
            return Err(PlaceError::TooMuch("too many events would have to be resolved"));
        }
        let ids = problem.add_events(self.events(cache, &all).await?);
        problem.auth_difference = ids_of(&ids, &difference);
        problem.subgraph = ids_of(&ids, &subgraph);
        problem.add_conflicts(&conflicts, &ids);
        self.add_agreed(cache, versions[0], &conflicts, &mut problem).await?;
        problem.events.extend(self.new_events().map(|event| (event.event_id().to_owned(), event.clone())));
        let resolved = self.run(cache.number, problem).await?;
        self.changes(cache, versions[0], &conflicts, (&ids, resolved)).await
    }

    async fn conflicts(&self, versions: &[StateVersion]) -> Result<Conflicts, PlaceError> {
        let mut conflicts = Conflicts::new();
        let Some((first, others)) = versions.split_first() else { return Ok(conflicts) };
        for (nth, other) in others.iter().enumerate() {
            for difference in self.states.difference(*first, *other).await? {
                let events =
                    conflicts.entry(difference.state_key).or_insert_with(|| vec![difference.before; versions.len()]);
                events[nth + 1] = difference.after;
            }
            if conflicts.len() > CONFLICTS_MAX {
                return Err(PlaceError::TooMuch("the states that meet differ in too many places"));
            }
        }
        Ok(conflicts)
    }

    /// The auth difference of the whole states. What is in the chain of something on which all agree is in all chains.
    async fn auth_difference(
        &self,
        cache: &RoomCache,
        first: StateVersion,
        conflicts: &Conflicts,
    ) -> Result<Vec<EventNumber>, PlaceError> {
        let (store, room) = (&self.writer.store, cache.number);
        let count = conflicts.values().next().map_or(0, Vec::len);
        let of_each = |nth: usize| conflicts.values().filter_map(|events| events[nth]).collect();
        let sets: Vec<Vec<EventNumber>> = (0..count).map(of_each).collect();
        let mut difference = store.auth_difference(room, &sets, &self.edges).await?;
        // The few events that most others rest on have nearly all of it: whole states are looked at only if they don't.
        let mut agreed = Vec::new();
        for kind in HUB {
            if let Some(pair) =
                self.known_state_key(cache, kind, "").await?.filter(|pair| !conflicts.contains_key(pair))
            {
                agreed.extend(self.states.get(first, pair).await?);
            }
        }
        for is_whole in [false, true] {
            if difference.is_empty() {
                break;
            }
            if is_whole {
                let all = self.states.all(first).await?;
                agreed = all.into_iter().filter(|(key, _)| !conflicts.contains_key(key)).map(|(_, e)| e).collect();
            }
            let chain = store.auth_chain_over(room, &agreed, &self.edges).await?;
            difference.retain(|event| chain.binary_search(event).is_err());
        }
        Ok(difference)
    }

    /// Events that have numbers, in their order.
    pub(crate) async fn events(
        &self,
        cache: &RoomCache,
        numbers: &[EventNumber],
    ) -> Result<Vec<(EventNumber, Event)>, PlaceError> {
        let mut events = Vec::with_capacity(numbers.len());
        let mut bytes = 0;
        for numbers in numbers.chunks(EVENTS_AT_ONCE) {
            // One read for all that is stored; those of this batch are not.
            let stored = self.writer.store.events_in_passing(cache.number, numbers).await?;
            for (number, stored) in numbers.iter().zip(stored) {
                let event = match stored {
                    Some(stored) if !self.is_in_batch(*number) => stored.event.clone(),
                    _ => self.known(cache, *number).await?.event,
                };
                bytes += event.json().len();
                events.push((*number, event));
            }
            if bytes > EVENTS_BYTES_MAX {
                return Err(PlaceError::TooMuch("the events that would have to be resolved are too large together"));
            }
        }
        Ok(events)
    }

    /// Adds the pairs on which all states agree and that the rules ask for.
    async fn add_agreed(
        &self,
        cache: &RoomCache,
        first: StateVersion,
        conflicts: &Conflicts,
        problem: &mut Problem,
    ) -> Result<(), PlaceError> {
        let mut asked: HashSet<(String, String)> = HUB.map(|kind| (kind.to_owned(), String::new())).into();
        for event in problem.events.values() {
            // What is malformed is refused before the state is asked.
            let (kind, sender) = (event.kind(), event.sender());
            let types = auth_types(cache.version, kind, sender, event.state_key(), event.content());
            asked.extend(types.unwrap_or_default());
        }
        let mut pairs = Vec::with_capacity(asked.len());
        for (kind, state_key) in &asked {
            pairs.extend(self.known_state_key(cache, kind, state_key).await?);
        }
        pairs.retain(|pair| !conflicts.contains_key(pair));
        let agreed: Vec<EventNumber> = self.states.get_many(first, &pairs).await?.into_iter().flatten().collect();
        for (_, event) in self.events(cache, &agreed).await? {
            problem.add_agreed(event);
        }
        Ok(())
    }

    /// Asks the rules, on the blocking pool.
    async fn run(&self, room: RoomNumber, problem: Problem) -> Result<StateMap, PlaceError> {
        let store = Arc::clone(&self.writer.store);
        let runtime = tokio::runtime::Handle::current();
        let fetch = move |id: &EventId| {
            let mut read = pin!(store.event_by_id(room, id));
            // Engines in memory answer at once: then there is no need of a runtime that could be waited for.
            let stored = read.as_mut().now_or_never().unwrap_or_else(|| runtime.block_on(read));
            Ok(stored?.map(|stored| stored.event.clone()))
        };
        metrics::histogram!("rooms_resolved_events").record(problem.events.len() as f64);
        match self.writer.cpu.run(move || problem.resolve(fetch)).await {
            Ok(result) => result,
            // Those states would do so each time.
            Err(ReceiveError::Broken(_)) => Err(PlaceError::TooMuch("resolving the states that meet panicked")),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// The difference between a version and the resolved state.
    async fn changes(
        &mut self,
        cache: &mut RoomCache,
        first: StateVersion,
        conflicts: &Conflicts,
        (ids, resolved): (&HashMap<EventNumber, OwnedEventId>, StateMap),
    ) -> Result<Vec<(StateKeyNumber, Option<EventNumber>)>, PlaceError> {
        let numbers: HashMap<&OwnedEventId, EventNumber> = ids.iter().map(|(number, id)| (id, *number)).collect();
        let mut changes: BTreeMap<StateKeyNumber, Option<EventNumber>> =
            conflicts.keys().map(|pair| (*pair, None)).collect();
        for ((kind, state_key), id) in &resolved {
            // What has no number here is what all agree on.
            let Some(number) = numbers.get(id) else { continue };
            let pair = self.state_key(cache, &kind.to_string(), state_key).await?;
            // The auth difference may bring back what no state has; over what all agree on it does not win.
            if conflicts.contains_key(&pair) || self.states.get(first, pair).await?.is_none() {
                changes.insert(pair, Some(*number));
            }
        }
        Ok(changes.into_iter().collect())
    }
}

fn ids_of(ids: &HashMap<EventNumber, OwnedEventId>, numbers: &[EventNumber]) -> EventIds {
    numbers.iter().filter_map(|number| ids.get(number).cloned()).collect()
}

fn unavailable(error: &dyn std::fmt::Display) -> PlaceError {
    LoadError::from(hearth_store::Unavailable(error.to_string())).into()
}

/// What is handed to the rules.
struct Problem {
    version: RoomVersion,
    states: Vec<StateMap>,
    auth_difference: EventIds,
    subgraph: EventIds,
    /// Events that will be asked for. Of others each is a read.
    events: HashMap<OwnedEventId, Event>,
}

impl Problem {
    fn new(version: RoomVersion, count: usize) -> Self {
        Self {
            version,
            states: vec![StateMap::new(); count],
            auth_difference: EventIds::new(),
            subgraph: EventIds::new(),
            events: HashMap::new(),
        }
    }

    /// Returns the events' ids.
    fn add_events(&mut self, events: Vec<(EventNumber, Event)>) -> HashMap<EventNumber, OwnedEventId> {
        let mut ids = HashMap::with_capacity(events.len());
        for (number, event) in events {
            ids.insert(number, event.event_id().to_owned());
            self.events.insert(event.event_id().to_owned(), event);
        }
        ids
    }

    fn add_conflicts(&mut self, conflicts: &Conflicts, ids: &HashMap<EventNumber, OwnedEventId>) {
        for events in conflicts.values() {
            for (state, number) in self.states.iter_mut().zip(events) {
                let event = number.and_then(|number| self.events.get(ids.get(&number)?));
                if let Some((event, (kind, state_key))) = event.and_then(|event| Some((event, event.state_pair()?))) {
                    state.insert((kind.into(), state_key.to_owned()), event.event_id().to_owned());
                }
            }
        }
    }

    fn add_agreed(&mut self, event: Event) {
        if let Some((kind, state_key)) = event.state_pair() {
            for state in &mut self.states {
                state.insert((kind.into(), state_key.to_owned()), event.event_id().to_owned());
            }
        }
        self.events.insert(event.event_id().to_owned(), event);
    }

    fn resolve(self, load: impl Fn(&EventId) -> Result<Option<Event>, LoadError>) -> Result<StateMap, PlaceError> {
        let Self { version, states, auth_difference, subgraph, events } = self;
        let events = RefCell::new(events);
        let (failed, fetches, loads) = (RefCell::new(None), Cell::new(0_usize), Cell::new(0_usize));
        let fetch = |id: &EventId| {
            fetches.set(fetches.get() + 1);
            if fetches.get() > FETCHES_MAX || loads.get() > EVENTS_MAX || failed.borrow().is_some() {
                return None;
            }
            if let Some(event) = events.borrow().get(id) {
                return Some(event.clone());
            }
            match load(id) {
                Ok(Some(event)) => {
                    loads.set(loads.get() + 1);
                    events.borrow_mut().insert(id.to_owned(), event.clone());
                    Some(event)
                }
                Ok(None) => None,
                Err(error) => {
                    failed.replace(Some(error));
                    None
                }
            }
        };
        // Chains of which one is the difference, and the others nothing, differ by the difference.
        let mut chains = vec![EventIds::new(); states.len()];
        if let Some(chain) = chains.first_mut() {
            *chain = auth_difference;
        }
        let resolved = hearth_core::resolve(version, &states, chains, fetch, |_| Some(subgraph.clone()));
        if let Some(error) = failed.into_inner() {
            return Err(error.into());
        }
        if fetches.get() > FETCHES_MAX || loads.get() > EVENTS_MAX {
            return Err(PlaceError::TooMuch("resolving the states that meet would take too long"));
        }
        resolved.map_err(|ResolveError { .. }| PlaceError::TooMuch("the states that meet cannot be resolved"))
    }
}

#[cfg(test)]
mod tests;
