//! Typing, presence, receipts: what goes on now.

use std::time::Duration;

use hearth_store::{
    EventNumber, Position, RoomNumber, StateVersion, Table, Write,
    tables::{Create, EventFlags, EventHeader, Head, Membership, MembershipRow, head_key, member_rooms_key, put_event},
};
use ruma::{EventId, OwnedUserId, RoomId, UserId};

use super::{World, world};
use crate::{PresenceState, ReceiptError, ReceiptKind};

const ROOM: &str = "!a:b.c";

fn room_id() -> &'static RoomId {
    ROOM.try_into().unwrap()
}

fn event(id: &str) -> &EventId {
    id.try_into().unwrap()
}

/// A room with these members and no events.
async fn room_of(world: &World, members: &[&UserId]) -> RoomNumber {
    let room = world.store.assign_room_number(room_id()).await.unwrap();
    let mut write = Write::new(room.partition());
    write.name_room(room, room_id());
    let head = Head::new(Create { version: "11".to_owned(), federate: true, room_type: None });
    write.put(Table::Rm, head_key(room), &head);
    for member in members {
        let user = world.store.ensure_user_number(member).await.unwrap();
        let row = MembershipRow {
            position: 1,
            joined_position: 1,
            membership: Membership::Join,
            event: EventNumber::FIRST,
            forgotten: false,
            guest: false,
        };
        write.put(Table::Rm, member_rooms_key(user, room), &row);
    }
    world.store.commit(write).await.unwrap();
    room
}

/// A message, as far as receipts look at it.
async fn say(world: &World, room: RoomNumber, number: EventNumber, id: &str) {
    let json = serde_json::json!({
        "auth_events": [], "content": {}, "depth": number.0, "origin_server_ts": 1, "prev_events": [],
        "room_id": ROOM, "sender": "@a:b.c", "type": "m.room.message",
    });
    let header = EventHeader {
        position: 0,
        within: u32::MAX,
        flags: EventFlags::default(),
        event_id: id.to_owned(),
        received_ts_ms: 1,
        state_before: StateVersion::EMPTY,
        state_after: StateVersion::EMPTY,
        prevs: Vec::new(),
        auths: Vec::new(),
        replaces: None,
        redacted_by: None,
        redacts: None,
        sent_by: None,
    };
    let mut write = Write::new(room.partition());
    let at = write.position();
    put_event(&mut write, room, number, &header, json.to_string().as_bytes(), Some(at));
    world.store.commit(write).await.unwrap();
}

async fn two(world: &World) -> (OwnedUserId, OwnedUserId) {
    (world.account("alice").await, world.account("bob").await)
}

#[tokio::test(start_paused = true)]
async fn typing_ends_by_itself() {
    let world = world().await;
    let (alice, bob) = two(&world).await;
    let room = room_of(&world, &[&alice, &bob]).await;
    let users = &world.users;
    assert_eq!(users.typing_since(room, 0), None);
    users.set_typing(room, &alice, Some(Duration::from_secs(10)));
    users.set_typing(room, &bob, Some(Duration::from_secs(30)));
    let typing = users.typing_since(room, 0).unwrap();
    assert_eq!(typing.users, [alice.clone(), bob.clone()]);
    assert_eq!(users.typing_since(room, typing.serial), None);
    users.set_typing(room, &alice, Some(Duration::from_secs(10)));
    assert_eq!(users.typing_since(room, typing.serial), None, "to go on typing is no news");
    tokio::time::sleep(Duration::from_secs(12)).await;
    let later = users.typing_since(room, typing.serial).unwrap();
    assert_eq!(later.users, std::slice::from_ref(&bob));
    users.set_typing(room, &bob, None);
    let end = users.typing_since(room, later.serial).unwrap();
    assert!(end.users.is_empty() && end.serial == users.serial());
    assert_eq!(users.typing_since(room, 0), None, "who comes now is told nothing");
}

#[tokio::test(start_paused = true)]
async fn presence_follows_what_a_user_does() {
    let world = world().await;
    let (alice, bob) = two(&world).await;
    room_of(&world, &[&alice]).await;
    let users = &world.users;
    let state = |user: &UserId| users.presence(user).state;
    assert_eq!(state(&alice), PresenceState::Offline);
    let before = users.serial();
    let syncing = users.syncing(&alice, PresenceState::Online).await.unwrap();
    assert_eq!(state(&alice), PresenceState::Online);
    assert!(users.presence(&alice).currently_active);
    let news = users.presence_since(before);
    assert_eq!(news.iter().map(|update| &update.user_id).collect::<Vec<_>>(), [&alice]);
    // A sync that goes on for long keeps its user from being offline, not from being idle.
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert_eq!((state(&alice), users.presence(&alice).currently_active), (PresenceState::Online, false));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(state(&alice), PresenceState::Unavailable);
    users.active(&alice).await.unwrap();
    assert_eq!(state(&alice), PresenceState::Online);
    drop(syncing);
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(state(&alice), PresenceState::Online);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(state(&alice), PresenceState::Offline);
    // Who wishes not to be seen is not.
    assert!(users.syncing(&bob, PresenceState::Offline).await.unwrap().is_none());
    assert_eq!(state(&bob), PresenceState::Offline);
    users.set_presence(&bob, PresenceState::Unavailable, Some("away".to_owned())).await.unwrap();
    assert_eq!(users.presence(&bob).status_msg.as_deref(), Some("away"));
    assert!(!users.share_room(&alice, &bob).await.unwrap());
    assert_eq!(users.present_rooms(&alice).await.unwrap(), [room_id().to_owned()]);
}

#[tokio::test]
async fn receipts_are_seen_by_whom_they_concern() {
    let world = world().await;
    let (alice, bob) = two(&world).await;
    let room = room_of(&world, &[&alice]).await;
    let users = &world.users;
    let number = async |user: &UserId| users.number(user).await.unwrap().unwrap();
    let (alice_number, bob_number) = (number(&alice).await, number(&bob).await);
    let outside = users.set_receipt(&bob, room_id(), ReceiptKind::Public, None, event("$a:b.c")).await;
    assert!(matches!(outside, Err(ReceiptError::NotJoined)));
    for (kind, thread) in
        [(ReceiptKind::Public, None), (ReceiptKind::Public, Some("main")), (ReceiptKind::Private, None)]
    {
        users.set_receipt(&alice, room_id(), kind, thread, event("$a:b.c")).await.unwrap();
    }
    let seen = async |reader| users.receipts_since(room, reader, Position::ZERO, Position::MAX, 100).await.unwrap();
    assert_eq!(seen(alice_number).await.len(), 3);
    assert!(seen(bob_number).await.iter().all(|receipt| receipt.kind == ReceiptKind::Public));
    assert_eq!(seen(bob_number).await.len(), 2);
    // One row for each user, kind and thread: a newer receipt takes the place of the older one.
    users.set_receipt(&alice, room_id(), ReceiptKind::Public, None, event("$b:b.c")).await.unwrap();
    let receipts = seen(bob_number).await;
    assert_eq!(receipts.iter().map(|receipt| receipt.event_id.as_str()).collect::<Vec<_>>(), ["$a:b.c", "$b:b.c"]);
    users.set_fully_read(&alice, room_id(), event("$b:b.c")).await.unwrap();
    let marker = users.account_data(&alice, Some(room_id()), "m.fully_read").await.unwrap();
    assert_eq!(marker.as_deref(), Some("{\"event_id\":\"$b:b.c\"}"));
}

#[tokio::test]
async fn receipts_move_forward_only() {
    let world = world().await;
    let alice = world.account("alice").await;
    let room = room_of(&world, &[&alice]).await;
    for (number, id) in [(1, "$one:b.c"), (2, "$two:b.c"), (3, "$three:b.c")] {
        say(&world, room, EventNumber(number), id).await;
    }
    let set = async |thread: Option<&str>, id: &str| {
        world.users.set_receipt(&alice, room_id(), ReceiptKind::Public, thread, event(id)).await
    };
    let user = world.users.number(&alice).await.unwrap().unwrap();
    let at = async |thread: Option<&str>| {
        let receipts = world.users.receipts_since(room, user, Position::ZERO, Position::MAX, 100).await.unwrap();
        let of_thread: Vec<_> = receipts.into_iter().filter(|receipt| receipt.thread.as_deref() == thread).collect();
        assert!(of_thread.len() < 2, "one receipt for each thread");
        of_thread.first().map(|receipt| receipt.event_id.to_string())
    };
    set(None, "$two:b.c").await.unwrap();
    set(None, "$one:b.c").await.unwrap();
    assert_eq!(at(None).await.as_deref(), Some("$two:b.c"));
    set(None, "$never:b.c").await.unwrap();
    assert_eq!(at(None).await.as_deref(), Some("$two:b.c"), "an event without a place is not ahead");
    set(None, "$three:b.c").await.unwrap();
    assert_eq!(at(None).await.as_deref(), Some("$three:b.c"));
    // Threads go their own way.
    set(Some("$one:b.c"), "$two:b.c").await.unwrap();
    assert_eq!(at(Some("$one:b.c")).await.as_deref(), Some("$two:b.c"));
    for thread in ["$never:b.c", "nonsense"] {
        assert!(matches!(set(Some(thread), "$two:b.c").await, Err(ReceiptError::UnknownThread)), "{thread}");
    }
    for id in ["$two:b.c", "$one:b.c"] {
        world.users.set_fully_read(&alice, room_id(), event(id)).await.unwrap();
        let marker = world.users.account_data(&alice, Some(room_id()), "m.fully_read").await.unwrap();
        assert_eq!(marker.as_deref(), Some("{\"event_id\":\"$two:b.c\"}"));
    }
}
