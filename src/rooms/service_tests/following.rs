//! What has to be done here because of what somebody did on another server.

use hearth_ports::Table;
use hearth_store::{
    Write,
    tables::users::{AccountKind, AccountRow, account_key},
};
use ruma::{OwnedEventId, OwnedRoomAliasId, OwnedRoomId, RoomId};
use serde_json::{Map, json};

use super::twin::{Town, towns};
use crate::{Creation, MemberAction, MemberChange, Membership, Preset, Upgrade};

/// An event of one server reaches another.
async fn tell(from: &Town, to: &Town, room_id: &RoomId, event: &OwnedEventId) {
    let json = from.event(room_id, event).await.json().clone();
    for received in to.world.rooms.receive(&from.name, room_id, vec![json]).await {
        received.result.unwrap();
    }
}

async fn upgrade(town: &Town, room_id: &OwnedRoomId) -> OwnedRoomId {
    let upgrade = Upgrade {
        room_id: room_id.clone(),
        user: town.user("alice"),
        profile: Map::new(),
        version: "11".to_owned(),
        additional_creators: Vec::new(),
    };
    town.world.rooms.upgrade(upgrade).await.unwrap()
}

#[tokio::test]
async fn aliases_and_the_directory_follow_an_upgrade_elsewhere() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let old = a.create("alice", Preset::Public).await;
    b.join(&old, "bob", &[&a]).await.unwrap();
    let alias = OwnedRoomAliasId::try_from("#here:b.test").unwrap();
    let rooms = &b.world.rooms;
    rooms.create_alias(&b.user("bob"), false, &alias, &old).await.unwrap();
    rooms.set_published(&b.user("bob"), true, &old, true).await.unwrap();
    let published = |room_id: &OwnedRoomId| {
        let (rooms, room_id) = (rooms.clone(), room_id.clone());
        async move { rooms.is_published(&room_id).await.unwrap() }
    };

    // A room that says of itself that it took the old one's place.
    let mut creation_content = Map::new();
    creation_content.insert("predecessor".to_owned(), json!({ "room_id": old }));
    let creator = b.user("mallory");
    let usurper = Creation { creator, creation_content, ..super::creation("mallory", Preset::Public) };
    let usurper = rooms.create(usurper).await.unwrap();
    assert_eq!(rooms.predecessor(&usurper).await.unwrap(), Some(old.clone()));
    rooms.follow_upgrade(&old, &usurper).await.unwrap();
    assert_eq!(rooms.resolve_alias(&alias).await.unwrap(), old, "the old room says nothing of it");

    let new = upgrade(&a, &old).await;
    b.join(&new, "bob", &[&a]).await.unwrap();
    rooms.follow_upgrade(&old, &new).await.unwrap();
    assert_eq!(rooms.resolve_alias(&alias).await.unwrap(), old, "the tombstone has not come yet");
    let tombstone = a.state_ids(&old).await[&("m.room.tombstone".to_owned(), String::new())].clone();
    tell(&a, &b, &old, &tombstone).await;
    rooms.follow_upgrade(&old, &usurper).await.unwrap();
    assert_eq!(rooms.resolve_alias(&alias).await.unwrap(), old, "the old room names another");
    assert!(published(&old).await && !published(&new).await);
    for _ in 0..2 {
        rooms.follow_upgrade(&old, &new).await.unwrap();
        assert_eq!(rooms.resolve_alias(&alias).await.unwrap(), new);
        assert!(!published(&old).await && published(&new).await);
    }
    assert!(!published(&usurper).await);
    b.world.check().await;
}

/// An account on a server of these tests, which know no accounts.
async fn account(town: &Town, name: &str, kind: AccountKind) {
    let store = &town.world.store;
    let number = store.ensure_user_number(&town.user(name)).await.unwrap();
    let account = AccountRow {
        user_id: town.user(name).to_string(),
        kind,
        password: None,
        created_ts_ms: 1,
        admin: false,
        suspended: false,
        locked: false,
        deactivated: false,
        erased: false,
    };
    let mut write = Write::new(number.partition());
    write.put(Table::Us, account_key(number), &account);
    store.commit(write).await.unwrap();
}

async fn come_as_guest(town: &Town, room_id: &OwnedRoomId, name: &str, via: &Town) {
    let change = MemberChange {
        room_id: room_id.clone(),
        sender: town.user(name),
        target: town.user(name),
        action: MemberAction::Join,
        content: Map::new(),
        guest: true,
    };
    town.world.store.ensure_user_number(&town.user(name)).await.unwrap();
    town.world.rooms.change_member_via(change, std::slice::from_ref(&via.name)).await.unwrap();
}

#[tokio::test]
async fn guests_leave_a_room_that_shuts_them_out_elsewhere() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    a.set(&room_id, "alice", "m.room.guest_access", json!({ "guest_access": "can_join" })).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    // Grace had come as a guest and has an account of her own by now.
    for (name, kind) in [("42", AccountKind::Guest), ("grace", AccountKind::Full)] {
        account(&b, name, kind).await;
        come_as_guest(&b, &room_id, name, &a).await;
        let joined = b.state_ids(&room_id).await[&("m.room.member".to_owned(), b.user(name).to_string())].clone();
        tell(&b, &a, &room_id, &joined).await;
    }
    let joined = |name: &'static str| {
        let b = &b;
        let room_id = &room_id;
        async move { b.membership(room_id, &b.user(name)).await == Some(Membership::Join) }
    };
    b.world.rooms.remove_unwelcome_guests(&room_id).await;
    assert!(joined("42").await, "guests may be here");

    let shut = a.set(&room_id, "alice", "m.room.guest_access", json!({ "guest_access": "forbidden" })).await;
    tell(&a, &b, &room_id, &shut).await;
    b.world.rooms.remove_unwelcome_guests(&room_id).await;
    assert!(!joined("42").await, "they may not any longer");
    assert!(joined("grace").await && joined("bob").await, "she is no guest, and he never was");
    // It is a leave like any other, which the other server takes.
    let left = b.state_ids(&room_id).await[&("m.room.member".to_owned(), b.user("42").to_string())].clone();
    tell(&b, &a, &room_id, &left).await;
    assert_eq!(a.membership(&room_id, &b.user("42")).await, Some(Membership::Leave));
    b.world.check().await;
}
