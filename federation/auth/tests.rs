//! Requests at the door.

use futures_util::FutureExt as _;
use hearth_core::SigningKey;
use hearth_ports::{ManualClock, SeededEntropy, mem::MemEngine};
use hearth_store::{Store, StoreSettings};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use ruma::{ServerName, server_name};
use serde_json::json;

use super::*;
use crate::{
    keys::{KeyRingSettings, OwnKeys},
    policy::{ServerPattern, ServerPolicy},
    testing::{NOW_MS, Net, clock},
    xmatrix,
};

const DAY_MS: u64 = 86_400_000;
const KEYS: &str = "/_matrix/key/v2/server";

struct World {
    net: Arc<Net>,
    clock: Arc<ManualClock>,
    remote: Arc<Remote>,
    auth: Arc<ServerAuth>,
}

fn peer() -> &'static ServerName {
    server_name!("b.example:1")
}

impl World {
    async fn new() -> Self {
        let (net, clock) = (Net::new(), clock());
        net.name("b.example", &["192.0.2.2"]);
        let own = server_name!("a.example").to_owned();
        let key = Arc::new(SigningKey::from_seed(&[1; 32], "k"));
        let store = Store::open(MemEngine::new(), StoreSettings::default()).await.unwrap();
        let own_keys = Arc::new(OwnKeys::new(own.clone(), Arc::clone(&key), Vec::new(), clock.clone()));
        let policy =
            ServerPolicy { denied: vec![ServerPattern::parse("evil.example").unwrap()], ..ServerPolicy::open(own) };
        let entropy = Arc::new(SeededEntropy::new(1));
        let remote = Remote::new(key, policy, net.clone(), net.clone(), clock.clone(), entropy);
        let keys = KeyRing::new(own_keys, Arc::clone(&remote), store, clock.clone(), KeyRingSettings::default());
        let auth = ServerAuth::new(keys, Arc::clone(&remote), clock.clone());
        let world = Self { net, clock, remote, auth };
        world.publish(&key_of(2));
        world
    }

    /// b.example has this key.
    fn publish(&self, key: &SigningKey) {
        let answer = json!({
            "server_name": peer(), "valid_until_ts": NOW_MS + 30 * DAY_MS, "old_verify_keys": {},
            "verify_keys": { key.id(): { "key": key.public_key_base64() } },
        });
        let answer = key.sign_json(peer(), answer.to_string().as_bytes()).unwrap();
        self.net.json(peer().as_str(), KEYS, &serde_json::from_str(&answer).unwrap());
    }

    async fn send(
        &self,
        method: Method,
        uri: &str,
        header: &str,
        body: &[u8],
    ) -> Result<OwnedServerName, (u16, String)> {
        let mut headers = HeaderMap::new();
        if !header.is_empty() {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
        }
        let (uri, body) = (uri.parse().unwrap(), Bytes::copy_from_slice(body));
        let request = ServerRequest { method: &method, uri: &uri, headers: &headers, body: &body };
        let origin = self.auth.authenticate(request).await;
        origin.map_err(|error| (error.status().as_u16(), error.errcode().to_owned()))
    }

    async fn put(&self, header: &str) -> Result<OwnedServerName, (u16, String)> {
        self.send(Method::PUT, URI, header, BODY).await
    }
}

const URI: &str = "/_matrix/federation/v1/send/1?a=%20b";
const BODY: &[u8] = br#"{"pdus":[]}"#;

fn key_of(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32], "b1")
}

fn header_by(key: &SigningKey, origin: &ServerName, destination: &ServerName) -> String {
    let request = Signed { method: "PUT", uri: URI, destination, content: Some(BODY) };
    xmatrix::sign(key, origin, &request).unwrap()
}

fn header() -> String {
    header_by(&key_of(2), peer(), server_name!("a.example"))
}

fn unauthorized() -> Result<OwnedServerName, (u16, String)> {
    Err((401, "M_UNAUTHORIZED".to_owned()))
}

#[tokio::test]
async fn a_signed_request_has_an_origin() {
    let world = World::new().await;
    assert_eq!(world.put(&header()).await.unwrap(), peer());
    let without_destination = header().replace("destination=\"a.example\",", "");
    assert_eq!(world.put(&without_destination).await.unwrap(), peer());
    assert_eq!(world.net.asked().len(), 1, "its key is known now");
    // An absolute form names the same path.
    let absolute = format!("https://a.example{URI}");
    assert_eq!(world.send(Method::PUT, &absolute, &header(), BODY).await.unwrap(), peer());

    for method in ["GET", "HEAD"] {
        let request = Signed { method, uri: URI, destination: server_name!("a.example"), content: None };
        let header = xmatrix::sign(&key_of(2), peer(), &request).unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(world.send(method, URI, &header, b"").await.unwrap(), peer());
    }
}

#[tokio::test]
async fn everything_is_covered_by_the_signature() {
    let world = World::new().await;
    assert_eq!(world.send(Method::POST, URI, &header(), BODY).await, unauthorized());
    assert_eq!(world.send(Method::PUT, "/_matrix/federation/v1/send/2?a=%20b", &header(), BODY).await, unauthorized());
    assert_eq!(world.send(Method::PUT, "/_matrix/federation/v1/send/1", &header(), BODY).await, unauthorized());
    assert_eq!(world.send(Method::PUT, URI, &header(), b"{}").await, unauthorized());
    assert_eq!(world.send(Method::PUT, URI, &header(), b"").await, unauthorized());
    let elsewhere = header_by(&key_of(2), peer(), server_name!("c.example"));
    assert_eq!(world.put(&elsewhere).await, unauthorized());
    assert_eq!(world.put(&elsewhere.replace("destination=\"c.example\",", "")).await, unauthorized());
    assert_eq!(world.put(&header_by(&key_of(3), peer(), server_name!("a.example"))).await, unauthorized());
    assert_eq!(world.put(&header().replace("ed25519:b1", "ed25519:b2")).await, unauthorized());
    assert_eq!(world.put("").await, unauthorized());
    assert_eq!(world.put("Bearer token").await, unauthorized());
}

#[tokio::test]
async fn what_does_not_read_is_a_bad_request() {
    let world = World::new().await;
    let malformed = Err((400, "M_UNAUTHORIZED".to_owned()));
    assert_eq!(world.put("X-Matrix origin=a").await, malformed);
    assert_eq!(world.put(&header().replace("b.example:1", "b.example:http")).await, malformed);
    let broken = world.send(Method::PUT, URI, &header(), b"{").await;
    assert_eq!(broken, Err((400, "M_BAD_JSON".to_owned())));
}

#[tokio::test]
async fn who_is_denied_is_not_even_asked_for_keys() {
    let world = World::new().await;
    for name in ["evil.example", "evil.example:8448", "a.example"] {
        let name = <&ServerName>::try_from(name).unwrap();
        let header = header_by(&key_of(2), name, server_name!("a.example"));
        assert_eq!(world.put(&header).await, Err((403, "M_FORBIDDEN".to_owned())), "{name}");
    }
    // Nor for a request that is for somebody else.
    world.put(&header_by(&key_of(2), server_name!("c.example"), server_name!("d.example"))).await.unwrap_err();
    assert_eq!(world.net.asked().len(), 0);
}

#[tokio::test]
async fn bodies_are_read_of_those_who_may_be_heard() {
    let world = World::new().await;
    let check = |header: &str| {
        let headers = if header.is_empty() { Vec::new() } else { vec![(AUTHORIZATION, header.parse().unwrap())] };
        let checked = world.auth.pre_check(&headers.into_iter().collect());
        checked.map_err(|error| (error.status().as_u16(), error.errcode().to_owned()))
    };
    let refused = |status, errcode: &str| Err((status, errcode.to_owned()));
    let own = server_name!("a.example");
    assert_eq!(check(&header()), Ok(()));
    assert_eq!(check(""), refused(401, "M_UNAUTHORIZED"));
    assert_eq!(check("X-Matrix origin"), refused(400, "M_UNAUTHORIZED"));
    assert_eq!(check(&header_by(&key_of(2), peer(), peer())), refused(401, "M_UNAUTHORIZED"));
    assert_eq!(check(&header_by(&key_of(2), server_name!("evil.example"), own)), refused(403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn a_server_whose_keys_are_not_found_is_nobody() {
    let world = World::new().await;
    assert_eq!(
        world.put(&header_by(&key_of(2), server_name!("c.example"), server_name!("a.example"))).await,
        unauthorized()
    );
    // Its keys end, and it does not answer any more.
    assert_eq!(world.put(&header()).await.unwrap(), peer());
    world.clock.advance_ms(7 * DAY_MS);
    world.net.fail(peer().as_str(), KEYS, hearth_ports::HttpError::TimedOut);
    assert_eq!(world.put(&header()).await.unwrap(), peer(), "the last millisecond");
    world.clock.advance_ms(1);
    assert_eq!(world.put(&header()).await, unauthorized());
}

#[tokio::test]
async fn a_server_that_was_set_up_anew_is_believed_again() {
    let world = World::new().await;
    assert_eq!(world.put(&header()).await.unwrap(), peer());
    let remade = header_by(&key_of(9), peer(), server_name!("a.example"));
    assert_eq!(world.put(&remade).await, unauthorized());
    world.publish(&key_of(9));
    assert_eq!(world.put(&remade).await.unwrap(), peer());
    assert_eq!(world.put(&header()).await, unauthorized());
    // Nobody can make us ask for keys without end.
    world.net.asked();
    for _ in 0..50 {
        assert_eq!(world.put(&header()).await, unauthorized());
    }
    assert!(world.net.asked().len() < 8);
}

#[tokio::test]
async fn strangers_who_keep_us_waiting_keep_nobody_out_who_is_known() {
    let world = World::new().await;
    assert_eq!(world.put(&header()).await.unwrap(), peer());
    world.net.name("c.example", &["192.0.2.3"]);
    world.net.hold();
    let headers: Vec<String> = (0..WAITING_MAX + 1)
        .map(|nth| {
            let stranger = OwnedServerName::try_from(format!("c.example:{}", 1 + nth)).unwrap();
            header_by(&key_of(3), &stranger, server_name!("a.example"))
        })
        .collect();
    let mut strangers = Box::pin(futures_util::future::join_all(headers.iter().map(|header| world.put(header))));
    assert!(strangers.as_mut().now_or_never().is_none());
    assert_eq!(world.put(&header()).await.unwrap(), peer());
    world.net.go_on();
    let refused = strangers.await;
    assert!(refused.iter().any(|result| matches!(result, Err((503, _)))), "there were more than may wait");
}

#[tokio::test]
async fn large_bodies_are_checked_too() {
    let world = World::new().await;
    let body = format!("{{\"pdus\":[\"{}\"]}}", "x".repeat(1 << 20));
    let request =
        Signed { method: "PUT", uri: URI, destination: server_name!("a.example"), content: Some(body.as_bytes()) };
    let header = xmatrix::sign(&key_of(2), peer(), &request).unwrap();
    assert_eq!(world.send(Method::PUT, URI, &header, body.as_bytes()).await.unwrap(), peer());
    assert_eq!(world.send(Method::PUT, URI, &header, body.replace('x', "y").as_bytes()).await, unauthorized());
}

#[tokio::test]
async fn who_speaks_is_no_longer_left_alone() {
    let world = World::new().await;
    world.put(&header()).await.unwrap();
    world.remote.note_failure(peer(), NOW_MS);
    assert!(world.remote.is_backing_off(peer()).is_some());
    world.put(&header().replace("sig=\"", "sig=\"x")).await.unwrap_err();
    assert!(world.remote.is_backing_off(peer()).is_some(), "anybody can say so");
    world.put(&header()).await.unwrap();
    assert_eq!(world.remote.is_backing_off(peer()), None);
}
