//! Receipts and read markers.

use std::sync::Arc;

use futures_util::{FutureExt as _, future::join_all};
use hearth_ports::mem::Failure;
use hearth_store::{
    EventNumber, Position, RoomNumber, StateVersion, Table, Write,
    tables::{
        Create, EventFlags, EventHeader, Head, Membership, MembershipRow, ReceiptPlaceRow, ReceiptRow, head_key,
        member_rooms_key, put_event, put_receipt,
    },
};
use ruma::{EventId, OwnedUserId, RoomId, UserId};
use tokio::time::Instant;

use super::{World, world};
use crate::{
    Fault, Receipt, ReceiptError, ReceiptKind,
    receipt_writer::{GATHER_FOR, GROUP_MAX, Wish},
};

const ROOM: &str = "!a:b.c";

pub(super) fn room_id() -> &'static RoomId {
    ROOM.try_into().unwrap()
}

fn event(id: &str) -> &EventId {
    id.try_into().unwrap()
}

/// A room with these members and no events.
pub(super) async fn room_of(world: &World, members: &[&UserId]) -> RoomNumber {
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
        origin: None,
        relay: false,
    };
    let mut write = Write::new(room.partition());
    let at = write.position();
    put_event(&mut write, room, number, &header, json.to_string().as_bytes(), Some(at));
    world.store.commit(write).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn receipts_are_seen_by_whom_they_concern() {
    let world = world().await;
    let (alice, bob) = (world.account("alice").await, world.account("bob").await);
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

#[tokio::test(start_paused = true)]
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

/// Members who have no account here, which receipts don't ask for.
fn people(count: usize) -> Vec<OwnedUserId> {
    (0..count).map(|number| UserId::parse(format!("@u{number}:hearth.test")).unwrap()).collect()
}

/// Reads up to an event, for all to see.
async fn read(world: &World, user: &UserId, id: &str) -> Result<(), ReceiptError> {
    world.users.set_receipt(user, room_id(), ReceiptKind::Public, None, event(id)).await
}

#[tokio::test(start_paused = true)]
async fn of_many_receipts_the_newest_and_ones_own_are_told() {
    let world = world().await;
    let alice = world.account("alice").await;
    let people = people(5);
    let members: Vec<&UserId> = std::iter::once(&alice).chain(&people).map(|user| &**user).collect();
    let room = room_of(&world, &members).await;
    let set = async |user: &UserId, kind, thread| {
        world.users.set_receipt(user, room_id(), kind, thread, event("$a:b.c")).await.unwrap();
    };
    set(&alice, ReceiptKind::Public, Some("main")).await;
    let after_first = world.store.live().position(room.partition());
    set(&alice, ReceiptKind::Private, None).await;
    for user in &people {
        set(user, ReceiptKind::Public, None).await;
    }
    let until = world.store.live().position(room.partition());
    set(&people[0], ReceiptKind::Public, Some("main")).await;
    let reader = world.users.number(&alice).await.unwrap().unwrap();
    let told = async |since, until| {
        let receipts = world.users.receipts_since(room, reader, since, until, 3).await.unwrap();
        let name = |receipt: &Receipt| (receipt.user_id.localpart().to_owned(), receipt.thread.clone());
        receipts.iter().map(name).collect::<Vec<_>>()
    };
    let one = |name: &str| (name.to_owned(), None);
    let in_main = |name: &str| (name.to_owned(), Some("main".to_owned()));
    let all = [in_main("alice"), one("alice"), one("u3"), one("u4"), in_main("u0")];
    assert_eq!(told(Position::ZERO, Position::MAX).await, all);
    assert_eq!(told(after_first, Position::MAX).await, all[1..], "what was told before is not told again");
    assert_eq!(told(after_first, until).await, all[1..4], "nor what comes with the next sync");
}

/// What somebody in the room sees, as (whose, event), sorted.
async fn public(world: &World, room: RoomNumber) -> Vec<(String, String)> {
    let nobody = hearth_store::UserNumber(0);
    let receipts = world.users.receipts_since(room, nobody, Position::ZERO, Position::MAX, 1_000).await.unwrap();
    let mut seen: Vec<_> =
        receipts.iter().map(|receipt| (receipt.user_id.to_string(), receipt.event_id.to_string())).collect();
    seen.sort();
    seen
}

#[tokio::test(start_paused = true)]
async fn receipts_of_a_moment_are_one_batch() {
    let world = world().await;
    let people = people(GROUP_MAX + 10);
    let room = room_of(&world, &people.iter().map(|user| &**user).collect::<Vec<_>>()).await;
    say(&world, room, EventNumber(1), "$one:b.c").await;
    let set = |user| read(&world, user, "$one:b.c");
    let begun = Instant::now();
    let (answers, steps) = world.in_steps(join_all(people[..50].iter().map(|user| set(user)))).await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(steps, [1]);
    assert!(begun.elapsed() >= GATHER_FOR && begun.elapsed() < 2 * GATHER_FOR, "{:?}", begun.elapsed());
    assert_eq!(public(&world, room).await.len(), 50);
    // Those that are there already write nothing; a batch is never larger than it may be.
    let (answers, steps) = world.in_steps(join_all(people.iter().map(|user| set(user)))).await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(steps, [1, 1]);
    assert_eq!(public(&world, room).await.len(), people.len());
    let (_, steps) = world.in_steps(set(&people[0])).await;
    assert!(steps.is_empty());
}

#[tokio::test(start_paused = true)]
async fn receipts_of_one_person_in_one_batch_move_forward_too() {
    let world = world().await;
    let people = people(1);
    let room = room_of(&world, &[&people[0]]).await;
    for (number, id) in [(1, "$one:b.c"), (2, "$two:b.c"), (3, "$three:b.c")] {
        say(&world, room, EventNumber(number), id).await;
    }
    let set = |id| read(&world, &people[0], id);
    let ids = ["$one:b.c", "$three:b.c", "$never:b.c", "$two:b.c"];
    let (answers, steps) = world.in_steps(join_all(ids.map(set))).await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(steps, [1]);
    assert_eq!(public(&world, room).await, [("@u0:hearth.test".to_owned(), "$three:b.c".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_takes_nothing_along() {
    let world = world().await;
    let people = people(3);
    let room = room_of(&world, &people.iter().map(|user| &**user).collect::<Vec<_>>()).await;
    let set = |user| read(&world, user, "$one:b.c");
    // The first is the one for whom the gathering began.
    let mut first = Box::pin(set(&people[0]));
    assert!(first.as_mut().now_or_never().is_none());
    let rest = join_all([set(&people[1]), set(&people[2])]);
    drop(first);
    assert!(rest.await.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(public(&world, room).await.len(), 3, "a request that was taken is done");
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_decided_again() {
    let world = world().await;
    let people = people(2);
    let room = room_of(&world, &[&people[0], &people[1]]).await;
    for (number, id) in [(1, "$one:b.c"), (2, "$two:b.c")] {
        say(&world, room, EventNumber(number), id).await;
    }
    let user = world.users.number(&people[0]).await.unwrap().unwrap();
    // What another node writes comes between our reading and our commit.
    world.engine.pause();
    let place = ReceiptPlaceRow { user, private: false, thread: String::new() };
    let row = ReceiptRow {
        position: 0,
        event_id: "$two:b.c".to_owned(),
        event: None,
        ts_ms: 7,
        user_id: people[0].to_string(),
    };
    let mut write = Write::new(room.partition());
    put_receipt(&mut write, room, &place, &row, None);
    let store = Arc::clone(&world.store);
    let other = tokio::spawn(async move { store.commit(write).await });
    let set = |user| read(&world, user, "$one:b.c");
    let both = join_all([set(&people[0]), set(&people[1])]);
    let later = async {
        tokio::time::sleep(GATHER_FOR * 2).await;
        assert_eq!(world.engine.waiting(), 2);
        world.engine.resume();
    };
    let (answers, ()) = tokio::join!(both, later);
    assert!(other.await.unwrap().is_ok() && answers.into_iter().all(|answer| answer.is_ok()));
    let named = |user: usize, id: &str| (people[user].to_string(), id.to_owned());
    assert_eq!(public(&world, room).await, [named(0, "$two:b.c"), named(1, "$one:b.c")]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_written_is_not_acknowledged() {
    let world = world().await;
    let people = people(2);
    let room = room_of(&world, &[&people[0], &people[1]]).await;
    let set = |user| read(&world, user, "$one:b.c");
    world.engine.fail_next(Failure::Before);
    let answers = join_all([set(&people[0]), set(&people[1])]).await;
    let failed = |answer: &Result<(), ReceiptError>| matches!(answer, Err(ReceiptError::Fault(Fault::Unavailable(_))));
    assert!(answers.iter().all(failed));
    assert!(public(&world, room).await.is_empty());
    // A commit whose fate is not known may be repeated.
    world.engine.fail_next(Failure::After);
    assert!(failed(&set(&people[0]).await));
    set(&people[0]).await.unwrap();
    assert_eq!(public(&world, room).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_longer_than_an_id_is_refused() {
    let world = world().await;
    let alice = world.account("alice").await;
    let far = UserId::parse("@far:far.test").unwrap();
    let room = room_of(&world, &[&alice, &far]).await;
    let users = &world.users;
    let (long, longest) = (format!("${}", "a".repeat(255)), format!("${}", "a".repeat(254)));
    let refused = [
        users.set_receipt(&alice, room_id(), ReceiptKind::Public, None, event(&long)).await,
        users.set_fully_read(&alice, room_id(), event(&long)).await,
        users.set_remote_receipt(&far, room_id(), None, event(&long), 1).await,
    ];
    assert!(refused.iter().all(|answer| matches!(answer, Err(ReceiptError::IdTooLong))), "{refused:?}");
    assert!(public(&world, room).await.is_empty());
    users.set_receipt(&alice, room_id(), ReceiptKind::Public, None, event(&longest)).await.unwrap();
    users.set_fully_read(&alice, room_id(), event(&longest)).await.unwrap();
    users.set_remote_receipt(&far, room_id(), None, event(&longest), 1).await.unwrap();
    assert_eq!(public(&world, room).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_written_is_alone() {
    let world = world().await;
    let people = people(3);
    let room = room_of(&world, &[&people[0], &people[1], &people[2]]).await;
    // Longer than a row may be: what no caller lets in.
    let long = format!("${}", "a".repeat(100_000));
    let set = async |user: &OwnedUserId, id: &str| {
        let number = world.users.number(user).await.unwrap().unwrap();
        let place = ReceiptPlaceRow { user: number, private: false, thread: String::new() };
        let wish = Wish { place, user_id: user.clone(), event_id: event(id).to_owned(), ts_ms: 1 };
        world.users.receipts.set(room, wish).await
    };
    let (one, bad, other) =
        tokio::join!(set(&people[0], "$one:b.c"), set(&people[1], &long), set(&people[2], "$one:b.c"));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert!(matches!(bad, Err(Fault::Broken(_))));
    assert_eq!(public(&world, room).await.len(), 2);
}
