//! What must be fetched before events of another server can be put into their room.
//!
//! A state machine without a network: whoever drives it asks [`Catchup::poll`] what to do next, does it, and tells the
//! answer. What is complete comes out first, whatever others wait for; what cannot be completed is given up and spoils
//! nothing else. Everything is bounded: what another server sends can cost only so much.
//! [Backfilling and retrieving missing events](https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use crate::{RoomVersion, SignedEvent};

mod fetch;

/// How often events between what is known and what came are asked for. A server that was away for longer continues
/// behind a gap.
const ROUNDS_MAX: usize = 4;

/// Events that are asked for in the first round; half as many again of each round in the next ones.
const MISSING_MIN: usize = 10;

/// Events that are asked for in one round at most.
const MISSING_MAX: usize = 20;

/// Events to be placed at once: 50 of a transaction, and those between them and what is known.
const WANTED_MAX: usize = 150;

/// States that are asked for: each is an answer of megabytes in a large room.
const STATES_MAX: usize = 3;

/// States before events that were sent, asked for besides. Who sends an event should know where it stands, also if it does
/// not say where those before it do: a server that is put out of a room may not ask about what happened in its absence.
const SENT_STATES_MAX: usize = 2;

/// Events whose auth chains are asked for.
const CHAINS_MAX: usize = 20;

/// The events of a state, and those that they rest on.
const STATE_IDS_MAX: usize = 200_000;

/// What is kept of events that others rest on, in bytes. A room's members come to about 1 kB each.
const REST_BYTES_MAX: usize = 32 << 20;

/// Ids that are looked up at once.
const LOOKED_UP_MAX: usize = 20_000;

/// How an event is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Not at all.
    Absent,
    /// Others cite it, but its place in the room is not known.
    Outlier,
    /// With its place, and the state after it.
    Placed,
}

/// Where in the room's graph an event stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is not known: the event is stored because others cite it.
    Outlier,
    /// Behind its previous events, all of which have their places.
    AfterPrevs,
    /// Some of its previous events are missing: this is the state before it, or these are the states after them, as
    /// another server has it. Of two events of one state for the same key the first counts.
    AtState(Arc<Vec<Vec<OwnedEventId>>>),
}

/// An event that can be put into its room now.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The event.
    pub event: SignedEvent,
    /// Where it stands.
    pub place: Place,
}

/// A previous event that is missing here, and the state before it, as another server has them.
#[derive(Clone, Debug)]
pub struct Prev {
    /// The event.
    pub event: SignedEvent,
    /// The ids of the state before it.
    pub state: Vec<OwnedEventId>,
    /// The ids of what authorises that state.
    pub auth_chain: Vec<OwnedEventId>,
}

/// What is to be done next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Say how these events are stored: [`Catchup::looked_up`].
    LookUp {
        /// The events.
        ids: Vec<OwnedEventId>,
        /// Whether it matters if they have their places: else [`Stored::Outlier`] will do for all that are stored.
        exact: bool,
    },
    /// Put these into the room, in this order. Nothing is to be told back: what fails to be stored fails again where
    /// something else rests on it.
    Place(Vec<Planned>),
    /// Ask for events before these, at most so many: [`Catchup::missing`].
    FetchMissing {
        /// Where to walk back from.
        latest: Vec<OwnedEventId>,
        /// At most so many.
        limit: usize,
    },
    /// Ask for the auth chain of this event, or at least for those of its auth events that are missing:
    /// [`Catchup::rest`].
    FetchAuth {
        /// The event.
        of: OwnedEventId,
        /// Auth events that are missing.
        missing: Vec<OwnedEventId>,
    },
    /// Ask for the ids of the state before this event and of its auth chain: [`Catchup::state`].
    FetchState(OwnedEventId),
    /// Ask for these events that come just before `at`, and for the state before each: [`Catchup::prevs`]. The state
    /// before `at` itself was not to be had, or would not do.
    FetchPrevs {
        /// The event that follows them.
        at: OwnedEventId,
        /// All of its previous events that are missing.
        prevs: Vec<OwnedEventId>,
    },
    /// Ask for these events, which are part of the state before `at`, or of its auth chain: [`Catchup::rest`].
    FetchEvents {
        /// The event before which the state is.
        at: OwnedEventId,
        /// The events.
        ids: Vec<OwnedEventId>,
    },
    /// Nothing: all is placed or given up.
    Done,
}

/// Events on their way into one room, and what is known of what they rest on.
#[derive(Debug, Default)]
pub struct Catchup {
    /// States that meet what is known may become others if they are resolved twice.
    asks_prevs_first: bool,
    stored: HashMap<OwnedEventId, Stored>,
    /// Those that are stored, with or without a place: it did not matter so far.
    inexact: HashSet<OwnedEventId>,
    /// Whether the last question for how events are stored was exact.
    is_exact: bool,
    /// Events to be placed.
    wanted: HashMap<OwnedEventId, Wanted>,
    /// Events that others may rest on.
    rest: HashMap<OwnedEventId, Rest>,
    rest_bytes: usize,
    /// Given up, and why.
    failed: BTreeMap<OwnedEventId, &'static str>,
    rounds: usize,
    states: usize,
    sent_states: usize,
    prevs: usize,
    chains: HashSet<OwnedEventId>,
    /// Time has passed since it was looked up what is missing: another server may have brought it.
    may_have_come: bool,
    arrived: usize,
}

#[derive(Debug)]
struct Wanted {
    event: SignedEvent,
    arrived: usize,
    /// It was asked for, as one before those that were sent.
    is_asked_for: bool,
    /// The states after the missing events were asked for.
    asked_prevs: bool,
    state: State,
}

#[derive(Debug)]
struct Rest {
    event: SignedEvent,
    arrived: usize,
}

/// What is known of the state before an event whose previous events are missing.
#[derive(Debug)]
enum State {
    NotAsked,
    /// It was asked for; or it came, and could not be used.
    Refused,
    /// The ids of the states, and all that must be here before they can be used.
    Ids {
        states: Arc<Vec<Vec<OwnedEventId>>>,
        all: Vec<OwnedEventId>,
        is_fetched: bool,
    },
}

impl Catchup {
    /// Nothing yet, of a room of this version.
    pub fn new(version: RoomVersion) -> Self {
        Self { asks_prevs_first: version.resolves_to_older_state(), ..Self::default() }
    }

    /// Adds events to be placed; all must be of one room. Those above the bound are given up.
    pub fn add(&mut self, events: impl IntoIterator<Item = SignedEvent>) {
        self.want(events, false);
    }

    fn want(&mut self, events: impl IntoIterator<Item = SignedEvent>, is_asked_for: bool) {
        for event in events {
            let id = event.event().event_id();
            if self.wanted.contains_key(id) || self.failed.contains_key(id) {
                continue;
            }
            if self.stored.get(id).is_some_and(|stored| *stored == Stored::Placed) {
                continue;
            }
            let id = id.to_owned();
            if self.wanted.len() >= WANTED_MAX {
                self.failed.insert(id, "too many events at once");
                continue;
            }
            // What was fetched for others to rest on gets a place of its own.
            self.rest.remove(&id);
            let arrived = self.arrive();
            let wanted = Wanted { event, arrived, is_asked_for, asked_prevs: false, state: State::NotAsked };
            self.wanted.insert(id, wanted);
        }
    }

    /// How events are stored: the answer to [`Step::LookUp`].
    pub fn looked_up(&mut self, found: impl IntoIterator<Item = (OwnedEventId, Stored)>) {
        for (id, stored) in found {
            if self.is_exact || stored != Stored::Outlier {
                self.inexact.remove(&id);
            } else {
                self.inexact.insert(id.clone());
            }
            self.stored.insert(id, stored);
        }
    }

    /// The answer to [`Step::FetchMissing`], perhaps none.
    pub fn missing(&mut self, events: Vec<SignedEvent>) {
        let known = self.wanted.len();
        // The room's first event is never missing; where it is not placed, its place is before our part of history.
        self.want(events.into_iter().filter(|event| !event.event().prev_events().is_empty()), true);
        if self.wanted.len() == known {
            // Who has nothing more to say is not asked again.
            self.rounds = ROUNDS_MAX;
        }
    }

    /// The answer to [`Step::FetchAuth`] and to [`Step::FetchEvents`], perhaps none.
    pub fn rest(&mut self, events: Vec<SignedEvent>) {
        for event in events {
            let (id, bytes) = (event.event().event_id().to_owned(), event.event().json().len());
            let is_known = self.wanted.contains_key(&id) || self.rest.contains_key(&id);
            let is_stored = self.stored.get(&id).is_some_and(|stored| *stored != Stored::Absent);
            if is_known || is_stored || self.rest_bytes + bytes > REST_BYTES_MAX {
                continue;
            }
            self.rest_bytes += bytes;
            let arrived = self.arrive();
            self.rest.insert(id, Rest { event, arrived });
        }
    }

    /// The answer to [`Step::FetchState`]: the ids of the state and of its auth chain, or that it is not to be had.
    pub fn state(&mut self, at: &EventId, answer: Option<(Vec<OwnedEventId>, Vec<OwnedEventId>)>) {
        let Some(wanted) = self.wanted.get_mut(at) else { return };
        let answer = answer.filter(|(state, chain)| state.len() + chain.len() <= STATE_IDS_MAX);
        wanted.state = match answer {
            Some((state, chain)) if !state.is_empty() => {
                let all: BTreeSet<OwnedEventId> = state.iter().chain(&chain).cloned().collect();
                State::Ids { states: Arc::new(vec![state]), all: all.into_iter().collect(), is_fetched: false }
            }
            _ => State::Refused,
        };
    }

    /// The answer to [`Step::FetchPrevs`]: all of those events, or that not all are to be had. A state event changes the
    /// state that follows it if it turns out to be allowed; no more is done with it.
    pub fn prevs(&mut self, at: &EventId, answer: Option<Vec<Prev>>) {
        let Some(wanted) = self.wanted.get(at) else { return };
        let lacks: BTreeSet<&OwnedEventId> = self.missing_prevs(wanted).collect();
        let Some(answer) = answer else { return };
        let ids: usize = answer.iter().map(|prev| prev.state.len() + prev.auth_chain.len()).sum();
        let is_whole = lacks.iter().all(|id| answer.iter().any(|prev| prev.event.event().event_id() == **id));
        if !is_whole || ids > STATE_IDS_MAX || answer.iter().any(|prev| prev.state.is_empty()) {
            return;
        }
        let (mut states, mut all, mut events) = (Vec::new(), BTreeSet::new(), Vec::new());
        for Prev { event, mut state, auth_chain } in answer {
            all.extend(state.iter().cloned().chain(auth_chain));
            if event.event().is_state() {
                let id = event.event().event_id().to_owned();
                all.insert(id.clone());
                state.insert(0, id);
                events.push(event);
            }
            states.push(state);
        }
        if let Some(wanted) = self.wanted.get_mut(at) {
            let all = all.into_iter().collect();
            wanted.state = State::Ids { states: Arc::new(states), all, is_fetched: false };
        }
        self.rest(events);
    }

    /// The events that were given up, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&EventId, &'static str)> {
        self.failed.iter().map(|(id, reason)| (&**id, *reason))
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Step {
        loop {
            if let Some((ids, exact)) = self.unknown() {
                self.is_exact = exact;
                return Step::LookUp { ids, exact };
            }
            self.drop_placed();
            if let Some(plan) = self.plan() {
                return Step::Place(plan);
            }
            if self.look_again() {
                continue;
            }
            if let Some(step) = self.fetch() {
                self.may_have_come = true;
                return step;
            }
            if !self.give_up() {
                return Step::Done;
            }
        }
    }

    fn arrive(&mut self) -> usize {
        self.arrived += 1;
        self.arrived
    }

    /// Cited events of which nothing is known, and whether their places matter.
    fn unknown(&self) -> Option<(Vec<OwnedEventId>, bool)> {
        let mut placed: BTreeSet<&OwnedEventId> = BTreeSet::new();
        let mut stored: BTreeSet<&OwnedEventId> = BTreeSet::new();
        for (id, wanted) in &self.wanted {
            let event = wanted.event.event();
            placed.extend(event.prev_events().iter().chain([id]));
            stored.extend(event.auth_events());
            if let State::Ids { all, .. } = &wanted.state {
                stored.extend(all);
            }
        }
        stored.extend(self.rest.iter().flat_map(|(id, rest)| rest.event.event().auth_events().iter().chain([id])));
        for (ids, exact) in [(placed, true), (stored, false)] {
            let is_open = |id: &&OwnedEventId| !self.stored.contains_key(*id) || exact && self.inexact.contains(*id);
            let ids = ids.into_iter().filter(is_open);
            let ids: Vec<OwnedEventId> = ids.take(LOOKED_UP_MAX).cloned().collect();
            if !ids.is_empty() {
                return Some((ids, exact));
            }
        }
        None
    }

    /// Forgets that what is still missing was not stored, if another question was answered since. `false`: nothing is to be
    /// looked up.
    fn look_again(&mut self) -> bool {
        if !std::mem::take(&mut self.may_have_come) {
            return false;
        }
        let wanted = self.wanted.values().map(|wanted| &wanted.event);
        let events = wanted.chain(self.rest.values().map(|rest| &rest.event));
        let auths = events.flat_map(|event| event.event().auth_events()).filter(|id| self.is_missing(id));
        let prevs = self.wanted.values().flat_map(|wanted| self.missing_prevs(wanted));
        let missing: BTreeSet<OwnedEventId> = auths.chain(prevs).cloned().collect();
        for id in &missing {
            self.stored.remove(id);
        }
        !missing.is_empty()
    }

    /// What turns out to be stored need not be dealt with again.
    fn drop_placed(&mut self) {
        let stored = |id: &OwnedEventId| self.stored.get(id).copied().unwrap_or(Stored::Absent);
        self.wanted.retain(|id, _| stored(id) != Stored::Placed);
        self.rest.retain(|id, _| stored(id) == Stored::Absent);
    }

    fn is_stored(&self, id: &OwnedEventId) -> bool {
        self.stored.get(id).is_some_and(|stored| *stored != Stored::Absent)
    }

    fn is_placed(&self, id: &OwnedEventId) -> bool {
        self.stored.get(id).is_some_and(|stored| *stored == Stored::Placed)
    }

    /// Neither stored nor about to be placed.
    fn is_missing_prev(&self, id: &OwnedEventId) -> bool {
        !self.is_placed(id) && !self.wanted.contains_key(id)
    }

    fn is_missing(&self, id: &OwnedEventId) -> bool {
        !self.is_stored(id) && !self.wanted.contains_key(id) && !self.rest.contains_key(id)
    }

    fn missing_prevs<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = &'a OwnedEventId> {
        wanted.event.event().prev_events().iter().filter(|id| self.is_missing_prev(id))
    }

    fn lacks_prevs(&self, wanted: &Wanted) -> bool {
        self.missing_prevs(wanted).next().is_some()
    }

    fn lacks_auths(&self, event: &SignedEvent) -> bool {
        event.event().auth_events().iter().any(|id| self.is_missing(id))
    }
}

/// Working out what can be placed.
impl Catchup {
    /// All that is complete, in an order in which everything comes behind what it rests on.
    fn plan(&mut self) -> Option<Vec<Planned>> {
        let doomed = self.doomed();
        let order = self.complete(&doomed);
        let needed = self.needed(&order, &doomed);
        let mut plan = Vec::new();
        for id in order.into_iter().filter(|id| needed.contains(id)) {
            if let Some(Wanted { event, state, .. }) = self.wanted.remove(&id) {
                let place = match state {
                    State::Ids { states, .. } => Place::AtState(states),
                    State::NotAsked | State::Refused => Place::AfterPrevs,
                };
                self.stored.insert(id, Stored::Placed);
                plan.push(Planned { event, place });
            } else if let Some(Rest { event, .. }) = self.rest.remove(&id) {
                self.rest_bytes = self.rest_bytes.saturating_sub(event.event().json().len());
                self.stored.insert(id, Stored::Outlier);
                plan.push(Planned { event, place: Place::Outlier });
            }
        }
        (!plan.is_empty()).then_some(plan)
    }

    /// The events that rest on nothing but what is stored and on each other: as they arrived, each behind what it rests
    /// on. What rests on itself, as ids of room versions 1 and 2 let it, is never among them.
    fn complete(&self, doomed: &HashSet<OwnedEventId>) -> Vec<OwnedEventId> {
        let mut waits: HashMap<&OwnedEventId, usize> = HashMap::new();
        let mut waiters: HashMap<&OwnedEventId, Vec<&OwnedEventId>> = HashMap::new();
        let mut ready: BTreeSet<(usize, &OwnedEventId)> = BTreeSet::new();
        let wanted = self.wanted.iter().map(|(id, wanted)| (id, wanted.arrived, self.waits_of(wanted, doomed)));
        let rest = self.rest.iter().map(|(id, rest)| (id, rest.arrived, self.auths_waited_for(&rest.event)));
        for (id, arrived, waits_for) in wanted.chain(rest) {
            let Some(waits_for) = waits_for else { continue };
            for other in &waits_for {
                waiters.entry(other).or_default().push(id);
            }
            match waits_for.len() {
                0 => drop(ready.insert((arrived, id))),
                count => drop(waits.insert(id, count)),
            }
        }
        let mut order = Vec::new();
        while let Some((_, id)) = ready.pop_first() {
            for waiter in waiters.remove(id).unwrap_or_default() {
                let Some(left) = waits.get_mut(waiter) else { continue };
                *left = left.saturating_sub(1);
                if *left == 0 {
                    ready.insert((self.arrival(waiter), waiter));
                }
            }
            order.push(id.to_owned());
        }
        order
    }

    /// What others would rest on, but itself rests on something that is nowhere.
    fn doomed(&self) -> HashSet<OwnedEventId> {
        let mut waiters: HashMap<&OwnedEventId, Vec<&OwnedEventId>> = HashMap::new();
        let mut open = Vec::new();
        for (id, rest) in &self.rest {
            for auth in rest.event.event().auth_events() {
                if self.is_missing(auth) {
                    open.push(id);
                }
                waiters.entry(auth).or_default().push(id);
            }
        }
        let mut doomed = HashSet::new();
        while let Some(id) = open.pop() {
            if doomed.insert(id.clone()) {
                open.extend(waiters.get(id).into_iter().flatten());
            }
        }
        doomed
    }

    fn arrival(&self, id: &OwnedEventId) -> usize {
        let wanted = self.wanted.get(id).map(|wanted| wanted.arrived);
        wanted.or_else(|| Some(self.rest.get(id)?.arrived)).unwrap_or_default()
    }

    /// The events of this machine that an event's auth events are; `None`: some are nowhere.
    fn auths_waited_for<'a>(&'a self, event: &'a SignedEvent) -> Option<BTreeSet<&'a OwnedEventId>> {
        let auths = event.event().auth_events();
        let all_here = !auths.iter().any(|id| self.is_missing(id));
        all_here.then(|| auths.iter().filter(|id| !self.is_stored(id)).collect())
    }

    /// The events of this machine that must be there first; `None`: something is nowhere.
    fn waits_of<'a>(
        &'a self,
        wanted: &'a Wanted,
        doomed: &HashSet<OwnedEventId>,
    ) -> Option<BTreeSet<&'a OwnedEventId>> {
        let mut waits = self.auths_waited_for(&wanted.event)?;
        let prevs = wanted.event.event().prev_events();
        if let State::Ids { all, is_fetched, .. } = &wanted.state {
            if !is_fetched && all.iter().any(|id| self.is_missing(id)) {
                return None;
            }
            // What of the state did not come, or can never be complete, is done without.
            waits.extend(all.iter().filter(|id| self.rest.contains_key(*id) && !doomed.contains(*id)));
            waits.extend(prevs.iter().filter(|id| self.wanted.contains_key(*id)));
            return Some(waits);
        }
        if prevs.iter().any(|id| self.is_missing_prev(id)) {
            return None;
        }
        waits.extend(prevs.iter().filter(|id| !self.is_placed(id)));
        Some(waits)
    }

    /// Those of the complete events that are wanted, and those that they rest on.
    fn needed(&self, order: &[OwnedEventId], doomed: &HashSet<OwnedEventId>) -> HashSet<OwnedEventId> {
        let mut needed: HashSet<OwnedEventId> = HashSet::new();
        for id in order.iter().rev() {
            let rests_on = match (self.wanted.get(id), self.rest.get(id)) {
                (Some(wanted), _) => self.waits_of(wanted, doomed),
                (None, Some(rest)) if needed.contains(id) => self.auths_waited_for(&rest.event),
                _ => continue,
            };
            needed.insert(id.clone());
            needed.extend(rests_on.into_iter().flatten().cloned());
        }
        needed
    }
}
