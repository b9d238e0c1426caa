use std::{collections::HashSet, sync::Arc};

use hearth_core::RoomVersion;
use hearth_ports::mem::{Failure, MemEngine};
use hearth_store::{StateVersion, tables};
use serde_json::{json, value::RawValue};

use super::{World, assert_forbidden, commit_waits, message, user};
use crate::{MemberAction, Message, Preset, SendError};

#[tokio::test]
async fn racing_senders_all_stand_in_one_line() {
    let world = Arc::new(World::new().await);
    let room_id = world.create("alice", Preset::Public).await;
    let senders = 50;
    for sender in 0..senders {
        world.join(&room_id, &format!("u{sender}")).await.unwrap();
    }
    let before = world.timeline(&room_id).await.len();
    let tasks: Vec<_> = (0..senders)
        .map(|sender| {
            let (world, room_id) = (world.clone(), room_id.clone());
            tokio::spawn(async move {
                let mut sent = Vec::new();
                for nth in 0..4 {
                    sent.push(world.say(&room_id, &format!("u{sender}"), &format!("{nth}")).await.unwrap());
                }
                sent
            })
        })
        .collect();
    let mut sent = HashSet::new();
    for task in tasks {
        sent.extend(task.await.unwrap());
    }
    assert_eq!(sent.len(), senders * 4);
    let room = world.number(&room_id).await;
    let rows = world.store.timeline(room, .., 10_000, false).await.unwrap();
    assert_eq!(rows.len(), before + senders * 4);
    let mut previous = None;
    for (depth, (_, row)) in (1..).zip(rows) {
        let stored = world.store.event(room, row.event.unwrap()).await.unwrap().unwrap();
        let prevs = stored.event.prev_events();
        assert_eq!(prevs, previous.as_slice(), "each event cites the one before it");
        assert_eq!(stored.event.depth(), depth);
        previous = Some(stored.event.event_id().to_owned());
        sent.remove(stored.event.event_id());
    }
    assert!(sent.is_empty(), "every answered event is in the timeline");
    let head = world.head(&room_id).await;
    assert_eq!(head.extremities.len(), 1);
    assert_eq!(head.extremities[0].event_id, previous.unwrap().as_str());
    world.check().await;
}

#[tokio::test]
async fn what_waits_is_one_batch_and_fails_alone() {
    let world = Arc::new(World::new().await);
    let room_id = world.create("alice", Preset::Public).await;
    world.store.ensure_user_number(&user("eve")).await.unwrap();
    world.engine.pause();
    let task = |sender: &'static str, text: &'static str| {
        let (world, room_id) = (world.clone(), room_id.clone());
        tokio::spawn(async move { world.say(&room_id, sender, text).await })
    };
    let first = task("alice", "first");
    commit_waits(&world.engine).await;
    let others = [task("alice", "second"), task("eve", "not a member"), task("alice", "third")];
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.engine.waiting(), 1, "one batch of a room at a time");
    world.engine.resume();
    first.await.unwrap().unwrap();
    let [second, stranger, third] = others;
    assert_forbidden(stranger.await.unwrap());
    second.await.unwrap().unwrap();
    third.await.unwrap().unwrap();
    assert_eq!(world.timeline(&room_id).await.len(), 6 + 3);
}

#[tokio::test]
async fn a_warm_room_sends_with_few_reads() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    world.rooms.send(message(&room_id, "alice", "warm", Some("t0"))).await.unwrap();
    let before = world.engine.reads();
    for nth in 0..10 {
        world.rooms.send(message(&room_id, "alice", "hello", Some(&format!("n{nth}")))).await.unwrap();
    }
    let reads = world.engine.reads() - before;
    assert!(reads <= 10, "one read for the transaction id of each, but there were {reads}");
}

#[tokio::test]
async fn a_transaction_id_means_one_event() {
    let world = Arc::new(World::new().await);
    let room_id = world.create("alice", Preset::Public).await;
    let other = world.create("alice", Preset::Public).await;
    let send = |room, device: &str, kind: &str| {
        let mut message: Message = message(room, "alice", "once", Some("t1"));
        message.transaction.as_mut().unwrap().device = device.to_owned();
        message.kind = kind.to_owned();
        let world = world.clone();
        async move { world.rooms.send(message).await.unwrap() }
    };
    let kind = "m.room.message";
    // At the same time, into one batch; then later.
    let (one, two) = tokio::join!(send(&room_id, "PHONE", kind), send(&room_id, "PHONE", kind));
    assert_eq!(one, two);
    assert_eq!(send(&room_id, "PHONE", kind).await, one);
    // Another device, path or room is another transaction.
    let others = [
        send(&room_id, "LAPTOP", kind).await,
        send(&room_id, "PHONE", "m.sticker").await,
        send(&other, "PHONE", kind).await,
    ];
    assert!(!others.contains(&one));
    // After a restart.
    let again = World::on(world.engine.clone(), 2).await;
    assert_eq!(again.rooms.send(message(&room_id, "alice", "once", Some("t1"))).await.unwrap(), one);
    let room = world.number(&room_id).await;
    let stored = world.store.event_by_id(room, &one).await.unwrap().unwrap();
    let sent_by = stored.header.sent_by.clone().unwrap();
    assert_eq!((sent_by.device.as_str(), sent_by.transaction.as_str()), ("PHONE", "t1"));
}

#[tokio::test]
async fn two_nodes_write_one_room_without_a_fork() {
    let engine = MemEngine::new();
    let one = Arc::new(World::on(engine.clone(), 1).await);
    let room_id = one.create("alice", Preset::Public).await;
    let two = Arc::new(World::on(engine.clone(), 2).await);
    let mut tasks = Vec::new();
    for nth in 0..20 {
        for world in [one.clone(), two.clone()] {
            let room_id = room_id.clone();
            tasks.push(tokio::spawn(async move { world.say(&room_id, "alice", &nth.to_string()).await }));
        }
        for _ in 0..nth % 5 {
            tokio::task::yield_now().await;
        }
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let fresh = World::on(engine, 3).await;
    assert_eq!(fresh.timeline(&room_id).await.len(), 6 + 40);
    assert_eq!(fresh.head(&room_id).await.extremities.len(), 1);
    fresh.check().await;
}

#[tokio::test]
async fn a_lost_race_is_tried_again() {
    let engine = MemEngine::new();
    let one = World::on(engine.clone(), 1).await;
    let room_id = one.create("alice", Preset::Public).await;
    let two = World::on(engine, 2).await;
    // Each has the head in its cache, and each makes the other's stale.
    for nth in 0..5 {
        one.say(&room_id, "alice", &format!("one {nth}")).await.unwrap();
        two.say(&room_id, "alice", &format!("two {nth}")).await.unwrap();
    }
    // What the other node allowed or took away holds here.
    two.set(&room_id, "alice", "m.room.join_rules", "", json!({ "join_rule": "invite" })).await.unwrap();
    assert_forbidden(one.join(&room_id, "bob").await);
}

#[tokio::test]
async fn a_commit_in_doubt_is_looked_up() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    world.say(&room_id, "alice", "warm").await.unwrap();
    world.engine.fail_next(Failure::Before);
    let lost = world.say(&room_id, "alice", "lost").await;
    assert!(matches!(lost, Err(SendError::Unavailable(_))));
    world.engine.fail_next(Failure::After);
    world.say(&room_id, "alice", "there all the same").await.unwrap();
    world.say(&room_id, "alice", "next").await.unwrap();
    assert_eq!(world.timeline(&room_id).await.len(), 6 + 3);
    assert_eq!(world.head(&room_id).await.extremities.len(), 1);
    world.check().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_room() {
    let world = Arc::new(World::new().await);
    let room_id = world.create("alice", Preset::Public).await;
    world.engine.pause();
    let task = {
        let (world, room_id) = (world.clone(), room_id.clone());
        tokio::spawn(async move { world.say(&room_id, "alice", "abandoned").await })
    };
    commit_waits(&world.engine).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    world.engine.resume();
    world.say(&room_id, "alice", "after").await.unwrap();
    assert_eq!(world.timeline(&room_id).await.len(), 6 + 2);
}

#[tokio::test]
async fn state_that_stands_is_not_set_again() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let set = |value| world.set(&room_id, "alice", "a.test", "", json!({ "b": value, "a": [1, null] }));
    let first = set("x").await.unwrap();
    assert_eq!(set("x").await.unwrap(), first);
    let second = set("y").await.unwrap();
    assert_ne!(second, first);
    let room = world.number(&room_id).await;
    let stored = world.store.event_by_id(room, &second).await.unwrap().unwrap();
    let replaced = world.store.event_number(room, &first).await.unwrap();
    assert_eq!(stored.header.replaces, replaced);
    let before = world.store.state_event(room, stored.header.state_before, "a.test", "").await.unwrap().unwrap();
    assert_eq!(before.event.event_id(), first);
    assert_eq!(stored.header.state_after, world.head(&room_id).await.state);
    world.join(&room_id, "bob").await.unwrap();
    assert_forbidden(world.set(&room_id, "bob", "a.test", "", json!({})).await);
    assert_ne!(stored.header.state_before, StateVersion::UNKNOWN);
    world.check().await;
}

#[tokio::test]
async fn messages_leave_the_state_as_it_is() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let before = world.head(&room_id).await;
    let sent = world.say(&room_id, "alice", "hello").await.unwrap();
    let after = world.head(&room_id).await;
    assert_eq!(
        (before.state, before.next_state, before.next_state_key),
        (after.state, after.next_state, after.next_state_key)
    );
    let room = world.number(&room_id).await;
    let number = world.store.event_number(room, &sent).await.unwrap().unwrap();
    assert_eq!(number, before.next_event);
    assert!(after.position > before.position);
    let raw = world.store.get_bytes(hearth_ports::Table::Rm, &tables::head_key(room)).await.unwrap().unwrap();
    assert_eq!(hearth_store::decode::<tables::Head>(&raw).unwrap(), after);
}

#[tokio::test]
async fn large_events_that_wait_together_are_several_batches() {
    let world = Arc::new(World::new().await);
    let room_id = world.create("alice", Preset::Public).await;
    world.engine.pause();
    let text = "x".repeat(60_000);
    let task = || {
        let (world, room_id, text) = (world.clone(), room_id.clone(), text.clone());
        tokio::spawn(async move { world.say(&room_id, "alice", &text).await })
    };
    let tasks: Vec<_> = (0..100).map(|_| task()).collect();
    commit_waits(&world.engine).await;
    world.engine.resume();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(world.timeline(&room_id).await.len(), 6 + 100);
}

#[tokio::test]
async fn a_room_takes_only_so_much_that_waits() {
    let world = Arc::new(World::new().await);
    let room_id = world.create("alice", Preset::Public).await;
    world.engine.pause();
    let tasks: Vec<_> = (0..1_300)
        .map(|nth| {
            let (world, room_id) = (world.clone(), room_id.clone());
            tokio::spawn(async move { world.say(&room_id, "alice", &nth.to_string()).await })
        })
        .collect();
    commit_waits(&world.engine).await;
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    world.engine.resume();
    let (mut sent, mut busy) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => sent += 1,
            Err(SendError::Busy) => busy += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(busy >= 100, "{busy} were turned away");
    assert_eq!(world.timeline(&room_id).await.len(), 6 + sent);
}

#[tokio::test]
async fn bad_content_is_told_as_such() {
    let world = World::new().await;
    let room_id = world.create_in("alice", Preset::Public, RoomVersion::V6).await;
    let send = |content: &str| {
        let content = RawValue::from_string(content.to_owned()).unwrap();
        world.rooms.send(Message { content, ..message(&room_id, "alice", "", None) })
    };
    for bad in
        ["[]", "1", "\"x\"", "{\"a\":1.5}", "{\"a\":9007199254740992}", "{\"a\":-9007199254740992}", "{\"a\":1e3}"]
    {
        assert!(matches!(send(bad).await, Err(SendError::Content(_))), "{bad}");
    }
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(70_000));
    assert!(matches!(send(&large).await, Err(SendError::Content(hearth_core::BuildError::TooLarge))));
    let long = Message { kind: "k".repeat(256), ..message(&room_id, "alice", "", None) };
    assert!(matches!(world.rooms.send(long).await, Err(SendError::Content(_))));
    for kind in ["m.room.create", "m.room.member"] {
        let message = Message { kind: kind.to_owned(), ..message(&room_id, "alice", "", None) };
        assert_forbidden(world.rooms.send(message).await);
    }
    assert_forbidden(world.set(&room_id, "alice", "m.room.create", "", json!({ "room_version": "6" })).await);
}

#[tokio::test]
async fn strangers_learn_nothing() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Private).await;
    world.store.ensure_user_number(&user("eve")).await.unwrap();
    assert_forbidden(world.say(&room_id, "eve", "hi").await);
    let nowhere: ruma::OwnedRoomId = "!nowhere:hearth.test".try_into().unwrap();
    assert_forbidden(world.say(&nowhere, "eve", "hi").await);
    let name = json!({ "name": "Secret" });
    world.set(&room_id, "alice", "m.room.name", "", name.clone()).await.unwrap();
    assert_forbidden(world.set(&room_id, "eve", "m.room.name", "", name).await);
    let joined = world.rooms.change_member(crate::MemberChange {
        room_id: nowhere,
        sender: user("eve"),
        target: user("eve"),
        action: MemberAction::Join,
        content: serde_json::Map::new(),
        guest: false,
    });
    assert!(matches!(joined.await, Err(SendError::UnknownRoom)));
}
