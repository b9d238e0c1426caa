//! Keys as they come, last, and are passed on.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use hearth_core::{PublicKeys, SigningKey, keys::verify_json};
use hearth_ports::{Clock as _, HttpError, ManualClock, SeededEntropy, WantedKeys, mem::MemEngine};
use hearth_store::{Store, StoreSettings};
use ruma::{OwnedServerName, ServerName, server_name};
use serde_json::{Value, json};

use super::{
    KeyRing, KeyRingSettings, OldKey, OwnKeys,
    answer::{AnswerError, KeyAnswer},
    notary::{Asked, IDS_MAX},
};
use crate::{
    policy::ServerPolicy,
    remote::Remote,
    testing::{NOW_MS, Net, answer, clock},
};

const DAY_MS: u64 = 86_400_000;
const HOUR_MS: u64 = 3_600_000;
const PATH: &str = "/_matrix/key/v2/server";
const QUERY: &str = "/_matrix/key/v2/query";

struct World {
    net: Arc<Net>,
    clock: Arc<ManualClock>,
    store: Arc<Store>,
    ring: Arc<KeyRing>,
}

impl World {
    async fn new() -> Self {
        Self::with_notaries(&[]).await
    }

    async fn with_notaries(notaries: &[&str]) -> Self {
        let store = Store::open(MemEngine::new(), StoreSettings::default()).await.unwrap();
        let (net, clock) = (Net::new(), clock());
        let ring = ring(&net, &clock, &store, notaries);
        Self { net, clock, store, ring }
    }

    /// A new process on the same data.
    fn restart(&mut self) {
        self.ring = ring(&self.net, &self.clock, &self.store, &[]);
    }

    /// This server answers with this.
    fn says(&self, server: &str, answer: &str) {
        self.net.name(server.split(':').next().unwrap(), &["192.0.2.2"]);
        let body: Value = serde_json::from_str(answer).unwrap_or_else(|_| json!(answer));
        self.net.json(server, PATH, &body);
    }

    /// It has these keys for a day.
    fn has_keys(&self, server: &str, ids: &[u8]) {
        self.says(server, &said(server, ids, &[], self.clock.now_ms() + DAY_MS));
    }

    async fn wanted(&self, server: &str, ids: &[u8], at_ms: u64) -> Vec<String> {
        let ids: BTreeSet<_> = ids.iter().map(|id| key_id(*id)).collect();
        let wanted = BTreeMap::from([(name(server), WantedKeys { ids, at_ms, asked_by: None })]);
        found(&self.ring.for_events(wanted).await, server)
    }

    async fn for_request(&self, server: &str, id: u8) -> Vec<String> {
        found(&self.ring.for_request(&name(server), &[key_id(id)]).await, server)
    }

    fn asked(&self) -> usize {
        self.net.asked().len()
    }
}

fn ring(net: &Arc<Net>, clock: &Arc<ManualClock>, store: &Arc<Store>, notaries: &[&str]) -> Arc<KeyRing> {
    let own: OwnedServerName = server_name!("own.example").to_owned();
    let key = Arc::new(key(0));
    let old = OldKey { id: "ed25519:before".to_owned(), bytes: [5; 32], expired_ms: 1_000 };
    let own_keys = Arc::new(OwnKeys::new(own.clone(), Arc::clone(&key), vec![old], clock.clone()));
    let entropy = Arc::new(SeededEntropy::new(1));
    let remote = Remote::new(key, ServerPolicy::open(own), net.clone(), net.clone(), clock.clone(), entropy);
    let settings = KeyRingSettings { notaries: notaries.iter().map(|notary| name(notary)).collect() };
    KeyRing::new(own_keys, remote, Arc::clone(store), clock.clone(), settings)
}

fn name(server: &str) -> OwnedServerName {
    server.try_into().unwrap()
}

fn key(id: u8) -> SigningKey {
    SigningKey::from_seed(&[id; 32], &format!("k{id}"))
}

fn key_id(id: u8) -> String {
    key(id).id().to_owned()
}

/// A signed answer: keys in use, which all sign it, and old ones with the time at which they expired.
fn said(server: &str, ids: &[u8], old: &[(u8, u64)], valid_until_ms: u64) -> String {
    let verify: serde_json::Map<_, _> =
        ids.iter().map(|id| (key_id(*id), json!({ "key": key(*id).public_key_base64() }))).collect();
    let old: serde_json::Map<_, _> = old
        .iter()
        .map(|(id, expired)| (key_id(*id), json!({ "key": key(*id).public_key_base64(), "expired_ts": expired })))
        .collect();
    let answer = json!({
        "server_name": server, "verify_keys": verify, "old_verify_keys": old, "valid_until_ts": valid_until_ms,
    });
    let sign = |answer: String, id: &u8| key(*id).sign_json(&name(server), answer.as_bytes()).unwrap();
    ids.iter().fold(answer.to_string(), sign)
}

fn found(keys: &PublicKeys, server: &str) -> Vec<String> {
    keys.0.get(&name(server)).into_iter().flat_map(BTreeMap::keys).cloned().collect()
}

fn valid_until_ms(keys: &PublicKeys, server: &str, id: u8) -> u64 {
    keys.get(&name(server), &key_id(id)).unwrap().valid_until_ms
}

#[tokio::test]
async fn our_answer_is_signed_and_lasts() {
    let world = World::new().await;
    let answer = world.ring.own().answer();
    let own = server_name!("own.example");
    let keys = PublicKeys(BTreeMap::from([(own.to_owned(), world.ring.own().public())]));
    assert_eq!(verify_json(own, &keys, &answer, NOW_MS), Ok(()));
    KeyAnswer::read(own, &answer).unwrap();
    let value: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(value["valid_until_ts"], NOW_MS + DAY_MS);
    assert_eq!(value["verify_keys"], json!({ key_id(0): { "key": key(0).public_key_base64() } }));
    let old = &value["old_verify_keys"]["ed25519:before"];
    assert_eq!(old, &json!({ "expired_ts": 1_000, "key": "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU" }));

    world.clock.advance_ms(HOUR_MS - 1);
    assert_eq!(world.ring.own().answer(), answer);
    world.clock.advance_ms(1);
    let value: Value = serde_json::from_slice(&world.ring.own().answer()).unwrap();
    assert_eq!(value["valid_until_ts"], NOW_MS + HOUR_MS + DAY_MS);
    assert_eq!(world.wanted("own.example", &[0], 0).await, ["ed25519:before".to_owned(), key_id(0)]);
    assert_eq!(world.asked(), 0);
}

#[tokio::test]
async fn keys_are_asked_for_once_and_kept() {
    let mut world = World::new().await;
    world.has_keys("a.example:1", &[1]);
    assert_eq!(world.wanted("a.example:1", &[1], NOW_MS).await, [key_id(1)]);
    assert_eq!(world.wanted("a.example:1", &[], NOW_MS).await, [key_id(1)]);
    assert_eq!(world.for_request("a.example:1", 1).await, [key_id(1)]);
    assert_eq!(world.net.asked_urls(), ["a.example:1/_matrix/key/v2/server"]);
    world.restart();
    assert_eq!(world.for_request("a.example:1", 1).await, [key_id(1)]);
    assert_eq!(world.asked(), 0, "the store has it");
}

#[test]
fn answers_that_do_not_count() {
    let server = server_name!("a.example");
    let read = |answer: &str| KeyAnswer::read(server, answer.as_bytes());
    let right = said("a.example", &[1], &[(2, 5)], 7);
    let answer = read(&right).unwrap();
    assert_eq!((answer.valid_until_ms, answer.current.len(), answer.old[&key_id(2)].1), (7, 1, 5));

    assert!(matches!(read(&said("b.example", &[1], &[], 7)), Err(AnswerError::OtherServer(_))));
    assert!(matches!(read(&right.replace(":7", ":8")), Err(AnswerError::NotSigned(_))));
    assert!(matches!(read(&said("a.example", &[], &[(2, 5)], 7)), Err(AnswerError::NotSigned(_))));
    // Signed by an old key only, by another server only, or wrongly by one of two keys.
    let by_old = said("a.example", &[1], &[(2, 5)], 7).replace("\"ed25519:k1\":\"", "\"ed25519:k2\":\"");
    assert!(matches!(read(&by_old), Err(AnswerError::NotSigned(_))));
    let mut two: Value = serde_json::from_str(&said("a.example", &[1, 2], &[], 7)).unwrap();
    assert!(read(&two.to_string()).is_ok());
    two["signatures"]["a.example"][key_id(2)] = two["signatures"]["a.example"][key_id(1)].clone();
    assert!(matches!(read(&two.to_string()), Err(AnswerError::NotSigned(_))));

    let many: Vec<u8> = (0..65).collect();
    for malformed in [
        "",
        "[]",
        "{}",
        r#"{"server_name":"a.example","verify_keys":{},"valid_until_ts":-1}"#,
        r#"{"server_name":"a.example","verify_keys":{"ed25519:1":{}},"valid_until_ts":1}"#,
        &said("a.example", &many, &[], 7),
        &format!("{right}{}", " ".repeat(1 << 20)),
    ] {
        assert!(matches!(read(malformed), Err(AnswerError::Malformed(_))), "{malformed:.100}");
    }
    assert!(read(&said("a.example", &many[..64], &[], 7)).is_ok());
    // Keys that we cannot use spoil no others.
    let strange = json!({
        "server_name": "a.example", "valid_until_ts": 7, "old_verify_keys": { "ed25519:x": { "key": "?", "expired_ts": 1 } },
        "verify_keys": { "rsa:1": { "key": "AAAA" }, key_id(1): { "key": key(1).public_key_base64() } },
    });
    let strange = key(1).sign_json(server, strange.to_string().as_bytes()).unwrap();
    let answer = read(&strange).unwrap();
    assert_eq!((answer.current.len(), answer.old.len()), (1, 0));
}

#[tokio::test]
async fn bad_answers_take_nothing_away() {
    let world = World::new().await;
    world.has_keys("a.example:1", &[1]);
    assert_eq!(world.wanted("a.example:1", &[1], NOW_MS).await, [key_id(1)]);
    let forged = said("a.example:1", &[1], &[], NOW_MS + DAY_MS)
        .replace(&key(1).public_key_base64(), &key(2).public_key_base64());
    for bad in [forged.as_str(), "{}", &said("b.example", &[1], &[], NOW_MS)] {
        world.says("a.example:1", bad);
        assert_eq!(world.wanted("a.example:1", &[9], NOW_MS).await, [key_id(1)], "{bad}");
        assert_eq!(world.asked(), if bad == forged { 2 } else { 1 });
    }
    world.net.fail("a.example:1", PATH, HttpError::TimedOut);
    assert_eq!(world.wanted("a.example:1", &[9], NOW_MS).await, [key_id(1)]);
    assert_eq!(world.for_request("a.example:1", 1).await, [key_id(1)]);
}

#[tokio::test]
async fn keys_count_in_their_time() {
    let world = World::new().await;
    // "The lesser of this field and 7 days into the future."
    world.says("a.example:1", &said("a.example:1", &[1, 2], &[(3, NOW_MS - 5), (4, NOW_MS + DAY_MS)], u64::MAX >> 12));
    let wanted = BTreeMap::from([(name("a.example:1"), WantedKeys::default())]);
    let keys = world.ring.for_events(wanted).await;
    let until: Vec<_> = [1, 2, 3, 4].map(|id| valid_until_ms(&keys, "a.example:1", id)).into();
    assert_eq!(until, [NOW_MS + 7 * DAY_MS, NOW_MS + 7 * DAY_MS, NOW_MS - 5, NOW_MS]);
    // Old keys sign no requests, even in the millisecond in which they became old.
    assert_eq!(world.for_request("a.example:1", 1).await, [key_id(1), key_id(2)]);
    assert_eq!(world.for_request("a.example:1", 4).await, [key_id(1), key_id(2)]);
}

#[tokio::test]
async fn an_expired_key_is_asked_for_again() {
    let world = World::new().await;
    world.says("a.example:1", &said("a.example:1", &[1], &[], NOW_MS + HOUR_MS));
    world.for_request("a.example:1", 1).await;
    world.clock.advance_ms(HOUR_MS + 1);
    assert_eq!(world.for_request("a.example:1", 1).await, [] as [String; 0]);
    assert_eq!(world.asked(), 2);
    // An event of the time in which it was valid needs no more than what is known.
    assert_eq!(world.wanted("a.example:1", &[1], NOW_MS).await, [key_id(1)]);
    assert_eq!(world.asked(), 0);
    world.has_keys("a.example:1", &[1]);
    assert_eq!(world.for_request("a.example:1", 1).await, [key_id(1)]);
}

#[tokio::test]
async fn a_key_that_the_server_no_longer_names_stays_good_for_the_past() {
    let world = World::new().await;
    world.has_keys("a.example:1", &[1]);
    world.for_request("a.example:1", 1).await;
    world.clock.advance_ms(HOUR_MS);
    world.has_keys("a.example:1", &[2]);
    assert_eq!(world.for_request("a.example:1", 2).await, [key_id(2)]);
    assert_eq!(world.for_request("a.example:1", 1).await, [key_id(2)]);
    let wanted = BTreeMap::from([(name("a.example:1"), WantedKeys::default())]);
    let keys = world.ring.for_events(wanted).await;
    assert_eq!(valid_until_ms(&keys, "a.example:1", 1), NOW_MS + HOUR_MS);
}

#[tokio::test]
async fn a_server_that_lost_its_key_may_use_the_id_again() {
    let world = World::new().await;
    world.has_keys("a.example:1", &[1]);
    world.for_request("a.example:1", 1).await;
    let remade = SigningKey::from_seed(&[77; 32], "k1");
    let answer = json!({
        "server_name": "a.example:1", "valid_until_ts": NOW_MS + 2 * DAY_MS, "old_verify_keys": {},
        "verify_keys": { "ed25519:k1": { "key": remade.public_key_base64() } },
    });
    let answer = remade.sign_json(&name("a.example:1"), answer.to_string().as_bytes()).unwrap();
    world.says("a.example:1", &answer);
    world.clock.advance_ms(DAY_MS + 1);
    let keys = world.ring.for_request(&name("a.example:1"), &[key_id(1)]).await;
    assert_eq!(keys.get(&name("a.example:1"), "ed25519:k1").unwrap().bytes, remade.public_key());
}

#[tokio::test]
async fn many_who_need_a_key_ask_once() {
    let world = World::new().await;
    world.has_keys("a.example:1", &[1]);
    world.net.hold();
    let mut many = Box::pin(futures_util::future::join_all((0..50).map(|_| world.for_request("a.example:1", 1))));
    assert!(many.as_mut().now_or_never().is_none());
    world.net.go_on();
    assert!(many.await.iter().all(|found| *found == [key_id(1)]));
    assert_eq!(world.asked(), 1);
    // Also if it comes to nothing.
    world.net.name("b.example", &["192.0.2.2"]);
    world.net.hold();
    let mut many = Box::pin(futures_util::future::join_all((0..50).map(|_| world.for_request("b.example:1", 1))));
    assert!(many.as_mut().now_or_never().is_none());
    world.net.go_on();
    assert!(many.await.iter().all(Vec::is_empty));
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn a_server_is_not_asked_too_often() {
    let world = World::new().await;
    world.has_keys("a.example:1", &[1]);
    for _ in 0..20 {
        world.for_request("a.example:1", 9).await;
    }
    assert_eq!(world.asked(), 8);
    world.clock.advance_ms(60_000);
    for _ in 0..3 {
        world.for_request("a.example:1", 9).await;
    }
    assert_eq!(world.asked(), 1);
    world.clock.advance_ms(DAY_MS - 1);
    for _ in 0..20 {
        world.for_request("a.example:1", 9).await;
    }
    assert_eq!(world.asked(), 8);
}

#[tokio::test]
async fn keys_that_are_half_over_are_refreshed_behind_the_back() {
    let world = World::new().await;
    world.has_keys("a.example:1", &[1]);
    world.for_request("a.example:1", 1).await;
    world.clock.advance_ms(DAY_MS / 2 - 1);
    world.for_request("a.example:1", 1).await;
    assert_eq!(world.asked(), 1);
    world.clock.advance_ms(2);
    world.has_keys("a.example:1", &[1, 2]);
    assert_eq!(world.for_request("a.example:1", 1).await, [key_id(1)], "nobody waits for it");
    assert_eq!(world.for_request("a.example:1", 1).await, [key_id(1)]);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.asked(), 1);
    assert_eq!(world.for_request("a.example:1", 1).await, [key_id(1), key_id(2)]);
}

/// What a notary says: answers of servers, signed by it.
fn notarised(notary: (&str, u8), answers: &[String]) -> Value {
    let sign = |answer: &String| key(notary.1).sign_json(&name(notary.0), answer.as_bytes()).unwrap();
    let answers: Vec<Value> = answers.iter().map(|answer| serde_json::from_str(&sign(answer)).unwrap()).collect();
    json!({ "server_keys": answers })
}

#[tokio::test]
async fn notaries_help_where_a_server_does_not_answer() {
    let world = World::with_notaries(&["dead.example:1", "notary.example:1"]).await;
    world.has_keys("notary.example:1", &[9]);
    let answers =
        [said("gone.example:1", &[1], &[], NOW_MS + DAY_MS), said("unasked.example:1", &[2], &[], NOW_MS + DAY_MS)];
    world.net.json("notary.example:1", QUERY, &notarised(("notary.example:1", 9), &answers));
    assert_eq!(world.wanted("gone.example:1", &[1], NOW_MS + DAY_MS).await, [key_id(1)]);
    let asked = world.net.asked();
    let urls: Vec<_> = asked.iter().map(|request| format!("{}{}", request.host, request.path)).collect();
    let notary = ["notary.example:1/_matrix/key/v2/server", "notary.example:1/_matrix/key/v2/query"];
    assert_eq!(urls, notary, "neither of the others has an address");
    let body: Value = serde_json::from_slice(&asked[1].body).unwrap();
    let wanted = json!({ "gone.example:1": { key_id(1): { "minimum_valid_until_ts": NOW_MS } } });
    assert_eq!(body, json!({ "server_keys": wanted }));

    assert_eq!(world.for_request("gone.example:1", 1).await, [key_id(1)]);
    assert_eq!(world.ring.status(&name("unasked.example:1")).await, []);
}

#[tokio::test]
async fn a_notary_is_believed_only_with_both_signatures() {
    let fine = said("gone.example:1", &[1], &[], NOW_MS + DAY_MS);
    let forged = fine.replace(&key(1).public_key_base64(), &key(2).public_key_base64());
    for (body, is_believed) in [
        (notarised(("notary.example:1", 9), std::slice::from_ref(&fine)), true),
        (notarised(("notary.example:1", 9), &[forged.clone(), fine.clone()]), true),
        (notarised(("notary.example:1", 9), &[forged]), false),
        (notarised(("notary.example:1", 8), std::slice::from_ref(&fine)), false),
        (notarised(("other.example:1", 9), std::slice::from_ref(&fine)), false),
        (json!({ "server_keys": [serde_json::from_str::<Value>(&fine).unwrap()] }), false),
        (json!({ "server_keys": vec![json!({}); 2_000] }), false),
        (json!({}), false),
    ] {
        let world = World::with_notaries(&["notary.example:1"]).await;
        world.has_keys("notary.example:1", &[9]);
        world.net.json("notary.example:1", QUERY, &body);
        let found = world.wanted("gone.example:1", &[1], NOW_MS).await;
        assert_eq!(!found.is_empty(), is_believed, "{:.300}", body.to_string());
    }
}

#[tokio::test]
async fn a_notary_does_not_overrule_the_server() {
    let world = World::with_notaries(&["notary.example:1"]).await;
    world.has_keys("notary.example:1", &[9]);
    world.says("a.example:1", &said("a.example:1", &[1], &[(2, NOW_MS - 10)], NOW_MS + HOUR_MS));
    world.wanted("a.example:1", &[1], NOW_MS).await;
    world.net.fail("a.example:1", PATH, HttpError::TimedOut);
    // The notary has heard other things: another key of the same id, an old key in use, and for longer.
    let other = SigningKey::from_seed(&[77; 32], "k1");
    let fake = json!({
        "server_name": "a.example:1", "valid_until_ts": NOW_MS + DAY_MS, "old_verify_keys": {},
        "verify_keys": { "ed25519:k1": { "key": other.public_key_base64() } },
    });
    let fake = other.sign_json(&name("a.example:1"), fake.to_string().as_bytes()).unwrap();
    let stale = said("a.example:1", &[1, 2], &[], NOW_MS + DAY_MS);
    world.net.json("notary.example:1", QUERY, &notarised(("notary.example:1", 9), &[fake, stale]));
    let wanted = WantedKeys { ids: BTreeSet::from([key_id(3)]), at_ms: NOW_MS, asked_by: None };
    let keys = world.ring.for_events(BTreeMap::from([(name("a.example:1"), wanted)])).await;
    assert_eq!(keys.get(&name("a.example:1"), "ed25519:k1").unwrap().bytes, key(1).public_key());
    assert_eq!(valid_until_ms(&keys, "a.example:1", 1), NOW_MS + DAY_MS);
    assert_eq!(valid_until_ms(&keys, "a.example:1", 2), NOW_MS - 10);
    assert_eq!(world.for_request("a.example:1", 1).await, [key_id(1)]);
}

#[tokio::test]
async fn a_crowd_is_asked_of_the_notary_first() {
    let world = World::with_notaries(&["notary.example:1"]).await;
    world.has_keys("notary.example:1", &[9]);
    let servers: Vec<_> = (0..300).map(|n| format!("s{n}.example:1")).collect();
    let answers: Vec<_> = servers[1..].iter().map(|server| said(server, &[1], &[], NOW_MS + DAY_MS)).collect();
    world.net.json("notary.example:1", QUERY, &notarised(("notary.example:1", 9), &answers));
    world.has_keys("s0.example:1", &[1]);
    let wanted = |server: &String| {
        (name(server), WantedKeys { ids: BTreeSet::from([key_id(1)]), at_ms: NOW_MS, asked_by: None })
    };
    let keys = world.ring.for_events(servers.iter().map(wanted).collect()).await;
    assert_eq!(keys.0.len(), 300);
    assert!(servers.iter().all(|server| found(&keys, server) == [key_id(1)]));
    assert_eq!(world.asked(), 4, "the notary's keys, two queries, and the one that it did not know");
}

async fn told(world: &World, server: &str, ids: &[(u8, Option<u64>)]) -> Vec<Value> {
    let keys = ids.iter().map(|(id, until)| (key_id(*id), *until)).collect();
    let asked = Asked { keys, valid_until_ms: None };
    let answers = world.ring.notarise(BTreeMap::from([(name(server), asked)])).await;
    let own = server_name!("own.example");
    let keys = PublicKeys(BTreeMap::from([(own.to_owned(), world.ring.own().public())]));
    let check = |answer: Bytes| {
        assert_eq!(verify_json(own, &keys, &answer, NOW_MS), Ok(()));
        KeyAnswer::read(<&ServerName>::try_from(server).unwrap(), &answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    };
    answers.into_iter().map(check).collect()
}

#[tokio::test]
async fn we_tell_what_servers_say() {
    let world = World::new().await;
    assert_eq!(told(&world, "a.example:1", &[]).await, [] as [Value; 0]);
    world.has_keys("a.example:1", &[1]);
    world.clock.advance_ms(60_000);
    let answers = told(&world, "a.example:1", &[]).await;
    assert_eq!((answers.len(), &answers[0]["server_name"]), (1, &json!("a.example:1")));
    assert_eq!(told(&world, "a.example:1", &[(1, None)]).await.len(), 1);
    assert_eq!(world.asked(), 1);
    // Keys that are half over are asked for again …
    world.clock.advance_ms(DAY_MS / 2);
    told(&world, "a.example:1", &[]).await;
    assert_eq!(world.asked(), 1);
    // … and told all the same if the server does not answer.
    world.net.fail("a.example:1", PATH, HttpError::TimedOut);
    world.clock.advance_ms(3 * DAY_MS);
    assert_eq!(told(&world, "a.example:1", &[]).await.len(), 1);
    assert_eq!(told(&world, "own.example", &[]).await.len(), 1);
}

/// The black-box suite's stories: an expired key is told if there is no other; a server that forgets a key does not make
/// us forget it.
#[tokio::test]
async fn we_tell_of_expired_and_forgotten_keys() {
    let world = World::new().await;
    let expired_ms = NOW_MS - DAY_MS;
    world.says("a.example:1", &said("a.example:1", &[1], &[], expired_ms));
    for (until, asked) in [(0, 1), (expired_ms + 1_000, 1), (expired_ms, 0)] {
        let answers = told(&world, "a.example:1", &[(1, Some(until))]).await;
        assert_eq!((&answers[0]["valid_until_ts"], world.asked()), (&json!(expired_ms), asked));
    }
    world.net.respond("a.example:1", PATH, |_| Ok(answer(400, &[], "{}")));
    let answers = told(&world, "a.example:1", &[(1, Some(expired_ms + 1_000))]).await;
    assert_eq!((&answers[0]["valid_until_ts"], world.asked()), (&json!(expired_ms), 1));

    world.says("a.example:1", &said("a.example:1", &[2], &[], expired_ms + 1_000));
    told(&world, "a.example:1", &[(1, Some(NOW_MS))]).await;
    assert_eq!(world.asked(), 1);
    let answers = told(&world, "a.example:1", &[(1, Some(expired_ms))]).await;
    assert_eq!((answers.len(), world.asked()), (1, 0));
    assert!(answers[0]["verify_keys"].get(key_id(1)).is_some());
    let both = told(&world, "a.example:1", &[(1, Some(0)), (2, Some(0))]).await;
    assert_eq!((both.len(), world.asked()), (2, 0));
}

#[tokio::test]
async fn strangers_make_us_ask_a_few_only() {
    let world = World::new().await;
    let names: Vec<_> = (0..400).map(|n| format!("s{n:03}.example:1")).collect();
    for server in &names {
        world.has_keys(server, &[1]);
    }
    let query: BTreeMap<_, _> = names.iter().map(|server| (name(server), Asked::default())).collect();
    assert_eq!(world.ring.notarise(query.clone()).await.len(), 16);
    assert_eq!(world.asked(), 16);
    assert_eq!(world.ring.notarise(query).await.len(), 32);
}

#[tokio::test]
async fn a_query_looks_for_a_bounded_number_of_keys() {
    let world = World::new().await;
    for server in ["a.example:1", "z.example:1"] {
        world.has_keys(server, &[1]);
        world.for_request(server, 1).await;
        world.has_keys(server, &[2]);
        world.for_request(server, 2).await;
    }
    // Keys that nobody has, before and beside the one of old.
    let asked = |nobody_has: usize| {
        let ids = (0..nobody_has).map(|n| format!("ed25519:a{n:06}")).chain([key_id(1)]);
        Asked { keys: ids.map(|id| (id, Some(0))).collect(), valid_until_ms: None }
    };
    let told = async |query: BTreeMap<OwnedServerName, Asked>| {
        let answers = world.ring.notarise(query).await;
        let keys = answers.iter().map(|answer| serde_json::from_slice::<Value>(answer).unwrap()["verify_keys"].clone());
        keys.map(|keys| keys.as_object().unwrap().keys().next().unwrap().clone()).collect::<Vec<_>>()
    };
    let one = async |nobody_has| told(BTreeMap::from([(name("a.example:1"), asked(nobody_has))])).await;
    assert_eq!(one(63).await, [key_id(1)]);
    assert_eq!(one(64).await, [key_id(2)], "the newest, as the key of old is not looked for");
    assert_eq!(one(100_000).await, [key_id(2)]);
    // Of many servers, too.
    let mut query: BTreeMap<_, _> = (0..IDS_MAX / 64 - 1).map(|n| (name(&format!("s{n}.no:1")), asked(64))).collect();
    query.insert(name("z.example:1"), asked(0));
    assert_eq!(told(query.clone()).await, [key_id(1)]);
    query.insert(name("t.no:1"), asked(64));
    query.insert(name("u.no:1"), asked(64));
    assert_eq!(told(query).await, [] as [String; 0], "its keys come after too many others");
}

/// So many servers, all of them silent.
fn silent(
    world: &World,
    names: impl Iterator<Item = String>,
    asked_by: Option<&str>,
) -> BTreeMap<OwnedServerName, WantedKeys> {
    let wanted = WantedKeys { ids: BTreeSet::from([key_id(1)]), at_ms: NOW_MS, asked_by: asked_by.map(name) };
    let server = |host: String| {
        world.net.name(&host, &["192.0.2.2"]);
        (name(&format!("{host}:1")), wanted.clone())
    };
    names.map(server).collect()
}

#[tokio::test]
async fn nobody_takes_all_the_turns_of_asking_for_keys() {
    let world = World::new().await;
    world.net.hold();
    // A server tells of others, which are in no room of ours.
    let told = (0..50).map(|n| format!("told{n}.example"));
    let told = begun(world.ring.for_events(silent(&world, told, Some("a.teller.example"))));
    assert_eq!(world.asked(), 16);
    // So does another of the same domain.
    let more = (0..50).map(|n| format!("more{n}.example"));
    let more = begun(world.ring.for_events(silent(&world, more, Some("b.teller.example"))));
    assert_eq!(world.asked(), 0);
    // A domain with many names is in our rooms.
    let wild = (0..50).map(|n| format!("n{n}.wild.example"));
    let wild = begun(world.ring.for_events(silent(&world, wild, None)));
    assert_eq!(world.asked(), 32);
    // All that could be told of takes no turn of those that we need.
    let all = (0..10).map(|teller| {
        let names = (0..20).map(move |n| format!("t{teller}x{n}.example"));
        world.ring.for_events(silent(&world, names, Some(&format!("t{teller}.example"))))
    });
    let all = begun(futures_util::future::join_all(all));
    assert_eq!(world.asked(), 96 - 16);
    let needed = (0..40).map(|n| format!("needed{n}.example"));
    let needed = begun(world.ring.for_events(silent(&world, needed, None)));
    assert_eq!(world.asked(), 40);
    drop((told, more, wild, all));
    world.net.go_on();
    assert_eq!(needed.await.0.len(), 40);
}

/// Work that was begun and waits.
fn begun<T>(work: impl Future<Output = T>) -> Pin<Box<impl Future<Output = T>>> {
    let mut work = Box::pin(tokio::task::unconstrained(work));
    assert!(work.as_mut().now_or_never().is_none());
    work
}
