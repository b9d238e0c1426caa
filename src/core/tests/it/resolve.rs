use std::collections::{BTreeMap, HashSet};

use hearth_core::{Event, EventIds, RoomVersion, StateMap, resolve, state::conflicted_subgraph};
use proptest::prelude::{ProptestConfig, Strategy, prop, prop_assert_eq, proptest};
use ruma::{EventId, OwnedEventId, UserId, user_id};
use serde_json::json;

use crate::room::{Act, Room, alice, bob};

type Events = BTreeMap<OwnedEventId, Event>;

fn all_events(lines: &[Room]) -> Events {
    lines.iter().flat_map(|room| room.events.clone()).collect()
}

/// Everything reachable over auth events from the state's events.
fn auth_chain(events: &Events, state: &StateMap) -> EventIds {
    let mut chain = EventIds::new();
    let mut to_visit: Vec<&EventId> = state.values().map(|id| &**id).collect();
    while let Some(id) = to_visit.pop() {
        for above in events[id].auth_events() {
            if chain.insert(above.clone()) {
                to_visit.push(above);
            }
        }
    }
    chain
}

fn resolved(version: RoomVersion, events: &Events, states: &[StateMap]) -> StateMap {
    let chains = states.iter().map(|state| auth_chain(events, state)).collect();
    let fetch = |id: &EventId| events.get(id).cloned();
    let subgraph = |conflicted: &EventIds| {
        Some(conflicted_subgraph(conflicted, |id| Some(events.get(id)?.auth_events().to_vec())))
    };
    resolve(version, states, chains, fetch, subgraph).unwrap()
}

fn users() -> [&'static UserId; 4] {
    [alice(), bob(), user_id!("@carl:two"), user_id!("@dan:three")]
}

fn act_of(version: RoomVersion, (actor, what, whom): (usize, usize, usize)) -> Act {
    let (actor, whom) = (users()[actor], users()[whom]);
    let level = |level: i64| {
        let mut levels = json!({ "@bob:two": 60, "@carl:two": level, "@dan:three": level });
        if version < RoomVersion::V12 {
            levels["@alice:one"] = json!(100);
        }
        Act::state(actor, "m.room.power_levels", "", json!({ "users": levels }))
    };
    match what {
        0 => Act::member(actor, actor, "join"),
        1 => Act::member(actor, actor, "leave"),
        2 => Act::member(actor, whom, "ban"),
        3 => Act::member(actor, whom, "leave"),
        4 => Act::member(actor, whom, "invite"),
        5 => level(0),
        6 => level(50),
        7 => Act::state(actor, "m.room.join_rules", "", json!({ "join_rule": "invite" })),
        8 => Act::state(actor, "m.room.join_rules", "", json!({ "join_rule": "public" })),
        _ => Act::state(actor, "m.room.topic", "", json!({ "topic": actor })),
    }
}

/// Three lines of history over a common beginning; acts that the rules refuse just do not happen.
fn lines(version: RoomVersion, acts: &[(usize, (usize, usize, usize))]) -> Vec<Room> {
    let mut base = Room::public(version);
    for user in &users()[1..] {
        base.must(&Act::member(user, user, "join"));
    }
    base.must(&act_of(version, (0, 6, 0)));
    let mut lines = vec![base.clone(), base.clone(), base];
    for (index, line) in lines.iter_mut().enumerate() {
        line.name = format!("l{index}");
    }
    for (line, act) in acts {
        // The reason does not matter: most random acts are nonsense.
        let _ = lines[*line].act(&act_of(version, *act));
    }
    lines
}

fn versions() -> impl Strategy<Value = RoomVersion> {
    prop::sample::select(vec![RoomVersion::V1, RoomVersion::V2, RoomVersion::V6, RoomVersion::V11, RoomVersion::V12])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_states_does_not_matter(
        version in versions(),
        acts in prop::collection::vec((0_usize..3, (0_usize..4, 0_usize..10, 0_usize..4)), 0..24),
    ) {
        let lines = lines(version, &acts);
        let events = all_events(&lines);
        let states: Vec<_> = lines.iter().map(Room::state_map).collect();
        let first = resolved(version, &events, &states);
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let states: Vec<_> = order.iter().map(|index| states[*index].clone()).collect();
            prop_assert_eq!(&resolved(version, &events, &states), &first);
        }
        // What all agree on stays, and nothing comes from outside.
        for (key, id) in &first {
            let kind = key.0.to_string();
            prop_assert_eq!(events[id].state_pair(), Some((&*kind, &*key.1)));
        }
        for (key, id) in &states[0] {
            if states.iter().all(|state| state.get(key) == Some(id)) {
                prop_assert_eq!(first.get(key), Some(id));
            }
        }
        // Resolved is resolved.
        prop_assert_eq!(&resolved(version, &events, &[first.clone(), first.clone()]), &first);
        prop_assert_eq!(&resolved(version, &events, &states[..1]), &states[0]);
    }

    #[test]
    fn the_subgraph_is_all_that_lies_between_conflicted_events(
        edges in prop::collection::vec(prop::collection::vec(0_usize..12, 0..3), 12),
        picked in prop::collection::hash_set(0_usize..12, 0..4),
    ) {
        let id = |index: usize| OwnedEventId::try_from(format!("$e{index}")).unwrap();
        // Edges go to smaller numbers only.
        let above: Vec<Vec<usize>> = edges.iter().enumerate()
            .map(|(from, to)| to.iter().copied().filter(|to| *to < from).collect()).collect();
        let mut reach = vec![HashSet::new(); 12];
        for from in 0..12 {
            reach[from].insert(from);
            for to in &above[from] {
                let further = reach[*to].clone();
                reach[from].extend(further);
            }
        }
        let is_between = |event: &usize| picked.iter().any(|below| reach[*below].contains(event))
            && picked.iter().any(|top| reach[*event].contains(top));
        let wanted: EventIds = (0..12).filter(is_between).map(id).collect();
        let conflicted = picked.iter().map(|index| id(*index)).collect();
        let found = conflicted_subgraph(&conflicted, |event| {
            let index: usize = event.as_str()[2..].parse().unwrap();
            Some(above[index].iter().map(|index| id(*index)).collect())
        });
        prop_assert_eq!(found, wanted);
    }
}

/// Alice bans Bob while Bob, not knowing it, sets the topic.
fn ban_against_topic(version: RoomVersion) -> (Room, StateMap) {
    let lines = lines(version, &[(0, (0, 2, 1)), (1, (1, 9, 0)), (1, (1, 9, 0))]);
    let events = all_events(&lines);
    let states: Vec<_> = lines.iter().take(2).map(Room::state_map).collect();
    (lines[0].clone(), resolved(version, &events, &states))
}

#[test]
fn a_ban_wins_over_what_the_banned_did_meanwhile() {
    for version in RoomVersion::ALL {
        let (room, state) = ban_against_topic(version);
        let member = state[&("m.room.member".into(), "@bob:two".to_owned())].clone();
        assert_eq!(&*member, room.get("m.room.member", "@bob:two").unwrap().event_id(), "{version}");
        // Version 1 has nothing against it: the topic is in one state only, so it conflicts with nothing.
        let has_topic = state.contains_key(&("m.room.topic".into(), String::new()));
        assert_eq!(has_topic, version == RoomVersion::V1, "{version}");
    }
}

#[test]
fn version_1_takes_the_deepest_event_that_is_allowed() {
    let version = RoomVersion::V1;
    // Two topics: the second line is deeper.
    let deeper = lines(version, &[(0, (1, 9, 0)), (1, (0, 9, 0)), (1, (0, 9, 0))]);
    let topic = |room: &Room| room.get("m.room.topic", "").unwrap().event_id().to_owned();
    let states: Vec<_> = deeper.iter().take(2).map(Room::state_map).collect();
    let state = resolved(version, &all_events(&deeper), &states);
    assert_eq!(state[&("m.room.topic".into(), String::new())], topic(&deeper[1]));

    // The deeper one is by somebody whom the power levels of the other line, resolved first, no longer let: in line 0
    // Alice takes Carl's level away, in line 1 Carl sets the topic twice.
    let demoted = lines(version, &[(0, (0, 5, 0)), (0, (0, 9, 0)), (1, (2, 9, 0)), (1, (2, 9, 0)), (1, (2, 9, 0))]);
    let states: Vec<_> = demoted.iter().take(2).map(Room::state_map).collect();
    let state = resolved(version, &all_events(&demoted), &states);
    assert_eq!(state[&("m.room.topic".into(), String::new())], topic(&demoted[0]));
    let levels = &state[&("m.room.power_levels".into(), String::new())];
    assert_eq!(&**levels, demoted[0].get("m.room.power_levels", "").unwrap().event_id());
}

#[test]
fn what_cannot_be_fetched_does_not_come_into_force() {
    for version in [RoomVersion::V1, RoomVersion::V11] {
        let lines = lines(version, &[(0, (1, 9, 0)), (1, (0, 9, 0)), (1, (0, 9, 0))]);
        let mut events = all_events(&lines);
        let states: Vec<_> = lines.iter().take(2).map(Room::state_map).collect();
        let key = ("m.room.topic".into(), String::new());
        let winner = resolved(version, &events, &states)[&key].clone();
        let other = states.iter().map(|state| &state[&key]).find(|id| **id != winner).unwrap();
        events.remove(&winner);
        let fetch = |id: &EventId| events.get(id).cloned();
        let chains = vec![EventIds::new(), EventIds::new()];
        let state = resolve(version, &states, chains, fetch, |_| None).unwrap();
        assert_eq!(&state[&key], other, "{version}");
    }
}
