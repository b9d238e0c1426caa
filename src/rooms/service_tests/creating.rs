use hearth_core::RoomVersion;
use hearth_ports::mem::Failure;
use serde_json::{Map, Value, json};

use super::{World, assert_invalid, commit_waits, creation, object, user};
use crate::{AliasError, CreateError, Creation, InitialState, Preset};

#[tokio::test]
async fn a_room_of_each_version_stands() {
    let world = World::new().await;
    for version in RoomVersion::ALL {
        let room_id = world.create_in("alice", Preset::Public, version).await;
        world.join(&room_id, "bob").await.unwrap();
        world.say(&room_id, "bob", "hello").await.unwrap();
        let create = world.state(&room_id, "m.room.create", "").await.unwrap();
        assert_eq!(create["room_version"], version.as_str());
        assert_eq!(create.get("creator").is_some(), version < RoomVersion::V11, "{version}");
        let head = world.head(&room_id).await;
        assert_eq!((head.joined, head.extremities.len()), (2, 1), "{version}");
        assert_eq!(world.timeline(&room_id).await.len() as u32, head.next_event.0 - 1, "{version}");
    }
    world.check().await;
}

#[tokio::test]
async fn the_room_id_of_version_12_is_its_create_event() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Private).await;
    let room = world.number(&room_id).await;
    let (_, first) = world.store.timeline(room, .., 1, false).await.unwrap()[0];
    let create = world.store.event(room, first.event.unwrap()).await.unwrap().unwrap();
    assert_eq!(create.event.event_id().as_str()[1..], room_id.as_str()[1..]);
    let levels = world.state(&room_id, "m.room.power_levels", "").await.unwrap();
    assert_eq!(levels["users"], json!({}), "creators stand outside of users");
    assert_eq!(levels["events"]["m.room.tombstone"], 150);
}

#[tokio::test]
async fn events_come_in_the_specified_order() {
    let world = World::new().await;
    let room_id = world
        .rooms
        .create(Creation {
            alias_name: Some("pub".to_owned()),
            name: Some("The Pub".to_owned()),
            topic: Some("Beer".to_owned()),
            invite: vec![(user("bob"), Map::new())],
            is_direct: true,
            initial_state: vec![
                InitialState {
                    kind: "m.room.join_rules".to_owned(),
                    state_key: String::new(),
                    content: object(json!({ "join_rule": "knock" })),
                },
                InitialState { kind: "org.example.thing".to_owned(), state_key: "one".to_owned(), content: Map::new() },
            ],
            ..creation("alice", Preset::Private)
        })
        .await
        .unwrap();
    let kinds: Vec<_> = world.timeline(&room_id).await.into_iter().map(|(kind, _)| kind).collect();
    let expected = [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.canonical_alias",
        "m.room.history_visibility",
        "m.room.guest_access",
        "m.room.join_rules",
        "org.example.thing",
        "m.room.name",
        "m.room.topic",
        "m.room.member",
    ];
    assert_eq!(kinds, expected);
    let topic = world.state(&room_id, "m.room.topic", "").await.unwrap();
    assert_eq!(topic["m.topic"]["m.text"][0]["body"], "Beer");
    let invite = world.state(&room_id, "m.room.member", user("bob").as_str()).await.unwrap();
    assert_eq!(invite, json!({ "membership": "invite", "is_direct": true }));
    let alias = "#pub:hearth.test".try_into().unwrap();
    let alias: ruma::OwnedRoomAliasId = alias;
    assert_eq!(world.rooms.resolve_alias(&alias).await.unwrap(), room_id);
    world.check().await;
}

#[tokio::test]
async fn presets_differ_in_who_comes_in() {
    let world = World::new().await;
    for (preset, rule, guests) in [
        (Preset::Private, "invite", "can_join"),
        (Preset::TrustedPrivate, "invite", "can_join"),
        (Preset::Public, "public", "forbidden"),
    ] {
        let room_id = world.create("alice", preset).await;
        assert_eq!(world.state(&room_id, "m.room.join_rules", "").await.unwrap()["join_rule"], rule);
        assert_eq!(world.state(&room_id, "m.room.guest_access", "").await.unwrap()["guest_access"], guests);
        let visibility = world.state(&room_id, "m.room.history_visibility", "").await.unwrap();
        assert_eq!(visibility["history_visibility"], "shared");
    }
}

#[tokio::test]
async fn who_is_trusted_is_as_powerful_as_the_creator() {
    let world = World::new().await;
    let trusted = |version: &str| Creation {
        version: Some(version.to_owned()),
        invite: vec![(user("bob"), Map::new())],
        creation_content: object(
            json!({ "additional_creators": ["@carol:hearth.test"], "creator": "@eve:hearth.test" }),
        ),
        ..creation("alice", Preset::TrustedPrivate)
    };
    let old = world.rooms.create(trusted("11")).await.unwrap();
    let levels = world.state(&old, "m.room.power_levels", "").await.unwrap();
    assert_eq!(levels["users"], json!({ "@alice:hearth.test": 100, "@bob:hearth.test": 100 }));
    let new = world.rooms.create(trusted("12")).await.unwrap();
    let create = world.state(&new, "m.room.create", "").await.unwrap();
    assert_eq!(create["additional_creators"], json!(["@carol:hearth.test", "@bob:hearth.test"]));
    assert_eq!(create.get("creator"), None);
}

#[tokio::test]
async fn what_makes_no_valid_room_leaves_nothing() {
    let world = World::new().await;
    let powerless = Creation {
        name: Some("Nope".to_owned()),
        version: Some("11".to_owned()),
        alias_name: Some("nope".to_owned()),
        power_levels: object(json!({ "users": { "@alice:hearth.test": 10 } })),
        ..creation("alice", Preset::Private)
    };
    assert_invalid(world.rooms.create(powerless).await);
    let alias: ruma::OwnedRoomAliasId = "#nope:hearth.test".try_into().unwrap();
    assert!(world.rooms.resolve_alias(&alias).await.is_err());
    let creator_in_users = Creation {
        power_levels: object(json!({ "users": { "@alice:hearth.test": 100 } })),
        ..creation("alice", Preset::Private)
    };
    assert_invalid(world.rooms.create(creator_in_users).await);
    let second_create = Creation {
        initial_state: vec![InitialState {
            kind: "m.room.create".to_owned(),
            state_key: String::new(),
            content: Map::new(),
        }],
        ..creation("alice", Preset::Private)
    };
    assert_invalid(world.rooms.create(second_create).await);
    let stranger = Creation {
        initial_state: vec![InitialState {
            kind: "m.room.member".to_owned(),
            state_key: "@eve:elsewhere.test".to_owned(),
            content: object(json!({ "membership": "invite" })),
        }],
        ..creation("alice", Preset::Private)
    };
    assert_invalid(world.rooms.create(stranger).await);
    let unknown = Creation { version: Some("13".to_owned()), ..creation("alice", Preset::Private) };
    assert!(matches!(world.rooms.create(unknown).await, Err(CreateError::UnsupportedVersion)));
    assert_eq!(world.rooms.joined_rooms(&user("alice")).await.unwrap(), Vec::<ruma::OwnedRoomId>::new());
}

#[tokio::test]
async fn an_alias_belongs_to_one_room_and_a_failed_creation_frees_it() {
    let world = World::new().await;
    world.store.ensure_user_number(&user("alice")).await.unwrap();
    let named = || Creation { alias_name: Some("den".to_owned()), ..creation("alice", Preset::Public) };
    // The list entry and the claim are committed, then the room fails.
    let engine = world.engine.clone();
    let claim = world.rooms.create(named());
    let failing = async {
        engine.pause();
        for _ in 0..2 {
            commit_waits(&engine).await;
            engine.resume();
            engine.pause();
        }
        commit_waits(&engine).await;
        engine.fail_next(Failure::Before);
        engine.resume();
    };
    let ((), failed) = tokio::join!(failing, claim);
    assert!(matches!(failed, Err(CreateError::Unavailable(_))), "{failed:?}");
    world.rooms.create(named()).await.unwrap();
    assert!(matches!(world.rooms.create(named()).await, Err(CreateError::AliasTaken)));
    for bad in ["", "a b", "a:b", "tab\t"] {
        let bad = Creation { alias_name: Some(bad.to_owned()), ..creation("alice", Preset::Public) };
        assert!(matches!(world.rooms.create(bad).await, Err(CreateError::BadAlias(_))));
    }
}

#[tokio::test]
async fn a_whole_room_is_one_batch() {
    let world = World::new().await;
    let invite = ["bob", "carol", "dan"].map(|name| (user(name), Map::new())).to_vec();
    for name in ["alice", "bob", "carol", "dan"] {
        world.store.ensure_user_number(&user(name)).await.unwrap();
    }
    // Were it several batches, a failure of the first would leave the others.
    world.engine.fail_next(Failure::Before);
    let failed = world.rooms.create(Creation { invite, ..creation("alice", Preset::Private) }).await;
    assert!(matches!(failed, Err(CreateError::Unavailable(_))));
    assert_eq!(world.rooms.joined_rooms(&user("alice")).await.unwrap().len(), 0);
    let created = world.create("alice", Preset::Private).await;
    assert_eq!(world.rooms.joined_rooms(&user("alice")).await.unwrap(), [created]);
}

#[tokio::test]
async fn a_creation_in_doubt_is_looked_up() {
    let world = World::new().await;
    world.store.ensure_user_number(&user("alice")).await.unwrap();
    world.engine.fail_next(Failure::After);
    let room_id = world.create("alice", Preset::Private).await;
    world.say(&room_id, "alice", "it is there").await.unwrap();
    assert_eq!(world.rooms.joined_rooms(&user("alice")).await.unwrap(), [room_id]);
    world.check().await;
}

#[tokio::test]
async fn a_claim_whose_room_never_came_lapses() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let alice = world.store.user_number(&user("alice")).await.unwrap().unwrap();
    let alias = ruma::OwnedRoomAliasId::try_from("#left:hearth.test").unwrap();
    let nowhere = ruma::OwnedRoomId::try_from("!nowhere:hearth.test").unwrap();
    let number = hearth_store::RoomNumber::first_candidate(nowhere.as_str());
    // The server ended between the claim and the room.
    world.rooms.writer.claim_alias(&alias, number, &nowhere, alice).await.unwrap();
    assert!(matches!(world.rooms.resolve_alias(&alias).await, Err(AliasError::NotFound)));
    let again = || world.rooms.create_alias(alice_id(), false, &alias, &room_id);
    assert!(matches!(again().await, Err(AliasError::Taken)));
    world.clock.advance_ms(60_000);
    again().await.unwrap();
    assert_eq!(world.rooms.resolve_alias(&alias).await.unwrap(), room_id);
}

fn alice_id() -> &'static ruma::UserId {
    ruma::user_id!("@alice:hearth.test")
}

#[tokio::test]
async fn creation_content_cannot_choose_the_version() {
    let world = World::new().await;
    let given = Creation {
        creation_content: object(json!({ "room_version": "test", "test": "azerty", "type": "m.space" })),
        ..creation("alice", Preset::Private)
    };
    let room_id = world.rooms.create(given).await.unwrap();
    let create: Value = world.state(&room_id, "m.room.create", "").await.unwrap();
    assert_eq!(create, json!({ "room_version": "12", "test": "azerty", "type": "m.space" }));
    assert_eq!(world.head(&room_id).await.create.room_type.as_deref(), Some("m.space"));
}
