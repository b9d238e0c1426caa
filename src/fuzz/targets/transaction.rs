//! `PUT /_matrix/federation/v1/send/{txnId}`: any body, to the real endpoint over the in-memory engine.
//!
//! It is sent as it is: bounds hold, the answer is as the specification has it. Then its items are sent again, each event
//! completed and signed, before items that are right: those have their effect, whatever is beside them. Another server
//! never speaks for our users. `"version"` in the body says of which version the room is, `!r:hearth.test` is its id and
//! `"$a"` that of its newest event.

#![no_main]

use std::sync::Arc;

use axum::{Router, body::Body};
use bytes::Bytes;
use hearth_core::{Limits, Numbers, RoomVersion, check_json, json::SIGNED_DEPTH_MAX};
use hearth_edge::{AuthenticateServer, BoxFuture, Edge, EdgeSettings, Error, LimitSettings, ServerRequest};
use hearth_federation::inbound::{Inbound, InboundSettings, routes};
use hearth_fuzz::{
    Fields,
    peers::Others,
    raw,
    room::{ALICE, Base, NOW_MS, Server, ZOE, base, user},
    run,
    sign::{US, sign},
};
use hearth_ports::{Position, SeededEntropy};
use hearth_users::{PresenceState, UserSettings, Users};
use http::Request;
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tower::ServiceExt as _;

/// "Must not include more than 50 PDUs", "more than 100 EDUs".
const ITEMS_MAX: (usize, usize) = (50, 100);

/// Who sends.
const FAR: &str = "far.test";

/// The shape of a body, without its bounds.
#[derive(Deserialize)]
struct Transaction<'a> {
    origin: String,
    #[serde(borrow)]
    pdus: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    edus: Vec<&'a RawValue>,
}

fuzz_target!(|input: &[u8]| {
    let version =
        serde_json::from_slice::<Value>(input).ok().and_then(|body| RoomVersion::parse(body["version"].as_str()?));
    let base = base(version.unwrap_or(RoomVersion::DEFAULT));
    run(take(base, &named(base, input)));
});

/// The input with the room's id for `!r:hearth.test`, and the id of its newest event for `$a`.
fn named(base: &Base, input: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(input) else { return input.to_vec() };
    let newest = base.events.last().expect("the room has events");
    let text = text.replace("!r:hearth.test", base.room_id.as_str());
    text.replace("\"$a\"", &format!("\"{}\"", newest.event_id())).into_bytes()
}

/// Every request is of [`FAR`]; who may say so is another target's business.
struct Far;

impl AuthenticateServer for Far {
    fn authenticate<'a>(&'a self, _: ServerRequest<'a>) -> BoxFuture<'a, Result<OwnedServerName, Error>> {
        Box::pin(std::future::ready(Ok(FAR.try_into().expect("a server name"))))
    }
}

struct World {
    server: Server,
    users: Arc<Users>,
    router: Router,
}

async fn take(base: &Base, input: &[u8]) {
    let world = World::over(base).await;
    let (status, answer) = world.put("1", Bytes::copy_from_slice(input)).await;
    // serde_json looks less closely at what it passes over.
    let limits = Limits { depth_max: SIGNED_DEPTH_MAX, numbers: Numbers::Lenient };
    let is_json = check_json(input, &limits).is_ok();
    let body = serde_json::from_slice::<Transaction<'_>>(input).ok().filter(|_| is_json);
    let fits = |body: &&Transaction<'_>| body.pdus.len() <= ITEMS_MAX.0 && body.edus.len() <= ITEMS_MAX.1;
    match (&body, body.as_ref().filter(fits)) {
        (_, Some(body)) if body.origin == FAR => {
            assert_eq!(status, 200, "{answer}");
            is_answer(&answer, body.pdus.len());
        }
        (_, Some(body)) => assert!(matches!(status, 400 | 403), "{status} for a transaction of {}", body.origin),
        _ => assert_eq!(status, 400, "{answer}"),
    }
    world.check(base, status == 200).await;
    if let Some(body) = body {
        world.take_beside_good_ones(base, &body).await;
    }
}

/// "`pdus`: the PDUs from the original transaction. The string key represents the ID of the PDU that was processed."
fn is_answer(answer: &Value, events: usize) {
    let results = answer["pdus"].as_object().expect("an answer has its results");
    assert!(results.len() <= events);
    for (id, result) in results {
        assert!(id.starts_with('$') && id.len() <= 255, "{id}");
        let result = result.as_object().expect("a result is an object");
        assert!(result.iter().all(|(key, error)| key == "error" && error.is_string()), "{answer}");
    }
}

impl World {
    async fn over(base: &Base) -> Self {
        let server = Server::over(base.engine.fork(), Arc::new(Others::default()), 2).await;
        let (name, entropy): (OwnedServerName, _) =
            (US.try_into().expect("a server name"), Arc::new(SeededEntropy::new(4)));
        let (store, clock) = (server.store.clone(), server.clock.clone());
        let users = Users::new(store, clock.clone(), entropy.clone(), UserSettings::new(name.clone()));
        let heard = Arc::new(|_: &ServerName| {});
        let settings = InboundSettings { server_name: name, public_rooms: false };
        let state = Inbound::new(server.rooms.clone(), users.clone(), clock, heard, settings);
        let limits = LimitSettings { enabled: false, rates: Vec::new() };
        let settings = EdgeSettings { limits, ..EdgeSettings::default() };
        let edge = Edge::new(&settings, users.clone(), Some(Arc::new(Far)), &*entropy);
        Self { server, users, router: edge.routes(&state, routes()).into_router() }
    }

    async fn put(&self, id: &str, body: Bytes) -> (u16, Value) {
        let request = Request::builder().method("PUT").uri(format!("/_matrix/federation/v1/send/{id}"));
        let request = request.body(Body::from(body)).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("the router never fails");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("the answer is there").to_bytes();
        (status, serde_json::from_slice(&body).expect("the answer is JSON"))
    }

    /// The same items, as right as they can be made, before others that are right.
    async fn take_beside_good_ones(&self, base: &Base, body: &Transaction<'_>) {
        let known = base.events.last().expect("the room has events");
        let mut pdus: Vec<Box<RawValue>> = Vec::new();
        for item in body.pdus.iter().take(ITEMS_MAX.0 - 1) {
            pdus.push(signed(base, item).unwrap_or_else(|| (*item).to_owned()));
        }
        pdus.push(serde_json::from_slice(known.json()).expect("an event is JSON"));
        let typing = json!({ "room_id": base.room_id, "user_id": ZOE, "typing": true });
        let typing = json!({ "edu_type": "m.typing", "content": typing });
        let mut edus: Vec<Box<RawValue>> =
            body.edus.iter().take(ITEMS_MAX.1 - 1).map(|item| (*item).to_owned()).collect();
        edus.push(raw(&typing));
        let count = pdus.len();
        let body = raw(&json!({ "origin": FAR, "pdus": pdus, "edus": edus }));
        let (status, answer) = self.put("2", body.get().to_owned().into()).await;
        assert_eq!(status, 200, "{answer}");
        is_answer(&answer, count);
        assert_eq!(answer["pdus"][known.event_id().as_str()], json!({}), "a good event is taken: {answer}");
        let room = self.server.number(&base.room_id).await;
        let typing = self.users.typing_since(room, 0).map(|typing| typing.users).unwrap_or_default();
        assert!(typing.contains(&user(ZOE)), "good news is heeded");
        self.check(base, true).await;
    }

    /// Our users are as they were, and the database holds together.
    async fn check(&self, base: &Base, was_taken: bool) {
        let room = self.server.number(&base.room_id).await;
        let typing = self.users.typing_since(room, 0).map(|typing| typing.users).unwrap_or_default();
        assert!(typing.iter().all(|user| user.server_name() == FAR), "{typing:?}");
        assert!(was_taken || typing.is_empty());
        assert_eq!(self.users.presence(&user(ALICE)).state, PresenceState::Offline);
        let alice = self.server.store.user_number(&user(ALICE)).await.expect("memory reads").expect("she has one");
        let receipts = self.users.receipts_since(room, alice, Position::ZERO, Position::MAX, 1_000).await;
        let receipts = receipts.unwrap_or_else(|fault| panic!("{fault}"));
        assert!(receipts.iter().all(|receipt| receipt.user_id.server_name() == FAR), "{receipts:?}");
        assert!(receipts.iter().all(|receipt| receipt.ts_ms <= NOW_MS + 1_000), "nobody reads in the future");
        self.server.check(base).await;
    }
}

/// The event with all that it lacks; `None`: it cannot be made one.
fn signed(base: &Base, item: &RawValue) -> Option<Box<RawValue>> {
    let fields: Fields = serde_json::from_str(item.get()).ok()?;
    let signed = sign(base.version, &base.completed(fields))?;
    serde_json::from_str(&signed.text).ok()
}
