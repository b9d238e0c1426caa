use hearth_core::RoomVersion;
use serde_json::{Map, json};

use super::{World, assert_forbidden, object, user};
use crate::{MemberAction, MemberChange, Membership, Preset, SendError};

use MemberAction::{Ban, Invite, Join, Kick, Knock, Leave, Unban};

#[tokio::test]
async fn invite_only_rooms_let_in_who_is_invited() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Private).await;
    assert_forbidden(world.join(&room_id, "bob").await);
    world.act(&room_id, "alice", Invite, "bob").await.unwrap();
    assert_eq!(world.head(&room_id).await.invited, 1);
    world.join(&room_id, "bob").await.unwrap();
    let head = world.head(&room_id).await;
    assert_eq!((head.joined, head.invited), (2, 0));
    assert_forbidden(world.act(&room_id, "alice", Invite, "bob").await);
    assert_forbidden(world.act(&room_id, "alice", Invite, "alice").await);
    assert_forbidden(world.act(&room_id, "carol", Invite, "dan").await);
}

#[tokio::test]
async fn an_invite_is_rejected_and_renewed() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Private).await;
    world.act(&room_id, "alice", Invite, "bob").await.unwrap();
    world.act(&room_id, "alice", Leave, "alice").await.unwrap();
    world.act(&room_id, "bob", Leave, "bob").await.unwrap();
    assert_eq!(world.membership(&room_id, "bob").await.as_deref(), Some("leave"));
    assert_forbidden(world.join(&room_id, "bob").await);
    let head = world.head(&room_id).await;
    assert_eq!((head.joined, head.invited), (0, 0));
    world.check().await;
}

#[tokio::test]
async fn joining_and_leaving_twice_is_doing_it_once() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let joined = world.join(&room_id, "bob").await.unwrap();
    assert_eq!(world.join(&room_id, "bob").await.unwrap(), joined);
    let left = world.act(&room_id, "bob", Leave, "bob").await.unwrap();
    assert_eq!(world.act(&room_id, "bob", Leave, "bob").await.unwrap(), left);
    assert_forbidden(world.act(&room_id, "carol", Leave, "carol").await);
}

#[tokio::test]
async fn custom_content_reaches_the_event_and_renews_it() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let join = |content| MemberChange {
        room_id: room_id.clone(),
        sender: user("bob"),
        target: user("bob"),
        action: Join,
        content: object(content),
        guest: false,
    };
    world.rooms.change_member(join(json!({ "foo": "bar", "displayname": "Bob" }))).await.unwrap();
    let content = world.state(&room_id, "m.room.member", user("bob").as_str()).await.unwrap();
    assert_eq!(content, json!({ "foo": "bar", "displayname": "Bob", "membership": "join" }));
    world.rooms.change_member(join(json!({ "foo": "baz" }))).await.unwrap();
    let content = world.state(&room_id, "m.room.member", user("bob").as_str()).await.unwrap();
    assert_eq!(content, json!({ "foo": "baz", "membership": "join" }));
    let forged = json!({ "join_authorised_via_users_server": "@alice:hearth.test", "foo": 1, "membership": "ban" });
    world.rooms.change_member(join(forged)).await.unwrap();
    let content = world.state(&room_id, "m.room.member", user("bob").as_str()).await.unwrap();
    assert_eq!(content, json!({ "foo": 1, "membership": "join" }));
}

#[tokio::test]
async fn kicks_need_a_member_and_a_level() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    world.join(&room_id, "bob").await.unwrap();
    assert_forbidden(world.act(&room_id, "bob", Kick, "alice").await);
    assert_forbidden(world.act(&room_id, "alice", Kick, "nobody").await);
    assert_forbidden(world.act(&room_id, "carol", Kick, "bob").await);
    world.act(&room_id, "alice", Kick, "bob").await.unwrap();
    assert_forbidden(world.act(&room_id, "alice", Kick, "bob").await);
    world.join(&room_id, "bob").await.unwrap();
}

#[tokio::test]
async fn a_ban_holds_until_it_is_lifted() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    world.join(&room_id, "bob").await.unwrap();
    assert_forbidden(world.act(&room_id, "bob", Ban, "alice").await);
    world.act(&room_id, "alice", Ban, "bob").await.unwrap();
    assert_forbidden(world.join(&room_id, "bob").await);
    assert_forbidden(world.act(&room_id, "bob", Leave, "bob").await);
    assert_forbidden(world.act(&room_id, "alice", Invite, "bob").await);
    assert_forbidden(world.act(&room_id, "alice", Unban, "alice").await);
    world.act(&room_id, "alice", Unban, "bob").await.unwrap();
    assert_eq!(world.membership(&room_id, "bob").await.as_deref(), Some("leave"));
    world.join(&room_id, "bob").await.unwrap();
    // Somebody of another server, who was never here.
    let change = MemberChange {
        room_id: room_id.clone(),
        sender: user("alice"),
        target: "@eve:elsewhere.test".try_into().unwrap(),
        action: Ban,
        content: Map::new(),
        guest: false,
    };
    world.rooms.change_member(change.clone()).await.unwrap();
    assert_forbidden(world.rooms.change_member(MemberChange { action: Invite, ..change.clone() }).await);
    world.rooms.change_member(MemberChange { action: Unban, ..change.clone() }).await.unwrap();
    let invite = world.rooms.change_member(MemberChange { action: Invite, ..change }).await;
    assert!(matches!(invite, Err(SendError::Unreachable(_))));
    world.check().await;
}

#[tokio::test]
async fn knocks_are_for_rooms_that_take_them() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Private).await;
    assert_forbidden(world.act(&room_id, "bob", Knock, "bob").await);
    world.set(&room_id, "alice", "m.room.join_rules", "", json!({ "join_rule": "knock" })).await.unwrap();
    world.act(&room_id, "bob", Knock, "bob").await.unwrap();
    assert_eq!(world.membership(&room_id, "bob").await.as_deref(), Some("knock"));
    assert_forbidden(world.join(&room_id, "bob").await);
    world.act(&room_id, "alice", Invite, "bob").await.unwrap();
    world.join(&room_id, "bob").await.unwrap();
    assert_forbidden(world.act(&room_id, "bob", Knock, "bob").await);
}

#[tokio::test]
async fn restricted_rooms_let_in_members_of_another() {
    let world = World::new().await;
    let space = world.create("alice", Preset::Public).await;
    for (version, rule) in
        [(RoomVersion::V8, "restricted"), (RoomVersion::V10, "knock_restricted"), (RoomVersion::V12, "restricted")]
    {
        let room_id = world.create_in("alice", Preset::Private, version).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": space }, { "type": "other" }]);
        let rules = json!({ "join_rule": rule, "allow": allow });
        world.set(&room_id, "alice", "m.room.join_rules", "", rules).await.unwrap();
        assert_forbidden(world.join(&room_id, "bob").await);
        world.join(&space, "bob").await.unwrap();
        world.join(&room_id, "bob").await.unwrap();
        let content = world.state(&room_id, "m.room.member", user("bob").as_str()).await.unwrap();
        assert_eq!(content["join_authorised_via_users_server"], "@alice:hearth.test", "{version}");
        // An invite is enough without the space.
        world.act(&room_id, "alice", Invite, "carol").await.unwrap();
        world.join(&room_id, "carol").await.unwrap();
        world.act(&space, "bob", Leave, "bob").await.unwrap();
    }
    world.check().await;
}

#[tokio::test]
async fn guests_come_where_they_are_wanted_and_go_when_not() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let guest = |action| MemberChange {
        room_id: room_id.clone(),
        sender: user("42"),
        target: user("42"),
        action,
        content: Map::new(),
        guest: true,
    };
    assert!(matches!(world.rooms.change_member(guest(Join)).await, Err(SendError::GuestsForbidden)));
    let access = |access: &str| json!({ "guest_access": access });
    world.set(&room_id, "alice", "m.room.guest_access", "", access("can_join")).await.unwrap();
    world.rooms.change_member(guest(Join)).await.unwrap();
    world.join(&room_id, "bob").await.unwrap();
    assert_eq!(world.rooms.unwelcome_guests(&room_id).await.unwrap(), Vec::<ruma::OwnedUserId>::new());
    world.set(&room_id, "alice", "m.room.guest_access", "", access("forbidden")).await.unwrap();
    world.rooms.update_profile(&user("42"), &object(json!({ "displayname": "A guest" }))).await.unwrap();
    assert_eq!(world.rooms.unwelcome_guests(&room_id).await.unwrap(), [user("42")]);
    world.rooms.change_member(guest(Leave)).await.unwrap();
    assert_eq!(world.rooms.unwelcome_guests(&room_id).await.unwrap(), Vec::<ruma::OwnedUserId>::new());
}

#[tokio::test]
async fn membership_rows_tell_since_when() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let room = world.number(&room_id).await;
    world.join(&room_id, "bob").await.unwrap();
    let bob = world.store.user_number(&user("bob")).await.unwrap().unwrap();
    let first = world.store.membership(bob, room).await.unwrap().unwrap();
    assert_eq!((first.membership, first.position), (Membership::Join, first.joined_position));
    world.rooms.update_profile(&user("bob"), &object(json!({ "displayname": "Bob" }))).await.unwrap();
    let second = world.store.membership(bob, room).await.unwrap().unwrap();
    assert!(second.position > first.position);
    assert_eq!(second.joined_position, first.joined_position, "a profile change is no join");
    world.act(&room_id, "bob", Leave, "bob").await.unwrap();
    world.join(&room_id, "bob").await.unwrap();
    let third = world.store.membership(bob, room).await.unwrap().unwrap();
    assert_eq!(third.joined_position, third.position);
    assert!(third.joined_position > second.position);
    world.check().await;
}

#[tokio::test]
async fn a_profile_reaches_all_rooms() {
    let world = World::new().await;
    let mut rooms = Vec::new();
    for _ in 0..40 {
        rooms.push(world.create("alice", Preset::Public).await);
    }
    world.act(&rooms[0], "alice", Leave, "alice").await.unwrap();
    let changes = object(json!({ "displayname": "Alice", "avatar_url": "mxc://a/b" }));
    world.rooms.update_profile(&user("alice"), &changes).await.unwrap();
    world.rooms.update_profile(&user("alice"), &object(json!({ "avatar_url": null }))).await.unwrap();
    for room_id in &rooms[1..] {
        let content = world.state(room_id, "m.room.member", user("alice").as_str()).await.unwrap();
        assert_eq!(content, json!({ "membership": "join", "displayname": "Alice" }));
    }
    assert_eq!(world.membership(&rooms[0], "alice").await.as_deref(), Some("leave"));
    world.check().await;
}

#[tokio::test]
async fn a_left_room_can_be_forgotten_and_found_again() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let room = world.number(&room_id).await;
    assert!(world.rooms.forget(&user("alice"), &room_id).await.is_err());
    world.act(&room_id, "alice", Leave, "alice").await.unwrap();
    world.rooms.forget(&user("alice"), &room_id).await.unwrap();
    world.rooms.forget(&user("alice"), &room_id).await.unwrap();
    let alice = world.store.user_number(&user("alice")).await.unwrap().unwrap();
    assert!(world.store.membership(alice, room).await.unwrap().unwrap().forgotten);
    // A ban, and its end, of somebody who has forgotten the room.
    let other = world.create("bob", Preset::Public).await;
    world.join(&other, "alice").await.unwrap();
    world.act(&other, "alice", Leave, "alice").await.unwrap();
    world.rooms.forget(&user("alice"), &other).await.unwrap();
    let number = world.number(&other).await;
    for action in [Ban, Unban] {
        world.act(&other, "bob", action, "alice").await.unwrap();
        assert!(world.store.membership(alice, number).await.unwrap().unwrap().forgotten);
    }
    world.join(&room_id, "alice").await.unwrap();
    assert!(!world.store.membership(alice, room).await.unwrap().unwrap().forgotten);
    world.check().await;
}

#[tokio::test]
async fn a_membership_set_as_state_is_checked_the_same() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    world.store.ensure_user_number(&user("bob")).await.unwrap();
    let bob = user("bob");
    let set = |sender: &'static str, content| world.set(&room_id, sender, "m.room.member", bob.as_str(), content);
    set("bob", json!({ "membership": "join", "displayname": "Mine" })).await.unwrap();
    let content = world.state(&room_id, "m.room.member", bob.as_str()).await.unwrap();
    assert_eq!(content["displayname"], "Mine");
    assert_forbidden(set("bob", json!({ "membership": "invite" })).await);
    assert!(matches!(set("bob", json!({ "displayname": "x" })).await, Err(SendError::BadContent(_))));
    assert!(matches!(set("bob", json!({ "membership": "king" })).await, Err(SendError::BadContent(_))));
    set("alice", json!({ "membership": "ban" })).await.unwrap();
    set("alice", json!({ "membership": "leave" })).await.unwrap();
    assert_eq!(world.membership(&room_id, "bob").await.as_deref(), Some("leave"));
    let bad_key = world.set(&room_id, "alice", "m.room.member", "bob", json!({ "membership": "ban" })).await;
    assert!(matches!(bad_key, Err(SendError::InvalidParam(_))));
}
