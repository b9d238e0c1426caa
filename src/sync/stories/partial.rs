//! Rooms that were joined without their members.

use hearth_store::{
    EventNote, EventNumber, LogEntry, Order, Table, Write, encode,
    tables::{self, Membership, PartialRow, TIMELINE_POSITION_OFFSET, TimelineRow},
};
use serde_json::{Value, json};

use super::world::{Room, World, in_section, said};
use crate::read::{MembersQuery, ReadError, Reader};

/// The members are missing from now on.
async fn lose_members(room: &Room) {
    let (bytes, mut head) = room.store.head_bytes(room.number).await.unwrap().unwrap();
    head.partial = true;
    let mut write = Write::new(room.number.partition());
    write.require(Table::Rm, tables::head_key(room.number), Some(bytes));
    write.put(Table::Rm, tables::head_key(room.number), &head);
    let job = PartialRow {
        join: "$join".to_owned(),
        event: EventNumber(1),
        state: head.state,
        servers: Vec::new(),
        since_ms: 0,
        is_settled: false,
    };
    write.put(Table::Rm, tables::partial_key(room.number), &job);
    room.store.commit(write).await.unwrap();
}

/// The members are there: so many.
async fn find_members(room: &Room, joined: u32) {
    let (bytes, mut head) = room.store.head_bytes(room.number).await.unwrap().unwrap();
    (head.partial, head.joined) = (false, joined);
    let mut write = Write::new(room.number.partition());
    let at = write.position();
    let row = TimelineRow { event: None, state: head.state };
    let key = tables::timeline_key(room.number, Order { position: 0, within: u32::MAX });
    write.put_filled(Table::Tl, key, encode(&row), Some((TIMELINE_POSITION_OFFSET, at)), &[]);
    write.log(at, LogEntry::Event(EventNote { room: room.number, event: None, member: None }));
    write.require(Table::Rm, tables::head_key(room.number), Some(bytes));
    write.put_at(Table::Rm, tables::head_key(room.number), &head, &[at, at]);
    room.store.commit(write).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_wants_all_members_sees_the_room_when_they_are_there() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    lose_members(&room).await;
    let lazy = json!({"room": {"state": {"lazy_load_members": true}}});
    let (whole, lazily) = (world.first(&alice, json!({})).await, world.first(&alice, lazy.clone()).await);
    assert_eq!(in_section(&whole, "join", &room), &Value::Null);
    assert_ne!(in_section(&lazily, "join", &room), &Value::Null);
    room.message(&alice, "1").await;
    let (whole, lazily) =
        (world.next(&alice, &whole, json!({})).await, world.next(&alice, &lazily, lazy.clone()).await);
    assert_eq!(in_section(&whole, "join", &room), &Value::Null);
    assert_eq!(said(in_section(&lazily, "join", &room)), ["1"]);
    find_members(&room, 7).await;
    let (whole, lazily) =
        (world.next(&alice, &whole, json!({})).await, world.next(&alice, &lazily, lazy.clone()).await);
    let told = in_section(&whole, "join", &room);
    assert_eq!(said(told).last().unwrap(), "1", "as newly joined");
    assert_eq!((&told["timeline"]["limited"], &told["summary"]["m.joined_member_count"]), (&json!(true), &json!(7)));
    let told = in_section(&lazily, "join", &room);
    assert!(said(told).is_empty() && told["state"]["events"].as_array().unwrap().is_empty(), "{told}");
    assert_eq!(told["summary"]["m.joined_member_count"], 7);
    // From now on as any other room.
    room.message(&bob, "2").await;
    for (before, filter) in [(whole, json!({})), (lazily, lazy)] {
        let next = world.next(&alice, &before, filter).await;
        let told = in_section(&next, "join", &room);
        assert_eq!((said(told), &told["timeline"]["limited"]), (vec!["2".to_owned()], &json!(false)));
        assert_eq!(told["summary"], Value::Null);
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_members_one_by_one_learns_that_they_came_however_much_was_said_since() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    room.send(&alice, "m.room.encryption", Some(""), json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
    lose_members(&room).await;
    let lazy = json!({"room": {"state": {"lazy_load_members": true}}});
    let before = world.first(&alice, lazy.clone()).await;
    find_members(&room, 7).await;
    for nth in 0..25 {
        room.message(&alice, &nth.to_string()).await;
    }
    let next = world.next(&alice, &before, lazy.clone()).await;
    let told = in_section(&next, "join", &room);
    assert_eq!((said(told).len(), &told["timeline"]["limited"]), (10, &json!(true)));
    assert_eq!(told["summary"]["m.joined_member_count"], 7);
    assert!(next["device_lists"]["changed"].as_array().unwrap().contains(&json!(bob.id())), "{next}");
    for nth in 0..25 {
        room.message(&alice, &nth.to_string()).await;
    }
    let next = world.next(&alice, &next, lazy).await;
    assert_eq!(in_section(&next, "join", &room)["summary"], Value::Null, "that was told");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_before_the_members_are_there_is_told_of_all_the_stay() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    let lazy = json!({"room": {"state": {"lazy_load_members": true}}});
    let (whole, lazily) = (world.first(&bob, json!({})).await, world.first(&bob, lazy.clone()).await);
    room.member(&bob, &bob, Membership::Join).await;
    lose_members(&room).await;
    let (whole, lazily) = (world.next(&bob, &whole, json!({})).await, world.next(&bob, &lazily, lazy.clone()).await);
    assert_eq!(in_section(&whole, "join", &room), &Value::Null);
    room.message(&alice, "1").await;
    room.member(&bob, &bob, Membership::Leave).await;
    let (whole, lazily) = (world.next(&bob, &whole, json!({})).await, world.next(&bob, &lazily, lazy).await);
    let (whole, lazily) = (in_section(&whole, "leave", &room), in_section(&lazily, "leave", &room));
    let stay = ["m.room.member", "1", "m.room.member"].map(str::to_owned);
    assert!(said(whole).ends_with(&stay), "{whole}");
    assert_eq!(whole["timeline"]["limited"], true);
    assert_eq!((said(lazily).len(), &lazily["timeline"]["limited"]), (2, &json!(false)), "continues what was told");
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_the_members_waits_for_them() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    lose_members(&room).await;
    let reader = Reader { user_id: alice.reader.user_id.clone(), device_id: None };
    assert!(matches!(world.reads.joined_members(&reader, &room.id).await, Err(ReadError::NotYet)), "for so long");
    assert!(world.reads.state_entry(&reader, &room.id, "m.room.create", "", false).await.is_ok());
    let query = MembersQuery::default();
    let later = async {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        find_members(&room, 1).await;
    };
    let (members, ()) = tokio::join!(world.reads.members(&reader, &room.id, &query), later);
    assert!(String::from_utf8_lossy(&members.unwrap()).contains(alice.id()));
}
