//! Rooms that are joined without their members.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use hearth_core::RoomVersion;
use hearth_ports::Table;
use hearth_store::{StateVersion, Write, tables::head_key};
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use serde_json::json;

use super::{
    PATIENCE,
    elsewhere::Act,
    joining::{assert_agree, assert_refused},
    script::{BOB, Scene},
    twin::{Town, towns},
};
use crate::{MemberAction, Membership, Preset, SendError};

use MemberAction::{Invite, Kick, Leave};

/// More members than are told with a join.
const CROWD: usize = crate::rooms::OMITTED_MEMBERS_MIN + 20;

/// A public room of many members, in which bob of b may change the topic.
async fn crowded(a: &Town, version: RoomVersion) -> OwnedRoomId {
    let room_id = a.create_in("alice", Preset::Public, version).await;
    let mut levels = a.world.state(&room_id, "m.room.power_levels", "").await.unwrap();
    levels["users"]["@bob:b.test"] = 50.into();
    a.set(&room_id, "alice", "m.room.power_levels", levels).await;
    crowd(a, &room_id, "user").await;
    room_id
}

async fn crowd(a: &Town, room_id: &RoomId, name: &str) {
    for nth in 0..CROWD {
        a.join(room_id, &format!("{name}{nth}"), &[]).await.unwrap();
    }
}

impl Town {
    async fn is_partial(&self, room_id: &RoomId) -> bool {
        self.world.head(room_id).await.partial
    }

    /// Until nothing is left to do for rooms that were joined without their members.
    async fn completes(&self) {
        let left = async {
            while !self.world.store.partial_rooms().await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(100 * PATIENCE, left).await.expect("rooms get their members");
    }

    pub(super) async fn hears(&self, from: &Town, room_id: &RoomId, events: &[&OwnedEventId]) {
        let mut bytes: Vec<Bytes> = Vec::new();
        for id in events {
            bytes.push(from.event(room_id, id).await.json().clone());
        }
        for received in self.world.rooms.receive(&from.name, room_id, bytes).await {
            received.result.unwrap();
        }
    }

    pub(super) async fn has(&self, room_id: &RoomId, event: &OwnedEventId) -> bool {
        let room = self.world.number(room_id).await;
        self.world.store.event_by_id(room, event).await.unwrap().is_some_and(|stored| stored.accepted())
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_room_is_usable_at_once_and_whole_later() {
    for version in [RoomVersion::V1, RoomVersion::V11, RoomVersion::V12] {
        let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
        let room_id = crowded(&a, version).await;
        a.net.mute.lock().insert("state");
        let joined = b.join(&room_id, "bob", &[&a]).await.unwrap();
        assert!(b.is_partial(&room_id).await, "{version}");
        b.world.check().await;
        // Our own events go out at once, to the servers that were named.
        let room = b.world.number(&room_id).await;
        let servers = b.world.store.servers_in_room(room).await.unwrap();
        assert_eq!(servers, [(a.name.clone(), 0), (b.name.clone(), 1)]);
        let said = b.say(&room_id, "bob", "hello").await.unwrap();
        let topic = b.set(&room_id, "bob", "m.room.topic", json!({ "topic": "new" })).await;
        a.hears(&b, &room_id, &[&said, &topic]).await;
        // Others' wait, and nobody is let in through us, or told half a state.
        let answer = a.say(&room_id, "user1", "welcome").await.unwrap();
        let kick = a.act(&room_id, "alice", Kick, &a.user("user2"), &[]).await.unwrap();
        b.hears(&a, &room_id, &[&answer, &kick]).await;
        assert!(!b.has(&room_id, &answer).await);
        if version == RoomVersion::V12 {
            // Of older versions the room's id names a server that is whole.
            assert_refused(c.join(&room_id, "carol", &[&b]).await, "M_NOT_FOUND");
        }
        assert!(b.world.rooms.serve_state_ids(&a.name, &room_id, &topic).await.is_err());
        let more = b.say(&room_id, "bob", "still here").await.unwrap();

        a.net.mute.lock().clear();
        b.completes().await;
        assert!(!b.is_partial(&room_id).await);
        assert!(b.has(&room_id, &answer).await && b.has(&room_id, &kick).await, "what waited was taken");
        a.hears(&b, &room_id, &[&more]).await;
        assert_agree(&room_id, &a, &b).await;
        assert_eq!(b.membership(&room_id, &a.user("user2")).await, Some(Membership::Leave));
        // The states since the join are whole, too, and told.
        for event in [&joined, &said, &topic, &more] {
            let stored = b.world.store.event_by_id(room, event).await.unwrap().unwrap();
            for state in [stored.header.state_before, stored.header.state_after] {
                let summary = b.world.store.state_summary(room, state).await.unwrap();
                assert!(summary.count as usize > CROWD, "{event}: {}", summary.count);
            }
            assert_ne!(stored.header.state_before, StateVersion::UNKNOWN);
            let mut here = b.world.rooms.serve_state_ids(&a.name, &room_id, event).await.unwrap().state;
            let mut there = a.world.rooms.serve_state_ids(&b.name, &room_id, event).await.unwrap().state;
            here.sort();
            there.sort();
            assert_eq!(here, there, "{event}");
        }
        c.join(&room_id, "carol", &[&b]).await.unwrap();
        assert_eq!(b.membership(&room_id, &c.user("carol")).await, Some(Membership::Join), "through b");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_goes_on_after_it_starts() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = crowded(&a, RoomVersion::V11).await;
    a.net.mute.lock().insert("state");
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let answer = a.say(&room_id, "user1", "welcome").await.unwrap();
    b.hears(&a, &room_id, &[&answer]).await;
    let b = b.restarted().await;
    assert!(b.is_partial(&room_id).await);
    a.net.mute.lock().clear();
    b.world.rooms.resume().await.unwrap();
    b.completes().await;
    assert!(b.has(&room_id, &answer).await);
    assert_agree(&room_id, &a, &b).await;
}

#[tokio::test(start_paused = true)]
async fn another_server_tells_the_members() {
    let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
    let room_id = a.create_in("alice", Preset::Public, RoomVersion::V11).await;
    let carol = c.join(&room_id, "carol", &[&a]).await.unwrap();
    crowd(&c, &room_id, "user").await;
    let room = c.world.number(&room_id).await;
    let rows = c.world.store.timeline(room, .., 1_000, false).await.unwrap();
    for (_, row) in rows {
        let stored = c.world.store.event(room, row.event.unwrap()).await.unwrap().unwrap();
        let id = stored.event.event_id().to_owned();
        if id != carol {
            a.hears(&c, &room_id, &[&id]).await;
        }
    }
    a.net.mute.lock().insert("state");
    let joined = b.join(&room_id, "bob", &[&a]).await.unwrap();
    assert!(b.is_partial(&room_id).await);
    c.hears(&a, &room_id, &[&joined]).await;
    a.net.set_down(&a, true);
    a.net.mute.lock().clear();
    b.completes().await;
    assert_agree(&room_id, &c, &b).await;
}

#[tokio::test(start_paused = true)]
async fn what_needs_the_members_waits() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = crowded(&a, RoomVersion::V11).await;
    // Nobody here can know that bert is banned, before the members are told.
    a.act(&room_id, "alice", MemberAction::Ban, &b.user("bert"), &[]).await.unwrap();
    a.net.mute.lock().insert("state");
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let user = a.user("user3");
    assert!(matches!(b.act(&room_id, "bob", Kick, &user, &[]).await, Err(SendError::Busy)), "in vain for long");
    let via = [&a];
    let joining = b.join(&room_id, "bert", &via);
    let kicking = b.act(&room_id, "bob", Kick, &user, &[]);
    let gaps = b.world.store.gaps(b.world.number(&room_id).await, .., 1, true).await.unwrap();
    let reading_back = b.world.rooms.backfill(&room_id, gaps[0].0);
    let later = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(b.is_partial(&room_id).await);
        a.net.mute.lock().clear();
    };
    let (joined, kicked, filled, ()) = tokio::join!(joining, kicking, reading_back, later);
    assert!(filled.unwrap() > 0, "not told that history begins here");
    assert!(joined.is_err(), "{joined:?}");
    let kicked = kicked.unwrap();
    b.completes().await;
    a.hears(&b, &room_id, &[&kicked]).await;
    assert_agree(&room_id, &a, &b).await;
}

#[tokio::test(start_paused = true)]
async fn an_invited_user_comes_in_and_another_goes_out_again() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let bob = b.user("bob");
    let room_id = crowded(&a, RoomVersion::V12).await;
    a.set(&room_id, "alice", "m.room.join_rules", json!({ "join_rule": "invite" })).await;
    let invited = a.act(&room_id, "alice", Invite, &bob, &[]).await.unwrap();
    let joined = b.join(&room_id, "bob", &[]).await.unwrap();
    b.completes().await;
    assert_agree(&room_id, &a, &b).await;
    let room = b.world.number(&room_id).await;
    let stored = b.world.store.event_by_id(room, &joined).await.unwrap().unwrap();
    let replaced = b.world.store.event(room, stored.header.replaces.unwrap()).await.unwrap().unwrap();
    assert_eq!(replaced.event.event_id(), invited);
    // Who leaves before the members have come leaves nothing behind.
    let left = b.own(&room_id, "bob", Leave, &[]).await.unwrap();
    a.hears(&b, &room_id, &[&left]).await;
    a.set(&room_id, "alice", "m.room.join_rules", json!({ "join_rule": "public" })).await;
    crowd(&a, &room_id, "newcomer").await;
    a.net.mute.lock().insert("state");
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    assert!(b.is_partial(&room_id).await, "nobody told us what has happened meanwhile");
    let left = b.own(&room_id, "bob", Leave, &[]).await.unwrap();
    a.hears(&b, &room_id, &[&left]).await;
    b.completes().await;
    // And comes back.
    a.net.mute.lock().clear();
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    b.completes().await;
    assert_agree(&room_id, &a, &b).await;
    assert_eq!(b.world.head(&room_id).await.joined as usize, 2 * CROWD + 2);
}

#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_right_is_not_taken_and_a_bad_event_spoils_only_itself() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = crowded(&a, RoomVersion::V11).await;
    let is_of_a = |event: &Bytes| String::from_utf8_lossy(event).contains("\"state_key\":\"@");
    let asked = || a.net.asked.lock().iter().filter(|asked| *asked == "state a.test").count();
    *a.net.tamper_state.lock() = Some(Box::new(move |state| state.state.retain(|event| !is_of_a(event))));
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    while asked() < 3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(b.is_partial(&room_id).await);
    *a.net.tamper_state.lock() = Some(Box::new(|state| {
        // Their own topic stands in the place of what was told with the join, and a name is not signed.
        let forged = state.state.iter().map(|event| String::from_utf8_lossy(event).replace("\"topic\"", "\"tropic\""));
        let forged: Vec<Bytes> = forged.map(Bytes::from).collect();
        let user = state.state.iter().find(|event| String::from_utf8_lossy(event).contains("@user7:"));
        let user = String::from_utf8_lossy(user.unwrap()).replace("@user7:", "@nobody:");
        state.state = forged;
        state.state.push(Bytes::from(user));
        state.state.push(Bytes::from_static(b"{}"));
    }));
    b.completes().await;
    assert_agree(&room_id, &a, &b).await;
    assert_eq!(b.membership(&room_id, &a.user("nobody")).await, None);
}

/// A join that was let in where nobody knew that the room had been closed: it is undone when they hear of it, and who came in
/// learns that only with the members.
#[tokio::test(start_paused = true)]
async fn a_join_that_is_undone_before_the_members_came_is_completed_and_known_to_be_undone() {
    let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
    let room_id = crowded(&a, RoomVersion::V12).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    b.completes().await;
    // Of two join rules the later one counts.
    a.world.clock.advance_ms(1_000);
    let closed = a.set(&room_id, "alice", "m.room.join_rules", json!({ "join_rule": "invite" })).await;
    a.net.mute.lock().insert("state");
    c.join(&room_id, "carol", &[&b]).await.unwrap();
    assert!(c.is_partial(&room_id).await);
    b.hears(&a, &room_id, &[&closed]).await;
    let undone = Some(Membership::Leave);
    assert_eq!(b.membership(&room_id, &c.user("carol")).await, undone, "the room was closed before");
    let met = b.say(&room_id, "bob", "that joins the branches").await.unwrap();
    c.hears(&b, &room_id, &[&met]).await;
    a.net.mute.lock().clear();
    c.completes().await;
    assert!(!c.is_partial(&room_id).await);
    assert!(c.has(&room_id, &met).await);
    assert_eq!(c.membership(&room_id, &c.user("carol")).await, undone);
}

/// Strangers who send what they like into a room whose members are being fetched leave room for those who are in it.
#[tokio::test(start_paused = true)]
async fn strangers_do_not_crowd_out_what_waits_for_the_members() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = crowded(&a, RoomVersion::V11).await;
    a.net.mute.lock().insert("state");
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let room = b.world.number(&room_id).await;
    let said = a.say(&room_id, "user1", "hello").await.unwrap();
    let like: serde_json::Value = serde_json::from_slice(a.event(&room_id, &said).await.json()).unwrap();
    let junk = |nth: u64| {
        let mut junk = like.clone();
        junk["origin_server_ts"] = nth.into();
        Bytes::from(junk.to_string())
    };
    let mut refused = 0;
    for nth in 0..12 {
        let some = (50 * nth..50 * (nth + 1)).map(junk).collect();
        let received = b.world.rooms.receive(ruma::server_name!("evil.test"), &room_id, some).await;
        refused += received.iter().filter(|received| received.result.is_err()).count();
    }
    assert_eq!((b.world.store.count_waiting_events(room).await.unwrap(), refused), (500, 100));
    // What is not part of the event is not kept, however long.
    let mut long = like;
    long["unsigned"] = json!({ "x": "x".repeat(100_000) });
    let received = b.world.rooms.receive(&a.name, &room_id, vec![Bytes::from(long.to_string())]).await;
    assert!(received[0].result.is_ok(), "{received:?}");
    a.net.mute.lock().clear();
    b.completes().await;
    assert!(b.has(&room_id, &said).await);
}

/// The room has its members in the moment in which events would be kept until it has: nobody would take them any more.
#[tokio::test]
async fn nothing_waits_for_members_that_are_here() {
    let scene = Scene::new(RoomVersion::DEFAULT).await;
    let (store, room) = (&scene.world.store, scene.world.number(&scene.room_id).await);
    let say_partial = async |partial: bool| {
        let mut head = scene.world.head(&scene.room_id).await;
        head.partial = partial;
        let mut write = Write::new(room.partition());
        write.put(Table::Rm, head_key(room), &head);
        store.commit(write).await.unwrap();
    };
    say_partial(true).await;
    *scene.world.rooms.writer.active(room).cache.lock().await = None;
    let said = scene.go_on(&Act::say(BOB, "hi"));
    let keep = |then: bool| {
        let (json, done) = (said.json().clone(), say_partial(false));
        let events = move || {
            if then {
                done.now_or_never().expect("an engine in memory answers at once");
            }
            vec![json]
        };
        scene.world.rooms.hold_back(ruma::server_name!("two"), room, events)
    };
    assert_eq!(keep(false).await.unwrap(), Some(1));
    assert_eq!(keep(true).await.unwrap(), None);
    assert_eq!(store.count_waiting_events(room).await.unwrap(), 1);
}
