//! Rooms that this server is not in.

use hearth_store::{
    RoomNumber, Write,
    tables::{Membership, OutsideRow, outside_key, put_outside},
};
use ruma::owned_room_id;
use serde_json::{Value, json};

use super::world::{Person, World};

fn row(membership: Membership, sender: &str, target: &Person, name: &str) -> OutsideRow {
    let event = json!({
        "auth_events": [], "prev_events": [], "depth": 1, "origin_server_ts": 5, "type": "m.room.member",
        "sender": sender, "state_key": target.id(), "content": { "membership": name }, "room_id": "!far:away",
    });
    OutsideRow {
        position: 0,
        membership,
        version: "11".to_owned(),
        event_id: format!("${name}"),
        event: event.to_string(),
        stripped: vec![
            json!({ "type": "m.room.create", "state_key": "", "sender": "@c:away", "content": {} }).to_string(),
        ],
        via: vec!["away".to_owned()],
    }
}

async fn tell(world: &World, person: &Person, row: &OutsideRow) -> RoomNumber {
    let room_id = owned_room_id!("!far:away");
    let is_named = world.store.room_number(&room_id).await.unwrap().is_some();
    let room = world.store.assign_room_number(&room_id).await.unwrap();
    let user = world.store.user_number(&person.reader.user_id).await.unwrap().unwrap();
    let mut write = Write::new(room.partition());
    if !is_named {
        write.name_room(room, &room_id);
    }
    put_outside(&mut write, user, room, row);
    world.store.commit(write).await.unwrap();
    room
}

fn sections(answer: &Value) -> Vec<&str> {
    let rooms = answer["rooms"].as_object();
    rooms.into_iter().flatten().filter(|(_, rooms)| rooms.get("!far:away").is_some()).map(|(name, _)| &**name).collect()
}

#[tokio::test]
async fn an_invite_from_afar_is_told_once_and_so_is_its_end() {
    let world = World::new().await;
    let bob = world.person("bob").await;
    let before = world.first(&bob, json!({})).await;
    tell(&world, &bob, &row(Membership::Invite, "@alice:away", &bob, "invite")).await;
    let told = world.next(&bob, &before, json!({})).await;
    let events = told["rooms"]["invite"]["!far:away"]["invite_state"]["events"].as_array().unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["type"], "m.room.create");
    assert_eq!((&events[1]["content"]["membership"], &events[1]["sender"]), (&json!("invite"), &json!("@alice:away")));
    assert!(sections(&world.next(&bob, &told, json!({})).await).is_empty(), "told once");
    // A new device is told too, also one that comes after a restart.
    assert_eq!(sections(&world.first(&bob, json!({})).await), ["invite"]);
    let later = World::over(world.engine.clone(), 2).await;
    assert_eq!(sections(&later.first(&bob, json!({})).await), ["invite"]);

    tell(&world, &bob, &row(Membership::Leave, bob.id(), &bob, "leave")).await;
    let gone = world.next(&bob, &told, json!({})).await;
    assert_eq!(sections(&gone), ["leave"]);
    assert_eq!(gone["rooms"]["leave"]["!far:away"]["timeline"]["events"][0]["event_id"], "$leave");
    assert!(sections(&world.next(&bob, &gone, json!({})).await).is_empty());
    assert!(sections(&world.first(&bob, json!({})).await).is_empty(), "who saw no invite sees no end of it");
}

#[tokio::test]
async fn a_knock_from_afar_and_one_who_is_ignored() {
    let world = World::new().await;
    let bob = world.person("bob").await;
    let before = world.first(&bob, json!({})).await;
    tell(&world, &bob, &row(Membership::Knock, bob.id(), &bob, "knock")).await;
    let told = world.next(&bob, &before, json!({})).await;
    assert_eq!(sections(&told), ["knock"]);
    let number = world.store.user_number(&bob.reader.user_id).await.unwrap().unwrap();
    let ignored = json!({ "ignored_users": { "@alice:away": {} } }).to_string();
    world.users.put_account_data(&bob.reader.user_id, None, "m.ignored_user_list", &ignored).await.unwrap();
    let room = tell(&world, &bob, &row(Membership::Invite, "@alice:away", &bob, "invite")).await;
    assert!(sections(&world.next(&bob, &told, json!({})).await).is_empty(), "invites of ignored users are not told");
    assert!(world.store.get_bytes(hearth_store::Table::Rm, &outside_key(number, room)).await.unwrap().is_some());
}

#[tokio::test]
async fn the_newer_word_counts() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let far = row(Membership::Invite, "@alice:away", &bob, "invite");
    // A room that this server was in: bob left it, then he is invited from afar, then he comes in here.
    let room = world.room("far", &alice).await;
    room.member(&alice, &bob, Membership::Join).await;
    room.member(&bob, &bob, Membership::Leave).await;
    let left = world.first(&bob, json!({})).await;
    let user = world.store.user_number(&bob.reader.user_id).await.unwrap().unwrap();
    let mut write = Write::new(room.number.partition());
    put_outside(&mut write, user, room.number, &far);
    world.store.commit(write).await.unwrap();
    let invited = world.next(&bob, &left, json!({})).await;
    assert!(invited["rooms"]["invite"][room.id.as_str()].is_object(), "{invited}");
    room.member(&bob, &bob, Membership::Join).await;
    let joined = world.next(&bob, &invited, json!({})).await;
    assert!(joined["rooms"]["join"][room.id.as_str()].is_object() && joined["rooms"]["invite"].is_null());
    room.member(&bob, &bob, Membership::Leave).await;
    let gone = world.next(&bob, &joined, json!({})).await;
    assert!(gone["rooms"]["leave"][room.id.as_str()].is_object() && gone["rooms"]["invite"].is_null());
}
