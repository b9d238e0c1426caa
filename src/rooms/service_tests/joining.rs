//! Two or three servers: joins, invites, knocks and leaves through each other.

use futures_util::FutureExt as _;
use hearth_core::RoomVersion;
use hearth_store::{LogEntry, MemberNote, Positions};
use serde_json::json;

use super::{
    commit_waits,
    twin::{Town, towns},
};
use crate::{MemberAction, Membership, Preset, ReceiveError, SendError};

use MemberAction::{Invite, Join, Knock, Leave};

#[track_caller]
pub(super) fn assert_refused<T: std::fmt::Debug>(result: Result<T, SendError>, errcode: &str) {
    match result {
        Err(SendError::Refused { errcode: found, .. }) => assert_eq!(found, errcode),
        other => panic!("expected {errcode}, got {other:?}"),
    }
}

/// Both servers have the same state, and their databases are sound.
pub(super) async fn assert_agree(room_id: &ruma::RoomId, one: &Town, other: &Town) {
    assert_eq!(one.state_ids(room_id).await, other.state_ids(room_id).await);
    one.world.check().await;
    other.world.check().await;
    let servers = |town: &Town| {
        let store = town.world.store.clone();
        let room = room_id.to_owned();
        async move {
            let number = store.room_number(&room).await.unwrap().unwrap();
            store.servers_in_room(number).await.unwrap()
        }
    };
    assert_eq!(servers(one).await, servers(other).await);
    let (head, there) = (one.world.head(room_id).await, other.world.head(room_id).await);
    assert_eq!((head.joined, head.invited), (there.joined, there.invited));
    assert_eq!(head.create, there.create);
}

#[tokio::test]
async fn a_public_room_of_every_version_is_joined() {
    for version in RoomVersion::ALL {
        let [a, b] = towns(["a.test", "b.test"]).await;
        let room_id = a.create_in("alice", Preset::Public, version).await;
        a.join(&room_id, "anna", &[]).await.unwrap();
        a.set(&room_id, "alice", "m.room.topic", json!({ "topic": "t" })).await;
        let joined = b.join(&room_id, "bob", &[&a]).await.unwrap_or_else(|error| panic!("{version}: {error}"));
        assert_agree(&room_id, &a, &b).await;
        assert_eq!(b.world.timeline(&room_id).await.len(), 1);
        assert_eq!(b.membership(&room_id, &b.user("bob")).await, Some(Membership::Join));
        assert_eq!(a.membership(&room_id, &b.user("bob")).await, Some(Membership::Join));
        assert_eq!(b.join(&room_id, "bob", &[&a]).await.unwrap(), joined, "joining twice is joining once");
        // The room is now here: the next one needs nobody, and what is said stands on the join.
        a.net.set_down(&a, true);
        b.join(&room_id, "bert", &[]).await.unwrap();
        let said = b.say(&room_id, "bob", "hello").await.unwrap();
        assert_eq!(b.event(&room_id, &said).await.version(), version);
        b.world.check().await;
    }
}

#[tokio::test]
async fn the_accepted_event_is_relayed_and_the_loaded_one_is_not() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    let joined = b.join(&room_id, "bob", &[&a]).await.unwrap();
    for (town, origin, relay) in [(&a, "b.test", true), (&b, "a.test", false)] {
        let room = town.world.number(&room_id).await;
        let stored = town.world.store.event_by_id(room, &joined).await.unwrap().unwrap();
        assert_eq!((stored.header.origin.as_deref(), stored.header.relay), (Some(origin), relay));
    }
}

#[tokio::test]
async fn dead_and_ignorant_servers_are_passed_over() {
    let [a, b, c, d] = towns(["a.test", "b.test", "c.test", "d.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    a.net.set_down(&d, true);
    b.join(&room_id, "bob", &[&d, &c, &a]).await.unwrap();
    assert_agree(&room_id, &a, &b).await;
    let asked = a.net.asked.lock().clone();
    let order = ["make_member d.test", "make_member c.test", "make_member a.test", "send_join a.test"];
    assert_eq!(asked, order);
    // Through the newcomer as well.
    c.join(&room_id, "carol", &[&b]).await.unwrap();
    assert_eq!(b.state_ids(&room_id).await, c.state_ids(&room_id).await);
}

#[tokio::test]
async fn nobody_to_ask_and_nobody_who_answers() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    assert!(matches!(b.join(&room_id, "bob", &[]).await, Err(SendError::UnknownRoom)), "version 12 names no server");
    a.net.set_down(&a, true);
    assert!(matches!(b.join(&room_id, "bob", &[&a]).await, Err(SendError::Unreachable(_))));
    a.net.set_down(&a, false);
    let old = a.create_in("alice", Preset::Public, RoomVersion::V10).await;
    b.join(&old, "bob", &[]).await.unwrap();
    let private = a.create("alice", Preset::Private).await;
    assert_refused(b.join(&private, "bob", &[&a]).await, "M_FORBIDDEN");
    assert!(b.world.store.room_number(&private).await.unwrap().is_none(), "nothing is left of a join that failed");
}

#[tokio::test]
async fn two_users_who_join_at_once_make_one_room() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    let via = [&a];
    let (one, other) = tokio::join!(b.join(&room_id, "bob", &via), b.join(&room_id, "bert", &via));
    one.unwrap();
    other.unwrap();
    let sends = a.net.asked.lock().iter().filter(|asked| asked.starts_with("send_join")).count();
    assert_eq!(sends, 1, "the second one finds the room here");
    b.world.check().await;
}

#[tokio::test]
async fn an_invite_is_told_accepted_and_gone() {
    for version in [RoomVersion::V1, RoomVersion::V6, RoomVersion::V10, RoomVersion::V12] {
        let [a, b] = towns(["a.test", "b.test"]).await;
        let bob = b.user("bob");
        let room_id = a.create_in("alice", Preset::Private, version).await;
        a.set(&room_id, "alice", "m.room.name", json!({ "name": "secret plans" })).await;
        let invited = a.act(&room_id, "alice", Invite, &bob, &[]).await.unwrap();
        assert_eq!(b.membership(&room_id, &bob).await, Some(Membership::Invite));
        let outside = b.world.rooms.outside(&bob, &room_id).await.unwrap().unwrap();
        assert_eq!((outside.event_id.as_str(), &*outside.via), (invited.as_str(), &["a.test".to_owned()][..]));
        assert!(outside.stripped.iter().any(|text| text.contains("m.room.create")));
        assert!(outside.stripped.iter().any(|text| text.contains("secret plans")));
        assert!(outside.stripped.iter().any(|text| text.contains("@alice:a.test")), "who invites is told");
        // Both have signed.
        let event = a.event(&room_id, &invited).await;
        assert!(event.json_str().contains("\"b.test\":{\"ed25519:1\""), "{}", event.json_str());
        // The way in is known from the invite.
        b.join(&room_id, "bob", &[]).await.unwrap();
        assert!(b.world.rooms.outside(&bob, &room_id).await.unwrap().is_none());
        assert_agree(&room_id, &a, &b).await;
    }
}

#[tokio::test]
async fn invites_of_the_unwilling_the_banned_and_the_unreachable() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let bob = b.user("bob");
    let room_id = a.create("alice", Preset::Private).await;
    a.net.set_down(&b, true);
    assert!(matches!(a.act(&room_id, "alice", Invite, &bob, &[]).await, Err(SendError::Unreachable(_))));
    a.net.set_down(&b, false);
    assert_eq!(a.membership(&room_id, &bob).await, None, "an invite that nobody took is not in the room");
    a.act(&room_id, "alice", MemberAction::Ban, &bob, &[]).await.unwrap();
    assert!(matches!(a.act(&room_id, "alice", Invite, &bob, &[]).await, Err(SendError::Forbidden(_))));
    assert!(a.net.asked.lock().iter().filter(|asked| asked.starts_with("invite")).count() == 1);
    let local = a.create_in("alice", Preset::Private, RoomVersion::V11).await;
    a.set(&local, "alice", "m.room.server_acl", json!({ "allow": ["a.test"] })).await;
    // The list keeps their server out of the room; an invite that leads nowhere is theirs to judge.
    a.act(&local, "alice", Invite, &bob, &[]).await.unwrap();
    assert_refused(b.join(&local, "bob", &[]).await, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_new_room_invites_from_everywhere() {
    let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
    a.net.set_down(&c, true);
    let invite = [b.user("bob"), c.user("carol"), a.user("anna")].map(|user| (user, serde_json::Map::new())).to_vec();
    let creation = crate::Creation {
        creator: a.user("alice"),
        invite,
        is_direct: true,
        ..super::creation("alice", Preset::TrustedPrivate)
    };
    let room_id = a.world.rooms.create(creation).await.unwrap();
    assert_eq!(a.membership(&room_id, &a.user("anna")).await, Some(Membership::Invite));
    assert_eq!(b.membership(&room_id, &b.user("bob")).await, Some(Membership::Invite));
    assert_eq!(a.membership(&room_id, &c.user("carol")).await, None);
    let outside = b.world.rooms.outside(&b.user("bob"), &room_id).await.unwrap().unwrap();
    assert!(outside.event.contains("\"is_direct\":true"));
    b.join(&room_id, "bob", &[]).await.unwrap();
    assert_agree(&room_id, &a, &b).await;
}

#[tokio::test]
async fn an_invite_is_rejected_with_and_without_their_help() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let bob = b.user("bob");
    for is_dead in [false, true] {
        let room_id = a.create("alice", Preset::Private).await;
        a.act(&room_id, "alice", Invite, &bob, &[]).await.unwrap();
        a.net.set_down(&a, is_dead);
        a.world.clock.advance_ms(1_000);
        b.world.clock.advance_ms(1_000);
        let left = b.own(&room_id, "bob", Leave, &[]).await.unwrap();
        assert_eq!(b.own(&room_id, "bob", Leave, &[]).await.unwrap(), left, "leaving twice is leaving once");
        a.net.set_down(&a, false);
        assert_eq!(b.membership(&room_id, &bob).await, Some(Membership::Leave));
        let there = if is_dead { Membership::Invite } else { Membership::Leave };
        assert_eq!(a.membership(&room_id, &bob).await, Some(there));
        b.world.rooms.forget(&bob, &room_id).await.unwrap();
        assert_eq!(b.membership(&room_id, &bob).await, None);
        assert!(matches!(b.own(&room_id, "bob", Leave, &[]).await, Err(SendError::Forbidden(_))));
        a.world.check().await;
    }
}

/// Two devices decline an invite, neither of which knows of the other.
#[tokio::test]
async fn who_gets_out_by_two_devices_at_once_is_told_so_once() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let bob = b.user("bob");
    let room_id = a.create("alice", Preset::Private).await;
    a.act(&room_id, "alice", Invite, &bob, &[]).await.unwrap();
    a.net.set_down(&a, true);
    let (one, other) = tokio::join!(b.own(&room_id, "bob", Leave, &[]), b.own(&room_id, "bob", Leave, &[]));
    assert_eq!(one.unwrap(), other.unwrap());
    let log = b.world.store.read_log(&Positions::START, 100).await.unwrap().entries;
    let leaves = log.iter().filter(|(_, _, entry)| {
        matches!(entry, LogEntry::Membership(MemberNote { membership: Membership::Leave, .. }))
    });
    assert_eq!(leaves.count(), 1);
}

/// An invite is declined, and before the other server has answered it is accepted from another device.
#[tokio::test]
async fn an_invite_that_was_accepted_meanwhile_has_not_ended() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let bob = b.user("bob");
    let room_id = a.create("alice", Preset::Private).await;
    a.act(&room_id, "alice", Invite, &bob, &[]).await.unwrap();
    let mut row = b.world.rooms.outside(&bob, &room_id).await.unwrap().unwrap();
    row.membership = Membership::Leave;
    b.own(&room_id, "bob", Join, &[]).await.unwrap();
    assert!(!b.world.rooms.tell_outside(&bob, &room_id, &row).await.unwrap());
    assert!(b.world.rooms.outside(&bob, &room_id).await.unwrap().is_none());
    b.own(&room_id, "bob", Leave, &[]).await.unwrap();
    assert!(b.world.rooms.tell_outside(&bob, &room_id, &row).await.unwrap());
}

#[tokio::test]
async fn a_knock_is_taken_answered_and_taken_back() {
    for version in [RoomVersion::V7, RoomVersion::V10, RoomVersion::V12] {
        let [a, b] = towns(["a.test", "b.test"]).await;
        let bob = b.user("bob");
        let room_id = a.create_in("alice", Preset::Private, version).await;
        assert_refused(b.own(&room_id, "bob", Knock, &[&a]).await, "M_FORBIDDEN");
        a.set(&room_id, "alice", "m.room.join_rules", json!({ "join_rule": "knock" })).await;
        b.own(&room_id, "bob", Knock, &[&a]).await.unwrap();
        let outside = b.world.rooms.outside(&bob, &room_id).await.unwrap().unwrap();
        assert_eq!(outside.membership, Membership::Knock);
        assert!(outside.stripped.iter().any(|text| text.contains("m.room.create")));
        assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Knock));
        b.own(&room_id, "bob", Leave, &[]).await.unwrap();
        assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Leave));
        b.own(&room_id, "bob", Knock, &[&a]).await.unwrap();
        a.act(&room_id, "alice", Invite, &bob, &[]).await.unwrap();
        assert_eq!(b.membership(&room_id, &bob).await, Some(Membership::Invite));
        b.own(&room_id, "bob", Join, &[]).await.unwrap();
        assert_agree(&room_id, &a, &b).await;
    }
    let [a, b] = towns(["a.test", "b.test"]).await;
    let old = a.create_in("alice", Preset::Public, RoomVersion::V6).await;
    assert_refused(b.own(&old, "bob", Knock, &[&a]).await, "M_FORBIDDEN");
}

async fn restrict(town: &Town, room_id: &ruma::RoomId, rule: &str, to: &ruma::RoomId) {
    let allow = json!([{ "type": "m.room_membership", "room_id": to }]);
    town.set(room_id, "alice", "m.room.join_rules", json!({ "join_rule": rule, "allow": allow })).await;
}

#[tokio::test]
async fn restricted_rooms_let_in_members_of_another_room() {
    for (version, rule) in [
        (RoomVersion::V8, "restricted"),
        (RoomVersion::V10, "knock_restricted"),
        (RoomVersion::V11, "restricted"),
        (RoomVersion::V12, "restricted"),
    ] {
        let [a, b] = towns(["a.test", "b.test"]).await;
        let space = a.create("alice", Preset::Public).await;
        let room_id = a.create_in("alice", Preset::Private, version).await;
        restrict(&a, &room_id, rule, &space).await;
        assert_refused(b.join(&room_id, "bob", &[&a]).await, "M_FORBIDDEN");
        b.join(&space, "bob", &[&a]).await.unwrap();
        let joined = b.join(&room_id, "bob", &[&a]).await.unwrap();
        let event = b.event(&room_id, &joined).await;
        assert!(event.content_json().contains("\"join_authorised_via_users_server\":\"@alice:a.test\""));
        assert!(event.json_str().contains("\"a.test\":{\"ed25519:1\""), "who vouches has signed");
        assert_agree(&room_id, &a, &b).await;
        // Nobody on b may invite: a local user comes in with a's help, and the event lands in the room that is here.
        b.join(&space, "bert", &[]).await.unwrap();
        let space_at_b = b.state_ids(&space).await;
        assert!(space_at_b.contains_key(&("m.room.member".to_owned(), b.user("bert").to_string())));
    }
}

/// A room that was left is not the one that others are in: nobody writes into what is kept of it.
#[tokio::test]
async fn who_sets_their_membership_as_state_comes_in_through_another_server_too() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    a.world.clock.advance_ms(1_000);
    b.world.clock.advance_ms(1_000);
    let left = b.own(&room_id, "bob", Leave, &[]).await.unwrap();
    a.hears(&b, &room_id, &[&left]).await;
    b.world.store.ensure_user_number(&b.user("bert")).await.unwrap();
    let change = crate::StateChange {
        room_id: room_id.clone(),
        sender: b.user("bert"),
        kind: "m.room.member".to_owned(),
        state_key: b.user("bert").to_string(),
        content: serde_json::value::to_raw_value(&json!({ "membership": "join", "displayname": "Bert" })).unwrap(),
        guest: false,
        ts_ms: None,
    };
    let joined = b.world.rooms.set_state(change).await.unwrap();
    assert!(a.has(&room_id, &joined).await);
    assert_agree(&room_id, &a, &b).await;
}

/// Nobody here may let them in, and who does stands behind something that is still on its way here.
#[tokio::test]
async fn a_join_through_another_server_is_completed_with_what_it_stands_behind() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let space = a.create("alice", Preset::Public).await;
    let room_id = a.create_in("alice", Preset::Private, RoomVersion::V11).await;
    let mut levels = a.world.state(&room_id, "m.room.power_levels", "").await.unwrap();
    levels["invite"] = 50.into();
    a.set(&room_id, "alice", "m.room.power_levels", levels).await;
    restrict(&a, &room_id, "restricted", &space).await;
    b.join(&space, "bob", &[&a]).await.unwrap();
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let bert = b.join(&space, "bert", &[]).await.unwrap();
    a.hears(&b, &space, &[&bert]).await;
    let on_its_way = a.say(&room_id, "alice", "on its way").await.unwrap();
    let joined = b.join(&room_id, "bert", &[&a]).await.unwrap();
    assert!(b.has(&room_id, &on_its_way).await && b.has(&room_id, &joined).await);
    assert_eq!(b.membership(&room_id, &b.user("bert")).await, Some(Membership::Join));
    assert_agree(&room_id, &a, &b).await;
}

/// A join that is refused because too many come in at once has not happened.
#[tokio::test(start_paused = true)]
async fn a_join_that_is_refused_has_not_happened() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    let mut turns = Vec::new();
    for other in ["c.test", "c.test", "d.test", "d.test"] {
        let server = other.try_into().unwrap();
        turns.push(a.world.rooms.serving.join_turn(server).await.expect("there are four"));
    }
    assert!(b.join(&room_id, "bob", &[&a]).await.is_err());
    assert_eq!(a.membership(&room_id, &b.user("bob")).await, None);
    drop(turns);
    b.join(&room_id, "bob", &[&a]).await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_tell_says_so() {
    let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
    let space = c.create("carol", Preset::Public).await;
    b.join(&space, "bob", &[&c]).await.unwrap();
    let room_id = a.create("alice", Preset::Private).await;
    restrict(&a, &room_id, "restricted", &space).await;
    assert_refused(b.join(&room_id, "bob", &[&a]).await, "M_UNABLE_TO_AUTHORISE_JOIN");
}

#[tokio::test]
async fn a_room_that_does_not_federate_or_keeps_a_server_out() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let mut creation = super::creation("alice", Preset::Public);
    creation.creator = a.user("alice");
    creation.creation_content.insert("m.federate".to_owned(), false.into());
    let closed = a.world.rooms.create(creation).await.unwrap();
    assert_refused(b.join(&closed, "bob", &[&a]).await, "M_FORBIDDEN");
    assert!(matches!(a.act(&closed, "alice", Invite, &b.user("bob"), &[]).await, Err(SendError::Forbidden(_))));
    let listed = a.create("alice", Preset::Public).await;
    a.set(&listed, "alice", "m.room.server_acl", json!({ "allow": ["*"], "deny": ["b.*"] })).await;
    assert_refused(b.join(&listed, "bob", &[&a]).await, "M_FORBIDDEN");
}

#[tokio::test]
async fn who_comes_back_finds_the_room_as_it_is_now() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let before = b.world.head(&room_id).await;
    // Without transactions between the two, a learns of the leave by hand.
    a.world.clock.advance_ms(1_000);
    b.world.clock.advance_ms(1_000);
    let left = b.own(&room_id, "bob", Leave, &[]).await.unwrap();
    let leave = b.event(&room_id, &left).await;
    a.world.rooms.accept_leave(&b.name, &room_id, &left, leave.json().clone()).await.unwrap();
    a.set(&room_id, "alice", "m.room.topic", json!({ "topic": "new" })).await;
    a.join(&room_id, "anna", &[]).await.unwrap();
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    assert_agree(&room_id, &a, &b).await;
    let after = b.world.head(&room_id).await;
    assert!(after.next_event > before.next_event && after.next_state > before.next_state);
    assert!(!after.loading);
    assert_eq!(b.world.timeline(&room_id).await.len(), 3, "join, leave, join");
    let state = b.world.state(&room_id, "m.room.topic", "").await.unwrap();
    assert_eq!(state["topic"], "new");
}

#[tokio::test]
async fn a_load_that_was_broken_off_is_taken_up() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    a.act(&room_id, "alice", Invite, &b.user("bert"), &[]).await.unwrap();
    a.set(&room_id, "alice", "m.room.topic", json!({ "topic": "first" })).await;
    b.world.store.ensure_user_number(&b.user("bob")).await.unwrap();
    let change = crate::MemberChange {
        room_id: room_id.clone(),
        sender: b.user("bob"),
        target: b.user("bob"),
        action: Join,
        content: serde_json::Map::new(),
        guest: false,
    };
    let (rooms, via) = (b.world.rooms.clone(), vec![a.name.clone()]);
    b.world.engine.pause();
    let joining = tokio::spawn(async move { rooms.change_member_via(change, &via).await });
    // Commit by commit, until the state is written but not yet seen.
    let room = b.world.number(&room_id).await;
    while b.world.store.current_state_row(room, "m.room.topic", "").await.unwrap().is_none() {
        commit_waits(&b.world.engine).await;
        b.world.engine.resume();
        b.world.engine.pause();
    }
    b.world.engine.fail_next(hearth_ports::mem::Failure::Before);
    b.world.engine.resume();
    assert!(matches!(joining.await.unwrap(), Err(SendError::Unavailable(_))));
    assert!(b.world.head(&room_id).await.loading, "it was broken off in the middle");
    a.set(&room_id, "alice", "m.room.name", json!({ "name": "n" })).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    assert_agree(&room_id, &a, &b).await;
    assert_eq!(b.membership(&room_id, &b.user("bert")).await, Some(Membership::Invite));
}

#[tokio::test]
async fn what_a_liar_says_of_its_room_is_not_believed() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    let other = a.create("alice", Preset::Public).await;
    let foreign = a.event(&other, &a.state_ids(&other).await[&("m.room.create".to_owned(), String::new())]).await;
    let foreign = foreign.json().clone();
    type Tamper = Box<dyn Fn(&mut hearth_ports::JoinAnswer) + Send + Sync>;
    let is = |bytes: &[u8], kind: &str| String::from_utf8_lossy(bytes).contains(&format!("\"type\":\"{kind}\""));
    let without = move |kind: &'static str| -> Tamper {
        Box::new(move |answer| {
            answer.state.retain(|bytes| !is(bytes, kind));
            answer.auth_chain.retain(|bytes| !is(bytes, kind));
        })
    };
    let forged: Tamper = Box::new(move |answer| {
        for bytes in answer.state.iter_mut().chain(&mut answer.auth_chain).filter(|bytes| is(bytes, "m.room.create")) {
            *bytes = String::from_utf8_lossy(bytes).replace("@alice", "@mallory").into();
        }
    });
    let lies: [(&str, Tamper); 5] = [
        ("nothing", Box::new(|answer| *answer = hearth_ports::JoinAnswer::default())),
        ("no create event", without("m.room.create")),
        ("no join rules", without("m.room.join_rules")),
        ("forged", forged),
        ("garbage", Box::new(|answer| answer.state = vec![bytes::Bytes::from_static(b"{}"); 3])),
    ];
    for (what, lie) in lies {
        *a.net.tamper.lock() = Some(lie);
        let result = b.join(&room_id, "bob", &[&a]).await;
        assert!(matches!(result, Err(SendError::Unreachable(_))), "{what}: {result:?}");
        assert!(b.world.store.room_number(&room_id).await.unwrap().is_none(), "{what}");
    }
    // An event of another room spoils only itself.
    *a.net.tamper.lock() = Some(Box::new(move |answer| answer.state.push(foreign.clone())));
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    *a.net.tamper.lock() = None;
    assert_agree(&room_id, &a, &b).await;
}

#[tokio::test]
async fn an_invite_is_taken_back_by_those_it_came_from_and_nobody_else() {
    let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
    let bob = b.user("bob");
    let room_id = a.create("alice", Preset::Private).await;
    a.act(&room_id, "alice", Invite, &c.user("carol"), &[]).await.unwrap();
    c.join(&room_id, "carol", &[]).await.unwrap();
    a.act(&room_id, "alice", Invite, &bob, &[]).await.unwrap();
    // Somebody of another server is not believed: what they may do is not known here.
    let said = a.say(&room_id, "alice", "x").await.unwrap();
    let message = a.event(&room_id, &said).await.json().clone();
    let kick = a.act(&room_id, "alice", MemberAction::Kick, &bob, &[]).await.unwrap();
    let kick = a.event(&room_id, &kick).await.json().clone();
    let forged = bytes::Bytes::from(String::from_utf8_lossy(&kick).replace("@alice:a.test", "@carol:c.test"));
    let wrong = bytes::Bytes::from(String::from_utf8_lossy(&kick).replace("\"leave\"", "\"ban\""));
    let refused = b.world.rooms.receive(&c.name, &room_id, vec![message, forged, wrong]).await;
    assert!(refused.iter().all(|received| received.result.is_err()), "{refused:?}");
    assert_eq!(b.membership(&room_id, &bob).await, Some(Membership::Invite));
    let taken = b.world.rooms.receive(&a.name, &room_id, vec![kick]).await;
    assert!(taken[0].result.is_ok(), "{taken:?}");
    assert_eq!(b.membership(&room_id, &bob).await, Some(Membership::Leave));
}

/// Member events of many users of one server, as they would stand in a public room.
fn crowd(
    net: &super::twin::Net,
    room_id: &ruma::RoomId,
    auths: Vec<ruma::OwnedEventId>,
    size: usize,
) -> Vec<bytes::Bytes> {
    let server: ruma::OwnedServerName = "crowd.test".try_into().unwrap();
    let key = hearth_core::SigningKey::from_seed(&[3; 32], "1");
    let public = hearth_core::PublicKey { bytes: key.public_key(), valid_until_ms: u64::MAX };
    net.keys.lock().insert(server.clone(), key.id().to_owned(), public);
    let event = |nth: usize| {
        let user: ruma::OwnedUserId = format!("@user{nth}:crowd.test").try_into().unwrap();
        let content = json!({ "membership": "join", "displayname": format!("User {nth}") });
        let draft = hearth_core::Draft::state("m.room.member", user.as_str(), user.clone(), &content, 5).unwrap();
        let references = hearth_core::References {
            prev_events: auths.clone(),
            auth_events: auths.clone(),
            depth: 9,
            ..hearth_core::References::default()
        };
        let event = hearth_core::build(&draft, &references, Some(room_id), RoomVersion::V11, &key, &server, None);
        event.unwrap().json().clone()
    };
    (0..size).map(event).collect()
}

#[tokio::test]
async fn a_room_of_thousands_is_loaded_in_few_batches() {
    const CROWD: usize = 4_000;
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create_in("alice", Preset::Public, RoomVersion::V11).await;
    let state = a.state_ids(&room_id).await;
    let auths = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];
    let auths = auths.map(|kind| state[&(kind.to_owned(), String::new())].clone()).to_vec();
    let members = crowd(&a.net, &room_id, auths, CROWD);
    *a.net.tamper.lock() = Some(Box::new(move |answer| answer.state.extend(members.iter().cloned())));
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let head = b.world.head(&room_id).await;
    assert_eq!(head.joined as usize, CROWD + 2);
    let room = b.world.number(&room_id).await;
    assert_eq!(b.world.store.state_summary(room, head.state).await.unwrap().count as usize, CROWD + state.len() + 1);
    // Each batch takes one position, in this engine from a counter that is the room's partition's alone.
    assert!(head.position < 40, "{} batches", head.position);
    let crowd = b.world.store.joined_from(room, ruma::server_name!("crowd.test")).await.unwrap();
    assert_eq!(crowd as usize, CROWD);
    b.world.check().await;
}

/// Who took our join sends what happens next at once, maybe before we have its answer, and never again.
#[tokio::test]
async fn what_is_said_while_we_join_is_heard() {
    for version in [RoomVersion::V1, RoomVersion::V10, RoomVersion::V12] {
        let [a, b] = towns(["a.test", "b.test"]).await;
        let room_id = a.create_in("alice", Preset::Public, version).await;
        b.world.store.ensure_user_number(&b.user("bob")).await.unwrap();
        b.world.engine.pause();
        let via = [&a];
        let mut joining = std::pin::pin!(b.join(&room_id, "bob", &via));
        // Until a has the join, and b is about to store the room.
        tokio::select! {
            biased;
            _ = &mut joining => panic!("nothing is stored yet"),
            () = commit_waits(&b.world.engine) => {}
        }
        while a.membership(&room_id, &b.user("bob")).await != Some(Membership::Join) {
            b.world.engine.resume();
            b.world.engine.pause();
            assert!(joining.as_mut().now_or_never().is_none(), "nothing is stored yet");
            tokio::task::yield_now().await;
        }
        let said = a.say(&room_id, "alice", "welcome").await.unwrap();
        let said = a.event(&room_id, &said).await;
        let mut receiving = std::pin::pin!(b.world.rooms.receive(&a.name, &room_id, vec![said.json().clone()]));
        assert!(receiving.as_mut().now_or_never().is_none(), "{version}: it waits for the join");
        b.world.engine.resume();
        let (joined, received) = tokio::join!(joining, receiving);
        joined.unwrap();
        received.into_iter().for_each(|received| received.result.unwrap());
        let stored = b.event(&room_id, said.event_id()).await;
        assert_eq!(stored.json(), said.json());
        let shown: Vec<_> = b.world.timeline(&room_id).await.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(shown, ["m.room.member", "m.room.message"], "{version}");
        // Of rooms that nobody comes into nothing is taken.
        let other = a.create_in("alice", Preset::Public, version).await;
        let said = a.say(&other, "alice", "anybody?").await.unwrap();
        let said = a.event(&other, &said).await.json().clone();
        let received = b.world.rooms.receive(&a.name, &other, vec![said]).await;
        assert!(matches!(received[0].result, Err(ReceiveError::NotInRoom)), "{received:?}");
        b.world.check().await;
    }
}
