use std::collections::{BTreeSet, HashMap, HashSet};

use hearth_core::{
    Event, RawEvent, RoomVersion, SignedEvent,
    catchup::{Catchup, Place, Prev, Step, Stored},
};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};
use ruma::OwnedEventId;
use serde_json::json;

use crate::room::{Act, Room, alice, bob, public_keys};

fn signed(event: &Event) -> SignedEvent {
    let raw = RawEvent::parse(event.version(), event.json()).unwrap();
    raw.check_hash().verify(&public_keys(&["one", "two"])).unwrap()
}

/// A room, everything of which the other server has but what it hides, and what of it is known here.
struct World {
    room: Room,
    order: Vec<OwnedEventId>,
    placed: HashSet<OwnedEventId>,
    outliers: HashSet<OwnedEventId>,
    hidden: HashSet<OwnedEventId>,
    /// Events that it gives only by their ids.
    unasked: HashSet<OwnedEventId>,
    /// Events of which the other server does not tell the state before.
    untold: HashSet<OwnedEventId>,
    /// Events that a third server brings while the first question is asked.
    meanwhile: Vec<OwnedEventId>,
    asked: Vec<&'static str>,
    plan: Vec<(OwnedEventId, Place)>,
}

impl World {
    /// A public room with Bob, all of it known here.
    fn new(version: RoomVersion) -> Self {
        let mut room = Room::public(version);
        room.must(&Act::member(bob(), bob(), "join"));
        let placed: HashSet<OwnedEventId> = room.events.keys().cloned().collect();
        let (order, outliers, hidden) = (Vec::new(), HashSet::new(), HashSet::new());
        Self {
            room,
            order,
            placed,
            outliers,
            hidden,
            unasked: HashSet::new(),
            untold: HashSet::new(),
            meanwhile: Vec::new(),
            asked: Vec::new(),
            plan: Vec::new(),
        }
    }

    /// Something new behind these events.
    fn make(&mut self, prevs: &[OwnedEventId], is_state: bool) -> OwnedEventId {
        self.room.head = prevs.to_vec();
        let act = match is_state {
            true => Act::state(alice(), "m.room.power_levels", "", json!({ "users": { "@x:y": self.order.len() } })),
            false => Act::message(bob(), "m.room.message", json!({ "n": self.order.len() })),
        };
        let event = self.room.build(&act);
        self.room.append(event.clone());
        self.order.push(event.event_id().to_owned());
        event.event_id().to_owned()
    }

    fn go_on(&mut self, is_state: bool) -> OwnedEventId {
        let head = self.room.head.clone();
        self.make(&head, is_state)
    }

    fn give<'a>(&self, ids: impl IntoIterator<Item = &'a OwnedEventId>) -> Vec<SignedEvent> {
        let given = ids.into_iter().filter(|id| !self.hidden.contains(*id));
        given.filter_map(|id| self.room.events.get(id)).map(signed).collect()
    }

    fn chain(&self, from: &[OwnedEventId]) -> BTreeSet<OwnedEventId> {
        let mut chain = BTreeSet::new();
        let mut open = from.to_vec();
        while let Some(id) = open.pop() {
            for auth in self.room.events.get(&id).map(Event::auth_events).unwrap_or_default() {
                if chain.insert(auth.clone()) {
                    open.push(auth.clone());
                }
            }
        }
        chain
    }

    /// State events that may have been in force, which is all that matters here.
    fn state_before(&self, at: &OwnedEventId) -> Vec<OwnedEventId> {
        let at = self.order.iter().position(|id| id == at).unwrap_or_default();
        let later: HashSet<&OwnedEventId> = self.order[at..].iter().collect();
        let events = self.room.events.iter().filter(|(id, event)| event.is_state() && !later.contains(id));
        events.map(|(id, _)| id.clone()).collect()
    }

    fn missing(&self, latest: &[OwnedEventId], limit: usize) -> Vec<OwnedEventId> {
        let mut found: Vec<OwnedEventId> = Vec::new();
        let mut open = std::collections::VecDeque::from(latest.to_vec());
        while let Some(id) = open.pop_front() {
            for prev in self.room.events[&id].prev_events() {
                let is_new = !found.contains(prev)
                    && !latest.contains(prev)
                    && !self.placed.contains(prev)
                    && !self.unasked.contains(prev);
                if found.len() < limit && is_new && !self.hidden.contains(prev) {
                    found.push(prev.clone());
                    open.push_back(prev.clone());
                }
            }
        }
        found
    }

    /// Drives the machine to its end; everything that is placed must rest on something.
    fn drive(&mut self, sent: &[OwnedEventId]) -> Catchup {
        let mut catchup = Catchup::new(self.room.version);
        catchup.add(self.give(sent));
        for _ in 0..200 {
            match catchup.poll() {
                Step::LookUp { ids, exact } => catchup.looked_up(ids.into_iter().map(|id| {
                    let is_placed = self.placed.contains(&id);
                    let stored = match is_placed || self.outliers.contains(&id) {
                        true if exact && is_placed => Stored::Placed,
                        true => Stored::Outlier,
                        false => Stored::Absent,
                    };
                    (id, stored)
                })),
                Step::Place(plan) => plan.into_iter().for_each(|planned| {
                    self.place(planned.event.event(), &planned.place);
                }),
                Step::FetchMissing { latest, limit } => {
                    self.asked.push("missing");
                    assert!(limit <= 20);
                    self.placed.extend(std::mem::take(&mut self.meanwhile));
                    catchup.missing(self.give(&self.missing(&latest, limit)));
                }
                Step::FetchAuth { of, missing } => {
                    self.asked.push("auth");
                    assert!(missing.iter().all(|id| !self.placed.contains(id)));
                    catchup.rest(self.give(&self.chain(&[of])));
                }
                Step::FetchState(at) => {
                    self.asked.push("state");
                    let state = self.state_before(&at);
                    let chain = self.chain(&state).into_iter().collect();
                    catchup.state(&at, (!self.untold.contains(&at)).then_some((state, chain)));
                }
                Step::FetchPrevs { at, prevs } => {
                    self.asked.push("prevs");
                    let prev = |id: &OwnedEventId| {
                        let state = self.state_before(id);
                        let auth_chain = self.chain(&state).into_iter().collect();
                        Some(Prev { event: self.give(std::slice::from_ref(id)).pop()?, state, auth_chain })
                    };
                    let answer = prevs.iter().map(prev).collect();
                    catchup.prevs(&at, answer);
                }
                Step::FetchEvents { ids, .. } => {
                    self.asked.push("events");
                    catchup.rest(self.give(&ids));
                }
                Step::Done => return catchup,
            }
        }
        panic!("it does not come to an end");
    }

    fn place(&mut self, event: &Event, place: &Place) {
        let id = event.event_id().to_owned();
        assert!(!self.placed.contains(&id), "placed once");
        let is_here = |id: &OwnedEventId| self.placed.contains(id) || self.outliers.contains(id);
        assert!(event.auth_events().iter().all(is_here), "behind its auth events");
        let has_all_prevs = event.prev_events().iter().all(|prev| self.placed.contains(prev));
        match place {
            Place::Outlier => drop(self.outliers.insert(id.clone())),
            Place::AfterPrevs => assert!(has_all_prevs, "behind its previous events"),
            Place::AtState(_) => assert!(!has_all_prevs, "a state is given only where it is not known"),
        }
        if !matches!(place, Place::Outlier) {
            self.placed.insert(id.clone());
        }
        self.plan.push((id, place.clone()));
    }

    fn failed(catchup: &Catchup) -> HashMap<OwnedEventId, &'static str> {
        catchup.failed().map(|(id, reason)| (id.to_owned(), reason)).collect()
    }
}

const V: RoomVersion = RoomVersion::V11;

#[test]
fn what_is_complete_goes_first_and_in_order() {
    let mut world = World::new(V);
    let base = world.room.head.clone();
    let sent: Vec<_> = (0..4).map(|n| world.go_on(n == 2)).collect();
    let hidden = world.make(&base, false);
    let waiting = world.go_on(false);
    world.hidden.insert(hidden);
    let catchup = world.drive(&[sent[3].clone(), waiting.clone(), sent[1].clone(), sent[0].clone(), sent[2].clone()]);
    let placed: Vec<_> = world.plan.iter().filter(|(_, place)| *place == Place::AfterPrevs).map(|(id, _)| id).collect();
    assert_eq!(placed, sent.iter().collect::<Vec<_>>());
    assert!(World::failed(&catchup).is_empty());
    assert!(matches!(world.plan.last(), Some((id, Place::AtState(_))) if *id == waiting));
}

#[test]
fn a_short_absence_is_filled_without_asking_for_states() {
    let mut world = World::new(V);
    let sent: Vec<_> = (0..40).map(|n| world.go_on(n % 7 == 0)).collect();
    let catchup = world.drive(&sent[39..]);
    assert!(World::failed(&catchup).is_empty());
    assert_eq!(world.plan.len(), 40);
    assert!(world.asked.iter().all(|what| *what == "missing") && world.asked.len() <= 4, "{:?}", world.asked);
}

#[test]
fn a_long_absence_leaves_a_gap() {
    let mut world = World::new(V);
    let sent: Vec<_> = (0..300).map(|n| world.go_on(n % 7 == 0)).collect();
    let catchup = world.drive(&sent[299..]);
    assert!(World::failed(&catchup).is_empty());
    let at_state = world.plan.iter().filter(|(_, place)| matches!(place, Place::AtState(_)));
    assert_eq!(at_state.count(), 1, "only the oldest needs a state");
    assert_eq!(world.asked.iter().filter(|what| **what == "state").count(), 1);
    assert!(world.plan.iter().any(|(_, place)| *place == Place::Outlier), "the state was completed");
}

#[test]
fn an_event_that_cannot_be_had_does_not_stop_those_behind_it() {
    let mut world = World::new(V);
    let levels = world.go_on(true);
    let broken = world.go_on(true);
    let behind = world.go_on(false);
    world.hidden.extend([levels, broken.clone()]);
    let catchup = world.drive(&[behind.clone(), broken]);
    // What `behind` cites as authorising is hidden too.
    assert!(World::failed(&catchup).contains_key(&behind));
    world.hidden.clear();
    let catchup = world.drive(&[behind]);
    assert!(World::failed(&catchup).is_empty());
}

#[test]
fn what_another_server_brings_meanwhile_is_not_missing() {
    let mut world = World::new(V);
    let levels = world.go_on(true);
    let said = world.go_on(false);
    world.meanwhile.push(levels);
    let catchup = world.drive(std::slice::from_ref(&said));
    assert_eq!(World::failed(&catchup), HashMap::new());
    assert_eq!(world.plan, [(said, Place::AfterPrevs)]);
    assert_eq!(world.asked, ["missing"], "nothing else is asked for");
}

#[test]
fn who_is_not_told_a_state_asks_for_those_just_before() {
    let mut world = World::new(V);
    let gap: Vec<_> = (0..60).map(|n| world.go_on(n % 10 == 9)).collect();
    let (oldest, last) = (world.go_on(false), world.go_on(false));
    world.untold.extend([oldest.clone(), last.clone()]);
    world.unasked.insert(gap[59].clone());
    // Of what was sent itself at least the events before it must be given.
    assert!(World::failed(&world.drive(std::slice::from_ref(&oldest))).contains_key(&oldest));
    assert!(!world.asked.contains(&"prevs"));
    let catchup = world.drive(std::slice::from_ref(&last));
    assert!(World::failed(&catchup).is_empty());
    let [.., (id, Place::AtState(states)), (after, Place::AfterPrevs)] = &world.plan[..] else {
        panic!("{:?}", world.plan)
    };
    assert_eq!((id, states.len(), &states[0][0]), (&oldest, 1, &gap[59]), "the event before sets the state, too");
    assert_eq!(after, &last);
    assert!(world.outliers.contains(&gap[59]), "its own place is not known");
}

/// In room version 1 a state that is resolved with one of those it was made of may become another.
#[test]
fn what_meets_something_known_is_not_resolved_twice_in_version_1() {
    for (version, is_told, asked) in [
        (RoomVersion::V1, true, ["missing", "prevs"].as_slice()),
        (RoomVersion::V1, false, &["missing", "prevs", "state"]),
        (RoomVersion::V2, true, &["missing", "state"]),
    ] {
        let mut world = World::new(version);
        let base = world.room.head.clone();
        let known = world.make(&base, false);
        let missing = world.make(&base, false);
        let both = world.make(&[known.clone(), missing.clone()], false);
        world.placed.insert(known);
        world.unasked.insert(missing.clone());
        if !is_told {
            world.hidden.insert(missing);
        }
        let catchup = world.drive(std::slice::from_ref(&both));
        assert_eq!(World::failed(&catchup), HashMap::new());
        let asked: Vec<_> = asked.to_vec();
        assert_eq!(
            world.asked.iter().filter(|what| **what != "events").copied().collect::<Vec<_>>(),
            asked,
            "{version}"
        );
        assert!(matches!(world.plan.last(), Some((id, Place::AtState(_))) if *id == both));
    }
}

#[test]
fn states_that_are_refused_or_incomplete() {
    let mut world = World::new(V);
    let hidden: Vec<_> = (0..3).map(|_| world.go_on(true)).collect();
    let gap: Vec<_> = (0..120).map(|_| world.go_on(false)).collect();
    let last = world.go_on(false);
    // The state's newest levels can be had, those on which they rest cannot.
    world.hidden.insert(hidden[1].clone());
    let catchup = world.drive(std::slice::from_ref(&last));
    assert!(World::failed(&catchup).contains_key(&last), "its own levels rest on what is hidden");
    assert!(!world.outliers.contains(&hidden[2]), "what is not complete is not stored");
    assert!(gap.iter().all(|id| !world.placed.contains(id)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever graph, whatever is hidden: it ends, soon, and what is placed rests on something. If nothing is hidden,
    /// everything that was sent is placed.
    #[test]
    fn it_comes_to_an_end(
        version in prop::sample::select(vec![RoomVersion::V1, RoomVersion::V6, RoomVersion::V12]),
        steps in prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 1..4), any::<bool>()), 1..90),
        known in any::<prop::sample::Index>(),
        sent in prop::collection::vec(any::<prop::sample::Index>(), 1..8),
        hidden in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut world = World::new(version);
        let base = world.room.head[0].clone();
        for (behind, is_state) in &steps {
            let all: Vec<OwnedEventId> = std::iter::once(base.clone()).chain(world.order.iter().cloned()).collect();
            let recent = &all[all.len().saturating_sub(5)..];
            let mut prevs: Vec<_> = behind.iter().map(|at| recent[at.index(recent.len())].clone()).collect();
            prevs.sort();
            prevs.dedup();
            world.make(&prevs, *is_state);
        }
        let known = known.index(steps.len());
        world.placed.extend(world.order[..known].iter().cloned());
        world.hidden = hidden.iter().map(|at| world.order[at.index(steps.len())].clone()).collect();
        let sent: Vec<_> = sent.iter().map(|at| world.order[at.index(steps.len())].clone()).collect();
        world.hidden.retain(|id| !sent.contains(id));
        let catchup = world.drive(&sent);
        // Rounds, auth chains, states, states of those before; for each state that is told, the events of it once.
        let (rounds, chains, states, prevs) = (4, 20, 3 + 2, 3);
        prop_assert!(world.asked.len() <= rounds + chains + states + prevs + (states + prevs), "{:?}", world.asked);
        let failed = World::failed(&catchup);
        for id in &sent {
            prop_assert!(world.placed.contains(id) || failed.contains_key(id), "it is dealt with");
            if world.hidden.is_empty() && world.asked.iter().filter(|what| **what == "state").count() < 3 {
                prop_assert!(world.placed.contains(id), "{id}: {failed:?}");
            }
        }
    }

    /// Answers that have nothing to do with the question.
    #[test]
    fn nonsense_is_no_progress(
        picks in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..12), 1..12),
        sent in prop::collection::vec(any::<prop::sample::Index>(), 1..8),
    ) {
        let mut world = World::new(V);
        let base = world.room.head.clone();
        for n in 0..60 {
            if n % 20 == 0 { world.room.head = base.clone(); }
            world.go_on(n % 3 == 0);
        }
        let pick = |at: &prop::sample::Index| world.order[at.index(60)].clone();
        let mut catchup = Catchup::new(V);
        catchup.add(world.give(&sent.iter().map(pick).collect::<Vec<_>>()));
        let mut answers = picks.iter().cycle().map(|picks| picks.iter().map(pick).collect::<Vec<_>>());
        let mut steps = 0;
        loop {
            steps += 1;
            prop_assert!(steps < 200);
            let answer = answers.next().unwrap();
            match catchup.poll() {
                Step::LookUp { ids, .. } => {
                    catchup.looked_up(ids.into_iter().map(|id| (id, Stored::Absent)));
                }
                Step::Place(_) => {}
                Step::FetchMissing { .. } => catchup.missing(world.give(&answer)),
                Step::FetchAuth { .. } | Step::FetchEvents { .. } => catchup.rest(world.give(&answer)),
                Step::FetchState(at) => catchup.state(&at, (steps % 2 == 0).then_some((answer.clone(), answer))),
                Step::FetchPrevs { at, .. } => {
                    let prev = |event| Prev { event, state: answer.clone(), auth_chain: answer.clone() };
                    catchup.prevs(&at, Some(world.give(&answer).into_iter().map(prev).collect()));
                }
                Step::Done => break,
            }
        }
    }
}
