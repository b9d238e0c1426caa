//! What changes much of a room at once, or would.

use hearth_core::{Event, RoomVersion};
use hearth_ports::Clock as _;
use serde_json::json;

use super::{
    commit_waits,
    elsewhere::Act,
    script::{BOB, Scene},
};
use crate::ReceiveError;

/// How long what would cost too much is not tried again.
const REFUSED_MS: u64 = 300_000;

/// Whoever owns a room can make states meet that cost too much; the same is not tried again for each event that joins them.
#[tokio::test]
async fn what_costs_too_much_is_not_tried_again_at_once() {
    let scene = Scene::new(RoomVersion::DEFAULT).await;
    let content = json!({ "users": { BOB: 50 }, "state_default": 50 });
    scene.world.set(&scene.room_id, "alice", "m.room.power_levels", "", content).await.unwrap();
    scene.follow().await;
    let base = scene.room().last();
    let set: Vec<Event> =
        (0..=200).map(|n| scene.go_on(&Act::state(BOB, "x", &n.to_string(), json!({ "n": n })))).collect();
    for some in set.chunks(50) {
        assert!(scene.send(&some.iter().collect::<Vec<_>>()).await.iter().all(Result::is_ok));
    }
    let both = scene.room().make(&[set[200].event_id(), &base], &Act::say(BOB, "both"));
    let room = scene.world.number(&scene.room_id).await;
    let first = scene.world.store.event_by_id(room, &base).await.unwrap().unwrap().header.state_after;
    let meeting = (room, vec![first, scene.world.head(&scene.room_id).await.state]);
    let (results, now_ms) = (&scene.world.rooms.writer.results, scene.world.clock.now_ms());
    assert!(results.refused(&meeting, now_ms).is_none());
    let result = scene.send(&[&both]).await.remove(0);
    assert!(matches!(result, Err(ReceiveError::Incomplete(_))), "{result:?}");
    assert!(results.refused(&meeting, now_ms).is_some());
    assert!(results.refused(&meeting, now_ms + REFUSED_MS).is_none(), "it may do some time");
    // One that has it behind it is not refused with it.
    let next = scene.room().make(&[set[200].event_id()], &Act::say(BOB, "next"));
    scene.take(&next).await;
    scene.world.check().await;
}

/// Behind a gap many come in at once: their numbers are not given one after the other while the room waits.
#[tokio::test]
async fn many_newcomers_are_numbered_together() {
    let scene = Scene::new(RoomVersion::DEFAULT).await;
    let names: Vec<String> = (0..40).map(|n| format!("@new{n}:two")).collect();
    for name in &names {
        scene.go_on(&Act::join(name.clone().leak()));
    }
    let hidden = scene.go_on(&Act::say(BOB, "hidden"));
    let said = scene.go_on(&Act::say(BOB, "hi"));
    scene.script.hidden.lock().insert(hidden.event_id().to_owned());
    scene.script.refused.lock().insert("missing_events");
    let engine = scene.world.engine.clone();
    let (take, mut at_once) = (scene.take(&said), 0);
    tokio::pin!(take);
    loop {
        engine.pause();
        tokio::select! {
            () = &mut take => break,
            () = commit_waits(&engine) => at_once = at_once.max(engine.waiting()),
        }
        engine.resume();
    }
    engine.resume();
    assert!(at_once > 10, "at most {at_once} commits waited together");
    assert_eq!(scene.world.head(&scene.room_id).await.joined, 44);
    scene.world.check().await;
}
