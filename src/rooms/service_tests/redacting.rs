use hearth_core::RoomVersion;
use hearth_store::tables::EventFlags;
use serde_json::{Value, json};

use super::{
    World, assert_forbidden,
    elsewhere::Act,
    message,
    script::{BOB, Scene},
};
use crate::{Message, Preset, SendError};

#[tokio::test]
async fn a_redaction_takes_effect_in_every_version() {
    let world = World::new().await;
    for version in RoomVersion::ALL {
        let room_id = world.create_in("alice", Preset::Public, version).await;
        let room = world.number(&room_id).await;
        world.join(&room_id, "bob").await.unwrap();
        let target = world.say(&room_id, "bob", "rude").await.unwrap();
        // It is in the cache of the readers.
        let before = world.store.event_by_id(room, &target).await.unwrap().unwrap();
        assert_eq!(before.event.content_as::<Value>().unwrap()["body"], "rude");
        let redaction = world.redact(&room_id, "alice", &target).await.unwrap();
        let after = world.store.event_by_id(room, &target).await.unwrap().unwrap();
        assert_eq!(after.event.content_as::<Value>().unwrap(), json!({}), "{version}");
        assert!(after.header.flags.has(EventFlags::REDACTED));
        assert_eq!(after.header.order(), before.header.order(), "it keeps its place");
        let redaction = world.store.event_by_id(room, &redaction).await.unwrap().unwrap();
        assert_eq!(after.header.redacted_by, Some(redaction.number));
        assert_eq!(redaction.header.redacts, Some(after.number));
        assert_eq!(redaction.event.redacts(), Some(&*target), "{version}");
        assert_eq!(redaction.event.content_as::<Value>().unwrap()["reason"], "spam");
    }
    world.check().await;
}

#[tokio::test]
async fn only_the_sender_and_the_powerful_redact() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let other = world.create("alice", Preset::Public).await;
    for name in ["bob", "carol"] {
        world.join(&room_id, name).await.unwrap();
    }
    let target = world.say(&room_id, "bob", "mine").await.unwrap();
    assert_forbidden(world.redact(&room_id, "carol", &target).await);
    assert_forbidden(world.redact(&room_id, "dan", &target).await);
    assert!(matches!(world.redact(&other, "alice", &target).await, Err(SendError::UnknownEvent)));
    world.redact(&room_id, "bob", &target).await.unwrap();
    let room = world.number(&room_id).await;
    let create = world.store.state_event(room, world.head(&room_id).await.state, "m.room.create", "").await.unwrap();
    assert_forbidden(world.redact(&room_id, "alice", &create.unwrap().event.event_id().to_owned()).await);
}

#[tokio::test]
async fn redacted_state_is_redacted_for_the_rules_too() {
    let world = World::new().await;
    let room_id = world.create_in("alice", Preset::Public, RoomVersion::V10).await;
    let content = json!({ "users": { "@alice:hearth.test": 100 }, "invite": 70, "events": { "a.b": 99 } });
    let levels = world.set(&room_id, "alice", "m.room.power_levels", "", content).await.unwrap();
    world.join(&room_id, "bob").await.unwrap();
    let invite = || world.act(&room_id, "bob", crate::MemberAction::Invite, "carol");
    assert_forbidden(invite().await);
    world.redact(&room_id, "alice", &levels).await.unwrap();
    // Version 10 does not keep `invite`, so it falls back to 0.
    invite().await.unwrap();
    assert_eq!(
        world.state(&room_id, "m.room.power_levels", "").await.unwrap(),
        json!({ "users": { "@alice:hearth.test": 100 }, "events": { "a.b": 99 } })
    );
    world.check().await;
}

#[tokio::test]
async fn a_second_redaction_changes_nothing_and_a_redaction_can_be_redacted() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let room = world.number(&room_id).await;
    let target = world.say(&room_id, "alice", "oops").await.unwrap();
    let first = world.redact(&room_id, "alice", &target).await.unwrap();
    let (second, third) =
        tokio::join!(world.redact(&room_id, "alice", &target), world.redact(&room_id, "alice", &target));
    let number = world.store.event_number(room, &first).await.unwrap();
    let stored = world.store.event_by_id(room, &target).await.unwrap().unwrap();
    assert_eq!(stored.header.redacted_by, number);
    for later in [second.unwrap(), third.unwrap()] {
        assert_eq!(world.store.event_by_id(room, &later).await.unwrap().unwrap().header.redacts, None);
    }
    world.redact(&room_id, "alice", &first).await.unwrap();
    let redaction = world.store.event_by_id(room, &first).await.unwrap().unwrap();
    assert_eq!(redaction.event.content_as::<Value>().unwrap().get("reason"), None);
    world.check().await;
}

#[tokio::test]
async fn a_redaction_may_come_as_a_message() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let room = world.number(&room_id).await;
    let target = world.say(&room_id, "alice", "oops").await.unwrap();
    let as_message = |content: Value| Message {
        kind: "m.room.redaction".to_owned(),
        content: serde_json::value::to_raw_value(&content).unwrap(),
        ..message(&room_id, "alice", "", None)
    };
    world.rooms.send(as_message(json!({ "redacts": target }))).await.unwrap();
    let stored = world.store.event_by_id(room, &target).await.unwrap().unwrap();
    assert!(stored.header.redacted_by.is_some());
    for bad in [json!({}), json!({ "redacts": 1 }), json!([])] {
        assert!(matches!(world.rooms.send(as_message(bad)).await, Err(SendError::BadContent(_))));
    }
}

/// In versions before 11 a redaction that is redacted no longer says what it redacts: what waits for its target is known.
#[tokio::test]
async fn a_redaction_that_waits_may_be_redacted() {
    for version in [RoomVersion::V4, RoomVersion::V11] {
        let scene = Scene::new(version).await;
        let target = scene.go_on(&Act::say(BOB, "oh no"));
        let base = target.prev_events()[0].clone();
        let waiting = scene.room().make(&[&base], &Act::redact(BOB, target.event_id()));
        scene.take(&waiting).await;
        let other = scene.room().make(&[waiting.event_id()], &Act::redact(BOB, waiting.event_id()));
        scene.take(&other).await;
        let stored = scene.stored(&waiting).await.unwrap();
        assert_eq!(stored.event.redacts().is_some(), version.redacts_in_content(), "{version}");
        assert!(!scene.is_shown(&waiting).await, "{version}: it still waits");
        scene.world.check().await;
        scene.take(&target).await;
        assert_eq!(scene.stored(&target).await.unwrap().event.content_json(), "{}", "{version}");
        assert!(scene.is_shown(&waiting).await, "{version}");
        scene.world.check().await;
    }
}
