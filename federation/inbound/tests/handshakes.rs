//! Joins, leaves, knocks and invites.

use hearth_core::RoomVersion;
use hearth_rooms::{Membership, Preset};
use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn a_server_comes_in_and_goes() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    let bob = far("bob");
    let (answer, join) = world.join(&room_id, &bob).await;
    assert_eq!(answer["origin"], US);
    assert_eq!(answer["members_omitted"], false);
    assert_eq!(answer["event"]["state_key"], json!(bob));
    assert!(
        answer["state"].as_array().unwrap().iter().all(|event| event["state_key"] != json!(bob)),
        "before the join"
    );
    let mut state = kinds(&answer["state"]);
    state.sort_unstable();
    assert!(state.contains(&"m.room.create") && state.contains(&"m.room.member"), "{state:?}");
    assert!(kinds(&answer["auth_chain"]).contains(&"m.room.join_rules"));
    assert_eq!(world.membership(&room_id, &bob).await, Some(Membership::Join));

    let event = world.templated("leave", &room_id, &bob).await;
    assert_eq!(event.prev_events(), [join]);
    let path = format!("v2/send_leave/{room_id}/{}", event.event_id());
    assert_eq!(world.request(FAR, "PUT", &path, event.json().clone()).await, (200, json!({})));
    assert_eq!(world.membership(&room_id, &bob).await, Some(Membership::Leave));
    // Again, by the older path.
    let path = path.replace("v2/", "v1/");
    assert_eq!(world.request(FAR, "PUT", &path, event.json().clone()).await, (200, json!([200, {}])));
}

#[tokio::test]
async fn joins_have_an_older_form_and_an_answer_that_repeats_nothing() {
    let world = World::new().await;
    let room_id = world.create_with(Preset::Public, |creation| creation.name = Some("Room".to_owned())).await;
    let event = world.templated("join", &room_id, &far("bob")).await;
    let path = format!("v1/send_join/{room_id}/{}", event.event_id());
    let (status, answer) = world.request(FAR, "PUT", &path, event.json().clone()).await;
    assert_eq!((status, &answer[0]), (200, &json!(200)));
    assert!(kinds(&answer[1]["state"]).contains(&"m.room.create"));

    let event = world.templated("join", &room_id, &far("carol")).await;
    let path = format!("v2/send_join/{room_id}/{}?omit_members=true", event.event_id());
    let (status, answer) = world.request(FAR, "PUT", &path, event.json().clone()).await;
    // Of so few nobody is left out; what is part of the state is not told again.
    assert_eq!((status, &answer["members_omitted"]), (200, &json!(false)));
    assert!(kinds(&answer["state"]).contains(&"m.room.member"));
    assert_eq!((&answer["auth_chain"], &answer["servers_in_room"]), (&json!([]), &json!(null)));
}

#[tokio::test]
async fn refusals_have_the_errcodes_of_the_specification() {
    let world = World::new().await;
    let open = world.create(Preset::Public).await;
    let closed = world.create(Preset::Private).await;
    let denied = world.create(Preset::Public).await;
    world.deny(&denied, FAR).await;
    let no_body = Value::Null;
    let make = async |path: String| world.refused(FAR, "GET", &format!("v1/make_join/{path}"), &no_body).await;
    let versions = "ver=11&ver=12";
    assert_eq!(make(format!("{closed}/@bob:far.test?{versions}")).await, expect(403, "M_FORBIDDEN"));
    assert_eq!(make(format!("{denied}/@bob:far.test?{versions}")).await, expect(403, "M_FORBIDDEN"));
    assert_eq!(make(format!("{open}/@bob:else.test?{versions}")).await, expect(403, "M_FORBIDDEN"));
    assert_eq!(make(format!("!none:far.test/@bob:far.test?{versions}")).await, expect(404, "M_NOT_FOUND"));
    assert_eq!(make(format!("{open}/bob?{versions}")).await, expect(400, "M_INVALID_PARAM"));
    let (status, answer) = world.get(FAR, &format!("v1/make_join/{open}/@bob:far.test")).await;
    assert_eq!((status, &answer["errcode"]), (400, &json!("M_INCOMPATIBLE_ROOM_VERSION")));
    assert_eq!(answer["room_version"], RoomVersion::DEFAULT.as_str());

    let event = world.templated("join", &open, &far("bob")).await;
    let send = async |path: String, body: Bytes| {
        let (status, answer) = world.request(FAR, "PUT", &path, body).await;
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
    };
    let path = format!("v2/send_join/{open}/{}", event.event_id());
    assert_eq!(send(path.clone(), "".into()).await, expect(400, "M_BAD_JSON"));
    for body in ["{}", "[]", "7", "{\"type\":\"m.room.member\"}"] {
        assert_eq!(send(path.clone(), body.into()).await, expect(400, "M_INVALID_PARAM"), "{body}");
    }
    assert_eq!(send(path.clone(), "{".into()).await, expect(400, "M_NOT_JSON"));
    let other = format!("v2/send_join/{open}/$other");
    assert_eq!(send(other, event.json().clone()).await, expect(400, "M_INVALID_PARAM"));
    let leave = path.replace("send_join", "send_leave");
    assert_eq!(send(leave, event.json().clone()).await, expect(400, "M_INVALID_PARAM"), "a join is no leave");
    let forged = event.json_str().replace("\"depth\":", "\"depth\":1");
    assert_ne!(send(path.clone(), forged.into()).await.0, 200);
    assert_eq!(world.membership(&open, &far("bob")).await, None);
    assert_eq!(send(path, event.json().clone()).await.0, 200);
}

#[tokio::test]
async fn a_server_knocks() {
    let world = World::new().await;
    let room_id = world.create_with(Preset::Private, |creation| creation.name = Some("Door".to_owned())).await;
    world.set(&room_id, "m.room.join_rules", "", &json!({ "join_rule": "knock" })).await;
    let event = world.templated("knock", &room_id, &far("bob")).await;
    let path = format!("v1/send_knock/{room_id}/{}", event.event_id());
    let (status, answer) = world.request(FAR, "PUT", &path, event.json().clone()).await;
    assert_eq!(status, 200, "{answer}");
    assert!(kinds(&answer["knock_room_state"]).contains(&"m.room.name"));
    assert_eq!(world.membership(&room_id, &far("bob")).await, Some(Membership::Knock));
}

/// A create event and an invite of this user into its room, both of the other server.
fn invite_of(world: &World, version: RoomVersion, target: &OwnedUserId) -> (OwnedRoomId, Event, Event) {
    let room_id = OwnedRoomId::try_from("!there:far.test").unwrap();
    let create = json!({
        "type": "m.room.create", "state_key": "", "sender": far("bob"), "depth": 1, "prev_events": [],
        "auth_events": [], "content": { "room_version": version.as_str(), "creator": far("bob") },
    });
    let create = world.sign_as(version, &room_id, &create, Some("create"));
    let invite = json!({
        "type": "m.room.member", "state_key": target, "sender": far("bob"), "depth": 2,
        "prev_events": [create.event_id()], "auth_events": [create.event_id()], "content": { "membership": "invite" },
    });
    let invite = world.sign_as(version, &room_id, &invite, Some("invite"));
    (room_id, create, invite)
}

fn text(event: &Event) -> Value {
    serde_json::from_str(event.json_str()).unwrap()
}

#[tokio::test]
async fn our_users_are_invited() {
    let world = World::new().await;
    let carol = world.account("carol").await;
    let (room_id, create, invite) = invite_of(&world, RoomVersion::V11, &carol);
    let path = format!("v2/invite/{room_id}/{}", invite.event_id());
    let body = json!({ "room_version": "11", "event": text(&invite), "invite_room_state": [text(&create)] });
    let (status, answer) = world.put(FAR, &path, &body).await;
    assert_eq!(status, 200, "{answer}");
    let signatures = &answer["event"]["signatures"];
    assert!(signatures[US].is_object() && signatures[FAR].is_object(), "{signatures}");

    let unknown = json!({ "room_version": "99", "event": text(&invite) });
    let (status, answer) = world.put(FAR, &path, &unknown).await;
    assert_eq!((status, &answer["errcode"]), (400, &json!("M_INCOMPATIBLE_ROOM_VERSION")));
    assert_eq!(world.refused("else.test", "PUT", &path, &body).await, expect(400, "M_INVALID_PARAM"));
    let many = json!({ "room_version": "11", "event": text(&invite), "invite_room_state": vec![1; 201] });
    assert_eq!(world.refused(FAR, "PUT", &path, &many).await, expect(400, "M_BAD_JSON"));
    assert_eq!(world.refused(FAR, "PUT", &path, &json!({ "event": 1 })).await, expect(400, "M_BAD_JSON"));
}

#[tokio::test]
async fn invites_reach_those_who_are_there_and_want_them() {
    let world = World::new().await;
    let dave = world.account("dave").await;
    world
        .users
        .put_account_data(&dave, None, "m.invite_permission_config", r#"{"default_action":"block"}"#)
        .await
        .unwrap();
    for (target, expected) in [
        (ours("nobody"), expect(403, "M_FORBIDDEN")),
        (dave, expect(403, "M_INVITE_BLOCKED")),
        (far("bob"), expect(400, "M_INVALID_PARAM")),
    ] {
        let (room_id, create, invite) = invite_of(&world, RoomVersion::V11, &target);
        let path = format!("v2/invite/{room_id}/{}", invite.event_id());
        let body = json!({ "room_version": "11", "event": text(&invite), "invite_room_state": [text(&create)] });
        assert_eq!(world.refused(FAR, "PUT", &path, &body).await, expected, "{target}");
    }
}

#[tokio::test]
async fn old_invites_are_of_old_rooms() {
    let world = World::new().await;
    let carol = world.account("carol").await;
    for version in [RoomVersion::V1, RoomVersion::V2] {
        let (room_id, create, invite) = invite_of(&world, version, &carol);
        let mut body = text(&invite);
        body["unsigned"] = json!({ "invite_room_state": [text(&create)] });
        let path = format!("v1/invite/{room_id}/{}", invite.event_id());
        let (status, answer) = world.put(FAR, &path, &body).await;
        assert_eq!((status, &answer[0]), (200, &json!(200)), "{answer}");
        assert!(answer[1]["event"]["signatures"][US].is_object(), "{answer}");
    }
}
