//! Lazily loaded members, summaries and presence.

use hearth_store::tables::Membership;
use serde_json::{Value, json};

use super::world::{Person, Room, World, in_section};

fn lazy(limit: u32) -> Value {
    json!({"room": {"state": {"lazy_load_members": true}, "timeline": {"limit": limit}}})
}

/// Whose member events stand in the state.
fn members(answer: &Value, room: &Room) -> Vec<String> {
    let events = in_section(answer, "join", room)["state"]["events"].as_array().cloned().unwrap_or_default();
    let mut members: Vec<String> = events
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .filter_map(|event| event["state_key"].as_str().map(str::to_owned))
        .collect();
    members.sort_unstable();
    members
}

/// A named room with three members, where Bob said the last two things.
async fn named_room(world: &World) -> (Room, Person, Person, Person) {
    let (alice, bob, carol) = (world.person("alice").await, world.person("bob").await, world.person("carol").await);
    let room = world.room("room", &alice).await;
    room.send(&alice, "m.room.name", Some(""), json!({"name": "A room"})).await;
    for person in [&bob, &carol] {
        room.member(person, person, Membership::Join).await;
    }
    for body in ["1", "2"] {
        room.message(&bob, body).await;
    }
    (room, alice, bob, carol)
}

#[tokio::test(start_paused = true)]
async fn only_the_senders_and_the_reader_come_at_first() {
    let world = World::new().await;
    let (room, alice, bob, carol) = named_room(&world).await;
    let first = world.first(&alice, lazy(2)).await;
    assert_eq!(members(&first, &room), [alice.id(), bob.id()]);
    room.message(&carol, "3").await;
    let second = world.next(&alice, &first, lazy(2)).await;
    assert_eq!(members(&second, &room), [carol.id()]);
    room.message(&carol, "4").await;
    room.message(&bob, "5").await;
    let third = world.next(&alice, &second, lazy(2)).await;
    assert!(members(&third, &room).is_empty(), "what was sent is not repeated");
    let redundant = json!({"room": {"state": {"lazy_load_members": true, "include_redundant_members": true}}});
    assert_eq!(members(&world.next(&alice, &second, redundant).await, &room), [bob.id(), carol.id()]);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_have_arrived_is_sent_again() {
    let world = World::new().await;
    let (room, alice, _, carol) = named_room(&world).await;
    let first = world.first(&alice, lazy(2)).await;
    room.message(&carol, "3").await;
    for _ in 0..2 {
        assert_eq!(members(&world.next(&alice, &first, lazy(2)).await, &room), [carol.id()]);
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_members_in_a_gap_always_come() {
    let world = World::new().await;
    let (room, alice, bob, carol) = named_room(&world).await;
    let first = world.first(&alice, lazy(2)).await;
    let dave = world.person("dave").await;
    room.member(&dave, &dave, Membership::Join).await;
    room.member(&carol, &carol, Membership::Leave).await;
    for body in ["3", "4", "5"] {
        room.message(&bob, body).await;
    }
    let second = world.next(&alice, &first, lazy(2)).await;
    assert_eq!(members(&second, &room), [carol.id(), dave.id()]);
}

#[tokio::test(start_paused = true)]
async fn summaries_come_when_members_change() {
    let world = World::new().await;
    let (room, alice, bob, carol) = named_room(&world).await;
    let first = world.first(&alice, lazy(2)).await;
    let summary = |answer: &Value| in_section(answer, "join", &room)["summary"].clone();
    assert_eq!(summary(&first), json!({"m.joined_member_count": 3, "m.invited_member_count": 0}));
    room.send(&bob, "m.room.member", Some(bob.id()), json!({"membership": "join", "displayname": "B"})).await;
    let second = world.next(&alice, &first, lazy(2)).await;
    assert_eq!(summary(&second), Value::Null, "a new name is no new member");
    room.member(&carol, &carol, Membership::Leave).await;
    let third = world.next(&alice, &second, lazy(2)).await;
    assert_eq!(summary(&third), json!({"m.joined_member_count": 2, "m.invited_member_count": 0}));
    room.send(&alice, "m.room.name", Some(""), json!({"name": ""})).await;
    let fourth = world.next(&alice, &third, lazy(2)).await;
    assert_eq!(summary(&fourth)["m.heroes"], json!([bob.id()]));
}

#[tokio::test(start_paused = true)]
async fn heroes_come_with_their_member_events() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&alice, &bob, Membership::Invite).await;
    for body in ["1", "2"] {
        room.message(&alice, body).await;
    }
    let first = world.first(&alice, lazy(1)).await;
    assert_eq!(in_section(&first, "join", &room)["summary"]["m.heroes"], json!([bob.id()]));
    assert_eq!(members(&first, &room), [alice.id(), bob.id()]);
}

fn present(answer: &Value) -> Vec<(String, String)> {
    let events = answer["presence"]["events"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| (text(&event["sender"]), text(&event["content"]["presence"]))).collect()
}

#[tokio::test(start_paused = true)]
async fn presence_is_told_to_who_shares_a_room() {
    let world = World::new().await;
    let (alice, bob, carol) = (world.person("alice").await, world.person("bob").await, world.person("carol").await);
    let room = world.room("room", &alice).await;
    let pair = |person: &Person, state: &str| (person.id().to_owned(), state.to_owned());
    let first = world.first(&alice, json!({})).await;
    assert_eq!(present(&first), [pair(&alice, "online")]);
    // Bob is there, but nobody knows him.
    let bobs = world.first(&bob, json!({})).await;
    let second = world.next(&alice, &first, json!({})).await;
    assert!(present(&second).is_empty());
    room.member(&bob, &bob, Membership::Join).await;
    let third = world.next(&alice, &second, json!({})).await;
    assert_eq!(present(&third), [pair(&bob, "online")], "who comes in is seen");
    assert_eq!(present(&world.next(&bob, &bobs, json!({})).await), [pair(&alice, "online")], "and sees");
    room.member(&carol, &carol, Membership::Join).await;
    let third = world.next(&alice, &third, json!({})).await;
    assert_eq!(present(&third), [pair(&carol, "offline")], "also who is not there");
    let state = hearth_users::PresenceState::Unavailable;
    world.users.set_presence(&bob.reader.user_id, state, Some("away".into())).await.expect("a user");
    let fourth = world.next(&alice, &third, json!({})).await;
    assert_eq!(present(&fourth), [pair(&bob, "unavailable")]);
    assert_eq!(fourth["presence"]["events"][0]["content"]["status_msg"], "away");
    let filter = json!({"presence": {"not_senders": [bob.id()]}});
    assert!(present(&world.next(&alice, &third, filter).await).is_empty());
    let stranger = world.person("dave").await;
    assert_eq!(present(&world.first(&stranger, json!({})).await), [pair(&stranger, "online")]);
}
