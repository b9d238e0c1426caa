//! Requests as they leave, answers as they are taken apart.

use std::sync::Arc;

use hearth_core::SigningKey;
use hearth_ports::{HttpRequest, SeededEntropy, mem::MemEngine};
use hearth_store::{Store, StoreSettings};
use http::StatusCode;
use ruma::{event_id, owned_event_id, room_alias_id, room_id, server_name, user_id};
use serde_json::Value;

use super::*;
use crate::{
    keys::{KeyRingSettings, OwnKeys},
    policy::ServerPolicy,
    testing::{Net, answer, clock},
};

const HOST: &str = "b.example:1";

fn room() -> &'static RoomId {
    room_id!("!r/o:b.example:1")
}

fn target() -> &'static EventId {
    event_id!("$e+v/1")
}

async fn peers(net: &Arc<Net>) -> Arc<FederationPeers> {
    net.name("b.example", &["192.0.2.2"]);
    let own = server_name!("a.example").to_owned();
    let (key, clock) = (Arc::new(SigningKey::from_seed(&[1; 32], "k")), clock());
    let store = Store::open(MemEngine::new(), StoreSettings::default()).await.unwrap();
    let own_keys = Arc::new(OwnKeys::new(own.clone(), Arc::clone(&key), Vec::new(), clock.clone()));
    let entropy = Arc::new(SeededEntropy::new(1));
    let remote = Remote::new(key, ServerPolicy::open(own), net.clone(), net.clone(), clock.clone(), entropy);
    let keys = KeyRing::new(own_keys, Arc::clone(&remote), store, clock, KeyRingSettings::default());
    FederationPeers::new(remote, keys, PeersSettings { state_bytes_max: 4 << 20 })
}

/// A server that answers everything with this, and what it was asked.
async fn with_answer(body: &str) -> (Arc<Net>, Arc<FederationPeers>) {
    let (net, body) = (Net::new(), body.to_owned());
    let peers = peers(&net).await;
    net.respond(HOST, "/", move |_| Ok(answer(200, &[], &body)));
    (net, peers)
}

fn only(net: &Net) -> HttpRequest {
    let mut asked = net.asked();
    assert_eq!(asked.len(), 1);
    asked.remove(0)
}

fn line(request: &HttpRequest) -> String {
    let path = request.path.strip_prefix("/_matrix/federation/").unwrap();
    format!("{} {path} {}", request.method, String::from_utf8_lossy(&request.body))
}

fn peer() -> &'static ServerName {
    server_name!("b.example:1")
}

fn event(version: RoomVersion) -> Event {
    let json = r#"{"content":{"membership":"join"},"depth":1,"origin_server_ts":1,"prev_events":[],"auth_events":[],"room_id":"!r/o:b.example:1","sender":"@alice:a.example","state_key":"@alice:a.example","type":"m.room.member"}"#;
    Event::parse_stored(version, target().to_owned(), room().to_owned(), Bytes::from_static(json.as_bytes())).unwrap()
}

fn text(events: &[EventBytes]) -> Vec<&str> {
    events.iter().map(|event| std::str::from_utf8(event).unwrap()).collect()
}

#[tokio::test]
async fn templates() {
    let (net, peers) = with_answer(r#"{"room_version":"10","event":{"a": [1]}}"#).await;
    let (user, versions) = (user_id!("@alice:a.example"), [RoomVersion::V9, RoomVersion::V10]);
    let template = peers.make_member(peer(), Handshake::Join, room(), user, &versions).await.unwrap();
    assert_eq!((template.version, &template.event[..]), (RoomVersion::V10, &br#"{"a": [1]}"#[..]));
    let path = "v1/make_join/%21r%2Fo%3Ab.example%3A1/%40alice%3Aa.example?ver=9&ver=10";
    assert_eq!(line(&only(&net)), format!("GET {path} "));
    peers.make_member(peer(), Handshake::Knock, room(), user, &versions).await.unwrap();
    assert_eq!(line(&only(&net)), format!("GET {} ", path.replace("join", "knock")));
    peers.make_member(peer(), Handshake::Leave, room(), user, &versions).await.unwrap();
    assert_eq!(line(&only(&net)), "GET v1/make_leave/%21r%2Fo%3Ab.example%3A1/%40alice%3Aa.example ");

    let (_, peers) = with_answer(r#"{"event":{}}"#).await;
    assert_eq!(peers.make_member(peer(), Handshake::Join, room(), user, &[]).await.unwrap().version, RoomVersion::V1);
    for wrong in [r#"{"room_version":"99","event":{}}"#, r#"{"room_version":10,"event":{}}"#, "{}", "[]", "", "{"] {
        let (_, peers) = with_answer(wrong).await;
        let template = peers.make_member(peer(), Handshake::Join, room(), user, &[]).await;
        assert!(matches!(template, Err(PeerError::Malformed(_))), "{wrong}");
    }
}

#[tokio::test]
async fn joins() {
    let body = r#"{"origin":"b.example:1","state":[{"s":1}, {"s":2}],"auth_chain":[ {"a":1}],"event":{"e":1},
        "members_omitted":true,"servers_in_room":["b.example:1","no server","c.example"]}"#;
    let (net, peers) = with_answer(body).await;
    let event = event(RoomVersion::V10);
    let join = Peers::send_join(&*peers, peer(), &event, true).await.unwrap();
    assert_eq!((text(&join.state), text(&join.auth_chain)), (vec![r#"{"s":1}"#, r#"{"s":2}"#], vec![r#"{"a":1}"#]));
    assert_eq!((join.event.as_deref(), join.members_omitted), (Some(&br#"{"e":1}"#[..]), true));
    assert_eq!(join.servers_in_room, ["b.example:1", "c.example"]);
    let asked = only(&net);
    assert_eq!(asked.body, *event.json());
    assert_eq!(asked.path, "/_matrix/federation/v2/send_join/%21r%2Fo%3Ab.example%3A1/%24e%2Bv%2F1?omit_members=true");

    let (_, peers) = with_answer(r#"{"state":[],"auth_chain":[],"event":null}"#).await;
    let join = Peers::send_join(&*peers, peer(), &event, false).await.unwrap();
    assert!(join.event.is_none() && !join.members_omitted && join.servers_in_room.is_empty());
    let deep = format!(r#"{{"state":[{}{}],"auth_chain":[]}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let (_, peers) = with_answer(&deep).await;
    assert_eq!(Peers::send_join(&*peers, peer(), &event, false).await.unwrap().state[0].len(), 200_000);
    for wrong in [
        r#"{"state":[],"auth_chain":[],"members_omitted":true}"#,
        r#"{"state":[{}]}"#,
        r#"{"state":{},"auth_chain":[]}"#,
        r#"{"state":[],"state":[],"auth_chain":[]}"#,
        &format!(r#"{{"state":[{}1],"auth_chain":[]}}"#, "1,".repeat(500_000)),
        &" ".repeat(5 << 20),
    ] {
        let (_, peers) = with_answer(wrong).await;
        let join = Peers::send_join(&*peers, peer(), &event, false).await;
        assert!(matches!(join, Err(PeerError::Malformed(_))), "{wrong:.100}");
    }
}

/// A server of another age: it knows the first version of an endpoint only.
async fn of_old(body: &'static str, unknown: &'static str) -> (Arc<Net>, Arc<FederationPeers>) {
    let net = Net::new();
    let peers = peers(&net).await;
    net.respond(HOST, "/_matrix/federation/v1/", move |_| Ok(answer(200, &[], body)));
    net.respond(HOST, "/_matrix/federation/v2/", move |_| Ok(answer(404, &[], unknown)));
    (net, peers)
}

#[tokio::test]
async fn servers_of_old() {
    for unknown in [r#"{"errcode":"M_UNRECOGNIZED","error":"?"}"#, "<html>404</html>"] {
        let event = event(RoomVersion::V1);
        let (net, peers) = of_old(r#"[200, {"state":[{"s":1}],"auth_chain":[]}]"#, unknown).await;
        let join = Peers::send_join(&*peers, peer(), &event, true).await.unwrap();
        assert_eq!(text(&join.state), [r#"{"s":1}"#]);
        assert!(net.asked()[1].path.starts_with("/_matrix/federation/v1/send_join/%21r%2Fo%3Ab.example%3A1/%24"));
        let (_, peers) = of_old("[200, {}]", unknown).await;
        Peers::send_leave(&*peers, peer(), &event).await.unwrap();

        let (net, peers) = of_old(r#"[200, {"event":{"e":1}}]"#, unknown).await;
        let state = vec![Bytes::from_static(b"{\"s\":1}")];
        assert_eq!(peers.invite(peer(), &event, state.clone()).await.unwrap(), r#"{"e":1}"#);
        let sent: Value = serde_json::from_slice(&net.asked()[1].body).unwrap();
        assert_eq!(
            (&sent["type"], &sent["unsigned"]),
            (&json!("m.room.member"), &json!({ "invite_room_state": [{ "s": 1 }] }))
        );
        let (_, peers) = of_old(r#"[200, {"event":{"e":1}}]"#, unknown).await;
        let refused = peers.invite(peer(), &super::tests::event(RoomVersion::V3), state).await;
        assert!(
            matches!(refused, Err(PeerError::Refused { status: 404, .. })),
            "the old endpoint cannot name the version"
        );
    }
    let not_found = r#"{"errcode":"M_NOT_FOUND","error":"?"}"#;
    let (_, peers) = of_old(r#"[200, {"event":{"e":1}}]"#, not_found).await;
    let invited = peers.invite(peer(), &event(RoomVersion::V2), Vec::new()).await;
    assert_eq!(invited.unwrap(), r#"{"e":1}"#, "whatever words it has for it");
    // One that is no older, and only does not want it.
    let (net, peers) = of_old("", not_found).await;
    net.respond(HOST, "/_matrix/federation/v1/", |_| Ok(answer(404, &[], r#"{"errcode":"M_UNRECOGNIZED"}"#)));
    let refused = peers.invite(peer(), &event(RoomVersion::V2), Vec::new()).await;
    assert!(matches!(refused, Err(PeerError::Refused { errcode, .. }) if errcode == "M_NOT_FOUND"));
    let (net, peers) = of_old("[200, {}]", r#"{"errcode":"M_NOT_FOUND","error":"no such room"}"#).await;
    assert!(Peers::send_leave(&*peers, peer(), &event(RoomVersion::V1)).await.is_err());
    assert_eq!(net.asked().len(), 1, "it is known, the room is not");
}

#[tokio::test]
async fn leaves_knocks_and_invites() {
    let event = event(RoomVersion::V10);
    let path = "%21r%2Fo%3Ab.example%3A1/%24e%2Bv%2F1";
    let (net, peers) = with_answer(r#"{"knock_room_state":[{"k":1}],"event":{"e":1}}"#).await;
    Peers::send_leave(&*peers, peer(), &event).await.unwrap();
    assert_eq!(line(&only(&net)), format!("PUT v2/send_leave/{path} {}", event.json_str()));
    assert_eq!(text(&peers.send_knock(peer(), &event).await.unwrap()), [r#"{"k":1}"#]);
    assert_eq!(line(&only(&net)), format!("PUT v1/send_knock/{path} {}", event.json_str()));
    let state = vec![Bytes::from_static(b"{\"s\":1}"), Bytes::from_static(b"{\"s\":2}")];
    assert_eq!(peers.invite(peer(), &event, state).await.unwrap(), r#"{"e":1}"#);
    let body =
        format!(r#"{{"event":{},"invite_room_state":[{{"s":1}},{{"s":2}}],"room_version":"10"}}"#, event.json_str());
    assert_eq!(line(&only(&net)), format!("PUT v2/invite/{path} {body}"));
    // A number that cannot be signed spoils no invite.
    let state = [r#"{"s":1.5}"#, r#"{"s":1}"#, r#"{"s":-0}"#, r#"{"s":2}"#].map(Bytes::from);
    assert_eq!(peers.invite(peer(), &event, state.to_vec()).await.unwrap(), r#"{"e":1}"#);
    assert_eq!(line(&only(&net)), format!("PUT v2/invite/{path} {body}"));
}

#[tokio::test]
async fn events() {
    let (net, peers) =
        with_answer(r#"{"events":[{"e":1},{"e":2},{"e":3}],"pdus":[{"p":1}],"auth_chain":[{"a":1}]}"#).await;
    let wanted = MissingEvents {
        earliest: vec![owned_event_id!("$a")],
        latest: vec![owned_event_id!("$b")],
        limit: 2,
        min_depth: 7,
    };
    let missing = peers.missing_events(peer(), room(), wanted).await.unwrap();
    assert_eq!(text(&missing), [r#"{"e":1}"#, r#"{"e":2}"#]);
    let body = r#"{"earliest_events":["$a"],"latest_events":["$b"],"limit":2,"min_depth":7}"#;
    let path = "%21r%2Fo%3Ab.example%3A1";
    assert_eq!(line(&only(&net)), format!("POST v1/get_missing_events/{path} {body}"));

    let deep = MissingEvents { earliest: Vec::new(), latest: Vec::new(), limit: 2, min_depth: u64::MAX };
    peers.missing_events(peer(), room(), deep).await.unwrap();
    assert!(line(&only(&net)).ends_with(r#""min_depth":9007199254740991}"#));

    let from = [owned_event_id!("$a"), owned_event_id!("$b")];
    assert_eq!(text(&peers.backfill(peer(), room(), &from, 100).await.unwrap()), [r#"{"p":1}"#]);
    assert_eq!(line(&only(&net)), format!("GET v1/backfill/{path}?limit=100&v=%24a&v=%24b "));
    assert_eq!(peers.event(peer(), target()).await.unwrap(), r#"{"p":1}"#);
    assert_eq!(line(&only(&net)), "GET v1/event/%24e%2Bv%2F1 ");
    let state = peers.state(peer(), room(), target()).await.unwrap();
    assert_eq!((text(&state.state), text(&state.auth_chain)), (vec![r#"{"p":1}"#], vec![r#"{"a":1}"#]));
    assert_eq!(line(&only(&net)), format!("GET v1/state/{path}?event_id=%24e%2Bv%2F1 "));
    assert_eq!(text(&peers.event_auth(peer(), room(), target()).await.unwrap()), [r#"{"a":1}"#]);
    assert_eq!(line(&only(&net)), format!("GET v1/event_auth/{path}/%24e%2Bv%2F1 "));

    for wrong in [r#"{"pdus":[]}"#, r#"{"pdus":[{},{}]}"#, "{}", &format!(r#"{{"pdus":[{}1]}}"#, "1,".repeat(1_000))] {
        let (_, peers) = with_answer(wrong).await;
        assert!(matches!(peers.event(peer(), target()).await, Err(PeerError::Malformed(_))), "{wrong:.100}");
    }
    let (_, peers) = with_answer(&format!(r#"{{"pdus":[{}1]}}"#, "1,".repeat(999))).await;
    assert_eq!(peers.backfill(peer(), room(), &from, 10).await.unwrap().len(), 10, "no more than was asked for");
}

#[tokio::test]
async fn ids_of_a_state() {
    let long = format!("${}", "x".repeat(300));
    let body = json!({ "pdu_ids": ["$a", "no id", long, "$b"], "auth_chain_ids": ["$c"] }).to_string();
    let (net, peers) = with_answer(&body).await;
    let state = peers.state_ids(peer(), room(), target()).await.unwrap();
    assert_eq!(
        (state.state, state.auth_chain),
        (vec![owned_event_id!("$a"), owned_event_id!("$b")], vec![owned_event_id!("$c")])
    );
    assert_eq!(line(&only(&net)), "GET v1/state_ids/%21r%2Fo%3Ab.example%3A1?event_id=%24e%2Bv%2F1 ");
}

#[tokio::test]
async fn questions() {
    let body = r#"{"event_id":"$n","origin_server_ts":5,"room_id":"!r:c.example","servers":["c.example","?"],"sub":"@bob:b.example:1"}"#;
    let (net, peers) = with_answer(body).await;
    assert_eq!(peers.event_near(peer(), room(), 5, true).await.unwrap(), (owned_event_id!("$n"), 5));
    assert_eq!(line(&only(&net)), "GET v1/timestamp_to_event/%21r%2Fo%3Ab.example%3A1?ts=5&dir=b ");
    let target = peers.alias(room_alias_id!("#ä b:b.example:1")).await.unwrap();
    assert_eq!((target.room_id.as_str(), target.servers), ("!r:c.example", vec![server_name!("c.example").to_owned()]));
    assert_eq!(line(&only(&net)), "GET v1/query/directory?room_alias=%23%C3%A4%20b%3Ab.example%3A1 ");
    assert_eq!(peers.profile(user_id!("@bob:b.example:1"), Some("a&b")).await.unwrap(), body);
    assert_eq!(line(&only(&net)), "GET v1/query/profile?user_id=%40bob%3Ab.example%3A1&field=a%26b ");
    assert_eq!(peers.public_rooms(peer(), Bytes::from_static(b"{\"limit\":3}")).await.unwrap(), body);
    assert_eq!(line(&only(&net)), "POST v1/publicRooms {\"limit\":3}");
    assert_eq!(peers.hierarchy(peer(), room(), true).await.unwrap(), body);
    assert_eq!(line(&only(&net)), "GET v1/hierarchy/%21r%2Fo%3Ab.example%3A1?suggested_only=true ");
    assert_eq!(peers.openid_user(peer(), "t&t").await.unwrap(), "@bob:b.example:1");
    assert_eq!(line(&only(&net)), "GET v1/openid/userinfo?access_token=t%26t ");
    net.respond("c.example:1", "/", |_| Ok(answer(200, &[], r#"{"sub":"@bob:b.example:1"}"#)));
    net.name("c.example", &["192.0.2.3"]);
    let impostor = peers.openid_user(server_name!("c.example:1"), "t").await;
    assert!(matches!(impostor, Err(PeerError::Malformed(_))), "a server speaks for its own users");

    let deep = format!("{{\"a\":{}{}}}", "[".repeat(1_000), "]".repeat(1_000));
    for wrong in ["[]", "\"text\"", "{", "", &deep, "{\"a\":\"\u{0}\"}"] {
        let (_, peers) = with_answer(wrong).await;
        let profile = peers.profile(user_id!("@bob:b.example:1"), None).await;
        assert!(matches!(profile, Err(PeerError::Malformed(_))), "{wrong:.100}");
    }
}

#[tokio::test]
async fn refusals_arrive() {
    let net = Net::new();
    let peers = peers(&net).await;
    let body = r#"{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"too new","room_version":"13"}"#;
    net.respond(HOST, "/", move |_| Ok(answer(400, &[], body)));
    let user = user_id!("@alice:a.example");
    let refused = peers.make_member(peer(), Handshake::Join, room(), user, &[]).await.unwrap_err();
    let wanted = PeerError::Refused {
        status: StatusCode::BAD_REQUEST.as_u16(),
        errcode: "M_INCOMPATIBLE_ROOM_VERSION".to_owned(),
        error: "too new".to_owned(),
        body: Bytes::from_static(body.as_bytes()),
    };
    assert_eq!(refused, wanted);
}

#[tokio::test]
async fn third_party_invites_and_policies() {
    let (net, peers) = with_answer("{}").await;
    peers.exchange_third_party_invite(peer(), room(), Bytes::from_static(b"{\"a\":1}")).await.unwrap();
    let path = "v1/exchange_third_party_invite/%21r%2Fo%3Ab.example%3A1";
    assert_eq!(line(&only(&net)), format!("PUT {path} {{\"a\":1}}"));
    let (net, peers) = with_answer(r#"{"b.example:1":{"ed25519:policy_server":"x"}}"#).await;
    let event = event(RoomVersion::V10);
    let signatures = peers.policy_sign(peer(), &event).await.unwrap();
    assert_eq!(&signatures[..], br#"{"b.example:1":{"ed25519:policy_server":"x"}}"#);
    let asked = only(&net);
    assert_eq!((asked.path.as_str(), &asked.body), ("/_matrix/policy/v1/sign", event.json()));
    let (_, peers) = with_answer("[]").await;
    assert!(matches!(peers.policy_sign(peer(), &event).await, Err(PeerError::Malformed(_))));
}

/// Keys of users elsewhere, as our users get them.
mod keys_of_users {
    use std::collections::BTreeMap;

    use hearth_users::{
        UserSettings, Users,
        keys::{WantedDevices, WantedOneTimeKeys},
    };
    use ruma::UserId;
    use serde_json::json;

    use super::*;

    async fn users() -> Arc<Users> {
        let store = Store::open(MemEngine::new(), StoreSettings::default()).await.unwrap();
        let settings = UserSettings::new(server_name!("a.example").to_owned());
        Users::new(store, clock(), Arc::new(SeededEntropy::new(1)), settings)
    }

    const BOB: &str = "@bob:b.example:1";

    fn bob() -> &'static UserId {
        user_id!("@bob:b.example:1")
    }

    #[tokio::test]
    async fn servers_are_believed_about_whom_they_were_asked_for() {
        let device = |user_id: &str, device_id: &str| json!({ "user_id": user_id, "device_id": device_id, "keys": {} });
        let body = json!({
            "device_keys": {
                BOB: { "B": device(BOB, "B"), "C": device(BOB, "B"), "D": device("@eve:b.example:1", "D"), "E": 7 },
                "@eve:b.example:1": { "X": device("@eve:b.example:1", "X") },
                "@alice:a.example": { "A": device("@alice:a.example", "A") },
            },
            "master_keys": { BOB: { "user_id": BOB }, "@alice:a.example": { "user_id": "@alice:a.example" } },
            "self_signing_keys": { BOB: { "user_id": "@eve:b.example:1" } },
        });
        let (net, peers) = with_answer(&body.to_string()).await;
        let asker = user_id!("@alice:a.example");
        let wanted = WantedDevices::from([(bob().to_owned(), vec![]), (user_id!("@c:c.example").to_owned(), vec![])]);
        let query = users().await.query_keys(&*peers, asker, wanted, 1_000).await.unwrap();
        assert_eq!(query.device_keys.keys().collect::<Vec<_>>(), [bob()]);
        assert_eq!(query.device_keys[bob()].keys().collect::<Vec<_>>(), ["B"]);
        assert_eq!((query.master_keys.len(), query.self_signing_keys.len()), (1, 0));
        assert_eq!(query.failures.keys().collect::<Vec<_>>(), ["c.example"], "nobody knows it");
        assert_eq!(line(&only(&net)), format!(r#"POST v1/user/keys/query {{"device_keys":{{"{BOB}":[]}}}}"#));

        for wrong in ["{\"device_keys\":[]}", "{\"device_keys\":{\"a\":{\"b\":", "[]"] {
            let (_, peers) = with_answer(wrong).await;
            let wanted = WantedDevices::from([(bob().to_owned(), vec![])]);
            let query = users().await.query_keys(&*peers, asker, wanted, 1_000).await.unwrap();
            assert_eq!((query.device_keys.len(), query.failures.len()), (0, 1), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn claims_are_one_key_each_and_do_not_wait_for_ever() {
        let body = json!({ "one_time_keys": {
            BOB: { "B": { "other:1": "no", "c:1": { "key": "k" }, "c:2": "more" }, "X": { "c:3": "not asked" } },
        } });
        let (net, peers) = with_answer(&body.to_string()).await;
        let claim = || {
            let devices = BTreeMap::from([("B".into(), "c".to_owned()), ("N".into(), "c".to_owned())]);
            WantedOneTimeKeys::from([(bob().to_owned(), devices)])
        };
        let claimed = users().await.claim_keys(&*peers, claim(), 1_000).await;
        let keys: Vec<(&String, &str)> =
            claimed.one_time_keys[bob()].iter().map(|(device_id, key)| (device_id, key.get())).collect();
        assert_eq!(keys, [(&"B".to_owned(), r#"{"c:1":{"key":"k"}}"#)]);
        assert!(claimed.failures.is_empty());
        net.hold();
        let claimed = users().await.claim_keys(&*peers, claim(), 1_000).await;
        assert!(claimed.one_time_keys.is_empty());
        assert_eq!(claimed.failures.keys().collect::<Vec<_>>(), ["b.example:1"]);
    }
}
