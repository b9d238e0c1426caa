//! Cross-signing keys, and what they sign.

use hearth_core::{
    SigningKey,
    json::{Limits, canonical},
};

use super::*;
use crate::keys::{CrossSigningError, CrossSigningUpload, SignatureRefusal};

/// A key pair; its id is its public half.
fn pair(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32], "x")
}

fn key(user_id: &UserId, usage: &str, pair: &SigningKey) -> Value {
    let public = pair.public_key_base64();
    json!({ "user_id": user_id, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
}

/// Signs an object as a user's key of this id.
fn sign(object: &mut Value, user_id: &UserId, key_id: &str, pair: &SigningKey) -> String {
    let mut said = object.clone();
    said.as_object_mut().unwrap().remove("signatures");
    said.as_object_mut().unwrap().remove("unsigned");
    let signature = pair.sign_bytes(canonical(said.to_string().as_bytes(), &Limits::BODY).unwrap().as_bytes());
    object["signatures"][user_id.as_str()][key_id] = signature.clone().into();
    signature
}

/// A key that the master key has signed.
fn signed(user_id: &UserId, usage: &str, pair: &SigningKey, master: &SigningKey) -> Value {
    let mut key = key(user_id, usage, pair);
    sign(&mut key, user_id, &format!("ed25519:{}", master.public_key_base64()), master);
    key
}

fn upload_of(master: Option<Value>, self_signing: Option<Value>, user_signing: Option<Value>) -> CrossSigningUpload {
    let [master_key, self_signing_key, user_signing_key] =
        [master, self_signing, user_signing].map(|key| key.map(object));
    CrossSigningUpload { master_key, self_signing_key, user_signing_key }
}

/// All three keys of a user, from seeds that follow each other.
async fn set_up(world: &World, user_id: &UserId, seed: u8) -> CrossSigningUpload {
    let (master, own, others) = (pair(seed), pair(seed + 1), pair(seed + 2));
    let upload = upload_of(
        Some(key(user_id, "master", &master)),
        Some(signed(user_id, "self_signing", &own, &master)),
        Some(signed(user_id, "user_signing", &others, &master)),
    );
    let plan = world.users.plan_cross_signing(user_id, upload.clone()).await.unwrap();
    assert!(!plan.needs_authentication(), "the first keys are free");
    world.users.commit_cross_signing(plan).await.unwrap();
    upload
}

#[tokio::test]
async fn new_keys_in_place_of_old_ones_need_the_user() {
    let world = world().await;
    let alice = user(&world, "alice", "A").await;
    let first = set_up(&world, &alice, 10).await;
    let plan = async |upload: CrossSigningUpload| world.users.plan_cross_signing(&alice, upload).await.unwrap();
    assert!(!plan(first.clone()).await.needs_authentication(), "the same again, its answer may have been lost");
    let other = signed(&alice, "self_signing", &pair(20), &pair(10));
    assert!(plan(upload_of(None, Some(other.clone()), None)).await.needs_authentication());
    let stale = plan(upload_of(None, Some(other), None)).await;
    // A new master key has signed none of the old ones.
    let replaced = plan(upload_of(Some(key(&alice, "master", &pair(30))), None, None)).await;
    assert!(replaced.needs_authentication());
    world.users.commit_cross_signing(replaced).await.unwrap();
    assert!(world.users.commit_cross_signing(stale).await.is_err(), "planned for keys that are no more");
    let query =
        world.users.query_local_keys(Some(&alice), WantedDevices::from([(alice.clone(), vec![])])).await.unwrap();
    assert_eq!(value(&query.master_keys[&alice]), key(&alice, "master", &pair(30)));
    assert!(query.self_signing_keys.is_empty() && query.user_signing_keys.is_empty());
}

#[tokio::test]
async fn keys_that_cannot_be_are_refused() {
    let world = world().await;
    let device = pair(50).public_key_base64();
    let alice = user(&world, "alice", &device).await;
    let refused = async |upload: CrossSigningUpload| world.users.plan_cross_signing(&alice, upload).await.unwrap_err();
    let master = |change: &dyn Fn(&mut Value)| {
        let mut key = key(&alice, "master", &pair(10));
        change(&mut key);
        upload_of(Some(key), None, None)
    };
    assert!(matches!(refused(master(&|key| key["user_id"] = json!("@b:c"))).await, CrossSigningError::OtherUser(_)));
    for change in [
        &(|key: &mut Value| key["usage"] = json!(["self_signing"])) as &dyn Fn(&mut Value),
        &|key| key["keys"]["ed25519:another"] = json!("another"),
        &|key| key["keys"] = json!({ "ed25519:a": "b" }),
        &|key| key["keys"] = json!({ "ed25519:short": "short" }),
        &|key| key["more"] = "x".repeat(20_000).into(),
        &|key| key["more"] = json!({ "x": 1.10 }),
    ] {
        assert!(matches!(refused(master(change)).await, CrossSigningError::Malformed(_)));
    }
    let in_use = upload_of(Some(key(&alice, "master", &pair(50))), None, None);
    assert!(matches!(refused(in_use).await, CrossSigningError::IdInUse));
    let alone = upload_of(None, Some(signed(&alice, "self_signing", &pair(11), &pair(10))), None);
    assert!(matches!(refused(alone).await, CrossSigningError::NoMasterKey));
    let by_other = signed(&alice, "self_signing", &pair(11), &pair(12));
    let by_other = upload_of(Some(key(&alice, "master", &pair(10))), Some(by_other), None);
    assert!(matches!(refused(by_other).await, CrossSigningError::NotSigned(_)));
    // The other way round: a device does not take the id of a key.
    let bob = user(&world, "bob", "B").await;
    set_up(&world, &bob, 60).await;
    let device = pair(61).public_key_base64();
    user(&world, "bob", &device).await;
    let keys = KeyUpload { device_keys: Some(object(device_keys(&bob, &device))), ..KeyUpload::default() };
    assert!(matches!(upload(&world, &bob, &device, keys).await, Err(UploadError::IdInUse)));
}

#[tokio::test]
async fn signatures_are_taken_if_they_are_right_and_shown_to_whom_they_concern() {
    let world = world().await;
    let (alice, bob) = (user(&world, "alice", "A").await, user(&world, "bob", "B").await);
    set_up(&world, &alice, 10).await;
    set_up(&world, &bob, 20).await;
    let mut device = device_keys(&alice, "A");
    device["keys"]["ed25519:A"] = pair(5).public_key_base64().into();
    let keys = KeyUpload { device_keys: Some(object(device.clone())), ..KeyUpload::default() };
    upload(&world, &alice, "A", keys.clone()).await.unwrap();
    let public = |seed: u8| pair(seed).public_key_base64();
    let key_id = |seed: u8| format!("ed25519:{}", public(seed));

    let mut forged = device.clone();
    sign(&mut forged, &alice, &key_id(11), &pair(99));
    let mut other = device.clone();
    other["algorithms"] = json!([]);
    sign(&mut other, &alice, &key_id(11), &pair(11));
    let by_device = sign(&mut device, &alice, &key_id(11), &pair(11));
    let mut own_master = key(&alice, "master", &pair(10));
    sign(&mut own_master, &alice, "ed25519:A", &pair(5));
    let mut bobs = key(&bob, "master", &pair(20));
    sign(&mut bobs, &alice, &key_id(12), &pair(12));
    let send = async |user_id: &UserId, id: &str, signed: &Value| {
        let objects = BTreeMap::from([(id.to_owned(), object(signed.clone()))]);
        let signed = BTreeMap::from([(user_id.to_owned(), objects)]);
        let refused = world.users.upload_signatures(&NoPeers, &alice, signed).await.unwrap();
        refused.into_values().flat_map(BTreeMap::into_values).next()
    };
    assert!(matches!(send(&alice, "A", &forged).await, Some(SignatureRefusal::Invalid)));
    assert!(matches!(send(&alice, "A", &other).await, Some(SignatureRefusal::OtherObject)));
    assert!(matches!(send(&alice, "NONE", &device).await, Some(SignatureRefusal::NotFound)));
    assert!(matches!(send(&bob, "B", &device).await, Some(SignatureRefusal::NotFound)));
    for (user_id, id, signed) in
        [(&alice, "A", &device), (&alice, &*public(10), &own_master), (&bob, &*public(20), &bobs)]
    {
        assert!(send(user_id, id, signed).await.is_none(), "{id}");
    }
    // The device uploads its keys again, without the signature that it does not know of.
    upload(&world, &alice, "A", keys).await.unwrap();

    let seen_by = async |asker: &UserId| {
        let wanted = WantedDevices::from([(alice.clone(), vec![]), (bob.clone(), vec![])]);
        world.users.query_keys(&NoPeers, asker, wanted, 100).await.unwrap()
    };
    let by_bob = seen_by(&bob).await;
    assert_eq!(value(&by_bob.device_keys[&alice]["A"])["signatures"][alice.as_str()][key_id(11)], by_device.as_str());
    assert_eq!(value(&by_bob.master_keys[&alice]), own_master);
    assert_eq!(value(&by_bob.master_keys[&bob]), key(&bob, "master", &pair(20)), "whom she trusts is hers to know");
    assert_eq!(by_bob.user_signing_keys.keys().collect::<Vec<_>>(), [&bob]);
    assert_eq!(value(&seen_by(&alice).await.master_keys[&bob]), bobs);
}
