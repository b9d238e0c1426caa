use ruma::OwnedRoomAliasId;
use serde_json::{Value, json};

use super::{World, creation, object, user};
use crate::{AliasError, Creation, DirectoryError, DirectoryQuery, HierarchyQuery, Preset, ReadError, SendError};

fn alias(name: &str) -> OwnedRoomAliasId {
    OwnedRoomAliasId::try_from(format!("#{name}:hearth.test")).unwrap()
}

#[tokio::test]
async fn aliases_are_for_members_and_their_makers() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    world.store.ensure_user_number(&user("eve")).await.unwrap();
    let (alice, bob, eve) = (user("alice"), user("bob"), user("eve"));
    let refused = world.rooms.create_alias(&eve, false, &alias("e"), &room_id).await;
    assert!(matches!(refused, Err(AliasError::Forbidden(_))));
    world.join(&room_id, "bob").await.unwrap();
    world.rooms.create_alias(&bob, false, &alias("b☕"), &room_id).await.unwrap();
    assert!(matches!(world.rooms.create_alias(&alice, false, &alias("b☕"), &room_id).await, Err(AliasError::Taken)));
    world.rooms.create_alias(&alice, false, &alias("a"), &room_id).await.unwrap();
    assert_eq!(world.rooms.aliases(&bob, &room_id).await.unwrap(), [alias("a"), alias("b☕")]);
    assert!(matches!(world.rooms.aliases(&eve, &room_id).await, Err(AliasError::Forbidden(_))));
    assert!(matches!(world.rooms.delete_alias(&bob, false, &alias("a")).await, Err(AliasError::Forbidden(_))));
    world.rooms.delete_alias(&alice, false, &alias("b☕")).await.unwrap();
    assert!(matches!(world.rooms.delete_alias(&alice, false, &alias("b☕")).await, Err(AliasError::NotFound)));
    assert_eq!(world.rooms.aliases(&bob, &room_id).await.unwrap(), [alias("a")]);
    let elsewhere = OwnedRoomAliasId::try_from("#x:elsewhere.test").unwrap();
    let refused = world.rooms.create_alias(&alice, false, &elsewhere, &room_id).await;
    assert!(matches!(refused, Err(AliasError::Invalid(_))));
    let visibility = json!({ "history_visibility": "world_readable" });
    world.set(&room_id, "alice", "m.room.history_visibility", "", visibility).await.unwrap();
    assert_eq!(world.rooms.aliases(&eve, &room_id).await.unwrap(), [alias("a")]);
}

#[tokio::test]
async fn a_canonical_alias_points_here_and_goes_with_its_alias() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let other = world.create("alice", Preset::Public).await;
    let alice = user("alice");
    for (name, room_id) in [("a", &room_id), ("b", &room_id), ("c", &other)] {
        world.rooms.create_alias(&alice, false, &alias(name), room_id).await.unwrap();
    }
    let set = |content: Value| world.set(&room_id, "alice", "m.room.canonical_alias", "", content);
    for missing in [json!({ "alias": "#no:hearth.test" }), json!({ "alt_aliases": ["#c:hearth.test"] })] {
        assert!(matches!(set(missing).await, Err(SendError::BadAlias(_))));
    }
    assert!(matches!(
        set(json!({ "alias": alias("a"), "alt_aliases": ["%x:y"] })).await,
        Err(SendError::InvalidParam(_))
    ));
    assert!(matches!(set(json!({ "alias": 1 })).await, Err(SendError::BadContent(_))));
    set(json!({ "alias": alias("a"), "alt_aliases": [alias("b"), alias("a")] })).await.unwrap();
    world.rooms.delete_alias(&alice, false, &alias("a")).await.unwrap();
    let content = world.state(&room_id, "m.room.canonical_alias", "").await.unwrap();
    assert_eq!(content, json!({ "alt_aliases": [alias("b")] }));
}

#[tokio::test]
async fn the_directory_pages_both_ways() {
    let world = World::new().await;
    for nth in 0..7 {
        let room =
            Creation { is_published: true, name: Some(format!("Room {nth}")), ..creation("alice", Preset::Public) };
        let room_id = world.rooms.create(room).await.unwrap();
        for member in 0..nth % 3 {
            world.join(&room_id, &format!("u{member}")).await.unwrap();
        }
    }
    world.create("alice", Preset::Public).await;
    let page = |since: Option<String>| DirectoryQuery { limit: Some(3), since, ..DirectoryQuery::default() };
    let first = world.rooms.directory(&page(None)).await.unwrap();
    assert_eq!((first.total, first.rooms.len(), first.previous.is_none()), (7, 3, true));
    let second = world.rooms.directory(&page(first.next.clone())).await.unwrap();
    let third = world.rooms.directory(&page(second.next.clone())).await.unwrap();
    assert_eq!((third.rooms.len(), third.next.is_none()), (1, true));
    let all: Vec<_> = [&first, &second, &third].iter().flat_map(|page| page.rooms.iter()).collect();
    assert!(all.is_sorted_by_key(|room| std::cmp::Reverse(room.joined)));
    let ids =
        |rooms: &[std::sync::Arc<crate::RoomSummary>]| rooms.iter().map(|r| r.room_id.clone()).collect::<Vec<_>>();
    let back = world.rooms.directory(&page(third.previous)).await.unwrap();
    assert_eq!(ids(&back.rooms), ids(&second.rooms));
    let back = world.rooms.directory(&page(back.previous)).await.unwrap();
    assert_eq!((ids(&back.rooms), back.previous), (ids(&first.rooms), None));
    for bad in ["x", "n", "n1", "n_", "q1_!a:b", "☕1_!a"] {
        let result = world.rooms.directory(&page(Some(bad.to_owned()))).await;
        assert!(matches!(result, Err(DirectoryError::BadToken)), "{bad}");
    }
}

#[tokio::test]
async fn the_directory_is_searched_without_case() {
    let world = World::new().await;
    let space = json!({ "type": "m.space" });
    for (name, topic, content) in [("Tea", "Wombles", json!({})), ("WOMBLE hall", "", space), ("Other", "", json!({}))]
    {
        let room = Creation {
            is_published: true,
            name: Some(name.to_owned()),
            topic: Some(topic.to_owned()),
            creation_content: object(content),
            ..creation("alice", Preset::Public)
        };
        world.rooms.create(room).await.unwrap();
    }
    let found = |search: &str, room_types: Option<Vec<Option<String>>>| {
        let query = DirectoryQuery { search: Some(search.to_owned()), room_types, ..DirectoryQuery::default() };
        let rooms = world.rooms.clone();
        async move { rooms.directory(&query).await.unwrap().total }
    };
    assert_eq!(found("wombles", None).await, 1);
    assert_eq!(found("Womble", None).await, 2);
    assert_eq!(found("womble", Some(vec![None])).await, 1);
    assert_eq!(found("", Some(vec![Some("m.space".to_owned())])).await, 1);
    assert_eq!(found("", Some(vec![])).await, 0);
}

#[tokio::test]
async fn a_summary_follows_the_room() {
    let world = World::new().await;
    let room_id = world.create("alice", Preset::Public).await;
    let before = world.rooms.summary_for(None, &room_id).await.unwrap().0;
    assert_eq!((before.joined, before.name.clone(), before.guests_may_join), (1, None, false));
    let named = world.set(&room_id, "alice", "m.room.name", "", json!({ "name": "Secret" })).await.unwrap();
    world.join(&room_id, "bob").await.unwrap();
    let (after, membership) = world.rooms.summary_for(Some(&user("bob")), &room_id).await.unwrap();
    assert_eq!((after.joined, after.name.as_deref()), (2, Some("Secret")));
    assert_eq!(membership, Some(crate::Membership::Join));
    world.redact(&room_id, "alice", &named).await.unwrap();
    assert_eq!(world.rooms.summary_for(None, &room_id).await.unwrap().0.name, None);
    let private = world.create("alice", Preset::Private).await;
    assert!(matches!(world.rooms.summary_for(None, &private).await, Err(ReadError::NotFound)));
    assert!(matches!(world.rooms.summary_for(Some(&user("bob")), &private).await, Err(ReadError::NotFound)));
    world.rooms.summary_for(Some(&user("alice")), &private).await.unwrap();
}

#[tokio::test]
async fn a_space_shows_what_the_reader_may_see() {
    let world = World::new().await;
    let space = |name: &str| Creation {
        name: Some(name.to_owned()),
        creation_content: object(json!({ "type": "m.space" })),
        ..creation("alice", Preset::Public)
    };
    let root = world.rooms.create(space("root")).await.unwrap();
    let inner = world.rooms.create(space("inner")).await.unwrap();
    let open = world.create("alice", Preset::Public).await;
    let closed = world.create("alice", Preset::Private).await;
    let via = |order: &str| json!({ "via": ["hearth.test"], "order": order, "suggested": order == "a" });
    for (parent, child, content) in [
        (&root, &inner, via("b")),
        (&root, &closed, via("a")),
        (&inner, &open, via("a")),
        (&inner, &root, via("c")),
        (&root, &open, json!({})),
    ] {
        world.set(parent, "alice", "m.space.child", child.as_str(), content).await.unwrap();
    }
    let read = |name: &'static str, query: HierarchyQuery| {
        let (rooms, root) = (world.rooms.clone(), root.clone());
        async move {
            let page = rooms.hierarchy(&user(name), &root, &query).await.unwrap();
            (page.rooms.iter().map(|room| room.summary.room_id.clone()).collect::<Vec<_>>(), page.next)
        }
    };
    world.store.ensure_user_number(&user("bob")).await.unwrap();
    let all = HierarchyQuery::default();
    assert_eq!(read("alice", all.clone()).await.0, [root.clone(), closed.clone(), inner.clone(), open.clone()]);
    assert_eq!(read("bob", all.clone()).await.0, [root.clone(), inner.clone(), open.clone()]);
    let shallow = HierarchyQuery { max_depth: Some(1), ..all.clone() };
    assert_eq!(read("bob", shallow).await.0, [root.clone(), inner.clone()]);
    let suggested = HierarchyQuery { is_suggested_only: true, ..all.clone() };
    assert_eq!(read("alice", suggested).await.0, [root.clone(), closed.clone()]);
    let paged = HierarchyQuery { limit: Some(2), ..all.clone() };
    let (first, next) = read("bob", paged.clone()).await;
    assert_eq!(first, [root.clone(), inner.clone()]);
    let (second, end) = read("bob", HierarchyQuery { from: next.clone(), ..paged.clone() }).await;
    assert_eq!((second, end), (vec![open], None));
    let changed = HierarchyQuery { from: next, max_depth: Some(3), ..paged };
    assert!(matches!(world.rooms.hierarchy(&user("bob"), &root, &changed).await, Err(ReadError::BadToken)));
    assert!(matches!(world.rooms.hierarchy(&user("bob"), &closed, &all).await, Err(ReadError::Forbidden(_))));
}
