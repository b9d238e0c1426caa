//! Whole servers that find each other, over a network in memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod network;

use std::sync::Arc;

use axum::{Router, body::Body};
use hearth_server::Apis;
use http::Request;
use http_body_util::BodyExt as _;
use network::{Network, ask, log_in};
use ruma::ServerName;
use serde_json::{Value, json};
use tower::ServiceExt as _;

async fn status(router: &Router, path: &str) -> u16 {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    router.clone().oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn servers_find_each_other() {
    let network = Arc::new(Network::default());
    let (a, _b) = (network.start("a.example", 1, true).await, network.start("b.example", 2, true).await);
    let text = a.federation().unwrap().check(<&ServerName>::try_from("b.example").unwrap()).await;
    for line in [
        "looked up   /.well-known/matrix/server: b.example:443",
        "certificate for b.example, Host: b.example:443",
        "version     hearth ",
        "ed25519:1: valid for 1 d 0 h, heard just now",
        "back-off    none",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let gone = a.federation().unwrap().check(<&ServerName>::try_from("c.example").unwrap()).await;
    assert!(gone.contains("version     none: "), "{gone}");
}

#[tokio::test]
async fn a_server_vouches_for_the_keys_of_another() {
    let network = Arc::new(Network::default());
    let (a, _b) = (network.start("a.example", 1, true).await, network.start("b.example", 2, true).await);
    let request = Request::builder().uri("/_matrix/key/v2/query/b.example").body(Body::empty()).unwrap();
    let answer = a.router().oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let keys = &answer["server_keys"][0];
    assert_eq!(keys["server_name"], "b.example");
    for signer in ["a.example", "b.example"] {
        assert!(keys["signatures"][signer]["ed25519:1"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn a_listener_serves_what_it_is_for() {
    let network = Arc::new(Network::default());
    let server = network.start("a.example", 1, true).await;
    let (client, federation) = ("/_matrix/client/versions", "/_matrix/federation/v1/version");
    let for_all = ["/health", "/.well-known/matrix/server"];
    for (apis, client_status, federation_status) in [
        (Apis { client: true, federation: true }, 200, 200),
        (Apis { client: true, federation: false }, 200, 404),
        (Apis { client: false, federation: true }, 404, 200),
    ] {
        let router = server.router_of(apis);
        assert_eq!(status(&router, client).await, client_status, "{apis:?}");
        assert_eq!(status(&router, federation).await, federation_status, "{apis:?}");
        assert_eq!(status(&router, "/_matrix/key/v2/server").await, federation_status, "{apis:?}");
        for path in for_all {
            assert_eq!(status(&router, path).await, 200, "{apis:?} {path}");
        }
    }
    let alone = network.start("b.example", 2, false).await;
    assert_eq!(status(&alone.router(), federation).await, 404);
    assert!(alone.federation().is_none());
}

#[tokio::test]
async fn keys_are_found_and_claimed_across_servers() {
    let network = Arc::new(Network::default());
    let (a, b) = (network.start("a.example", 1, true).await, network.start("b.example", 2, true).await);
    let (alice, bob) = (log_in(&a, "alice", "A").await, log_in(&b, "bob", "B").await);
    let me = "@alice:a.example";
    let keys = json!({ "user_id": me, "device_id": "A", "algorithms": [], "keys": {}, "signatures": {} });
    let upload = json!({
        "device_keys": keys, "one_time_keys": { "c:1": "once" }, "fallback_keys": { "c:f": { "key": "often" } },
    });
    let counts = ask(&a, "POST", "keys/upload", &alice, upload).await;
    assert_eq!(counts, json!({ "one_time_key_counts": { "c": 1, "signed_curve25519": 0 } }));
    let left = async || {
        let sync = ask(&a, "GET", "sync", &alice, Value::Null).await;
        (sync["device_one_time_keys_count"].clone(), sync["device_unused_fallback_key_types"].clone())
    };
    assert_eq!(left().await, (json!({ "c": 1, "signed_curve25519": 0 }), json!(["c"])));

    let wanted = json!({ "device_keys": { me: [], "@x:nowhere.example": [] } });
    let query = ask(&b, "POST", "keys/query", &bob, wanted).await;
    let mut expected = keys;
    expected["unsigned"] = json!({});
    assert_eq!(query["device_keys"], json!({ me: { "A": expected } }));
    assert_eq!(query["failures"].as_object().unwrap().keys().collect::<Vec<_>>(), ["nowhere.example"]);
    let claim = async || {
        let wanted = json!({ "one_time_keys": { me: { "A": "c" } } });
        ask(&b, "POST", "keys/claim", &bob, wanted).await["one_time_keys"][me]["A"].clone()
    };
    assert_eq!(claim().await, json!({ "c:1": "once" }));
    assert_eq!(left().await, (json!({ "signed_curve25519": 0 }), json!(["c"])));
    assert_eq!(claim().await, json!({ "c:f": { "key": "often" } }));
    assert_eq!(claim().await, json!({ "c:f": { "key": "often" } }));
    assert_eq!(left().await, (json!({ "signed_curve25519": 0 }), json!([])));
}
