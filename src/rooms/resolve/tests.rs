//! Random graphs of events of several servers, room version by room version: whatever is stored of an event is what the
//! full call with whole states makes of it.

use hearth_core::{RoomVersion, StateMap, catchup::Place};
use hearth_ports::NoPeers;
use hearth_store::{StateVersion, tables::EventFlags};
use proptest::prelude::{ProptestConfig, Strategy, any, prop, proptest};
use ruma::{EventId, OwnedEventId, RoomId};
use serde_json::json;

use crate::{
    Preset,
    receive::Arriving,
    service_tests::{
        World,
        elsewhere::{Act, Elsewhere, world_with},
    },
};

const USERS: [&str; 4] = ["@alice:hearth.test", "@bob:two", "@carl:two", "@dan:three"];

/// What is done, by whom, to whom; behind which of the newest events; with auth events of how long ago (mostly now).
#[derive(Clone, Debug)]
struct Step {
    what: usize,
    who: usize,
    whom: usize,
    behind: Vec<usize>,
    stale: Option<usize>,
    later_ms: u64,
}

fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let stale = prop::option::weighted(0.15, 0_usize..6);
    let step = (0_usize..12, 0_usize..4, 0_usize..4, prop::collection::vec(0_usize..6, 1..4), stale, 0_u64..3)
        .prop_map(|(what, who, whom, behind, stale, later_ms)| Step { what, who, whom, behind, stale, later_ms });
    prop::collection::vec(step, 1..count)
}

fn act(version: RoomVersion, step: &Step) -> Act {
    // Our own server's events are made by itself; what its user may do, Bob may, too.
    let (actor, whom) = (USERS[step.who.max(1)], USERS[step.whom]);
    let levels = |level: i64| {
        let mut users = json!({ "@bob:two": 100, "@carl:two": level, "@dan:three": level });
        if version < RoomVersion::V12 {
            users["@alice:hearth.test"] = json!(100);
        }
        Act::state(actor, "m.room.power_levels", "", json!({ "users": users, "state_default": 0 }))
    };
    match step.what {
        0 => Act::join(actor),
        1 => Act::member(actor, actor, "leave"),
        2 => Act::member(actor, whom, "ban"),
        3 => Act::member(actor, whom, "leave"),
        4 => Act::member(actor, whom, "invite"),
        5 => levels(0),
        6 => levels(50),
        7 => Act::state(actor, "m.room.join_rules", "", json!({ "join_rule": "invite" })),
        8 => Act::state(actor, "m.room.join_rules", "", json!({ "join_rule": "public" })),
        9 => Act::say(actor, "hi"),
        10 => Act::state(actor, "m.room.topic", "", json!({ "topic": step.whom })),
        _ => Act::state(actor, "x", whom, json!({ "x": step.whom })),
    }
}

/// A room of ours into which the others have come.
async fn begin(version: RoomVersion) -> (World, Elsewhere) {
    let world = world_with(std::sync::Arc::new(NoPeers)).await;
    let room_id = world.create_in("alice", Preset::Public, version).await;
    let mut users = json!({ "@bob:two": 100 });
    if version < RoomVersion::V12 {
        users["@alice:hearth.test"] = json!(100);
    }
    let content = json!({ "users": users, "state_default": 0, "ban": 50, "kick": 50, "events_default": 0 });
    world.set(&room_id, "alice", "m.room.power_levels", "", content).await.unwrap();
    let mut elsewhere = Elsewhere::of(&world, &room_id).await;
    for user in &USERS[1..] {
        elsewhere.go_on(&Act::join(user));
    }
    (world, elsewhere)
}

async fn place(world: &World, elsewhere: &Elsewhere, from: usize, chunk: usize) {
    let room = world.number(&elsewhere.room_id).await;
    let arriving = |event: &hearth_core::Event| Arriving {
        event: event.clone().with_rejected(false),
        place: Place::AfterPrevs,
        // Of a server that has nobody in the room not everything would be kept.
        origin: None,
        relay: false,
    };
    for some in elsewhere.all[from..].chunks(chunk) {
        let events = some.iter().map(|judged| arriving(&judged.event)).collect();
        for outcome in world.rooms.writer.place_all(room, events).await {
            outcome.unwrap();
        }
    }
}

/// A stored version as the rules would write it.
async fn state_map(world: &World, room_id: &RoomId, version: StateVersion) -> StateMap {
    let room = world.number(room_id).await;
    let mut map = StateMap::new();
    for (_, number) in world.store.state_all(room, version).await.unwrap() {
        let stored = world.store.event(room, number).await.unwrap().unwrap();
        let (kind, state_key) = stored.event.state_pair().unwrap();
        map.insert((kind.into(), state_key.to_owned()), stored.event.event_id().to_owned());
    }
    map
}

async fn compare(world: &World, elsewhere: &Elsewhere) {
    let room = world.number(&elsewhere.room_id).await;
    for judged in &elsewhere.all {
        let id = judged.event.event_id();
        let stored = world.store.event_by_id(room, id).await.unwrap().unwrap();
        let told = (judged.event.kind(), judged.event.state_key(), id);
        assert_eq!(stored.header.flags.has(EventFlags::REJECTED), judged.event.rejected(), "{told:?}");
        let before = state_map(world, &elsewhere.room_id, stored.header.state_before).await;
        assert_eq!(before, judged.before, "before {told:?}");
        let after = state_map(world, &elsewhere.room_id, stored.header.state_after).await;
        assert_eq!(after, judged.after, "after {told:?}");
    }
    let head = world.head(&elsewhere.room_id).await;
    let extremities: Vec<OwnedEventId> =
        head.extremities.iter().map(|extremity| EventId::parse(&extremity.event_id).unwrap()).collect();
    let states = extremities.iter().map(|id| elsewhere.get(id).after.clone()).collect();
    assert_eq!(state_map(world, &elsewhere.room_id, head.state).await, elsewhere.resolved(states), "current state");
    world.check().await;
}

async fn check(version: RoomVersion, steps: &[Step], chunk: usize, own: usize) {
    let (world, mut elsewhere) = begin(version).await;
    let mut placed = elsewhere.all.len() - 3;
    for (nth, step) in steps.iter().enumerate() {
        let recent = |back: usize| {
            let at = elsewhere.all.len().saturating_sub(1 + back).max(elsewhere.all.len().min(8) - 1);
            elsewhere.all[at].event.event_id().to_owned()
        };
        let mut behind: Vec<OwnedEventId> = step.behind.iter().map(|back| recent(*back)).collect();
        behind.sort();
        behind.dedup();
        let behind: Vec<&EventId> = behind.iter().map(|id| &**id).collect();
        elsewhere.now_ms = elsewhere.now_ms.saturating_sub(1) + step.later_ms;
        let act = act(version, step);
        match step.stale {
            Some(back) => {
                let state = elsewhere.get(&recent(back)).after.clone();
                elsewhere.make_citing(&behind, &state, &act)
            }
            None => elsewhere.make(&behind, &act),
        };
        if nth % 8 == own {
            place(&world, &elsewhere, placed, chunk).await;
            // Whether or not she may by now.
            let _ = world.set(&elsewhere.room_id, "alice", "m.room.topic", "", json!({ "topic": nth })).await;
            elsewhere.follow(&world).await;
            placed = elsewhere.all.len();
        }
    }
    place(&world, &elsewhere, placed, chunk).await;
    compare(&world, &elsewhere).await;
}

/// Dozens of cases in CI; `HEARTH_RESOLVE_CASES` for more.
fn cases() -> u32 {
    std::env::var("HEARTH_RESOLVE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn states_are_those_of_the_full_call(
        version in prop::sample::select(RoomVersion::ALL.to_vec()),
        steps in steps(32),
        chunk in 1_usize..20,
        own in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(version, &steps, chunk, own.index(8)));
    }
}
