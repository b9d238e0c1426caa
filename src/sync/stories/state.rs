//! A client that follows its answers has the room's state.

use std::collections::BTreeMap;

use hearth_store::tables::Membership;
use serde_json::{Value, json};

use super::world::{Extra, Room, World, following, ids, in_section};
use crate::{StateForm, SyncQuery};

type State = BTreeMap<(String, String), String>;

/// What a client makes of a room's part of an answer.
pub(super) fn apply(state: &mut State, told: &Value) {
    let mut put = |events: &Value| {
        for event in events["events"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let Some(state_key) = event["state_key"].as_str() else { continue };
            let kind = event["type"].as_str().expect("events have a type");
            let id = event["event_id"].as_str().expect("events have an id");
            state.insert((kind.to_owned(), state_key.to_owned()), id.to_owned());
        }
    };
    match told.get("state_after").or(told.get("org.matrix.msc4222.state_after")) {
        Some(after) => put(after),
        None => {
            put(&told["state"]);
            put(&told["timeline"]);
        }
    }
}

async fn topic(room: &Room, sender: &super::world::Person, key: &str, loses: bool) -> String {
    let extra = Extra { loses, ..Extra::default() };
    room.send_with(sender, "topic", Some(key), json!({}), extra).await
}

#[tokio::test(start_paused = true)]
async fn changes_in_a_gap_are_told_beside_the_timeline() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    topic(&room, &alice, "stays", false).await;
    let first = world.first(&alice, json!({})).await;
    let gone = topic(&room, &alice, "changes", false).await;
    let changed = topic(&room, &alice, "changes", false).await;
    for body in ["1", "2", "3"] {
        room.message(&alice, body).await;
    }
    let filter = json!({"room": {"timeline": {"limit": 2}}});
    let second = world.next(&alice, &first, filter).await;
    let told = in_section(&second, "join", &room);
    assert_eq!(ids(told, "state"), [changed]);
    assert!(!told.to_string().contains(&format!("\"{gone}\"")) || told.to_string().contains("replaces_state"));
}

#[tokio::test(start_paused = true)]
async fn what_the_timeline_changes_is_told_as_it_was_before() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    let first = world.first(&alice, json!({})).await;
    let early = topic(&room, &alice, "t", false).await;
    room.message(&alice, "1").await;
    let late = topic(&room, &alice, "t", false).await;
    let query = following(&first, json!({"room": {"timeline": {"limit": 1}}}));
    let second = world.sync(&alice, &query).await;
    let told = in_section(&second, "join", &room);
    assert_eq!((ids(told, "state"), ids(told, "timeline")), (vec![early], vec![late.clone()]));
    for (state, name) in
        [(StateForm::After, "state_after"), (StateForm::AfterUnstable, "org.matrix.msc4222.state_after")]
    {
        let answer = world.sync(&alice, &SyncQuery { state, ..query.clone() }).await;
        let told = in_section(&answer, "join", &room);
        assert_eq!((ids(told, name), told.get("state")), (vec![late.clone()], None));
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_lost_is_no_state_afterwards() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let room = world.room("room", &alice).await;
    let won = topic(&room, &alice, "t", false).await;
    let first = world.first(&alice, json!({})).await;
    let lost = topic(&room, &alice, "t", true).await;
    let query = SyncQuery { state: StateForm::After, ..following(&first, json!({})) };
    let second = world.sync(&alice, &query).await;
    let told = in_section(&second, "join", &room);
    assert_eq!((ids(told, "timeline"), told["state_after"]["events"].as_array().map(Vec::len)), (vec![lost], Some(0)));
    let first = world.first(&alice, json!({})).await;
    let mut client = State::new();
    apply(&mut client, in_section(&first, "join", &room));
    assert_ne!(client.get(&("topic".to_owned(), "t".to_owned())), Some(&won), "the old form can't say it");
}

#[tokio::test(start_paused = true)]
async fn a_client_has_the_state_of_the_room_whatever_it_filters() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    let forms = [StateForm::Before, StateForm::After, StateForm::AfterUnstable];
    let timelines = [
        json!({"limit": 1}),
        json!({"limit": 3}),
        json!({"types": ["m.room.message"]}),
        json!({"not_types": ["topic"]}),
    ];
    let kinds: Vec<(StateForm, Value)> = forms
        .iter()
        .flat_map(|form| timelines.iter().map(|timeline| (*form, json!({"room": {"timeline": timeline}}))))
        .collect();
    let mut clients: Vec<(State, Option<Value>)> = vec![(State::new(), None); kinds.len()];
    for round in 0..12_u32 {
        for step in 0..round % 5 {
            match (round + step) % 4 {
                0 => drop(topic(&room, &alice, ["a", "b"][(step % 2) as usize], false).await),
                1 => drop(room.message(&bob, "x").await),
                2 => drop(topic(&room, &bob, "a", false).await),
                _ => drop(room.member(&bob, &bob, Membership::Join).await),
            }
        }
        let now = room.state().await;
        for ((form, filter), (client, last)) in kinds.iter().zip(&mut clients) {
            // Some clients sync seldom.
            if round % 3 == 1 && *form != StateForm::Before {
                continue;
            }
            let mut query = last.as_ref().map_or_else(SyncQuery::default, |last| following(last, filter.clone()));
            (query.filter, query.state) = (Some(filter.to_string()), *form);
            let answer = world.sync(&alice, &query).await;
            apply(client, in_section(&answer, "join", &room));
            assert_eq!(*client, now, "round {round}, {form:?}, {filter}");
            *last = Some(answer);
        }
    }
}
