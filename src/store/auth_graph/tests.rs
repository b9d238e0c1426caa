use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::testing::{open, store, wait};

const ROOM: RoomNumber = RoomNumber(3);

/// For each event from 1, its auth events; every third one has none because it is a message.
fn graph() -> impl Strategy<Value = Vec<Vec<u32>>> {
    vec(vec(any::<prop::sample::Index>(), 0..4), 1..900).prop_map(|events| {
        let auths = |(at, auths): (usize, Vec<prop::sample::Index>)| {
            let number = at as u32 + 1;
            let auths: BTreeSet<u32> = auths.iter().map(|auth| 1 + auth.index(at.max(1)) as u32).collect();
            auths.into_iter().filter(|auth| *auth < number && !number.is_multiple_of(3)).collect()
        };
        events.into_iter().enumerate().map(auths).collect()
    })
}

fn naive(graph: &[Vec<u32>], from: &[EventNumber]) -> BTreeSet<EventNumber> {
    let mut found = BTreeSet::new();
    let mut open: Vec<u32> = from.iter().map(|event| event.0).collect();
    while let Some(event) = open.pop() {
        for auth in graph.get(event as usize - 1).into_iter().flatten() {
            if found.insert(EventNumber(*auth)) {
                open.push(*auth);
            }
        }
    }
    found
}

fn put(store: &Store, graph: &[Vec<u32>], events: std::ops::Range<usize>) {
    let mut write = Write::new(ROOM.partition());
    for at in events.filter(|at| !graph[*at].is_empty()) {
        let auths: Vec<_> = graph[at].iter().map(|auth| EventNumber(*auth)).collect();
        write.auth_edges(ROOM, EventNumber(at as u32 + 1), &auths);
    }
    wait(store.commit(write)).expect("nothing stands against this commit");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Chains and differences are what a walk over the graph finds, also while the graph grows and with nothing cached.
    #[test]
    fn chains_are_closures(
        graph in graph(),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
        starts in vec(vec(any::<prop::sample::Index>(), 0..5), 0..4),
    ) {
        let (engine, store) = store();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(graph.len())).collect();
        cuts.push(graph.len());
        cuts.sort_unstable();
        let mut from = 0;
        for cut in cuts {
            put(&store, &graph, from..cut);
            from = cut;
            if cut == 0 { continue }
            let sets: Vec<Vec<EventNumber>> = starts
                .iter()
                .map(|set| set.iter().map(|event| EventNumber(1 + event.index(cut) as u32)).collect())
                .collect();
            let chains: Vec<_> = sets.iter().map(|set| naive(&graph, set)).collect();
            let in_any: BTreeSet<_> = chains.iter().flatten().copied().collect();
            let expected: Vec<_> =
                in_any.into_iter().filter(|event| !chains.iter().all(|chain| chain.contains(event))).collect();
            for store in [&store, &open(engine.clone())] {
                for (set, chain) in sets.iter().zip(&chains) {
                    let found = wait(store.auth_chain(ROOM, set)).expect("it reads");
                    prop_assert_eq!(found, chain.iter().copied().collect::<Vec<_>>());
                }
                let found = wait(store.auth_difference(ROOM, &sets, &NewEdges::new())).expect("it reads");
                prop_assert_eq!(&found, &expected);
                let between = sets.first().map(|set| (naive_between(&graph[..cut], set), set));
                if let Some((between, set)) = between {
                    let found = wait(store.auth_subgraph(ROOM, set, &NewEdges::new())).expect("it reads");
                    prop_assert_eq!(found, between.into_iter().collect::<Vec<_>>());
                }
            }
        }
    }

    /// What is not stored yet counts like what is, and leaves nothing wrong behind.
    #[test]
    fn new_edges_are_as_good_as_stored_ones(
        graph in graph(),
        cut in any::<prop::sample::Index>(),
        starts in vec(vec(any::<prop::sample::Index>(), 1..5), 2..4),
    ) {
        let (_engine, store) = store();
        let cut = cut.index(graph.len());
        put(&store, &graph, 0..cut);
        let event = |at: usize| EventNumber(at as u32 + 1);
        let edges = |at: usize| graph[at].iter().map(|auth| EventNumber(*auth)).collect();
        let new: NewEdges = (cut..graph.len()).map(|at| (event(at), edges(at))).collect();
        let sets: Vec<Vec<EventNumber>> =
            starts.iter().map(|set| set.iter().map(|at| event(at.index(graph.len()))).collect()).collect();
        let chain = wait(store.auth_chain_over(ROOM, &sets[0], &new)).expect("it reads");
        prop_assert_eq!(chain, naive(&graph, &sets[0]).into_iter().collect::<Vec<_>>());
        let between = wait(store.auth_subgraph(ROOM, &sets[0], &new)).expect("it reads");
        prop_assert_eq!(between, naive_between(&graph, &sets[0]).into_iter().collect::<Vec<_>>());
        let difference = wait(store.auth_difference(ROOM, &sets, &new)).expect("it reads");
        put(&store, &graph, cut..graph.len());
        let stored = wait(store.auth_difference(ROOM, &sets, &NewEdges::new())).expect("it reads");
        prop_assert_eq!(difference, stored);
        let chain = wait(store.auth_chain(ROOM, &sets[1])).expect("it reads");
        prop_assert_eq!(chain, naive(&graph, &sets[1]).into_iter().collect::<Vec<_>>());
    }
}

/// What is reached from one of the events, and reaches one.
fn naive_between(graph: &[Vec<u32>], events: &[EventNumber]) -> BTreeSet<EventNumber> {
    let all = naive(graph, events).into_iter().chain(events.iter().copied());
    all.filter(|event| {
        let below = naive(graph, &[*event]);
        events.iter().any(|end| end == event || below.contains(end))
    })
    .collect()
}

#[test]
fn a_long_history_is_read_in_few_steps() {
    let (engine, store) = store();
    // Each event rests on the create event and on the one before it.
    let graph: Vec<Vec<u32>> = (1..=50_000u32)
        .map(|number| match number {
            1 => vec![],
            2 => vec![1],
            _ => vec![1, number - 1],
        })
        .collect();
    for from in (0..graph.len()).step_by(10_000) {
        put(&store, &graph, from..from + 10_000);
    }
    let chain = wait(store.auth_chain(ROOM, &[EventNumber(50_000)])).expect("it reads");
    assert_eq!(chain.len(), 49_999);
    let before = engine.reads();
    wait(store.auth_chain(ROOM, &[EventNumber(50_000)])).expect("it reads");
    assert_eq!(engine.reads(), before, "blocks are kept");
}
