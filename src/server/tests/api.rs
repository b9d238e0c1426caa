//! A whole server over the in-memory engine, asked over HTTP.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hearth_client::{ClientSettings, WellKnown};
use hearth_core::{RoomVersion, SigningKey};
use hearth_edge::{Access, EdgeSettings, LimitSettings};
use hearth_ports::{ManualClock, NoNetwork, SeededEntropy, mem::MemEngine};
use hearth_rooms::RoomsSettings;
use hearth_search::PeopleSettings;
use hearth_server::{Ports, Server, ServerSettings};
use hearth_store::StoreSettings;
use hearth_sync::SyncSettings;
use hearth_users::{PasswordSettings, Registration, RegistrationToken, UserSettings};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use ruma::{OwnedServerName, server_name, user_id};
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// A world that servers come and go in.
struct World {
    engine: Arc<MemEngine>,
    clock: Arc<ManualClock>,
}

/// A device that is logged in.
struct Device<'a> {
    router: &'a Router,
    token: String,
}

impl World {
    fn new() -> Self {
        Self { engine: MemEngine::new(), clock: Arc::new(ManualClock::at_ms(1_700_000_000_000)) }
    }

    async fn start(&self, seed: u64) -> Server {
        self.start_with(seed, settings()).await
    }

    async fn start_with(&self, seed: u64, settings: ServerSettings) -> Server {
        let ports = Ports {
            engine: self.engine.clone(),
            clock: self.clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed)),
            http: Arc::new(NoNetwork),
            resolver: Arc::new(NoNetwork),
        };
        Server::start(settings, ports, SigningKey::from_seed(&[7; 32], "1")).await.unwrap()
    }
}

fn settings() -> ServerSettings {
    let server_name: OwnedServerName = server_name!("example.org").to_owned();
    let passwords = PasswordSettings { argon2_memory_kib: 8, argon2_iterations: 1, ..PasswordSettings::default() };
    let registration = Registration::Open;
    ServerSettings {
        store: StoreSettings::default(),
        users: UserSettings { registration, guests: true, passwords, ..UserSettings::new(server_name.clone()) },
        rooms: RoomsSettings::default(),
        syncs: SyncSettings::default(),
        people: PeopleSettings::default(),
        client: ClientSettings {
            server_name: server_name.clone(),
            default_room_version: RoomVersion::DEFAULT,
            public_rooms_without_auth: false,
            well_known: WellKnown::default(),
        },
        edge: EdgeSettings { limits: LimitSettings { enabled: false, rates: Vec::new() }, ..EdgeSettings::default() },
        federation: None,
        registration_tokens: Vec::new(),
        server_name,
    }
}

async fn send(router: &Router, method: Method, path: &str, token: &str, body: &[u8]) -> (StatusCode, Value) {
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Body::from(body.to_vec())).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

impl<'a> Device<'a> {
    async fn register(router: &'a Router, name: &str) -> Self {
        let body = json!({ "username": name, "password": "correct horse", "auth": { "type": "m.login.dummy" } });
        let path = "/_matrix/client/v3/register";
        let (status, answer) = send(router, Method::POST, path, "", body.to_string().as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
        Self { router, token: answer["access_token"].as_str().unwrap().to_owned() }
    }

    /// A request that must succeed.
    async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let body = if method == Method::GET { Vec::new() } else { body.to_string().into_bytes() };
        let path = format!("/_matrix/client/v3/{path}");
        let (status, answer) = send(self.router, method, &path, &self.token, &body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }
}

/// A path with something for each variable.
fn fill(path: &str, value: &str) -> String {
    let segments = path.split('/').map(|segment| if segment.starts_with('{') { value } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn no_route_answers_a_stranger_unless_it_says_so() {
    let server = World::new().start(1).await;
    let router = server.router();
    for route in hearth_client::routes() {
        for path in route.paths() {
            let filled = fill(path, "x");
            let (status, answer) = send(&router, route.method().clone(), &filled, "", b"{}").await;
            let errcode = answer["errcode"].as_str().unwrap_or_default();
            match route.access() {
                Access::Public | Access::Optional => assert!(status.as_u16() < 500, "{path}: {answer}"),
                Access::User | Access::UserOrGuest | Access::Admin => {
                    assert_eq!((status.as_u16(), errcode), (401, "M_MISSING_TOKEN"), "{path}");
                }
                Access::Server => unreachable!("clients are no servers"),
            }
            let (status, answer) = send(&router, Method::PATCH, &filled, "", b"").await;
            assert_eq!((status.as_u16(), &answer["errcode"]), (405, &json!("M_UNRECOGNIZED")), "{path}");
        }
    }
}

#[tokio::test]
async fn no_input_is_our_fault() {
    let world = World::new();
    let server = world.start(1).await;
    let router = server.router();
    let bodies: [&[u8]; 9] = [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"{\"a\":1e400}",
        b"{\"user_id\":7,\"type\":[],\"room_id\":{},\"limit\":-1}",
        b"{\"auth\":{\"type\":\"m.login.password\",\"session\":{}},\"password\":\"\"}",
    ];
    let names = ["x", "%00", "@alice:example.org", "!x:example.org", "%23x:example.org", "%F0%9F%98%80", "-1"];
    let queries = [
        "",
        "?limit=-1&from=x&since=x&timeout=0&filter=%7B&dir=q&at=x",
        "?limit=99999999999999999999&ts=-1&dir=b&timeout=0",
    ];
    for (number, route) in hearth_client::routes().into_iter().enumerate() {
        // Some of them end the session, so each route has its own.
        let device = Device::register(&router, &format!("user{number}")).await;
        let path = route.paths().next().unwrap().to_owned();
        for (name, body) in names.iter().flat_map(|name| bodies.iter().map(move |body| (name, body))) {
            let query = queries[(name.len() + body.len()) % queries.len()];
            let filled = format!("{}{query}", fill(&path, name));
            let (status, answer) = send(&router, route.method().clone(), &filled, &device.token, body).await;
            let body = String::from_utf8_lossy(body);
            assert!(status.as_u16() < 500, "{} {filled} {body}: {status} {answer}", route.method());
        }
    }
}

#[tokio::test]
async fn what_is_not_built_is_not_there() {
    let server = World::new().start(1).await;
    let router = server.router();
    for path in ["/", "/_matrix/federation/v1/version", "/_matrix/media/v3/config", "/_matrix/client/v3/search"] {
        let (status, answer) = send(&router, Method::GET, path, "", b"").await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (404, &json!("M_UNRECOGNIZED")), "{path}");
    }
}

#[tokio::test]
async fn the_room_directory_is_for_strangers_only_where_it_is_meant_to_be() {
    let path = "/_matrix/client/v3/publicRooms";
    for without_auth in [false, true] {
        let mut settings = settings();
        settings.client.public_rooms_without_auth = without_auth;
        let server = World::new().start_with(1, settings).await;
        let router = server.router();
        let alice = Device::register(&router, "alice").await;
        alice.ask(Method::POST, "createRoom", json!({ "visibility": "public" })).await;
        let (status, answer) = send(&router, Method::GET, path, "", b"").await;
        if without_auth {
            assert_eq!((status.as_u16(), &answer["total_room_count_estimate"]), (200, &json!(1)), "{answer}");
        } else {
            assert_eq!((status.as_u16(), &answer["errcode"]), (401, &json!("M_MISSING_TOKEN")));
        }
        let (status, answer) = send(&router, Method::GET, path, "nonsense", b"").await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
        let found = alice.ask(Method::GET, "publicRooms", Value::Null).await;
        assert_eq!(found["total_room_count_estimate"], 1);
    }
}

#[tokio::test]
async fn who_wants_no_invites_gets_none() {
    let server = World::new().start(1).await;
    let router = server.router();
    let (alice, bob) = (Device::register(&router, "alice").await, Device::register(&router, "bob").await);
    let early = alice.ask(Method::POST, "createRoom", json!({ "invite": ["@bob:example.org"] })).await;
    let early = early["room_id"].as_str().unwrap();
    let sync = bob.ask(Method::GET, "sync", json!({})).await;
    assert!(sync["rooms"]["invite"][early].is_object(), "{sync}");

    let config = "user/@bob:example.org/account_data/m.invite_permission_config";
    bob.ask(Method::PUT, config, json!({ "default_action": "block" })).await;
    let sync = bob.ask(Method::GET, "sync", json!({})).await;
    assert!(sync["rooms"]["invite"][early].is_null(), "an invite from before is not shown: {sync}");
    let room = alice.ask(Method::POST, "createRoom", json!({})).await;
    let room = room["room_id"].as_str().unwrap();
    let attempts = [
        (Method::POST, "createRoom".to_owned(), json!({ "invite": ["@bob:example.org"] })),
        (Method::POST, format!("rooms/{room}/invite"), json!({ "user_id": "@bob:example.org" })),
        (Method::PUT, format!("rooms/{room}/state/m.room.member/@bob:example.org"), json!({ "membership": "invite" })),
    ];
    for (method, path, body) in &attempts {
        let full = format!("/_matrix/client/v3/{path}");
        let (status, answer) = send(&router, method.clone(), &full, &alice.token, body.to_string().as_bytes()).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (403, &json!("M_INVITE_BLOCKED")), "{path}");
    }

    bob.ask(Method::PUT, config, json!({})).await;
    let [_, (method, path, body), _] = attempts;
    alice.ask(method, &path, body).await;
    let sync = bob.ask(Method::GET, "sync", json!({})).await;
    assert!(sync["rooms"]["invite"][room].is_object(), "{sync}");
}

#[tokio::test]
async fn a_conversation_survives_a_restart() {
    let world = World::new();
    let (first, token, room, event);
    {
        let server = world.start(1).await;
        let router = server.router();
        let alice = Device::register(&router, "alice").await;
        let bob = Device::register(&router, "bob").await;
        let made = alice.ask(Method::POST, "createRoom", json!({ "invite": ["@bob:example.org"] })).await;
        room = made["room_id"].as_str().unwrap().to_owned();
        bob.ask(Method::POST, &format!("join/{room}"), json!({})).await;
        let since = bob.ask(Method::GET, "sync", Value::Null).await["next_batch"].as_str().unwrap().to_owned();
        world.clock.advance_ms(1_000);
        let sent =
            alice.ask(Method::PUT, &format!("rooms/{room}/send/m.room.message/1"), json!({ "body": "hello" })).await;
        event = sent["event_id"].clone();
        (first, token) = (since, bob.token);
        server.stop();
    }
    let server = world.start(2).await;
    let router = server.router();
    let bob = Device { router: &router, token };
    let news = bob.ask(Method::GET, &format!("sync?since={first}&timeout=0"), Value::Null).await;
    let timeline = &news["rooms"]["join"][&room]["timeline"];
    assert_eq!(timeline["events"].as_array().unwrap().len(), 1, "{news}");
    assert_eq!(timeline["events"][0]["event_id"], event);
    let next = news["next_batch"].as_str().unwrap();
    let news = bob.ask(Method::GET, &format!("sync?since={next}&timeout=0"), Value::Null).await;
    assert_eq!(news["rooms"]["join"].get(&room), None, "nothing is told twice");
}

#[tokio::test]
async fn a_departure_that_a_crash_cut_short_is_finished_by_the_next_server() {
    let world = World::new();
    let (token, mut since);
    {
        let server = world.start(1).await;
        let router = server.router();
        let (alice, bob) = (Device::register(&router, "alice").await, Device::register(&router, "bob").await);
        let carol = Device::register(&router, "carol").await;
        for number in 0..4 {
            let wish = json!({ "invite": ["@bob:example.org", "@carol:example.org"] });
            let made = alice.ask(Method::POST, "createRoom", wish).await;
            let join = format!("join/{}", made["room_id"].as_str().unwrap());
            // One of the rooms bob was only invited to.
            if number > 0 {
                bob.ask(Method::POST, &join, json!({})).await;
            }
            carol.ask(Method::POST, &join, json!({})).await;
        }
        let auth = json!({ "type": "m.login.password", "user": "carol", "password": "correct horse" });
        carol.ask(Method::POST, "account/deactivate", json!({ "auth": auth })).await;
        assert_eq!(server.users().departures(None, 10).await.unwrap(), [], "whoever asked for it has done it");
        since = alice.ask(Method::GET, "sync", Value::Null).await["next_batch"].as_str().unwrap().to_owned();
        token = alice.token;
        // The process ends right behind the commit.
        server.users().deactivate(user_id!("@bob:example.org"), false).await.unwrap();
        assert_eq!(server.users().departures(None, 10).await.unwrap().len(), 1);
        server.stop();
    }
    tokio::time::pause();
    let mut left = Vec::new();
    // The last of these has nothing left to do.
    for (seed, rounds) in [(2, 8), (3, 2)] {
        let server = world.start(seed).await;
        let router = server.router();
        let alice = Device { router: &router, token: token.clone() };
        for _ in 0..rounds {
            let news = alice.ask(Method::GET, &format!("sync?since={since}&timeout=10000"), Value::Null).await;
            since = news["next_batch"].as_str().unwrap().to_owned();
            for (room, changes) in news["rooms"]["join"].as_object().into_iter().flatten() {
                for event in changes["timeline"]["events"].as_array().unwrap() {
                    assert_eq!(
                        (&event["sender"], &event["content"]["membership"]),
                        (&json!("@bob:example.org"), &json!("leave"))
                    );
                    left.push(room.clone());
                }
            }
        }
        assert_eq!(server.users().departures(None, 10).await.unwrap(), []);
    }
    let count = left.len();
    left.sort();
    left.dedup();
    assert_eq!((left.len(), count), (4, 4), "once each");
}

#[tokio::test]
async fn a_registration_token_admits_one_account_however_often_it_is_asked_for() {
    let mut settings = settings();
    settings.users.registration = Registration::Token;
    let server = World::new().start_with(1, settings).await;
    let router = server.router();
    let token = RegistrationToken { token: "token".to_owned(), uses: Some(1), expires_ts_ms: None };
    server.users().put_registration_token(&token).await.unwrap();
    let ask = async |name: &str, auth: Value| {
        let body = json!({ "username": name, "password": "correct horse", "auth": auth });
        let path = "/_matrix/client/v3/register";
        let (status, answer) = send(&router, Method::POST, path, "", body.to_string().as_bytes()).await;
        (status.as_u16(), answer)
    };
    let auth = |session: &Value| json!({ "type": "m.login.registration_token", "token": "token", "session": session });
    let (status, challenge) = ask("alice", Value::Null).await;
    assert_eq!(status, 401, "{challenge}");
    for _ in 0..2 {
        let (status, answer) = ask("alice", auth(&challenge["session"])).await;
        assert_eq!((status, &answer["user_id"]), (200, &json!("@alice:example.org")), "{answer}");
    }
    let (status, answer) = ask("alice", auth(&Value::Null)).await;
    assert_eq!((status, &answer["errcode"]), (400, &json!("M_USER_IN_USE")));
    let (status, answer) = ask("bob", auth(&Value::Null)).await;
    assert_eq!((status, &answer["errcode"]), (401, &json!("M_UNAUTHORIZED")), "{answer}");
}

#[tokio::test]
async fn presence_follows_what_is_sent() {
    let server = World::new().start(1).await;
    let router = server.router();
    let alice = Device::register(&router, "alice").await;
    let room = alice.ask(Method::POST, "createRoom", json!({})).await;
    let room = room["room_id"].as_str().unwrap();
    let message =
        alice.ask(Method::PUT, &format!("rooms/{room}/send/m.room.message/1"), json!({ "body": "hello" })).await;
    let message = message["event_id"].as_str().unwrap();
    let status = "presence/@alice:example.org/status";
    alice.ask(Method::PUT, status, json!({ "presence": "online" })).await;
    tokio::time::pause();
    for (path, body) in [
        (format!("rooms/{room}/send/m.room.message/2"), json!({ "body": "again" })),
        (format!("rooms/{room}/state/m.room.topic"), json!({ "topic": "of the day" })),
        (format!("rooms/{room}/redact/{message}/3"), json!({})),
    ] {
        // Somebody is active for a minute, and a client that does not sync is offline after half of one.
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            alice.ask(Method::GET, "sync?timeout=0", Value::Null).await;
        }
        let presence = alice.ask(Method::GET, status, Value::Null).await;
        assert!(presence["last_active_ago"].as_u64().unwrap() >= 100_000, "{path}: {presence}");
        assert_eq!((&presence["presence"], &presence["currently_active"]), (&json!("online"), &json!(false)));
        alice.ask(Method::PUT, &path, body).await;
        let presence = alice.ask(Method::GET, status, Value::Null).await;
        assert!(presence["last_active_ago"].as_u64().unwrap() < 1_000, "{path}: {presence}");
        assert_eq!((&presence["presence"], &presence["currently_active"]), (&json!("online"), &json!(true)));
    }
}

#[tokio::test]
async fn a_server_that_stops_answers_those_who_wait() {
    let server = World::new().start(1).await;
    let router = server.router();
    let alice = Device::register(&router, "alice").await;
    let since = alice.ask(Method::GET, "sync", Value::Null).await["next_batch"].as_str().unwrap().to_owned();
    let path = format!("/_matrix/client/v3/sync?since={since}&timeout=100000");
    let (waiting, token) = (router.clone(), alice.token.clone());
    let poll = tokio::spawn(async move { send(&waiting, Method::GET, &path, &token, b"").await });
    assert_eq!(send(&router, Method::GET, "/ready", "", b"").await.0, 200);
    server.stop();
    let (status, answer) = poll.await.unwrap();
    assert_eq!(status, 200);
    assert!(answer["next_batch"].is_string());
    assert_eq!(send(&router, Method::GET, "/ready", "", b"").await.0, 503);
    assert_eq!(send(&router, Method::GET, "/health", "", b"").await.0, 200);
}

#[tokio::test]
async fn those_who_wait_do_not_keep_others_out() {
    let mut settings = settings();
    settings.edge.requests_max = 1;
    let server = World::new().start_with(1, settings).await;
    let router = server.router();
    let alice = Device::register(&router, "alice").await;
    let since = alice.ask(Method::GET, "sync", Value::Null).await["next_batch"].as_str().unwrap().to_owned();
    let path = format!("/_matrix/client/v3/sync?since={since}&timeout=100000");
    tokio::time::pause();
    let mut polls = Vec::new();
    for _ in 0..3 {
        let (waiting, path, token) = (router.clone(), path.clone(), alice.token.clone());
        polls.push(tokio::spawn(async move { send(&waiting, Method::GET, &path, &token, b"").await }));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    alice.ask(Method::POST, "createRoom", json!({})).await;
    for poll in polls {
        let (status, answer) = poll.await.unwrap();
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["rooms"]["join"].as_object().map(serde_json::Map::len), Some(1), "{answer}");
    }
}
