//! Long-polls: what they wait for, what ends them.

use std::{sync::Arc, time::Duration};

use hearth_store::tables::Membership;
use hearth_users::ReceiptKind;
use ruma::EventId;
use serde_json::json;
use tokio::time::Instant;

use super::world::{Person, Room, World, following, in_section, said};
use crate::SyncQuery;

/// What stands in every answer: the token, the counts of one-time keys, the types of unused fallback keys.
const EMPTY_FIELDS: usize = 3;

/// Alice and Bob in a room, the waiting query that follows a sync of Bob's, and that query's start.
async fn bob_waits() -> (Arc<World>, Person, Person, Room, SyncQuery) {
    let world = Arc::new(World::new().await);
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    let first = world.first(&bob, json!({})).await;
    let settled = world.next(&bob, &first, json!({})).await;
    let query = SyncQuery { timeout_ms: 30_000, ..following(&settled, json!({})) };
    (world, alice, bob, room, query)
}

/// Starts a sync and lets it come to where it waits.
async fn waiting(world: &Arc<World>, person: &Person, query: &SyncQuery) -> tokio::task::JoinHandle<serde_json::Value> {
    let (world, person, query) = (world.clone(), person.clone(), query.clone());
    let task = tokio::spawn(async move { world.sync(&person, &query).await });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(!task.is_finished(), "there is nothing to tell yet");
    task
}

#[tokio::test(start_paused = true)]
async fn a_message_ends_it() {
    let (world, alice, bob, room, query) = bob_waits().await;
    let begun = Instant::now();
    let task = waiting(&world, &bob, &query).await;
    room.message(&alice, "hello").await;
    assert_eq!(said(in_section(&task.await.expect("it ends"), "join", &room)), ["hello"]);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_invite_a_receipt_typing_and_account_data_end_it() {
    let (world, alice, bob, room, query) = bob_waits().await;
    let event_id = room.message(&alice, "hello").await;
    let mut last = world.sync(&bob, &query).await;
    for round in 0..5 {
        // What the last round brought about besides is not what this one waits for.
        last = world.next(&bob, &last, json!({})).await;
        let query = SyncQuery { timeout_ms: 30_000, ..following(&last, json!({})) };
        let task = waiting(&world, &bob, &query).await;
        let told: fn(&serde_json::Value) -> bool = match round {
            0 => {
                world.room("other", &alice).await.member(&alice, &bob, Membership::Invite).await;
                |answer| answer["rooms"]["invite"].is_object()
            }
            1 => {
                let id = EventId::parse(&*event_id).expect("an event id");
                let receipt = world.users.set_receipt(&alice.reader.user_id, &room.id, ReceiptKind::Public, None, &id);
                receipt.await.expect("alice is in the room");
                |answer| answer.to_string().contains("m.receipt")
            }
            2 => {
                world.users.set_typing(room.number, &alice.reader.user_id, Some(Duration::from_secs(10)));
                |answer| answer.to_string().contains(r#""user_ids":["@alice:hearth"]"#)
            }
            3 => {
                world.users.set_typing(room.number, &alice.reader.user_id, None);
                |answer| answer.to_string().contains(r#""user_ids":[]"#)
            }
            _ => {
                world.users.put_account_data(&bob.reader.user_id, None, "x", "{}").await.expect("an account");
                |answer| answer["account_data"]["events"][0]["type"] == "x"
            }
        };
        let answer = task.await.expect("it ends");
        assert!(told(&answer), "round {round}: {answer}");
        last = answer;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_filter_hides_does_not_end_it() {
    let (world, alice, bob, room, query) = bob_waits().await;
    let filter = json!({"room": {"timeline": {"types": []}, "state": {"types": []}}, "presence": {"types": []}});
    let query = SyncQuery { filter: Some(filter.to_string()), ..query };
    let task = waiting(&world, &bob, &query).await;
    room.message(&alice, "hidden").await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(!task.is_finished());
    tokio::time::advance(Duration::from_secs(31)).await;
    let answer = task.await.expect("it ends");
    assert_eq!(answer.as_object().map(serde_json::Map::len), Some(EMPTY_FIELDS), "{answer}");
    assert_ne!(answer["next_batch"].as_str(), query.since.as_deref(), "what was looked at is not looked at again");
}

#[tokio::test(start_paused = true)]
async fn the_time_ends_it_with_a_token_that_goes_on() {
    let (world, alice, bob, room, query) = bob_waits().await;
    let begun = Instant::now();
    let answer = world.sync(&bob, &query).await;
    assert_eq!(answer.as_object().map(serde_json::Map::len), Some(EMPTY_FIELDS), "{answer}");
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
    room.message(&alice, "later").await;
    assert_eq!(said(in_section(&world.next(&bob, &answer, json!({})).await, "join", &room)), ["later"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_is_allowed() {
    let (world, _, bob, _, query) = bob_waits().await;
    let begun = Instant::now();
    let filter = Some(json!({"presence": {"types": []}}).to_string());
    world.sync(&bob, &SyncQuery { timeout_ms: u64::MAX, filter, ..query }).await;
    assert_eq!(begun.elapsed(), Duration::from_millis(crate::SyncSettings::default().timeout_max_ms));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_it() {
    let (world, _, bob, _, query) = bob_waits().await;
    let begun = Instant::now();
    let task = waiting(&world, &bob, &query).await;
    world.syncs.shut_down();
    assert!(task.await.expect("it ends")["next_batch"].is_string());
    world.sync(&bob, &query).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "who comes later does not wait either");
}

#[tokio::test(start_paused = true)]
async fn without_news_the_store_is_not_asked() {
    let (world, _, bob, _, query) = bob_waits().await;
    let query = SyncQuery { timeout_ms: 0, ..query };
    let before = world.sync(&bob, &query).await;
    let reads = world.engine.reads();
    for _ in 0..10 {
        assert_eq!(world.sync(&bob, &query).await, before);
    }
    assert_eq!(world.engine.reads(), reads);
}

#[tokio::test(start_paused = true)]
async fn a_message_costs_few_reads_in_however_many_rooms() {
    let (world, alice, bob, room, _) = bob_waits().await;
    for number in 0..50 {
        world.room(&format!("other{number}"), &bob).await;
    }
    room.visibility(&alice, "shared").await;
    let first = world.first(&bob, json!({})).await;
    room.message(&alice, "1").await;
    let second = world.next(&bob, &first, json!({})).await;
    room.message(&alice, "2").await;
    let reads = world.engine.reads();
    assert_eq!(said(in_section(&world.next(&bob, &second, json!({})).await, "join", &room)), ["2"]);
    // The timeline, the event that nobody has read before, the receipts' list and (none of) their rows.
    assert!(world.engine.reads() - reads <= 4, "{} reads", world.engine.reads() - reads);
}

#[tokio::test(start_paused = true)]
async fn who_waits_holds_little_memory() {
    let (world, _, bob, _, query) = bob_waits().await;
    let future = world.syncs.sync(&bob.reader, &query);
    assert!(std::mem::size_of_val(&future) <= 2_048, "{} bytes", std::mem::size_of_val(&future));
}

#[tokio::test(start_paused = true)]
async fn a_token_survives_a_restart() {
    let (world, alice, bob, room, query) = bob_waits().await;
    world.users.set_typing(room.number, &alice.reader.user_id, Some(Duration::from_secs(10)));
    let typing = world.sync(&bob, &query).await;
    room.message(&alice, "before").await;
    let again = World::over(world.engine.clone(), 2).await;
    let restarted = Room::clone_into(&room, &again);
    restarted.message(&alice, "after").await;
    let answer = again.next(&bob, &typing, json!({})).await;
    assert_eq!(said(in_section(&answer, "join", &room)), ["before", "after"]);
    again.users.set_typing(room.number, &alice.reader.user_id, Some(Duration::from_secs(10)));
    let answer = again.next(&bob, &typing, json!({})).await;
    assert!(answer.to_string().contains("m.typing"), "serials of the other process mean nothing: {answer}");
}

#[tokio::test(start_paused = true)]
async fn receipts_are_told_by_kind_and_thread() {
    let (world, alice, bob, room, query) = bob_waits().await;
    let event_id = room.message(&alice, "hello").await;
    let id = EventId::parse(&*event_id).expect("an event id");
    let before = world.sync(&bob, &query).await;
    for (person, kind, thread) in [
        (&alice, ReceiptKind::Public, None),
        (&alice, ReceiptKind::Private, None),
        (&bob, ReceiptKind::Public, Some("main")),
        (&bob, ReceiptKind::Private, None),
    ] {
        world.users.set_receipt(&person.reader.user_id, &room.id, kind, thread, &id).await.expect("a member");
    }
    let answer = world.next(&bob, &before, json!({})).await;
    let mut content = in_section(&answer, "join", &room)["ephemeral"]["events"][0]["content"][&event_id].clone();
    for kind in ["m.read", "m.read.private"] {
        for (_, receipt) in content[kind].as_object_mut().expect("both kinds are there") {
            receipt.as_object_mut().expect("a receipt").remove("ts").expect("it has a time");
        }
    }
    // Alice's private one is not for Bob.
    let expected = json!({
        "m.read": {alice.id(): {}, bob.id(): {"thread_id": "main"}}, "m.read.private": {bob.id(): {}},
    });
    assert_eq!(content, expected);
}
