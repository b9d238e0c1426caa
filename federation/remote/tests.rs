//! Requests as they leave, and what follows from their answers.

use futures_util::FutureExt as _;
use hearth_core::{PublicKey, PublicKeys};
use hearth_ports::{ManualClock, SeededEntropy};
use ruma::server_name;
use serde_json::json;

use super::*;
use crate::{
    policy::ServerPattern,
    testing::{NOW_MS, Net, answer, clock},
    xmatrix::Claim,
};

const HOST: &str = "b.example:443";

struct World {
    net: Arc<Net>,
    clock: Arc<ManualClock>,
    remote: Arc<Remote>,
}

fn peer() -> &'static ServerName {
    server_name!("b.example:443")
}

impl World {
    fn new() -> Self {
        let (net, clock) = (Net::new(), clock());
        net.name("b.example", &["192.0.2.2"]);
        let policy = ServerPolicy {
            denied: vec![ServerPattern::parse("evil.example").unwrap()],
            ..ServerPolicy::open(server_name!("a.example").to_owned())
        };
        let (key, entropy) = (Arc::new(SigningKey::from_seed(&[1; 32], "k")), Arc::new(SeededEntropy::new(1)));
        let remote = Remote::new(key, policy, net.clone(), net.clone(), clock.clone(), entropy);
        Self { net, clock, remote }
    }

    async fn get(&self, urgency: Urgency) -> Result<Bytes, PeerError> {
        self.remote.send(peer(), Ask { urgency, ..ask(Method::GET, None) }).await
    }

    fn status(&self, status: u16) {
        self.net.respond(HOST, "/", move |_| Ok(answer(status, &[], "{}")));
    }
}

fn ask(method: Method, body: Option<&str>) -> Ask {
    Ask {
        method,
        path: "/_matrix/federation/v1/x?y=z".to_owned(),
        body: body.map(|body| Bytes::from(body.to_owned())),
        signed: true,
        urgency: Urgency::Routine,
        timeout_ms: 10_000,
        answer_bytes_max: 1_000,
    }
}

#[tokio::test]
async fn requests_are_signed_for_the_server_not_for_its_delegate() {
    let world = World::new();
    world.net.name("c.example", &["192.0.2.3"]);
    world.net.json("c.example", "/.well-known/matrix/server", &json!({ "m.server": HOST }));
    world.net.json(HOST, "/_matrix/", &json!({ "fine": true }));
    let body = r#"{"b":1,"a":2}"#;
    let answer = world.remote.send(server_name!("c.example"), ask(Method::PUT, Some(body))).await.unwrap();
    assert_eq!(answer, r#"{"fine":true}"#);

    let asked = world.net.asked().pop().unwrap();
    assert_eq!((asked.host.as_str(), asked.path.as_str()), (HOST, "/_matrix/federation/v1/x?y=z"));
    assert_eq!((asked.body, asked.target.tls_name.as_str()), (Bytes::from(body), "b.example"));
    assert_eq!(asked.headers[CONTENT_TYPE], "application/json");
    assert!(asked.headers[AUTHORIZATION].is_sensitive());
    let claim = Claim::read(&asked.headers).unwrap();
    assert_eq!(claim.destination.as_deref(), Some(server_name!("c.example")));
    let mut keys = PublicKeys::default();
    let bytes = SigningKey::from_seed(&[1; 32], "k").public_key();
    let key = PublicKey { bytes, valid_until_ms: NOW_MS };
    keys.insert(server_name!("a.example").to_owned(), "ed25519:k".to_owned(), key);
    let (uri, destination) = ("/_matrix/federation/v1/x?y=z", server_name!("c.example"));
    let signed = Signed { method: "PUT", uri, destination, content: Some(body.as_bytes()) };
    assert_eq!(claim.verify(&keys, &signed, NOW_MS), Ok(()));
}

#[tokio::test]
async fn without_a_signature_nothing_says_who_asks() {
    let world = World::new();
    world.status(200);
    world.remote.send(peer(), Ask { signed: false, ..ask(Method::GET, None) }).await.unwrap();
    let asked = world.net.asked().pop().unwrap();
    assert!(asked.headers.is_empty());
}

#[tokio::test]
async fn refusals_keep_the_servers_words() {
    let world = World::new();
    let body = json!({ "errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "x".repeat(2_000).to_string(), "room_version": "99" });
    let text = body.to_string();
    let small = Ask { answer_bytes_max: 5_000, ..ask(Method::GET, None) };
    world.net.respond(HOST, "/", move |_| Ok(answer(400, &[], &text)));
    let Err(PeerError::Refused { status, errcode, error, body: kept }) = world.remote.send(peer(), small).await else {
        panic!("it was refused");
    };
    assert_eq!((status, errcode.as_str(), error.len()), (400, "M_INCOMPATIBLE_ROOM_VERSION", WORDS_MAX));
    assert_eq!(kept, body.to_string());
    world.net.respond(HOST, "/", |_| Ok(answer(404, &[], "<html>")));
    let refused = world.get(Urgency::Routine).await;
    let words = ("M_UNKNOWN".to_owned(), "HTTP 404".to_owned());
    let wanted = PeerError::Refused { status: 404, errcode: words.0, error: words.1, body: Bytes::from("<html>") };
    assert_eq!(refused, Err(wanted));
    assert_eq!(world.remote.backoff(peer()), None);
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone() {
    for outage in
        [Err(HttpError::Unreachable("refused".to_owned())), Err(HttpError::TimedOut), Ok(502), Ok(503), Ok(522)]
    {
        let world = World::new();
        let fails = outage.clone();
        world.net.respond(HOST, "/", move |_| fails.clone().map(|status| answer(status, &[], "")));
        assert!(matches!(world.get(Urgency::Routine).await, Err(PeerError::Unreachable(_))), "{outage:?}");
        let until_ms = world.remote.is_backing_off(peer()).unwrap();
        assert!((NOW_MS + 750..=NOW_MS + 1_000).contains(&until_ms));
        world.net.asked();
        assert_eq!(world.get(Urgency::Routine).await, Err(PeerError::BackingOff { until_ms }));
        assert!(matches!(world.get(Urgency::Person).await, Err(PeerError::BackingOff { .. })));
        assert_eq!(world.net.asked().len(), 0);
        assert!(matches!(world.get(Urgency::Always).await, Err(PeerError::Unreachable(_))));
        assert_eq!(world.net.asked().len(), 1);

        world.clock.advance_ms(1_000);
        world.status(200);
        let mut alive = world.remote.subscribe_alive();
        world.get(Urgency::Routine).await.unwrap();
        assert_eq!((world.remote.backoff(peer()), alive.try_recv().unwrap().as_str()), (None, HOST));
    }
}

#[tokio::test]
async fn a_server_that_is_nowhere_is_left_alone_too() {
    let world = World::new();
    let gone = server_name!("gone.example:1");
    assert!(matches!(world.remote.send(gone, ask(Method::GET, None)).await, Err(PeerError::Unreachable(_))));
    assert!(world.remote.is_backing_off(gone).is_some());
}

#[tokio::test]
async fn one_broken_endpoint_is_no_broken_server() {
    let world = World::new();
    world.status(500);
    assert!(matches!(world.get(Urgency::Routine).await, Err(PeerError::Unreachable(_))));
    assert_eq!(world.remote.backoff(peer()), None);
    world.net.respond(HOST, "/", |_| Ok(answer(200, &[], &"x".repeat(2_000))));
    assert!(matches!(world.get(Urgency::Routine).await, Err(PeerError::Malformed(_))));
    assert_eq!(world.remote.backoff(peer()), None);
}

#[tokio::test]
async fn a_server_that_asks_for_time_gets_it() {
    for (headers, body, wait_ms) in [
        (&[("retry-after", "7")][..], "{}", 7_000),
        (&[], r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1234}"#, 1_234),
        (&[], "{}", 5_000),
        (&[("retry-after", "99999999999")], "{}", 3_600_000),
    ] {
        let world = World::new();
        world.net.respond(HOST, "/", move |_| Ok(answer(429, headers, body)));
        assert!(matches!(world.get(Urgency::Routine).await, Err(PeerError::Refused { status: 429, .. })));
        assert_eq!(world.remote.is_backing_off(peer()), Some(NOW_MS + wait_ms));
        assert_eq!(world.remote.backoff(peer()).unwrap().failures, 0);
        // Also from people, and though it asks us something.
        world.remote.heard_from(peer());
        let until_ms = NOW_MS + wait_ms;
        assert_eq!(world.get(Urgency::Person).await, Err(PeerError::BackingOff { until_ms }));
        assert_eq!(world.remote.asked_to_wait_until(peer()), Some(until_ms));
        world.clock.advance_ms(wait_ms);
        world.status(200);
        world.get(Urgency::Routine).await.unwrap();
        assert_eq!(world.remote.backoff(peer()), None);
    }
}

#[tokio::test]
async fn who_is_heard_is_tried_again() {
    let world = World::new();
    world.status(503);
    world.get(Urgency::Routine).await.unwrap_err();
    world.remote.heard_from(peer());
    assert_eq!(world.remote.is_backing_off(peer()), None);
    world.remote.note_failure(peer(), NOW_MS);
    assert!(world.remote.is_backing_off(peer()).is_some());
    world.remote.note_success(peer());
    assert_eq!(world.remote.is_backing_off(peer()), None);
}

#[tokio::test]
async fn the_operator_decides_with_whom_we_talk() {
    let world = World::new();
    for name in ["evil.example", "evil.example:443", "a.example"] {
        let name = <&ServerName>::try_from(name).unwrap();
        assert_eq!(world.remote.send(name, ask(Method::GET, None)).await, Err(PeerError::Denied), "{name}");
    }
    assert_eq!((world.net.asked().len(), world.net.looked_up().len()), (0, 0));
    world.net.fail(HOST, "/", HttpError::Denied("10.0.0.1 is private".to_owned()));
    assert_eq!(world.get(Urgency::Routine).await, Err(PeerError::Denied));
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_is_asked_so_often_at_once_and_not_waited_for() {
    let world = World::new();
    world.status(200);
    world.net.hold();
    let mut many = Box::pin(futures_util::future::join_all((0..40).map(|_| world.get(Urgency::Routine))));
    assert!(many.as_mut().now_or_never().is_none());
    assert_eq!(world.net.asked().len(), REQUESTS_PER_SERVER);
    let answers = many.await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(PeerError::Unreachable(_)))));
    assert_eq!(world.remote.backoff(peer()).unwrap().failures, 1, "it is one outage");
}

#[tokio::test(start_paused = true)]
async fn that_a_web_port_is_silent_is_learnt_however_short_the_time_of_each_who_asks() {
    let world = World::new();
    // It federates on 8448; its firewall drops what comes to 443, where its well-known document would be.
    world.net.name("c.example", &["192.0.2.3"]);
    world.net.silence("c.example", 443);
    world.net.json("c.example", "/_matrix/", &json!({ "fine": true }));
    let get = async || {
        let ask = Ask { timeout_ms: 3_000, urgency: Urgency::Always, ..ask(Method::GET, None) };
        world.remote.send(server_name!("c.example"), ask).await
    };
    assert!(matches!(get().await, Err(PeerError::Unreachable(_))));
    assert_eq!(get().await.unwrap(), r#"{"fine":true}"#);
    let at_443 = world.net.asked().iter().filter(|request| request.path.starts_with("/.well-known")).count();
    assert_eq!(at_443, 1, "both waited for one request");
}
