use hearth_core::RoomVersion;
use ruma::{OwnedRoomAliasId, OwnedRoomId};
use serde_json::{Map, Value, json};

use super::{World, user};
use crate::{MemberAction, Preset, SendError, Upgrade, UpgradeError};

fn upgrade(room_id: &OwnedRoomId, name: &str, version: &str) -> Upgrade {
    Upgrade {
        room_id: room_id.clone(),
        user: user(name),
        profile: Map::new(),
        version: version.to_owned(),
        additional_creators: vec![user("carol")],
    }
}

#[tokio::test]
async fn the_new_room_names_the_tombstone_and_the_tombstone_the_new_room() {
    let world = World::new().await;
    for version in [RoomVersion::V2, RoomVersion::V11, RoomVersion::V12] {
        let old = world.create_in("alice", Preset::Public, RoomVersion::V10).await;
        let new = world.rooms.upgrade(upgrade(&old, "alice", version.as_str())).await.unwrap();
        let tombstone = world.state(&old, "m.room.tombstone", "").await.unwrap();
        assert_eq!(tombstone["replacement_room"], new.as_str());
        let create = world.state(&new, "m.room.create", "").await.unwrap();
        assert_eq!(create["predecessor"]["room_id"], old.as_str());
        assert_eq!(create["room_version"], version.as_str());
        let room = world.number(&old).await;
        let head = world.head(&old).await;
        let stored = world.store.state_event(room, head.state, "m.room.tombstone", "").await.unwrap().unwrap();
        let named = create["predecessor"].get("event_id").and_then(Value::as_str);
        let expected = (version != RoomVersion::V12).then(|| stored.event.event_id().as_str());
        assert_eq!(named, expected);
        assert_eq!(create.get("additional_creators").is_some(), version == RoomVersion::V12);
        assert_eq!(world.rooms.predecessor(&new).await.unwrap(), Some(old.clone()));
        let kinds: Vec<_> = world.timeline(&old).await.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds[6..], ["m.room.tombstone", "m.room.power_levels"]);
    }
    world.check().await;
}

#[tokio::test]
async fn what_matters_comes_along() {
    let world = World::new().await;
    let old = world.create_in("alice", Preset::Private, RoomVersion::V10).await;
    for (kind, content) in [
        ("m.room.topic", json!({ "topic": "topic" })),
        ("m.room.history_visibility", json!({ "history_visibility": "joined" })),
        ("m.room.server_acl", json!({ "allow": ["*"], "allow_ip_literals": "false", "deny": ["evil.com"] })),
        ("org.example.custom", json!({ "stays": true })),
    ] {
        world.set(&old, "alice", kind, "", content).await.unwrap();
    }
    world.act(&old, "alice", MemberAction::Invite, "bob").await.unwrap();
    world.act(&old, "alice", MemberAction::Ban, "mallory").await.unwrap();
    let aliases = ["#one:hearth.test", "#two:hearth.test"].map(|alias| OwnedRoomAliasId::try_from(alias).unwrap());
    for alias in &aliases {
        world.rooms.create_alias(&user("alice"), false, alias, &old).await.unwrap();
    }
    let canonical = json!({ "alias": aliases[0], "alt_aliases": [aliases[1]] });
    world.set(&old, "alice", "m.room.canonical_alias", "", canonical.clone()).await.unwrap();
    world.rooms.set_published(&user("alice"), false, &old, true).await.unwrap();

    let new = world.rooms.upgrade(upgrade(&old, "alice", "11")).await.unwrap();
    for kind in ["m.room.topic", "m.room.history_visibility", "m.room.server_acl", "m.room.join_rules"] {
        assert_eq!(world.state(&new, kind, "").await, world.state(&old, kind, "").await, "{kind}");
    }
    assert_eq!(world.state(&new, "org.example.custom", "").await, None);
    assert_eq!(world.membership(&new, "mallory").await.as_deref(), Some("ban"));
    assert_eq!(world.membership(&new, "bob").await, None);
    for alias in &aliases {
        assert_eq!(world.rooms.resolve_alias(alias).await.unwrap(), new);
    }
    assert_eq!(world.state(&new, "m.room.canonical_alias", "").await.unwrap(), canonical);
    assert_eq!(world.state(&old, "m.room.canonical_alias", "").await.unwrap(), json!({}));
    assert!(world.rooms.is_published(&new).await.unwrap());
    assert!(!world.rooms.is_published(&old).await.unwrap());
    world.check().await;
}

#[tokio::test]
async fn a_moderator_upgrades_without_gaining_power() {
    let world = World::new().await;
    let old = world.create_in("alice", Preset::Public, RoomVersion::V10).await;
    world.join(&old, "bob").await.unwrap();
    let mut levels = world.state(&old, "m.room.power_levels", "").await.unwrap();
    levels["users"]["@bob:hearth.test"] = 50.into();
    levels["events"]["m.room.tombstone"] = 50.into();
    levels["users_default"] = 20.into();
    world.set(&old, "alice", "m.room.power_levels", "", levels.clone()).await.unwrap();
    let new = world.rooms.upgrade(upgrade(&old, "bob", "11")).await.unwrap();
    assert_eq!(world.state(&new, "m.room.power_levels", "").await.unwrap(), levels);
    assert_eq!(world.state(&old, "m.room.power_levels", "").await.unwrap(), levels, "bob may not change them");
    let new = world.rooms.upgrade(upgrade(&old, "alice", "11")).await.unwrap();
    assert_eq!(world.state(&new, "m.room.power_levels", "").await.unwrap(), levels);
    let closed = world.state(&old, "m.room.power_levels", "").await.unwrap();
    assert_eq!((&closed["events_default"], &closed["invite"]), (&50.into(), &50.into()));
    world.check().await;
}

#[tokio::test]
async fn creators_leave_users_when_the_version_puts_them_above() {
    let world = World::new().await;
    let old = world.create_in("alice", Preset::Public, RoomVersion::V11).await;
    let mut levels = world.state(&old, "m.room.power_levels", "").await.unwrap();
    levels["users"]["@carol:hearth.test"] = 100.into();
    levels["users"]["@dan:hearth.test"] = 60.into();
    world.set(&old, "alice", "m.room.power_levels", "", levels).await.unwrap();
    let new = world.rooms.upgrade(upgrade(&old, "alice", "12")).await.unwrap();
    let levels = world.state(&new, "m.room.power_levels", "").await.unwrap();
    assert_eq!(levels["users"], json!({ "@dan:hearth.test": 60 }));
    assert_eq!(levels["events"]["m.room.tombstone"], 150);
}

#[tokio::test]
async fn who_may_not_close_the_room_makes_no_new_one() {
    let world = World::new().await;
    let old = world.create_in("alice", Preset::Public, RoomVersion::V10).await;
    world.join(&old, "bob").await.unwrap();
    for (name, version) in [("bob", "11"), ("bob", "12"), ("eve", "11")] {
        let refused = world.rooms.upgrade(upgrade(&old, name, version)).await;
        assert!(matches!(refused, Err(UpgradeError::Send(SendError::Forbidden(_)))), "{refused:?}");
        let rooms = world.rooms.joined_rooms(&user(name)).await.unwrap();
        assert_eq!(rooms.len(), usize::from(name == "bob"));
    }
    let unknown = world.rooms.upgrade(upgrade(&old, "alice", "fnord")).await;
    assert!(matches!(unknown, Err(UpgradeError::UnsupportedVersion)));
    let nowhere = OwnedRoomId::try_from("!nowhere:hearth.test").unwrap();
    assert!(matches!(world.rooms.upgrade(upgrade(&nowhere, "alice", "11")).await, Err(UpgradeError::NotFound)));
    assert_eq!(world.state(&old, "m.room.tombstone", "").await, None);
}
