//! What reads on request show: the same gate as in syncs, without a state that is given.

use hearth_store::tables::{Membership, users::AccountKind};
use hearth_users::{Localpart, NewAccount};
use hearth_view::RoomEventFilter;
use serde_json::{Value, json};

use super::world::{Person, Room, World};
use crate::read::{Direction, MessagesQuery, Reader};

/// The last events of a room as this person is shown them, newest first.
async fn history(world: &World, person: &Person, room: &Room) -> Vec<Value> {
    let reader = Reader { user_id: person.reader.user_id.clone(), device_id: Some(person.reader.device_id.clone()) };
    let query = MessagesQuery {
        from: None,
        to: None,
        direction: Direction::Backward,
        limit: 100,
        filter: RoomEventFilter::default(),
    };
    let page = world.reads.messages(&reader, &room.id, &query, None).await.expect("a room to read");
    let page: Value = serde_json::from_slice(&page).expect("an answer is JSON");
    page["chunk"].as_array().expect("a page has events").clone()
}

fn topics(history: &[Value]) -> Vec<(Value, Value)> {
    let topics = history.iter().filter(|event| event["type"] == "m.room.topic");
    topics
        .map(|event| (event["content"]["topic"].clone(), event["unsigned"]["prev_content"]["topic"].clone()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_is_shown_only_to_those_who_may_see_it() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    let topic = async |topic: &str| room.send(&alice, "m.room.topic", Some(""), json!({ "topic": topic })).await;
    room.visibility(&alice, "joined").await;
    let secret = topic("secret").await;
    room.visibility(&alice, "shared").await;
    topic("open").await;
    topic("last").await;
    room.member(&bob, &bob, Membership::Join).await;

    let seen = history(&world, &bob, &room).await;
    assert_eq!(topics(&seen), [(json!("last"), json!("open")), (json!("open"), Value::Null)]);
    let open = seen.iter().find(|event| event["content"]["topic"] == "open").expect("it was shared");
    assert_eq!(open["unsigned"]["replaces_state"], json!(secret));
    let seen = history(&world, &alice, &room).await;
    let all = [("last", json!("open")), ("open", json!("secret")), ("secret", Value::Null)];
    assert_eq!(topics(&seen), all.map(|(topic, replaced)| (json!(topic), replaced)));
}

#[tokio::test(start_paused = true)]
async fn events_name_their_room_and_the_readers_membership() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.message(&alice, "before").await;
    room.member(&bob, &bob, Membership::Join).await;
    room.message(&alice, "after").await;
    let seen = history(&world, &bob, &room).await;
    assert!(seen.iter().all(|event| event["room_id"] == room.id.as_str()));
    let memberships: Vec<&Value> = seen.iter().map(|event| &event["unsigned"]["membership"]).collect();
    assert_eq!(memberships, ["join", "join", "leave", "leave", "leave"]);
}

#[tokio::test(start_paused = true)]
async fn an_erased_sender_is_read_only_by_those_who_were_there() {
    let world = World::new().await;
    let (alice, bob, carol) = (world.person("alice").await, world.person("bob").await, world.person("carol").await);
    let localpart = Localpart::parse("bob", bob.reader.user_id.server_name()).expect("a name");
    let account = NewAccount { localpart, password: None, kind: AccountKind::Full, admin: false };
    world.users.create(&account).await.expect("the name is free");
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    room.message(&bob, "words").await;
    room.member(&carol, &carol, Membership::Join).await;
    world.users.deactivate(&bob.reader.user_id, true).await.expect("an account");
    let words = async |reader: &Person| {
        let seen = history(&world, reader, &room).await;
        seen.iter().find(|event| event["type"] == "m.room.message").expect("there was one")["content"].clone()
    };
    assert_eq!(words(&alice).await, json!({"body": "words"}));
    assert_eq!(words(&carol).await, json!({}));
}

/// Walks back through the history by pages of this size, as a server does whose questions about gaps nobody answers; gives
/// what is shown, and where a page ended because a gap had to be asked about first.
async fn walk(
    world: &World,
    person: &Person,
    room: &Room,
    limit: usize,
    filter: RoomEventFilter,
) -> (Vec<String>, usize) {
    let reader = Reader { user_id: person.reader.user_id.clone(), device_id: Some(person.reader.device_id.clone()) };
    let mut query = MessagesQuery { from: None, to: None, direction: Direction::Backward, limit, filter };
    let (mut seen, mut stops) = (Vec::new(), 0);
    for _ in 0..100 {
        let asked = world.reads.gap_ahead(&reader, &room.id, &query, None).await.expect("a room to read");
        let asked = asked.filter(|gap| gap.is_on_page);
        let stop = world.reads.gap_ahead(&reader, &room.id, &query, asked).await.expect("a room to read");
        let page = world.reads.messages(&reader, &room.id, &query, stop).await.expect("a room to read");
        let page: Value = serde_json::from_slice(&page).expect("an answer is JSON");
        let chunk = page["chunk"].as_array().expect("a page has events");
        let say = |event: &Value| event["content"]["body"].as_str().or(event["type"].as_str()).map(str::to_owned);
        seen.extend(chunk.iter().filter_map(say));
        stops += usize::from(stop.is_some() && chunk.len() < limit);
        let Some(end) = page["end"].as_str() else { return (seen, stops) };
        query.from = Some(end.parse().expect("our own token"));
    }
    panic!("the history has no end: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn history_goes_on_behind_gaps_that_nobody_fills() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.message(&alice, "one").await;
    room.message(&alice, "two").await;
    room.gap_at_end().await;
    room.message(&alice, "three").await;
    room.gap_at_end().await;
    // Of nobody who comes and goes is left a trace but a change of the state.
    room.member(&bob, &bob, Membership::Join).await;
    room.erase_member(&bob).await;
    room.message(&alice, "four").await;
    room.gap_at_end().await;
    let all = ["four", "m.room.member", "three", "two", "one", "m.room.member", "m.room.create"];
    for limit in 1..10 {
        let (seen, stops) = walk(&world, &alice, &room, limit, RoomEventFilter::default()).await;
        assert_eq!(seen, all, "{limit} a page");
        assert_eq!(stops > 0, limit > 2, "one gap a page is asked about, {limit} a page");
    }
    // Whoever is at the gap already, which was filled in part, is led on.
    let reader = Reader { user_id: alice.reader.user_id.clone(), device_id: Some(alice.reader.device_id.clone()) };
    let (direction, filter) = (Direction::Backward, RoomEventFilter::default());
    let mut query = MessagesQuery { from: None, to: None, direction, limit: 1, filter };
    let gap = world.reads.gap_ahead(&reader, &room.id, &query, None).await.expect("a room to read");
    for said in ["four", "m.room.member"] {
        let page = world.reads.messages(&reader, &room.id, &query, gap).await.expect("a room to read");
        let page: Value = serde_json::from_slice(&page).expect("an answer is JSON");
        let first = &page["chunk"][0];
        assert_eq!(first["content"]["body"].as_str().or(first["type"].as_str()), Some(said));
        query.from = Some(page["end"].as_str().expect("there is more").parse().expect("our own token"));
        query.limit = 2;
    }
    // A filter reaches over more rows than a page has events.
    let filter: RoomEventFilter = serde_json::from_value(json!({ "types": ["m.room.create"] })).expect("a filter");
    let (seen, stops) = walk(&world, &alice, &room, 1, filter).await;
    assert_eq!((seen, stops), (vec!["m.room.create".to_owned()], 3));
}
