//! Keys for end-to-end encryption: uploaded, asked for, claimed once, signed.

mod cross_signing;
mod lists;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::future::join_all;
use hearth_ports::{NoPeers, mem::MemEngine};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::{Map, Value, json, value::RawValue};

use super::{World, on_device, world};
use crate::keys::{KeyUpload, UploadError, WantedDevices, WantedOneTimeKeys};

const CURVE: &str = "signed_curve25519";

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { panic!("not an object: {value}") };
    object
}

fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

/// A user with a device that is logged in.
async fn user(world: &World, name: &str, device_id: &str) -> OwnedUserId {
    let user_id = match world.users.account(&id(name)).await.unwrap() {
        Some(account) => account.user_id,
        None => world.account(name).await,
    };
    world.log_in(&user_id, &on_device(device_id)).await;
    user_id
}

fn id(name: &str) -> OwnedUserId {
    format!("@{name}:hearth.test").try_into().unwrap()
}

fn device_keys(user_id: &UserId, device_id: &str) -> Value {
    json!({
        "user_id": user_id, "device_id": device_id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("ed25519:{device_id}"): "public" }, "signatures": {},
    })
}

fn one_time(keys: &[(&str, Value)]) -> KeyUpload {
    let keys = keys.iter().map(|(name, key)| ((*name).to_owned(), key.clone())).collect();
    KeyUpload { one_time_keys: keys, ..KeyUpload::default() }
}

fn fallback(name: &str, key: Value) -> KeyUpload {
    KeyUpload { fallback_keys: [(name.to_owned(), key)].into_iter().collect(), ..KeyUpload::default() }
}

async fn upload(
    world: &World,
    user_id: &UserId,
    device_id: &str,
    upload: KeyUpload,
) -> Result<BTreeMap<String, u64>, UploadError> {
    let device_id = OwnedDeviceId::from(device_id);
    Ok(world.users.upload_keys(user_id, &device_id, upload).await?.one_time.clone())
}

/// What a claim of one key gives: its name and value.
async fn claim(world: &World, user_id: &UserId, device_id: &str, algorithm: &str) -> Option<(String, Value)> {
    let wanted = wanted(user_id, device_id, algorithm);
    let mut claimed = world.users.claim_local_keys(wanted).await;
    let keys = value(claimed.remove(user_id)?.get(device_id)?);
    let mut keys = object(keys).into_iter();
    let key = keys.next().expect("who is named has a key");
    assert!(keys.next().is_none(), "one key at a time");
    Some(key)
}

fn wanted(user_id: &UserId, device_id: &str, algorithm: &str) -> WantedOneTimeKeys {
    let device = BTreeMap::from([(OwnedDeviceId::from(device_id), algorithm.to_owned())]);
    BTreeMap::from([(user_id.to_owned(), device)])
}

/// Counts and unused fallback keys, as sync tells them, but for the algorithm that is always told.
async fn counts(world: &World, user_id: &UserId, device_id: &str) -> (Vec<u64>, Vec<String>) {
    let user = world.users.number(user_id).await.unwrap().unwrap();
    let counts = world.users.key_counts(user, <&DeviceId>::from(device_id)).await.unwrap();
    let others = counts.one_time.iter().filter(|(algorithm, _)| *algorithm != CURVE);
    (others.map(|(_, count)| *count).collect(), counts.unused_fallbacks.clone())
}

#[tokio::test]
async fn one_time_keys_come_in_the_order_of_their_upload_and_then_the_fallback_key() {
    let engine = MemEngine::new();
    let world = World::over(Arc::clone(&engine)).await;
    let alice = user(&world, "alice", "A").await;
    upload(&world, &alice, "A", one_time(&[("c:9", json!("first"))])).await.unwrap();
    upload(&world, &alice, "A", one_time(&[("c:1", json!("second")), ("other:1", json!("x"))])).await.unwrap();
    upload(&world, &alice, "A", fallback("c:f", json!({ "key": "again", "fallback": true }))).await.unwrap();
    assert_eq!(counts(&world, &alice, "A").await, (vec![2, 1], vec!["c".to_owned()]));
    assert_eq!(claim(&world, &alice, "A", "c").await, Some(("c:9".to_owned(), json!("first"))));
    assert_eq!(counts(&world, &alice, "A").await.0, [1, 1]);
    // What was given out is gone after a restart, too.
    let world = World::over(engine).await;
    assert_eq!(claim(&world, &alice, "A", "c").await, Some(("c:1".to_owned(), json!("second"))));
    for _ in 0..2 {
        let again = Some(("c:f".to_owned(), json!({ "key": "again", "fallback": true })));
        assert_eq!(claim(&world, &alice, "A", "c").await, again);
        assert_eq!(counts(&world, &alice, "A").await, (vec![1], vec![]));
    }
    // The same key again is no new one; another is.
    upload(&world, &alice, "A", fallback("c:f", json!({ "key": "again", "fallback": true }))).await.unwrap();
    assert!(counts(&world, &alice, "A").await.1.is_empty());
    upload(&world, &alice, "A", fallback("c:g", json!({ "key": "new", "fallback": true }))).await.unwrap();
    assert_eq!(counts(&world, &alice, "A").await.1, ["c"]);
    assert_eq!(claim(&world, &alice, "A", "none").await, None);
    assert_eq!(claim(&world, &alice, "B", "c").await, None);
    assert_eq!(claim(&world, &id("nobody"), "A", "c").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_claim_at_once_no_two_get_one_key() {
    let engine = MemEngine::new();
    let (one, two) = (World::over(Arc::clone(&engine)).await, World::over(engine).await);
    let alice = user(&one, "alice", "A").await;
    let keys: Vec<(String, Value)> =
        (0..60).map(|nth| (format!("{CURVE}:{nth}"), json!({ "key": nth.to_string() }))).collect();
    let keys: Vec<(&str, Value)> = keys.iter().map(|(name, key)| (name.as_str(), key.clone())).collect();
    upload(&one, &alice, "A", one_time(&keys)).await.unwrap();
    // Two nodes, each with its own memory.
    let claims = (0..80).map(|nth| claim(if nth % 2 == 0 { &one } else { &two }, &alice, "A", CURVE));
    let claimed: Vec<(String, Value)> = join_all(claims).await.into_iter().flatten().collect();
    let names: BTreeSet<&String> = claimed.iter().map(|(name, _)| name).collect();
    assert_eq!((claimed.len(), names.len()), (60, 60), "each key once, and all of them");
}

#[tokio::test]
async fn devices_speak_for_themselves_only_and_in_the_right_shape() {
    let world = world().await;
    let alice = user(&world, "alice", "A").await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut keys = device_keys(&alice, "A");
        change(&mut keys);
        KeyUpload { device_keys: Some(object(keys)), ..KeyUpload::default() }
    };
    let refused = async |wish: KeyUpload| upload(&world, &alice, "A", wish).await.unwrap_err();
    for (field, wrong) in [("user_id", json!("@bob:hearth.test")), ("device_id", json!("B"))] {
        let error = refused(with(&|keys| keys[field] = wrong.clone())).await;
        assert!(matches!(error, UploadError::Wrong(_)), "{field}: {error}");
    }
    for field in ["user_id", "device_id", "algorithms", "keys", "signatures"] {
        let error = refused(with(&|keys| drop(keys.as_object_mut().unwrap().remove(field)))).await;
        assert!(matches!(error, UploadError::Malformed(_)), "{field}: {error}");
        let error = refused(with(&|keys| keys[field] = json!(1))).await;
        assert!(matches!(error, UploadError::Malformed(_)), "{field}: {error}");
    }
    for (name, key) in [
        ("nocolon", json!("x")),
        (":id", json!("x")),
        ("a:", json!("x")),
        ("a:1", json!(7)),
        ("a:1", json!({ "signatures": {} })),
    ] {
        let error = refused(one_time(&[(name, key)])).await;
        assert!(matches!(error, UploadError::Malformed(_)), "{name}: {error}");
    }
    for number in [json!(1.10), json!(1e-7), json!(-0.0), json!(1e16), json!(9_007_199_254_740_992_u64)] {
        let error = refused(with(&|keys| keys["x"] = json!([number]))).await;
        assert!(matches!(error, UploadError::Malformed(_)), "{number}: {error}");
        let key = json!({ "key": "k", "x": number });
        assert!(matches!(refused(one_time(&[("a:1", key.clone())])).await, UploadError::Malformed(_)), "{number}");
        assert!(matches!(refused(fallback("a:1", key)).await, UploadError::Malformed(_)), "{number}");
    }
    let large = with(&|keys| keys["algorithms"] = json!(["x".repeat(20_000)]));
    assert!(matches!(refused(large).await, UploadError::TooLarge(_)));
    let many = (0..300).map(|nth| (format!("a:{nth}"), json!("x".repeat(300))));
    let many = KeyUpload { one_time_keys: many.collect(), ..KeyUpload::default() };
    assert!(matches!(refused(many).await, UploadError::TooLarge(_)));
    // A name that was seen keeps its value; other signatures of the same value are no other value.
    let key =
        |signature: &str| json!({ "key": "k", "signatures": { "@alice:hearth.test": { "ed25519:A": signature } } });
    upload(&world, &alice, "A", one_time(&[("a:1", key("one"))])).await.unwrap();
    assert_eq!(upload(&world, &alice, "A", one_time(&[("a:1", key("two"))])).await.unwrap()["a"], 1);
    assert!(matches!(refused(one_time(&[("a:1", json!("other"))])).await, UploadError::Wrong(_)));
    let nobody = upload(&world, &alice, "NONE", one_time(&[("a:1", json!("x"))])).await;
    assert!(matches!(nobody, Err(UploadError::NoDevice)));
}

#[tokio::test]
async fn keys_end_with_their_device() {
    let world = world().await;
    let alice = user(&world, "alice", "A").await;
    let both = KeyUpload { device_keys: Some(object(device_keys(&alice, "A"))), ..one_time(&[("c:1", json!("x"))]) };
    upload(&world, &alice, "A", both).await.unwrap();
    assert_eq!(counts(&world, &alice, "A").await.0, [1]);
    let before = world.users.device_list(&alice).await.unwrap().unwrap();
    assert_eq!(before.devices.keys().collect::<Vec<_>>(), ["A"]);
    world.users.delete_devices(&alice, &["A".into()]).await.unwrap();
    user(&world, "alice", "A").await;
    assert!(counts(&world, &alice, "A").await.0.is_empty());
    assert_eq!(claim(&world, &alice, "A", "c").await, None);
    let after = world.users.device_list(&alice).await.unwrap().unwrap();
    assert!(after.devices.is_empty());
    world.users.deactivate(&alice, false).await.unwrap();
    assert!(world.users.device_list(&alice).await.unwrap().is_none());
}

#[tokio::test]
async fn who_asks_sees_names_of_devices_other_servers_do_not() {
    let world = world().await;
    let (alice, bob) = (user(&world, "alice", "A").await, user(&world, "bob", "B").await);
    for device_id in ["A", "A2"] {
        user(&world, "alice", device_id).await;
        let keys = object(device_keys(&alice, device_id));
        upload(&world, &alice, device_id, KeyUpload { device_keys: Some(keys), ..KeyUpload::default() }).await.unwrap();
    }
    world.users.rename_device(&alice, "A", Some("phone")).await.unwrap();
    let query = async |devices: &[&str]| {
        let devices = devices.iter().map(|device_id| OwnedDeviceId::from(*device_id)).collect();
        let wanted = WantedDevices::from([(alice.clone(), devices), (bob.clone(), vec![]), (id("nobody"), vec![])]);
        world.users.query_keys(&NoPeers, &bob, wanted, 100).await.unwrap().device_keys
    };
    let all = query(&[]).await;
    assert_eq!(all.keys().collect::<Vec<_>>(), [&alice, &bob], "who has no keys is there, who does not exist is not");
    assert_eq!(all[&alice].keys().collect::<Vec<_>>(), ["A", "A2"]);
    assert!(all[&bob].is_empty());
    let mut expected = device_keys(&alice, "A");
    expected["unsigned"] = json!({ "device_display_name": "phone" });
    assert_eq!(value(&all[&alice]["A"]), expected);
    assert_eq!(query(&["A2", "A3"]).await[&alice].keys().collect::<Vec<_>>(), ["A2"]);
    let list = world.users.device_list(&alice).await.unwrap().unwrap();
    assert_eq!(value(&list.devices["A"])["unsigned"], json!({}));
}
