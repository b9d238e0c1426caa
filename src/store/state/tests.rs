use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{
    Write,
    testing::{store, wait},
};

const ROOM: RoomNumber = RoomNumber(7);

type Model = BTreeMap<u32, u32>;

/// Keys near each other, and some that make the tree higher.
fn state_key() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 1..70u32, 3 => 1..3_000u32, 1 => any::<u32>(), 1 => Just(u32::MAX)]
}

#[derive(Clone, Debug)]
struct Step {
    /// Which of the versions so far it is made from.
    parent: prop::sample::Index,
    changes: Vec<(u32, Option<u32>)>,
    /// The batch ends behind it.
    commit: bool,
    /// An equal earlier version may be taken.
    find: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let changes = vec((state_key(), option::weighted(0.7, 1..60u32)), 0..12);
    (any::<prop::sample::Index>(), changes, any::<bool>(), any::<bool>())
        .prop_map(|(parent, changes, commit, find)| Step { parent, changes, commit, find })
}

fn commit(store: &Store, builder: StateBuilder<'_>) {
    let mut write = Write::new(ROOM.partition());
    builder.finish(&mut write);
    wait(store.commit(write)).expect("nothing stands against this commit");
}

fn pairs(changes: &[(u32, Option<u32>)]) -> Vec<(StateKeyNumber, Option<EventNumber>)> {
    changes.iter().map(|(key, event)| (StateKeyNumber(*key), event.map(EventNumber))).collect()
}

fn model_difference(from: &Model, to: &Model) -> Vec<StateDifference> {
    let keys: std::collections::BTreeSet<_> = from.keys().chain(to.keys()).copied().collect();
    let difference = |key: u32| StateDifference {
        state_key: StateKeyNumber(key),
        before: from.get(&key).copied().map(EventNumber),
        after: to.get(&key).copied().map(EventNumber),
    };
    keys.into_iter().map(difference).filter(|difference| difference.before != difference.after).collect()
}

fn check(store: &Store, versions: &BTreeMap<StateVersion, Model>) {
    for (version, model) in versions {
        let all = wait(store.state_all(ROOM, *version)).expect("it reads");
        let expected: Vec<_> = model.iter().map(|(key, event)| (StateKeyNumber(*key), EventNumber(*event))).collect();
        assert_eq!(all, expected, "{version:?}");
        let mut keys: Vec<_> = [0, 1, 31, 32, 33, 69, 1024, 3_000, u32::MAX].map(StateKeyNumber).into();
        keys.extend(model.keys().rev().map(|key| StateKeyNumber(*key)));
        let found = wait(store.state_get_many(ROOM, *version, &keys)).expect("it reads");
        let expected: Vec<_> = keys.iter().map(|key| model.get(&key.0).copied().map(EventNumber)).collect();
        assert_eq!(found, expected, "{version:?}");
        for (key, event) in keys.iter().zip(expected) {
            assert_eq!(wait(store.state_get(ROOM, *version, *key)).expect("it reads"), event, "{version:?}");
        }
        let summary = wait(store.state_summary(ROOM, *version)).expect("it reads");
        assert_eq!(summary.count as usize, model.len());
        for (other, other_model) in versions {
            let difference = wait(store.state_difference(ROOM, *version, *other)).expect("it reads");
            assert_eq!(difference, model_difference(model, other_model), "{version:?} to {other:?}");
            let hash = wait(store.state_summary(ROOM, *other)).expect("it reads").hash;
            assert_eq!(summary.hash == hash, model == other_model);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every version of a random history is what a plain map says, and differs from every other as maps do.
    #[test]
    fn versions_are_maps(steps in vec(step(), 1..14)) {
        let (engine, store) = store();
        let mut versions = BTreeMap::from([(StateVersion::EMPTY, Model::new())]);
        let mut next = StateVersion::FIRST;
        let mut builder = StateBuilder::new(&store, ROOM);
        for step in &steps {
            let known: Vec<_> = versions.keys().copied().collect();
            let parent = *step.parent.get(&known);
            let mut model = versions[&parent].clone();
            for (key, event) in &step.changes {
                match event {
                    Some(event) => drop(model.insert(*key, *event)),
                    None => drop(model.remove(key)),
                }
            }
            let changes = pairs(&step.changes);
            let made = if step.find {
                wait(builder.apply_or_find(parent, &changes, next)).expect("it reads")
            } else {
                wait(builder.apply(parent, &changes, next)).expect("it reads")
            };
            if made == next {
                if step.find {
                    prop_assert!(versions.values().all(|known| *known != model), "an equal version is found");
                }
                versions.insert(made, model);
                next = next.next();
            } else {
                prop_assert_eq!(&versions[&made], &model, "another version is only taken if it is equal");
            }
            if step.commit {
                commit(&store, std::mem::replace(&mut builder, StateBuilder::new(&store, ROOM)));
            }
        }
        commit(&store, builder);
        check(&store, &versions);
        // And again from the rows alone.
        check(&crate::testing::open(engine), &versions);
    }
}

/// A room of 100,000 members.
fn large() -> (Arc<hearth_ports::mem::MemEngine>, Arc<Store>, Vec<(StateKeyNumber, EventNumber)>) {
    let (engine, store) = store();
    let all: Vec<_> = (1..=100_000).map(|key| (StateKeyNumber(key), EventNumber(key * 3))).collect();
    let changes: Vec<_> = all.iter().map(|(key, event)| (*key, Some(*event))).collect();
    let mut builder = StateBuilder::new(&store, ROOM);
    let version = wait(builder.apply(StateVersion::EMPTY, &changes, StateVersion::FIRST)).expect("it reads");
    assert_eq!(version, StateVersion::FIRST);
    commit(&store, builder);
    (engine, store, all)
}

#[test]
fn a_large_state_has_several_rows_and_reads_few_of_them() {
    let (engine, _, all) = large();
    let store = crate::testing::open(engine.clone());
    assert_eq!(wait(store.state_all(ROOM, StateVersion::FIRST)).expect("it reads"), all);
    let rows =
        wait(store.scan_all(Table::St, hearth_ports::KeyRange::prefix(&b"V"[..]), 100, false)).expect("it reads");
    assert!(rows.len() > 2, "{} rows", rows.len());
    let store = crate::testing::open(engine.clone());
    let before = engine.reads();
    let found = wait(store.state_get(ROOM, StateVersion::FIRST, StateKeyNumber(77_777))).expect("it reads");
    assert_eq!(found, Some(EventNumber(77_777 * 3)));
    assert!(engine.reads() - before <= 4, "one row a level at most");
}

#[test]
fn a_change_is_small_and_its_difference_reads_what_differs() {
    let (engine, store, _) = large();
    let mut version = StateVersion::FIRST;
    let mut sizes = Vec::new();
    for nth in 0..50u32 {
        let mut builder = StateBuilder::new(&store, ROOM);
        let changes = [(StateKeyNumber(1 + nth * 1_999), Some(EventNumber(400_000 + nth)))];
        let new = version.next();
        version = wait(builder.apply(version, &changes, new)).expect("it reads");
        let mut write = Write::new(ROOM.partition());
        builder.finish(&mut write);
        sizes.push(write.size_bytes());
        wait(store.commit(write)).expect("nothing stands against this commit");
    }
    let largest = sizes.iter().max().expect("there were changes");
    assert!(*largest <= 600, "{largest} bytes for one change");
    let difference = wait(store.state_difference(ROOM, StateVersion::FIRST, version)).expect("it reads");
    assert_eq!(difference.len(), 50);
    let store = crate::testing::open(engine.clone());
    let before = engine.reads();
    wait(store.state_difference(ROOM, version, version.next())).expect_err("that version is not there");
    let back = wait(store.state_difference(ROOM, version, StateVersion::FIRST)).expect("it reads");
    assert_eq!(back.len(), 50);
    assert!(engine.reads() - before < 10, "reads go level by level");
}

#[test]
fn an_unknown_state_is_an_error() {
    let (_, store) = store();
    let read = wait(store.state_get(ROOM, StateVersion::UNKNOWN, StateKeyNumber::FIRST));
    assert!(matches!(read, Err(LoadError::Corrupt(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Damaged rows are refused, not believed and not a panic.
    #[test]
    fn damaged_rows_do_not_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<bool>()) {
        let (_, store) = store();
        let mut builder = StateBuilder::new(&store, ROOM);
        let changes: Vec<_> = (1..200).map(|key| (key, Some(key * 7))).collect();
        wait(builder.apply(StateVersion::EMPTY, &pairs(&changes), StateVersion::FIRST)).expect("it reads");
        let mut write = Write::new(ROOM.partition());
        builder.finish(&mut write);
        let (batch, _) = write.into_parts();
        let row = batch.put.iter().find(|put| put.key.first() == Some(&b'V')).expect("it has a row");
        let mut bytes = row.value.to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = to }
        let mut write = Write::new(ROOM.partition());
        write.put_bytes(Table::St, row.key.clone(), bytes);
        wait(store.commit(write)).expect("nothing stands against this commit");
        // Whether it is an error depends on which byte it was.
        drop(wait(store.state_all(ROOM, StateVersion::FIRST)));
        drop(wait(store.state_get(ROOM, StateVersion::FIRST, StateKeyNumber(100))));
    }
}
