//! The state tree of a very large room, next to what a plain map would cost.

use std::{collections::HashMap, hint::black_box, sync::Arc};

use futures_util::FutureExt as _;
use hearth_bench::Subject;
use hearth_ports::mem::MemEngine;
use hearth_store::{EventNumber, RoomNumber, StateBuilder, StateKeyNumber, StateVersion, Store, StoreSettings, Write};

/// Pairs in the state: the members of the largest rooms there are.
const PAIRS: u32 = 100_000;
/// Versions between the two that are compared, each with one change.
const APART: u32 = 1_000;
/// Spreads numbers over all pairs: a prime that does not divide their count.
const STRIDE: u32 = 7_919;

const ROOM: RoomNumber = RoomNumber(1);

fn main() {
    let mut subject = Subject::new("state tree");
    let engine = MemEngine::new();
    let store = wait(Store::open(engine.clone(), StoreSettings::default())).expect("memory opens");
    let (old, new) = fill(&store);
    let mut at = 0;
    let mut next = || {
        at = (at + STRIDE) % PAIRS;
        StateKeyNumber(1 + at)
    };

    subject.time("get", || wait(store.state_get(ROOM, new, next())).expect("memory reads"));
    let many: Vec<StateKeyNumber> = (0..100).map(|_| next()).collect();
    subject.time("get 100", || wait(store.state_get_many(ROOM, new, &many)).expect("memory reads"));
    subject.time("apply one change", || apply_one(&store, new, next()));
    subject.time("difference, 1,000 changes", || difference(&store, old, new));
    subject.time("all of it", || wait(store.state_all(ROOM, new)).expect("memory reads"));

    // Each time a store that has cached nothing.
    let cold = || wait(Store::open(engine.clone(), StoreSettings::default())).expect("memory opens");
    subject.time_with("get, from the engine", cold, |store| {
        wait(store.state_get(ROOM, new, next())).expect("memory reads")
    });
    subject.time_with("difference, from the engine", cold, |store| difference(&store, old, new));

    naive(&mut subject);
    subject.finish();
}

/// Two versions, `APART` changes from each other.
fn fill(store: &Arc<Store>) -> (StateVersion, StateVersion) {
    let mut write = Write::new(ROOM.partition());
    let mut builder = StateBuilder::new(store, ROOM);
    let all: Vec<_> = (1..=PAIRS).map(|number| (StateKeyNumber(number), Some(EventNumber(number)))).collect();
    let old = wait(builder.apply(StateVersion::EMPTY, &all, StateVersion::FIRST)).expect("memory reads");
    let mut new = old;
    for change in 0..APART {
        let changes = [(StateKeyNumber(1 + change * STRIDE % PAIRS), Some(EventNumber(1 + PAIRS + change)))];
        new = wait(builder.apply(new, &changes, new.next())).expect("memory reads");
    }
    builder.finish(&mut write);
    wait(store.commit(write)).expect("nothing stands against this commit");
    (old, new)
}

/// What a state event does to the tree, up to the rows of the batch.
fn apply_one(store: &Store, parent: StateVersion, key: StateKeyNumber) -> Write {
    let mut builder = StateBuilder::new(store, ROOM);
    let made = wait(builder.apply(parent, &[(key, Some(EventNumber(u32::MAX)))], parent.next()));
    assert_eq!(made.expect("memory reads"), parent.next(), "something changed");
    let mut write = Write::new(ROOM.partition());
    builder.finish(&mut write);
    write
}

fn difference(store: &Store, old: StateVersion, new: StateVersion) -> usize {
    let found = wait(store.state_difference(ROOM, old, new)).expect("memory reads").len();
    assert_eq!(found, APART as usize, "each change was of another pair");
    found
}

/// The same with a map for each version.
fn naive(subject: &mut Subject) {
    let old: HashMap<u32, u32> = (1..=PAIRS).map(|number| (number, number)).collect();
    let mut new = old.clone();
    new.extend((0..APART).map(|change| (1 + change * STRIDE % PAIRS, PAIRS + change)));
    subject.time("map: copy, one change", || {
        let mut next = old.clone();
        next.insert(black_box(1), 0);
        next
    });
    subject.time("map: difference", || new.iter().filter(|(key, event)| old.get(*key) != Some(*event)).count());
    subject.ratio("copying a map, to one change of the tree", "map: copy, one change", "apply one change");
    subject.ratio("comparing maps, to comparing trees", "map: difference", "difference, 1,000 changes");
    subject.ratio("the engine, to the cache: get", "get, from the engine", "get");
}

/// The in-memory engine answers at once.
fn wait<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory never waits")
}
