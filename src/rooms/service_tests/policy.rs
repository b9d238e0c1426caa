//! Rooms with a policy server.

use bytes::Bytes;
use hearth_core::{
    Event, SigningKey,
    json::{Limits, canonical},
    policy::is_signed_by_policy_server,
    redact,
};
use hearth_ports::PeerError;
use hearth_store::tables::EventFlags;
use ruma::{EventId, OwnedRoomId, RoomId};
use serde_json::{Value, json, value::to_raw_value};

use super::twin::{Town, towns};
use crate::{MemberAction, Message, Preset, SendError, TransactionId};

fn policy_key() -> SigningKey {
    SigningKey::from_seed(&[77; 32], "policy_server")
}

/// What a policy server answers that signs with this key.
fn signature(event: &Event, key: &SigningKey) -> Bytes {
    let mut said: Value = serde_json::from_slice(redact(event).json()).unwrap();
    said.as_object_mut().unwrap().remove("signatures");
    let said = canonical(said.to_string().as_bytes(), &Limits::BODY).unwrap();
    json!({ "p.test": { "ed25519:policy_server": key.sign_bytes(said.as_bytes()) } }).to_string().into()
}

fn is_signed(event: &Event) -> bool {
    is_signed_by_policy_server(event, "p.test".try_into().unwrap(), &policy_key().public_key_base64())
}

fn policy() -> Value {
    json!({ "via": "p.test", "public_keys": { "ed25519": policy_key().public_key_base64() } })
}

/// A public room of Alice's at the first server, with a user of the policy server in it.
async fn policed(a: &Town, p: &Town) -> OwnedRoomId {
    let room_id = a.create("alice", Preset::Public).await;
    p.join(&room_id, "warden", &[a]).await.unwrap();
    a.set(&room_id, "alice", "m.room.policy", policy()).await;
    *a.net.policy_server.lock() = Some(Box::new(|_, event| Ok(signature(event, &policy_key()))));
    a.net.asked.lock().clear();
    room_id
}

fn asked(town: &Town) -> usize {
    let asked = std::mem::take(&mut *town.net.asked.lock());
    asked.iter().filter(|asked| *asked == "policy_sign p.test").count()
}

fn refusing(a: &Town) {
    let refuse = |errcode: &str| PeerError::Refused {
        status: 400,
        errcode: errcode.to_owned(),
        error: "spam".to_owned(),
        body: Bytes::new(),
    };
    *a.net.policy_server.lock() = Some(Box::new(move |_, _| Err(refuse("M_FORBIDDEN"))));
}

#[tokio::test]
async fn what_we_send_is_signed_first_and_sent_once() {
    let [a, p] = towns(["a.test", "p.test"]).await;
    let room_id = policed(&a, &p).await;
    let message = || Message {
        room_id: room_id.clone(),
        sender: a.user("alice"),
        kind: "m.room.message".to_owned(),
        content: to_raw_value(&json!({ "body": "hello" })).unwrap(),
        transaction: Some(TransactionId { device: "D".to_owned(), id: "1".to_owned() }),
        only_own: false,
        ts_ms: None,
    };
    let (one, two) = tokio::join!(a.world.rooms.send(message()), a.world.rooms.send(message()));
    let event_id = one.unwrap();
    assert_eq!(event_id, two.unwrap(), "one transaction, one event");
    assert_eq!(a.world.rooms.send(message()).await.unwrap(), event_id);
    let room = a.world.number(&room_id).await;
    let stored = a.world.store.event_by_id(room, &event_id).await.unwrap().unwrap();
    assert!(stored.accepted() && is_signed(&stored.event));
    let sent_by = stored.header.sent_by.clone().expect("its device knows it again");
    assert_eq!((sent_by.device.as_str(), sent_by.transaction.as_str()), ("D", "1"));
    assert!(asked(&a) <= 2);

    // State and memberships, too; only the policy itself is not shown to its server.
    let is_asked_and_signed = async |event_id: &EventId| {
        let event = a.event(&room_id, event_id).await;
        (asked(&a), is_signed(&event))
    };
    let topic = a.set(&room_id, "alice", "m.room.topic", json!({ "topic": "x" })).await;
    assert_eq!(is_asked_and_signed(&topic).await, (1, true));
    let join = a.join(&room_id, "carol", &[]).await.unwrap();
    assert_eq!(is_asked_and_signed(&join).await, (1, true));
    let kick = a.act(&room_id, "alice", MemberAction::Kick, &a.user("carol"), &[]).await.unwrap();
    assert_eq!(is_asked_and_signed(&kick).await, (1, true));
    a.set(&room_id, "alice", "m.room.policy", json!({})).await;
    a.say(&room_id, "alice", "free").await.unwrap();
    assert_eq!(asked(&a), 0);
}

#[tokio::test]
async fn what_the_policy_server_does_not_sign_is_not_sent() {
    let [a, p] = towns(["a.test", "p.test"]).await;
    let room_id = policed(&a, &p).await;
    let before = a.world.head(&room_id).await;
    refusing(&a);
    let refused = a.say(&room_id, "alice", "spam").await;
    let Err(SendError::Refused { status: 400, errcode, error }) = refused else { panic!("{refused:?}") };
    assert_eq!((errcode.as_str(), error.as_str()), ("M_FORBIDDEN", "spam"), "in its own words");
    let other_key = SigningKey::from_seed(&[1; 32], "policy_server");
    for answer in [
        Box::new(move |_: &_, event: &Event| Ok(signature(event, &other_key)))
            as Box<dyn Fn(&_, &_) -> _ + Send + Sync>,
        Box::new(|_: &_, _: &_| Ok(Bytes::from_static(b"{}"))),
        Box::new(|_: &_, _: &_| Ok(Bytes::from_static(b"[]"))),
        Box::new(|_: &_, _: &_| Err(PeerError::Unreachable("down".to_owned()))),
    ] {
        *a.net.policy_server.lock() = Some(answer);
        assert!(matches!(a.say(&room_id, "alice", "x").await, Err(SendError::Unreachable(_))));
    }
    assert_eq!(a.world.head(&room_id).await, before, "nothing of it is in the room");
    // A server without anybody in the room has no say in it.
    *a.net.policy_server.lock() = Some(Box::new(|_, event| Ok(signature(event, &policy_key()))));
    a.act(&room_id, "alice", MemberAction::Kick, &p.user("warden"), &[]).await.unwrap();
    refusing(&a);
    a.net.asked.lock().clear();
    a.say(&room_id, "alice", "free").await.unwrap();
    assert_eq!(asked(&a), 0);
}

/// An event of Bob's that has reached the first server without the policy server's signature, and its flags there.
async fn received(a: &Town, b: &Town, room_id: &RoomId, event_id: &EventId) -> (EventFlags, Event) {
    let mut event: Value = serde_json::from_slice(b.event(room_id, event_id).await.json()).unwrap();
    event["signatures"].as_object_mut().unwrap().remove("p.test").expect("it was signed");
    let received = a.world.rooms.receive(&b.name, room_id, vec![event.to_string().into()]).await;
    assert!(received[0].result.is_ok(), "{received:?}");
    let room = a.world.number(room_id).await;
    let stored = a.world.store.event_by_id(room, event_id).await.unwrap().unwrap();
    (stored.header.flags, stored.event.clone())
}

#[tokio::test]
async fn what_others_send_unsigned_is_shown_to_the_policy_server_and_else_soft_failed() {
    let [a, b, p] = towns(["a.test", "b.test", "p.test"]).await;
    let room_id = policed(&a, &p).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let said = b.say(&room_id, "bob", "one").await.unwrap();
    let (flags, event) = received(&a, &b, &room_id, &said).await;
    assert!(!flags.has(EventFlags::SOFT_FAILED) && is_signed(&event), "it was signed after all");
    let spam = b.say(&room_id, "bob", "two").await.unwrap();
    refusing(&a);
    let (flags, event) = received(&a, &b, &room_id, &spam).await;
    assert!(flags.has(EventFlags::SOFT_FAILED) && !is_signed(&event));
    // A signature that is there is enough: the policy server need not be asked, or be there.
    *a.net.policy_server.lock() = Some(Box::new(|_, event| Ok(signature(event, &policy_key()))));
    let third = b.say(&room_id, "bob", "three").await.unwrap();
    a.net.set_down(&p, true);
    let bytes = b.event(&room_id, &third).await.json().clone();
    assert!(a.world.rooms.receive(&b.name, &room_id, vec![bytes]).await[0].result.is_ok());
    let stored = a.event(&room_id, &third).await;
    assert!(is_signed(&stored));
}

/// It keeps nobody out of other rooms.
#[tokio::test(start_paused = true)]
async fn a_policy_server_that_hangs_stops_no_joins_of_other_rooms() {
    let [a, b, c, p] = towns(["a.test", "b.test", "c.test", "p.test"]).await;
    let rooms = [policed(&a, &p).await, policed(&a, &p).await, policed(&a, &p).await, policed(&a, &p).await];
    let free = a.create("alice", Preset::Public).await;
    a.net.hanging.lock().insert("policy_sign p.test".to_owned());
    let (via, towns) = ([&a], [&b, &b, &c, &c]);
    let stuck = towns.into_iter().zip(["0", "1", "2", "3"]).zip(&rooms);
    let stuck = futures_util::future::join_all(stuck.map(|((town, name), room_id)| town.join(room_id, name, &via)));
    let soon = std::time::Duration::from_secs(1);
    assert!(tokio::time::timeout(soon, stuck).await.is_err(), "the policy server is waited for");
    tokio::time::timeout(soon, b.join(&free, "bob", &via)).await.expect("nobody stands in the way").unwrap();
}
