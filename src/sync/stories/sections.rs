//! In which section a room stands, and what is told of it there.

use hearth_store::tables::Membership;
use serde_json::{Value, json};

use super::world::{World, following, ids, in_section, said};
use crate::{StateForm, SyncQuery};

const LEFT_TOO: &str = r#"{"room":{"include_leave":true}}"#;

fn left_too() -> Value {
    serde_json::from_str(LEFT_TOO).expect("a filter")
}

#[tokio::test(start_paused = true)]
async fn an_invite_is_told_with_stripped_state_and_clears() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.send(&alice, "m.room.name", Some(""), json!({"name": "A room"})).await;
    room.send(&alice, "m.room.power_levels", Some(""), json!({})).await;
    let first = world.first(&bob, json!({})).await;
    room.member(&alice, &bob, Membership::Invite).await;
    room.send(&alice, "m.room.name", Some(""), json!({"name": "Later"})).await;
    let second = world.next(&bob, &first, json!({})).await;
    let invite = in_section(&second, "invite", &room);
    let events = invite["invite_state"]["events"].as_array().expect("a list");
    let mut kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["m.room.create", "m.room.member", "m.room.member", "m.room.name"]);
    let name = events.iter().find(|event| event["type"] == "m.room.name").expect("the name");
    assert_eq!(
        name,
        &json!({"content": {"name": "A room"}, "sender": alice.id(), "state_key": "", "type": "m.room.name"})
    );
    assert_eq!(events.last().map(|event| &event["state_key"]), Some(&json!(bob.id())));

    // It stands in every first sync, and in no other.
    assert!(in_section(&world.first(&bob, json!({})).await, "invite", &room).is_object());
    assert!(world.next(&bob, &second, json!({})).await.get("rooms").is_none());

    // Rejected: the end of it is told, and nothing of the room.
    room.member(&bob, &bob, Membership::Leave).await;
    let third = world.next(&bob, &second, json!({})).await;
    let left = in_section(&third, "leave", &room);
    assert_eq!((said(left), &left["state"]["events"]), (vec!["m.room.member".to_owned()], &json!([])));
    assert!(world.first(&bob, left_too()).await.get("rooms").is_none());
}

#[tokio::test(start_paused = true)]
async fn invites_of_the_ignored_are_hidden() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    let content = json!({"ignored_users": {alice.id(): {}}}).to_string();
    world.users.put_account_data(&bob.reader.user_id, None, "m.ignored_user_list", &content).await.expect("an account");
    let first = world.first(&bob, json!({})).await;
    room.member(&alice, &bob, Membership::Invite).await;
    assert!(world.next(&bob, &first, json!({})).await.get("rooms").is_none());
    assert!(world.first(&bob, json!({})).await.get("rooms").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_knock_is_told() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    let first = world.first(&bob, json!({})).await;
    room.member(&bob, &bob, Membership::Knock).await;
    let second = world.next(&bob, &first, json!({})).await;
    assert!(in_section(&second, "knock", &room)["knock_state"]["events"].is_array());
    room.member(&alice, &bob, Membership::Leave).await;
    assert_eq!(said(in_section(&world.next(&bob, &second, json!({})).await, "leave", &room)), ["m.room.member"]);
}

#[tokio::test(start_paused = true)]
async fn a_joined_room_is_news_as_a_whole() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.send(&alice, "m.room.topic", Some(""), json!({})).await;
    let first = world.first(&bob, json!({})).await;
    room.member(&bob, &bob, Membership::Join).await;
    let filter = json!({"room": {"timeline": {"limit": 1}}});
    let second = world.next(&bob, &first, filter).await;
    let told = in_section(&second, "join", &room);
    assert_eq!((said(told), &told["timeline"]["limited"]), (vec!["m.room.member".to_owned()], &json!(true)));
    assert_eq!(ids(told, "state").len(), 3);
    assert_eq!(
        told["summary"],
        json!({"m.heroes": [alice.id()], "m.joined_member_count": 2, "m.invited_member_count": 0})
    );
}

#[tokio::test(start_paused = true)]
async fn who_leaves_and_comes_back_has_joined_anew() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    room.message(&alice, "seen").await;
    let first = world.first(&bob, json!({})).await;
    room.member(&bob, &bob, Membership::Leave).await;
    room.member(&bob, &bob, Membership::Join).await;
    room.message(&alice, "new").await;
    let second = world.next(&bob, &first, json!({})).await;
    let told = in_section(&second, "join", &room);
    assert_eq!(said(told), ["m.room.member", "m.room.member", "new"], "nothing that was told is repeated");
    assert_eq!((&told["timeline"]["limited"], ids(told, "state").len()), (&json!(true), 3));
}

#[tokio::test(start_paused = true)]
async fn a_left_room_ends_at_the_departure() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    for (end, sender) in [(Membership::Leave, &bob), (Membership::Ban, &alice)] {
        let room = world.room(&format!("room-{end:?}").to_lowercase(), &alice).await;
        room.member(&bob, &bob, Membership::Join).await;
        let first = world.first(&bob, json!({})).await;
        room.message(&alice, "before").await;
        room.send(&alice, "m.room.topic", Some(""), json!({"topic": "before"})).await;
        room.member(sender, &bob, end).await;
        room.message(&alice, "after").await;
        room.send(&alice, "m.room.topic", Some(""), json!({"topic": "after"})).await;
        let second = world.next(&bob, &first, json!({"room": {"timeline": {"limit": 1}}})).await;
        let left = in_section(&second, "leave", &room);
        assert_eq!((said(left), &left["timeline"]["limited"]), (vec!["m.room.member".to_owned()], &json!(true)));
        assert_eq!(left["state"]["events"][0]["content"]["topic"], "before");
        assert!(world.next(&bob, &second, json!({})).await.get("rooms").is_none());
        // Told again only to who asks for left rooms.
        assert!(in_section(&world.first(&bob, json!({})).await, "leave", &room).is_null());
        let told = world.first(&bob, left_too()).await;
        let left = in_section(&told, "leave", &room);
        assert_eq!(said(left).last().map(String::as_str), Some("m.room.member"));
        assert!(!said(left).contains(&"after".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_ban_after_leaving_opens_nothing() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    room.member(&bob, &bob, Membership::Leave).await;
    let first = world.first(&bob, left_too()).await;
    room.message(&alice, "between").await;
    room.send(&alice, "m.room.topic", Some(""), json!({"topic": "between"})).await;
    room.member(&alice, &bob, Membership::Ban).await;
    let second = world.next(&bob, &first, json!({})).await;
    let told = in_section(&second, "leave", &room);
    assert_eq!((said(told), &told["state"]["events"]), (vec!["m.room.member".to_owned()], &json!([])));
    assert_eq!(told["timeline"]["events"][0]["content"]["membership"], "ban");
    let left = world.first(&bob, left_too()).await;
    let left = in_section(&left, "leave", &room);
    assert!(!said(left).contains(&"between".to_owned()) && !left.to_string().contains("topic"), "{left}");
    room.member(&alice, &bob, Membership::Leave).await;
    let third = world.next(&bob, &second, json!({})).await;
    assert_eq!(in_section(&third, "leave", &room)["timeline"]["events"][0]["content"]["membership"], "leave");
    assert!(world.next(&bob, &third, json!({})).await.get("rooms").is_none());
}

#[tokio::test(start_paused = true)]
async fn who_is_kicked_and_then_banned_is_told_of_both() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    let first = world.first(&bob, json!({})).await;
    room.member(&alice, &bob, Membership::Leave).await;
    room.message(&alice, "between").await;
    room.member(&alice, &bob, Membership::Ban).await;
    for state in [StateForm::Before, StateForm::After] {
        let answer = world.sync(&bob, &SyncQuery { state, ..following(&first, json!({})) }).await;
        let told = in_section(&answer, "leave", &room);
        let memberships: Vec<&Value> = told["timeline"]["events"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|event| &event["content"]["membership"])
            .collect();
        assert_eq!(memberships, ["leave", "ban"]);
        if state == StateForm::After {
            let after = told["state_after"]["events"].as_array().expect("a list");
            assert_eq!((after.len(), &after[0]["content"]["membership"]), (1, &json!("ban")));
        }
    }
    // Somebody who never was there hears nothing of it.
    let carol = world.person("carol").await;
    let firsts = world.first(&carol, left_too()).await;
    room.member(&alice, &carol, Membership::Ban).await;
    assert!(world.next(&carol, &firsts, left_too()).await.get("rooms").is_none());
}

#[tokio::test(start_paused = true)]
async fn who_leaves_and_knocks_in_vain_is_told_of_what_they_missed_and_of_no_more() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    room.message(&alice, "known").await;
    let first = world.first(&bob, json!({})).await;
    room.message(&alice, "missed").await;
    room.member(&bob, &bob, Membership::Leave).await;
    room.message(&alice, "not for bob").await;
    for asked in [Membership::Knock, Membership::Invite] {
        room.member(if asked == Membership::Knock { &bob } else { &alice }, &bob, asked).await;
        room.member(&bob, &bob, Membership::Leave).await;
        let second = world.next(&bob, &first, json!({})).await;
        let told = in_section(&second, "leave", &room);
        assert_eq!(said(told), ["missed", "m.room.member", "m.room.member"]);
        assert_eq!(told["timeline"]["limited"], false);
        // The same with a sync in between.
        room.member(if asked == Membership::Knock { &bob } else { &alice }, &bob, asked).await;
        let third = world.next(&bob, &first, json!({})).await;
        room.member(&bob, &bob, Membership::Leave).await;
        let fourth = world.next(&bob, &third, json!({})).await;
        let told = in_section(&fourth, "leave", &room);
        assert_eq!((said(told), &told["timeline"]["limited"]), (vec!["m.room.member".to_owned()], &json!(false)));
    }
}

#[tokio::test(start_paused = true)]
async fn joined_and_left_in_between_is_told_with_its_state() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.send(&alice, "m.room.topic", Some(""), json!({})).await;
    let first = world.first(&bob, json!({})).await;
    room.member(&bob, &bob, Membership::Join).await;
    room.member(&bob, &bob, Membership::Leave).await;
    let filter = json!({"room": {"timeline": {"types": []}, "state": {"types": ["m.room.topic"]}}});
    let second = world.next(&bob, &first, filter).await;
    assert_eq!(ids(in_section(&second, "leave", &room), "state").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn full_state_is_all_state_and_the_recent_timeline() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    room.message(&alice, "old").await;
    let first = world.first(&alice, json!({})).await;
    room.message(&alice, "new").await;
    let query = SyncQuery { full_state: true, timeout_ms: 60_000, ..following(&first, json!({})) };
    let second = world.sync(&alice, &query).await;
    let told = in_section(&second, "join", &room);
    assert_eq!((said(told), ids(told, "state").len()), (vec!["new".to_owned()], 2));
    // Without anything new too, and at once.
    let query = SyncQuery { since: second["next_batch"].as_str().map(str::to_owned), ..query };
    assert_eq!(ids(in_section(&world.sync(&alice, &query).await, "join", &room), "state").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn rooms_can_be_filtered_out() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let (one, two) = (world.room("one", &alice).await, world.room("two", &alice).await);
    let only = world.first(&alice, json!({"room": {"rooms": [one.id]}})).await;
    assert!(in_section(&only, "join", &one).is_object() && in_section(&only, "join", &two).is_null());
    let not = world.first(&alice, json!({"room": {"timeline": {"not_rooms": [one.id]}}})).await;
    assert!(said(in_section(&not, "join", &one)).is_empty() && !said(in_section(&not, "join", &two)).is_empty());
    let stateless = json!({"room": {"timeline": {"limit": 1}, "state": {"rooms": [two.id]}}});
    let answer = world.first(&alice, stateless).await;
    assert_eq!(
        (ids(in_section(&answer, "join", &one), "state").len(), ids(in_section(&answer, "join", &two), "state").len()),
        (0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn account_data_stands_where_it_belongs() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    let put = async |room: Option<&ruma::RoomId>, kind: &str, content: &str| {
        world.users.put_account_data(&alice.reader.user_id, room, kind, content).await.expect("an account and a room");
    };
    put(None, "global", r#"{"a":1}"#).await;
    put(Some(&room.id), "m.tag", r#"{"tags":{}}"#).await;
    let first = world.first(&alice, json!({})).await;
    let kinds = |events: &Value| -> Vec<String> {
        let events = events["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        events.iter().map(|event| event["type"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(kinds(&first["account_data"]), ["global", "m.push_rules"]);
    assert_eq!(kinds(&in_section(&first, "join", &room)["account_data"]), ["m.tag"]);
    put(None, "other", "{}").await;
    put(Some(&room.id), "m.tag", r#"{"tags":{"u.x":{}}}"#).await;
    let second = world.next(&alice, &first, json!({})).await;
    assert_eq!(kinds(&second["account_data"]), ["other"]);
    let told = in_section(&second, "join", &room);
    assert_eq!(told["account_data"]["events"], json!([{"type": "m.tag", "content": {"tags": {"u.x": {}}}}]));
    assert_eq!(said(told).len(), 0);
    let filter = json!({"account_data": {"types": ["none"]}, "room": {"account_data": {"not_types": ["m.*"]}}});
    let none = world.next(&alice, &first, filter).await;
    assert!(none.get("account_data").is_none() && none.get("rooms").is_none(), "{none}");
    assert!(world.next(&alice, &second, json!({})).await.get("account_data").is_none());
}

/// Where branches of a room meet, a join may lose without any event that takes its place.
#[tokio::test(start_paused = true)]
async fn a_room_whose_join_is_undone_is_left() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    let joined = world.first(&bob, json!({})).await;
    in_section(&joined, "join", &room);
    room.erase_member(&bob).await;
    let left = world.next(&bob, &joined, json!({})).await;
    let told = in_section(&left, "leave", &room);
    assert_eq!(told["timeline"]["events"], json!([]));
    room.message(&alice, "among us").await;
    let after = world.next(&bob, &left, json!({})).await;
    assert_eq!(after["rooms"].get("leave"), None, "told once");
    assert_eq!(after["rooms"].get("join"), None);
    assert_eq!(world.first(&bob, json!({})).await["rooms"].get("leave"), None);
}
