//! The directory, profiles, spaces, OpenID.

use hearth_rooms::{Preset, Rooms};
use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn aliases_lead_to_rooms() {
    let world = World::new().await;
    let room_id = world.create_with(Preset::Public, |creation| creation.alias_name = Some("den".to_owned())).await;
    world.join(&room_id, &far("bob")).await;
    world.heard.lock().clear();
    let (status, answer) = world.get("else.test", "v1/query/directory?room_alias=%23den:hearth.test").await;
    assert_eq!(*world.heard.lock(), ["else.test"]);
    assert_eq!((status, answer), (200, json!({ "room_id": room_id, "servers": [US, FAR] })));
    for (path, expected) in [
        ("v1/query/directory?room_alias=%23none:hearth.test", expect(404, "M_NOT_FOUND")),
        ("v1/query/directory?room_alias=%23den:far.test", expect(404, "M_NOT_FOUND")),
        ("v1/query/directory?room_alias=den", expect(400, "M_INVALID_PARAM")),
        ("v1/query/directory", expect(400, "M_MISSING_PARAM")),
        ("v1/query/weather", expect(404, "M_NOT_FOUND")),
    ] {
        assert_eq!(world.refused(FAR, "GET", path, &Value::Null).await, expected, "{path}");
    }
}

#[tokio::test]
async fn profiles_are_of_our_users() {
    let world = World::new().await;
    let carol = world.account("carol").await;
    world.users.set_profile_field(&carol, "displayname", Some(&json!("Carol"))).await.unwrap();
    world.users.set_profile_field(&carol, "avatar_url", Some(&json!("mxc://a/b"))).await.unwrap();
    let profile = async |query: &str| world.get(FAR, &format!("v1/query/profile?user_id={query}")).await;
    let whole = json!({ "displayname": "Carol", "avatar_url": "mxc://a/b" });
    assert_eq!(profile("@carol:hearth.test").await, (200, whole));
    assert_eq!(profile("@carol:hearth.test&field=displayname").await, (200, json!({ "displayname": "Carol" })));
    assert_eq!(profile("@carol:hearth.test&field=m.tz").await, (200, json!({})));
    assert_eq!(profile("@nobody:hearth.test").await.0, 404);
    assert_eq!(profile("@bob:far.test").await.0, 400);
}

#[tokio::test]
async fn tokens_name_their_user() {
    let world = World::new().await;
    let carol = world.account("carol").await;
    let token = world.users.openid_token(&carol).access_token;
    let path = "v1/openid/userinfo";
    // By anybody: the header is no signature.
    let (status, answer) = world.get("nobody", &format!("{path}?access_token={token}")).await;
    assert_eq!((status, answer), (200, json!({ "sub": carol })));
    let wrong = format!("{path}?access_token=x");
    assert_eq!(world.refused(FAR, "GET", &wrong, &Value::Null).await, expect(401, "M_UNKNOWN_TOKEN"));
    assert_eq!(world.refused(FAR, "GET", path, &Value::Null).await, expect(401, "M_MISSING_TOKEN"));
    world.clock.advance_ms(hearth_users::OPENID_TOKEN_LIFETIME_MS);
    let old = format!("{path}?access_token={token}");
    assert_eq!(world.refused(FAR, "GET", &old, &Value::Null).await, expect(401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn the_directory_is_shown_if_the_operator_wants() {
    let hidden = World::new().await;
    assert_eq!(hidden.refused(FAR, "GET", "v1/publicRooms", &Value::Null).await, expect(403, "M_FORBIDDEN"));
    assert_eq!(hidden.refused(FAR, "POST", "v1/publicRooms", &json!({})).await, expect(403, "M_FORBIDDEN"));
    let world = World::with(true).await;
    for name in ["Cats", "Dogs"] {
        let publish = |creation: &mut Creation| (creation.is_published, creation.name) = (true, Some(name.to_owned()));
        world.create_with(Preset::Public, publish).await;
    }
    let ours_alone = |creation: &mut Creation| {
        creation.is_published = true;
        creation.creation_content.insert("m.federate".to_owned(), false.into());
    };
    world.create_with(Preset::Public, ours_alone).await;
    let (_, first) = world.get(FAR, "v1/publicRooms?limit=1").await;
    assert_eq!(first["total_room_count_estimate"], 2);
    let next = first["next_batch"].as_str().unwrap();
    let (_, second) = world.get(FAR, &format!("v1/publicRooms?limit=1&since={next}")).await;
    let mut names = [first["chunk"][0]["name"].as_str().unwrap(), second["chunk"][0]["name"].as_str().unwrap()];
    names.sort_unstable();
    assert_eq!(names, ["Cats", "Dogs"]);
    let filter = json!({ "filter": { "generic_search_term": "dog" } }).to_string();
    let (_, found) = world.request(FAR, "POST", "v1/publicRooms", filter.into()).await;
    assert_eq!((&found["chunk"][0]["name"], &found["total_room_count_estimate"]), (&json!("Dogs"), &json!(1)));
    assert!(found["chunk"][0].get("room_version").is_none());
    assert_eq!(world.get(FAR, "v1/publicRooms?since=x").await.0, 400);
}

/// A space with these children.
async fn space(world: &World, children: &[&OwnedRoomId]) -> OwnedRoomId {
    let is_space = |creation: &mut Creation| {
        creation.creation_content.insert("type".to_owned(), "m.space".into());
    };
    let space = world.create_with(Preset::Public, is_space).await;
    for child in children {
        world.set(&space, "m.space.child", child.as_str(), &json!({ "via": [US] })).await;
    }
    space
}

fn ids(rooms: &Value) -> Vec<&str> {
    rooms.as_array().unwrap().iter().map(|room| room["room_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn spaces_are_told_as_far_as_the_server_may_know() {
    let world = World::new().await;
    let open = world.create(Preset::Public).await;
    let closed = world.create(Preset::Private).await;
    let denied = world.create(Preset::Public).await;
    world.deny(&denied, FAR).await;
    let club = world.create(Preset::Private).await;
    let members = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": open }] });
    world.set(&club, "m.room.join_rules", "", &members).await;
    let elsewhere = OwnedRoomId::try_from("!elsewhere:far.test").unwrap();
    let space = space(&world, &[&open, &closed, &denied, &club, &elsewhere]).await;

    let path = format!("v1/hierarchy/{space}");
    let (status, answer) = world.get(FAR, &path).await;
    assert_eq!((status, &answer["room"]["room_type"]), (200, &json!("m.space")), "{answer}");
    assert_eq!(answer["room"]["children_state"].as_array().unwrap().len(), 5);
    assert_eq!(ids(&answer["children"]), [open.as_str()]);
    assert_eq!(answer["children"][0]["children_state"], json!([]));
    let inaccessible: Vec<&str> =
        answer["inaccessible_children"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(inaccessible.len(), 3, "what we do not know is not told of: {inaccessible:?}");

    world.join(&open, &far("bob")).await;
    let (_, answer) = world.get(FAR, &path).await;
    let children = ids(&answer["children"]);
    assert!(children.contains(&club.as_str()) && children.contains(&open.as_str()), "its members may join");

    for (path, expected) in [
        (format!("v1/hierarchy/{closed}"), expect(404, "M_NOT_FOUND")),
        (format!("v1/hierarchy/{elsewhere}"), expect(404, "M_NOT_FOUND")),
        (format!("v1/hierarchy/{denied}"), expect(403, "M_FORBIDDEN")),
    ] {
        assert_eq!(world.refused(FAR, "GET", &path, &Value::Null).await, expected, "{path}");
    }
    let (_, suggested) = world.get(FAR, &format!("{path}?suggested_only=true")).await;
    assert_eq!(suggested["children"], json!([]));
}

#[tokio::test]
async fn many_servers_are_named_ours_first() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    for name in ["a", "b"] {
        world.join(&room_id, &far(name)).await;
    }
    let rooms: &Rooms = &world.rooms;
    assert_eq!(rooms.servers_to_join(&room_id, 5).await.unwrap(), [US, FAR]);
    assert_eq!(rooms.servers_to_join(&room_id, 1).await.unwrap(), [US]);
}
