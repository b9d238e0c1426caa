//! Spaces and aliases of other servers.

use ruma::{OwnedRoomId, RoomAliasId, RoomId};
use serde_json::json;

use super::twin::{Town, towns};
use crate::{AliasError, HierarchyQuery, Membership, Preset, ReadError};

async fn space(town: &Town, name: &str, preset: Preset) -> OwnedRoomId {
    let mut creation = super::creation("alice", preset);
    creation.creator = town.user("alice");
    creation.name = Some(name.to_owned());
    creation.creation_content.insert("type".to_owned(), "m.space".into());
    town.world.rooms.create(creation).await.unwrap()
}

async fn put_child(town: &Town, space: &RoomId, child: &RoomId, via: &Town) {
    let change = crate::StateChange {
        room_id: space.to_owned(),
        sender: town.user("alice"),
        kind: "m.space.child".to_owned(),
        state_key: child.to_string(),
        content: serde_json::value::to_raw_value(&json!({ "via": [via.name] })).unwrap(),
        guest: false,
        ts_ms: None,
    };
    town.world.rooms.set_state(change).await.unwrap();
}

async fn walk(town: &Town, space: &RoomId) -> Result<Vec<OwnedRoomId>, ReadError> {
    let page = town.world.rooms.hierarchy(&town.user("bob"), space, &HierarchyQuery::default()).await?;
    Ok(page.rooms.iter().map(|room| room.summary.room_id.clone()).collect())
}

#[tokio::test]
async fn a_space_goes_on_where_only_others_are() {
    let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
    let top = space(&b, "top", Preset::Public).await;
    let middle = space(&a, "middle", Preset::Public).await;
    let low = space(&c, "low", Preset::Public).await;
    let leaf = c.create("alice", Preset::Public).await;
    let hidden = a.create("alice", Preset::Private).await;
    put_child(&b, &top, &middle, &a).await;
    put_child(&a, &middle, &low, &c).await;
    put_child(&a, &middle, &hidden, &a).await;
    put_child(&c, &low, &leaf, &c).await;
    b.join(&top, "bob", &[]).await.unwrap();
    let expected = [top.clone(), middle.clone(), low.clone(), leaf.clone()];
    assert_eq!(walk(&b, &top).await.unwrap(), expected);
    let asked = |b: &Town| b.net.asked.lock().iter().filter(|asked| asked.starts_with("hierarchy")).count();
    let first = asked(&b);
    assert_eq!(walk(&b, &top).await.unwrap(), expected);
    assert_eq!(asked(&b), first, "answers are kept");
    b.world.clock.advance_ms(10 * 60_000);
    c.net.set_down(&c, true);
    assert_eq!(walk(&b, &top).await.unwrap(), expected[..2], "what nobody tells is left out");
    assert!(matches!(walk(&b, &hidden).await, Err(ReadError::Forbidden(_))));
}

#[tokio::test]
async fn who_is_invited_sees_the_room_among_its_space() {
    let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
    let top = space(&a, "top", Preset::Public).await;
    let closed = a.create("alice", Preset::Private).await;
    put_child(&a, &top, &closed, &a).await;
    put_child(&a, &top, &a.create("alice", Preset::Private).await, &a).await;
    a.act(&closed, "alice", crate::MemberAction::Invite, &b.user("bob"), &[]).await.unwrap();
    let children = async |town: &Town| {
        let told = a.world.rooms.hierarchy_for_server(&town.name, &top, false).await.unwrap();
        let ids: Vec<_> = told.children.iter().map(|room| room.summary.room_id.clone()).collect();
        (ids, told.inaccessible.len())
    };
    assert_eq!(children(&b).await, (vec![closed.clone()], 1));
    assert_eq!(children(&c).await, (vec![], 2), "nobody of that server is invited");
    a.act(&closed, "alice", crate::MemberAction::Kick, &b.user("bob"), &[]).await.unwrap();
    assert_eq!(children(&b).await, (vec![], 2), "the invitation was taken back");
}

#[tokio::test]
async fn a_room_is_previewed_before_it_is_joined() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let open = space(&a, "open", Preset::Public).await;
    let closed = space(&a, "closed", Preset::Private).await;
    let (rooms, bob, via) = (&b.world.rooms, b.user("bob"), [a.name.clone()]);
    let (summary, membership) = rooms.far_summary(&bob, &open, &via).await.unwrap().unwrap();
    assert_eq!((summary.name.as_deref(), summary.joined, membership), (Some("open"), 1, None));
    assert!(rooms.far_summary(&bob, &closed, &via).await.unwrap().is_none());
    assert!(rooms.far_summary(&bob, &open, &[]).await.unwrap().is_some(), "it was just asked for");
    a.act(&open, "alice", crate::MemberAction::Invite, &bob, &[]).await.unwrap();
    let (_, membership) = rooms.far_summary(&bob, &open, &[]).await.unwrap().unwrap();
    assert_eq!(membership, Some(Membership::Invite));
}

#[tokio::test]
async fn an_alias_of_another_server_leads_to_its_room() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    let alias = <&RoomAliasId>::try_from("#room:a.test").unwrap();
    a.world.rooms.create_alias(&a.user("alice"), false, alias, &room_id).await.unwrap();
    let found = b.world.rooms.find_alias(alias).await.unwrap();
    assert_eq!((found.room_id, found.servers), (room_id.clone(), vec![a.name.clone()]));
    let none = <&RoomAliasId>::try_from("#none:a.test").unwrap();
    assert!(matches!(b.world.rooms.find_alias(none).await, Err(AliasError::NotFound)));
    a.net.set_down(&a, true);
    assert!(matches!(b.world.rooms.find_alias(alias).await, Err(AliasError::Peer(_))));
}
