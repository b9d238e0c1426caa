//! Invites of people who were known by a third-party identifier only.

use hearth_core::SigningKey;
use ruma::{OwnedRoomId, OwnedUserId, server_name};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::twin::{Town, towns};
use crate::{Address, HandshakeError, Membership, Preset, SendError, StateChange, ThirdPartyInvite};

const URL: &str = "https://id.test/isvalid";

fn identity_key() -> SigningKey {
    SigningKey::from_seed(&[42; 32], "0")
}

/// The identity server's word that a user is who was invited.
fn proof(token: &str, user_id: &OwnedUserId, key: &SigningKey) -> Map<String, Value> {
    let word = json!({ "mxid": user_id, "token": token }).to_string();
    serde_json::from_str(&key.sign_json(server_name!("id.test"), word.as_bytes()).unwrap()).unwrap()
}

/// A private room with a pending invite of Alice's, under this token.
async fn pending(town: &Town, token: &str) -> OwnedRoomId {
    let room_id = town.create("alice", Preset::Private).await;
    let public_key = identity_key().public_key_base64();
    let content = json!({
        "display_name": "somebody", "public_key": public_key, "key_validity_url": URL,
        "public_keys": [{ "public_key": public_key.replace('+', "-").replace('/', "_") }],
    });
    let change = StateChange {
        room_id: room_id.clone(),
        sender: town.user("alice"),
        kind: "m.room.third_party_invite".to_owned(),
        state_key: token.to_owned(),
        content: to_raw_value(&content).unwrap(),
        guest: false,
        ts_ms: None,
    };
    town.world.rooms.set_state(change).await.unwrap();
    room_id
}

#[tokio::test]
async fn the_inviters_server_makes_the_invite_of_the_one_who_bound_the_identifier() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = pending(&a, "token").await;
    let bob = b.user("bob");
    let invite = ThirdPartyInvite {
        room_id: room_id.clone(),
        sender: a.user("alice"),
        target: bob.clone(),
        signed: proof("token", &bob, &identity_key()),
    };
    b.world.rooms.claim_third_party_invite(invite).await.unwrap();
    assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Invite));
    assert_eq!(b.membership(&room_id, &bob).await, Some(Membership::Invite));
    let asked = std::mem::take(&mut *a.net.asked.lock());
    assert_eq!(asked, ["exchange_third_party_invite a.test", &format!("isvalid {URL}"), "invite b.test"]);
    let member = ("m.room.member".to_owned(), bob.to_string());
    let event = a.event(&room_id, &a.state_ids(&room_id).await[&member]).await;
    assert_eq!(event.sender(), a.user("alice"));
    let content: Value = event.content_as().unwrap();
    assert_eq!(content["third_party_invite"]["display_name"], "somebody", "as the inviter has it");
    b.join(&room_id, "bob", &[&a]).await.unwrap();
}

/// How often the server was asked for an invite since the last time.
fn asked(of: &Town) -> usize {
    let question = format!("exchange_third_party_invite {}", of.name);
    std::mem::take(&mut *of.net.asked.lock()).iter().filter(|asked| **asked == question).count()
}

#[tokio::test]
async fn a_server_that_is_down_is_asked_again() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = pending(&a, "token").await;
    let bob = b.user("bob");
    let invite = |sender: OwnedUserId| ThirdPartyInvite {
        room_id: room_id.clone(),
        sender,
        target: bob.clone(),
        signed: proof("token", &bob, &identity_key()),
    };
    let rooms = &b.world.rooms;
    a.net.set_down(&a, true);
    for _ in 0..2 {
        rooms.claim_bound_invite(invite(a.user("alice"))).await.unwrap();
    }
    assert_eq!(asked(&a), 1, "at once, and not for each who says so");
    let b = b.restarted().await;
    let rooms = &b.world.rooms;
    rooms.retry_third_party_invites().await.unwrap();
    a.net.set_down(&a, false);
    asked(&a);
    rooms.retry_third_party_invites().await.unwrap();
    assert_eq!(b.membership(&room_id, &bob).await, Some(Membership::Invite));
    assert_eq!(asked(&a), 1);
    // Neither what was done nor what is refused waits any longer.
    rooms.claim_bound_invite(invite(a.user("mallory"))).await.unwrap();
    assert_eq!(asked(&a), 1);
    rooms.retry_third_party_invites().await.unwrap();
    assert_eq!(asked(&a), 0);
    let other = ThirdPartyInvite { target: b.user("eve"), ..invite(a.user("alice")) };
    assert!(matches!(rooms.claim_bound_invite(other).await, Err(SendError::InvalidParam(_))));

    a.net.set_down(&a, true);
    rooms.claim_bound_invite(invite(a.user("alice"))).await.unwrap();
    b.world.clock.advance_ms(8 * 24 * 60 * 60 * 1_000);
    rooms.retry_third_party_invites().await.unwrap();
    a.net.set_down(&a, false);
    asked(&a);
    rooms.retry_third_party_invites().await.unwrap();
    assert_eq!(asked(&a), 0, "after a week nobody waits for it");
}

/// Anybody can tell of invites by servers that take the question and never answer.
#[tokio::test(start_paused = true)]
async fn servers_that_hang_hold_up_neither_who_tells_of_invites_nor_other_invites() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let bob = b.user("bob");
    let (rooms, soon) = (&b.world.rooms, std::time::Duration::from_secs(2));
    let invite = |room_id: &OwnedRoomId, sender: &str| ThirdPartyInvite {
        room_id: room_id.clone(),
        sender: sender.try_into().unwrap(),
        target: bob.clone(),
        signed: proof("token", &bob, &identity_key()),
    };
    let (first, second) = (pending(&a, "token").await, pending(&a, "token").await);
    for nth in 0..6 {
        a.net.hanging.lock().insert(format!("exchange_third_party_invite 0h{nth}.test"));
        let claim = rooms.claim_bound_invite(invite(&first, &format!("@eve:0h{nth}.test")));
        tokio::time::timeout(soon, claim).await.expect("nobody waits for them").unwrap();
    }
    rooms.claim_bound_invite(invite(&first, "@alice:a.test")).await.unwrap();
    assert_eq!(b.membership(&first, &bob).await, Some(Membership::Invite), "it is done at once");

    a.net.set_down(&a, true);
    for room_id in [&first, &second] {
        rooms.claim_bound_invite(invite(room_id, "@anna:a.test")).await.unwrap();
    }
    asked(&a);
    assert!(tokio::time::timeout(soon, rooms.retry_third_party_invites()).await.is_err(), "six hang");
    assert_eq!(asked(&a), 1, "a server that is down is asked once");
    a.net.set_down(&a, false);
    rooms.claim_bound_invite(invite(&second, "@alice:a.test")).await.unwrap();
    assert!(tokio::time::timeout(soon, rooms.retry_third_party_invites()).await.is_err());
    assert_eq!(b.membership(&second, &bob).await, Some(Membership::Invite));
}

#[tokio::test]
async fn who_has_not_bound_their_address_is_invited_once_they_have() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Private).await;
    let (alice, bob, rooms) = (a.user("alice"), b.user("bob"), &a.world.rooms);
    let address = Address {
        identity_server: "id.test".to_owned(),
        access_token: "secret".to_owned(),
        medium: "email".to_owned(),
        address: "bob@example.com".to_owned(),
    };
    assert_eq!(rooms.find_by_address(&address).await.unwrap(), None);
    let refused = rooms.invite_by_address(&room_id, &a.user("mallory"), &address).await;
    assert!(matches!(refused, Err(SendError::Forbidden(_))));
    assert_eq!(a.net.asked.lock().len(), 0, "the identity server sends no mail for who may not invite");
    rooms.invite_by_address(&room_id, &alice, &address).await.unwrap();
    assert_eq!(a.net.asked.lock().pop().unwrap(), r#"store-invite id.test "bob@example.com" "@alice:a.test""#);
    let content = a.world.state(&room_id, "m.room.third_party_invite", "token").await.unwrap();
    assert_eq!(content["display_name"], "b...@e...");
    assert!(!content.to_string().contains("bob@example.com"), "the room is not told the address");
    let signed = proof("token", &bob, &identity_key());
    let invite = ThirdPartyInvite { room_id: room_id.clone(), sender: alice, target: bob.clone(), signed };
    b.world.rooms.claim_third_party_invite(invite).await.unwrap();
    assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Invite));
    a.net.bound.lock().insert("bob@example.com".to_owned(), bob.clone());
    assert_eq!(rooms.find_by_address(&address).await.unwrap(), Some(bob));
}

#[tokio::test]
async fn a_user_of_the_same_server_is_invited_there() {
    let [a] = towns(["a.test"]).await;
    let room_id = pending(&a, "token").await;
    let carol = a.user("carol");
    a.world.store.ensure_user_number(&carol).await.unwrap();
    let signed = proof("token", &carol, &identity_key());
    let invite = ThirdPartyInvite { room_id: room_id.clone(), sender: a.user("alice"), target: carol.clone(), signed };
    a.world.rooms.claim_third_party_invite(invite).await.unwrap();
    assert_eq!(a.membership(&room_id, &carol).await, Some(Membership::Invite));
    a.join(&room_id, "carol", &[]).await.unwrap();
}

#[tokio::test]
async fn nothing_is_made_without_a_proof_that_holds() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = pending(&a, "token").await;
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let partial = |sender: &OwnedUserId, target: &OwnedUserId, signed: Map<String, Value>| {
        let content =
            json!({ "membership": "invite", "third_party_invite": { "display_name": "x", "signed": signed } });
        json!({ "type": "m.room.member", "room_id": room_id, "sender": sender, "state_key": target, "content": content })
    };
    let ask = async |origin: &Town, event: Value| {
        let event = event.to_string().into();
        a.world.rooms.exchange_third_party_invite(&origin.name, &room_id, &event).await.unwrap_err()
    };
    let forbidden = |error: HandshakeError| matches!(error, HandshakeError::Forbidden(_));
    let malformed = |error: HandshakeError| matches!(error, HandshakeError::Malformed(_));
    let right = || proof("token", &bob, &identity_key());
    let other_key = SigningKey::from_seed(&[43; 32], "0");
    assert!(forbidden(ask(&b, partial(&alice, &bob, proof("token", &bob, &other_key))).await));
    assert!(forbidden(ask(&b, partial(&alice, &bob, proof("another", &bob, &identity_key()))).await));
    assert!(forbidden(ask(&b, partial(&a.user("mallory"), &bob, right())).await), "who did not ask for it");
    assert!(malformed(ask(&b, partial(&alice, &b.user("eve"), right())).await), "whom the proof is not about");
    assert!(malformed(ask(&b, partial(&bob, &bob, right())).await));
    assert!(malformed(ask(&a, partial(&alice, &bob, right())).await), "a server that speaks for another's user");
    for (field, wrong) in [("type", json!("m.room.topic")), ("room_id", json!("!other:a.test")), ("content", json!({}))]
    {
        let mut event = partial(&alice, &bob, right());
        event[field] = wrong;
        assert!(malformed(ask(&b, event).await), "{field}");
    }
    a.net.revoked.lock().insert(identity_key().public_key_base64());
    assert!(forbidden(ask(&b, partial(&alice, &bob, right())).await), "a key that no longer counts");
    assert_eq!(a.membership(&room_id, &bob).await, None);
    assert!(!a.net.asked.lock().iter().any(|asked| asked.starts_with("invite")));

    let other = ThirdPartyInvite { room_id, sender: alice, target: b.user("eve"), signed: right() };
    let refused = b.world.rooms.claim_third_party_invite(other).await;
    assert!(matches!(refused, Err(SendError::InvalidParam(_))));
}
