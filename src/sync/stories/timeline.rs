//! What is shown of a timeline.

use hearth_store::tables::{EventFlags, Membership, SenderTransaction};
use serde_json::json;

use super::world::{Extra, World, following, ids, in_section, said};
use crate::SyncQuery;

#[tokio::test(start_paused = true)]
async fn a_message_comes_once() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    let first = world.first(&bob, json!({})).await;
    room.message(&alice, "hello").await;
    let second = world.next(&bob, &first, json!({})).await;
    let told = in_section(&second, "join", &room);
    assert_eq!(said(told), ["hello"]);
    assert_eq!((&told["timeline"]["limited"], &told["state"]["events"]), (&json!(false), &json!([])));
    let third = world.next(&bob, &second, json!({})).await;
    assert!(third.get("rooms").is_none(), "{third}");
}

#[tokio::test(start_paused = true)]
async fn only_what_does_not_fit_is_limited() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    for body in ["1", "2", "3"] {
        room.message(&alice, body).await;
    }
    let first = world.first(&alice, json!({"room": {"timeline": {"limit": 2}}})).await;
    let told = in_section(&first, "join", &room);
    assert_eq!((said(told), &told["timeline"]["limited"]), (vec!["2".into(), "3".into()], &json!(true)));
    assert_eq!(told["state"]["events"].as_array().map(Vec::len), Some(2));

    // Nothing more passes the filter, however much there is.
    let filter = json!({"room": {"timeline": {"limit": 3, "types": ["m.room.message"]}}});
    let first = world.first(&alice, filter).await;
    let told = in_section(&first, "join", &room);
    assert_eq!((said(told).len(), &told["timeline"]["limited"]), (3, &json!(false)));

    let first = world.first(&alice, json!({"room": {"timeline": {"limit": 5}}})).await;
    assert_eq!(in_section(&first, "join", &room)["timeline"]["limited"], json!(false));

    let none = world.first(&alice, json!({"room": {"timeline": {"limit": 0}}})).await;
    let told = in_section(&none, "join", &room);
    assert_eq!((said(told).len(), &told["timeline"]["limited"]), (0, &json!(true)));
    assert_eq!(told["state"]["events"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_search_through_many_rows_goes_on() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    let wanted = room.message(&alice, "wanted").await;
    for number in 0..230 {
        room.send(&alice, "filler", None, json!({ "n": number })).await;
    }
    let filter = json!({"room": {"timeline": {"limit": 1, "types": ["m.room.message"]}}});
    let first = world.first(&alice, filter).await;
    let told = in_section(&first, "join", &room);
    assert_eq!((ids(told, "timeline"), &told["timeline"]["limited"]), (vec![wanted], &json!(false)));
}

#[tokio::test(start_paused = true)]
async fn a_timeline_is_bounded_in_bytes() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    for _ in 0..40 {
        room.message(&alice, &"x".repeat(50_000)).await;
    }
    let first = world.first(&alice, json!({"room": {"timeline": {"limit": 100}}})).await;
    let told = in_section(&first, "join", &room);
    assert_eq!((said(told).len(), &told["timeline"]["limited"]), (20, &json!(true)));
}

#[tokio::test(start_paused = true)]
async fn history_is_told_as_far_as_the_reader_may_see_it() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.message(&alice, "shared").await;
    room.visibility(&alice, "joined").await;
    room.message(&alice, "secret").await;
    room.send(&alice, "m.room.topic", Some(""), json!({"topic": "in force"})).await;
    room.send(&alice, "m.room.name", Some(""), json!({"name": "replaced"})).await;
    room.send(&alice, "m.room.name", Some(""), json!({"name": "in force"})).await;
    room.member(&bob, &bob, Membership::Join).await;
    room.message(&alice, "open").await;
    let first = world.first(&bob, json!({})).await;
    let told = in_section(&first, "join", &room);
    // State that is in force is given anyway, so it stands in its place; what it replaced does not.
    let expected =
        ["m.room.create", "m.room.member", "shared", "m.room.history_visibility", "m.room.topic", "m.room.name"];
    assert_eq!(said(told)[..6], expected);
    assert_eq!(said(told)[6..], ["m.room.member", "open"]);
    assert_eq!(told["timeline"]["events"][5]["content"]["name"], "in force");
}

#[tokio::test(start_paused = true)]
async fn soft_failed_and_rejected_events_are_not_shown() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    let first = world.first(&alice, json!({})).await;
    for flags in [EventFlags::SOFT_FAILED, EventFlags::REJECTED, EventFlags::OUTLIER] {
        let extra = Extra { flags, ..Extra::default() };
        room.send_with(&alice, "m.room.message", None, json!({"body": "bad"}), extra).await;
    }
    assert!(world.next(&alice, &first, json!({})).await.get("rooms").is_none());
}

#[tokio::test(start_paused = true)]
async fn unsigned_is_the_readers_own() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    let before = room.send(&alice, "m.room.topic", Some(""), json!({"topic": "before"})).await;
    room.member(&bob, &bob, Membership::Join).await;
    let (firsts, seconds) = (world.first(&alice, json!({})).await, world.first(&bob, json!({})).await);
    let sent_by = Some(SenderTransaction { device: "DEVICE".into(), transaction: "txn".into() });
    let extra = Extra { sent_by, ..Extra::default() };
    room.send_with(&alice, "m.room.topic", Some(""), json!({"topic": "after"}), extra).await;
    let unsigned =
        |answer: &serde_json::Value| in_section(answer, "join", &room)["timeline"]["events"][0]["unsigned"].clone();
    let own = unsigned(&world.next(&alice, &firsts, json!({})).await);
    let expected = json!({
        "age": 1000, "membership": "join", "prev_content": {"topic": "before"}, "prev_sender": alice.id(),
        "replaces_state": before, "transaction_id": "txn",
    });
    assert_eq!(own, expected);
    let other = unsigned(&world.next(&bob, &seconds, json!({})).await);
    assert_eq!((other.get("transaction_id"), &other["membership"]), (None, &json!("join")));
    // Another device of the same account did not send it.
    let phone = super::world::Person { reader: crate::Reader { device_id: "PHONE".into(), ..alice.reader.clone() } };
    assert_eq!(unsigned(&world.next(&phone, &firsts, json!({})).await).get("transaction_id"), None);
}

#[tokio::test(start_paused = true)]
async fn ignored_people_are_silent_but_their_state_counts() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    let first = world.first(&alice, json!({})).await;
    let content = json!({"ignored_users": {bob.id(): {}}}).to_string();
    let kind = "m.ignored_user_list";
    world.users.put_account_data(&alice.reader.user_id, None, kind, &content).await.expect("an account");
    room.message(&bob, "noise").await;
    let second = world.next(&alice, &first, json!({})).await;
    assert!(second.get("rooms").is_none(), "{second}");
    assert_eq!(second["account_data"]["events"][0]["type"], kind);
    room.send(&bob, "m.room.topic", Some(""), json!({"topic": "counts"})).await;
    room.message(&alice, "words").await;
    let third = world.next(&alice, &second, json!({})).await;
    assert_eq!(said(in_section(&third, "join", &room)), ["m.room.topic", "words"]);
}

#[tokio::test(start_paused = true)]
async fn the_form_is_as_the_filter_asks() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    let id = room.message(&alice, "hello").await;
    let one = json!({"timeline": {"limit": 1}, "state": {"types": []}});
    let event = |answer: serde_json::Value| in_section(&answer, "join", &room)["timeline"]["events"][0].clone();
    let federation = event(world.first(&alice, json!({"event_format": "federation", "room": one})).await);
    assert_eq!((&federation["event_id"], &federation["depth"]), (&json!(id), &json!(3)));
    let fields = event(world.first(&alice, json!({"event_fields": ["content.body"], "room": one})).await);
    assert_eq!(fields, json!({"content": {"body": "hello"}}));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_kind_is_refused() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    world.room("room", &alice).await;
    for since in ["", "nonsense", "t1-1", "s", "s72594_4483_1934", "s1_0.0", "s1.99-1_0.0_0"] {
        let query = SyncQuery { since: Some(since.to_owned()), ..SyncQuery::default() };
        let error = world.try_sync(&alice, &query).await.expect_err(since);
        assert!(matches!(error, crate::SyncError::BadToken(_)), "{since}: {error}");
    }
    let query = SyncQuery { since: Some("s99999_0.0_0".to_owned()), ..SyncQuery::default() };
    assert!(matches!(world.try_sync(&alice, &query).await, Err(crate::SyncError::UnknownPlace)));
    let first = world.first(&alice, json!({})).await;
    for filter in ["{", "{\"room\":7}", "none"] {
        let query = SyncQuery { filter: Some(filter.to_owned()), ..following(&first, json!({})) };
        let error = world.try_sync(&alice, &query).await.expect_err(filter);
        assert!(matches!(error, crate::SyncError::BadFilter(_) | crate::SyncError::UnknownFilter), "{filter}");
    }
}
