//! The kit from outside: requests to a router.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use hearth_ports::SeededEntropy;
use hearth_store::UserNumber;
use hearth_users::{AuthError, Fault, Session};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use ruma::{OwnedRoomId, api::client, user_id};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::ServiceExt as _;

use crate::{
    Access, Authenticate, BoxFuture, Call, Edge, EdgeSettings, Error, Limit, LimitRate, LimitSettings, Peer, Reply,
    Route,
};

#[derive(Default)]
pub(crate) struct State {
    begun: Notify,
    may_end: Notify,
    ended: Notify,
    calls: AtomicUsize,
}

/// The token says which account it is.
pub(crate) struct Tokens;

impl Authenticate for Tokens {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Arc<Session>, AuthError>> {
        let requester = Session {
            user: UserNumber(1),
            user_id: user_id!("@alice:example.org").to_owned(),
            device_id: "DEVICE".into(),
            token_id: 1,
            guest: token == "guest",
            admin: token == "admin",
            suspended: token == "suspended",
            locked: token == "locked",
        };
        let result = match token {
            "soft" => Err(AuthError::Unknown { soft_logout: true }),
            "store" => Err(AuthError::Fault(Fault::Unavailable(String::new()))),
            "alice" | "guest" | "admin" | "suspended" | "locked" => Ok(Arc::new(requester)),
            _ => Err(AuthError::Unknown { soft_logout: false }),
        };
        Box::pin(std::future::ready(result))
    }

    fn saw(&self, _: &Session, _: IpAddr) {}
}

async fn whoami(_: Arc<State>, call: Call) -> Result<Reply, Error> {
    let user = call.optional_requester().map(|requester| requester.user_id.to_string());
    Ok(Reply::json(&json!({ "user": user, "ip": call.ip() })))
}

async fn echo(_: Arc<State>, call: Call) -> Result<Reply, Error> {
    Ok(Reply::json(&call.json_or_empty::<Value>()?))
}

async fn typed(_: Arc<State>, call: Call) -> Result<Reply, Error> {
    #[derive(serde::Deserialize)]
    struct Query {
        limit: u8,
    }
    let query: Query = call.query()?;
    Ok(Reply::json(&json!({ "room": call.path::<OwnedRoomId>("room_id")?, "limit": query.limit })))
}

async fn panics(_: Arc<State>, _: Call) -> Result<Reply, Error> {
    panic!("on purpose")
}

async fn slow(state: Arc<State>, _: Call) -> Result<Reply, Error> {
    state.begun.notify_one();
    state.may_end.notified().await;
    state.ended.notify_one();
    Ok(Reply::empty())
}

async fn count(state: Arc<State>, _: Call) -> Result<Reply, Error> {
    state.calls.fetch_add(1, Ordering::Relaxed);
    Ok(Reply::empty())
}

async fn create_room(
    _: Arc<State>,
    _: Call,
    request: client::room::create_room::v3::Request,
) -> Result<client::room::create_room::v3::Response, Error> {
    let name = request.name.ok_or_else(|| Error::forbidden("nameless"))?;
    Ok(client::room::create_room::v3::Response::new(ruma::owned_room_id!("!a:example.org")))
        .inspect(|_| assert!(!name.is_empty()))
}

async fn state_event(
    _: Arc<State>,
    _: Call,
    request: client::state::get_state_event_for_key::v3::Request,
) -> Result<client::state::get_state_event_for_key::v3::Response, Error> {
    Err(Error::not_found(format!("{} {:?}", request.event_type, request.state_key)))
}

fn routes() -> Vec<Route<State>> {
    let at = |name: &str| format!("/_matrix/{name}");
    vec![
        Route::get(&[&at("public")], Access::Public, Limit::None, whoami),
        Route::get(&[&at("optional")], Access::Optional, Limit::None, whoami),
        Route::get(&[&at("user")], Access::User, Limit::None, whoami),
        Route::get(&[&at("guest")], Access::UserOrGuest, Limit::None, whoami),
        Route::get(&[&at("admin")], Access::Admin, Limit::None, whoami),
        Route::post(&[&at("user")], Access::User, Limit::None, whoami),
        Route::post(&[&at("logout")], Access::UserOrGuest, Limit::None, whoami).suspended_ok().locked_ok(),
        Route::post(&[&at("echo")], Access::Public, Limit::None, echo).body_max(1_000),
        Route::get(&[&at("typed/{room_id}")], Access::Public, Limit::None, typed),
        Route::get(&[&at("panics")], Access::Public, Limit::None, panics),
        Route::post(&[&at("panics")], Access::Public, Limit::None, panics),
        Route::post(&[&at("slow")], Access::Public, Limit::None, slow),
        Route::get(&[&at("poll")], Access::Public, Limit::None, slow),
        Route::get(&[&at("health")], Access::Public, Limit::None, count).always(),
        Route::post(&[&at("register")], Access::Public, Limit::Registration, count),
        Route::post(&[&at("send")], Access::User, Limit::Message, count),
        Route::ruma(Access::User, Limit::CreateRoom, create_room),
        Route::ruma(Access::User, Limit::None, state_event)
            .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}")
            .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}/"),
    ]
}

fn router_with(settings: &EdgeSettings, state: &Arc<State>) -> Router {
    Edge::new(settings, Arc::new(Tokens), None, &SeededEntropy::new(1)).routes(state, routes()).into_router()
}

fn router() -> Router {
    router_with(&EdgeSettings::default(), &Arc::default())
}

pub(crate) fn request(method: &str, path: &str, token: &str, body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

pub(crate) async fn send(router: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, serde_json::from_slice(&body).unwrap())
}

/// Status and errcode (empty for success).
pub(crate) async fn check(router: &Router, request: Request<Body>) -> (u16, String) {
    let (status, _, body) = send(router, request).await;
    (status.as_u16(), body["errcode"].as_str().unwrap_or_default().to_owned())
}

pub(crate) fn expect(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}

#[tokio::test]
async fn access_decides_before_the_handler() {
    let router = router();
    let cases = [
        ("GET", "public", "nonsense", 200, ""),
        ("GET", "optional", "", 200, ""),
        ("GET", "optional", "nonsense", 401, "M_UNKNOWN_TOKEN"),
        ("GET", "user", "", 401, "M_MISSING_TOKEN"),
        ("GET", "user", "nonsense", 401, "M_UNKNOWN_TOKEN"),
        ("GET", "user", "store", 503, "M_UNKNOWN"),
        ("GET", "user", "alice", 200, ""),
        ("GET", "user", "guest", 403, "M_GUEST_ACCESS_FORBIDDEN"),
        ("GET", "guest", "guest", 200, ""),
        ("GET", "admin", "alice", 403, "M_FORBIDDEN"),
        ("GET", "admin", "guest", 403, "M_GUEST_ACCESS_FORBIDDEN"),
        ("GET", "admin", "admin", 200, ""),
        ("GET", "user", "suspended", 200, ""),
        ("POST", "user", "suspended", 403, "M_USER_SUSPENDED"),
        ("POST", "logout", "suspended", 200, ""),
        ("GET", "user", "locked", 401, "M_USER_LOCKED"),
        ("POST", "logout", "locked", 200, ""),
    ];
    for (method, path, token, status, errcode) in cases {
        let request = request(method, &format!("/_matrix/{path}"), token, "");
        assert_eq!(check(&router, request).await, expect(status, errcode), "{method} {path} {token}");
    }
    for (token, soft_logout) in [("nonsense", false), ("soft", true), ("locked", true)] {
        let (_, _, body) = send(&router, request("GET", "/_matrix/user", token, "")).await;
        assert_eq!(body["soft_logout"], soft_logout, "{token}");
    }
}

#[tokio::test]
async fn a_token_in_the_query_or_of_another_scheme_is_no_token() {
    let router = router();
    let query = request("GET", "/_matrix/user?access_token=alice", "", "");
    assert_eq!(check(&router, query).await, expect(401, "M_MISSING_TOKEN"));
    let mut basic = request("GET", "/_matrix/user", "", "");
    basic.headers_mut().insert("authorization", "Basic alice".parse().unwrap());
    assert_eq!(check(&router, basic).await, expect(401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn paths_and_methods() {
    let router = router();
    assert_eq!(check(&router, request("GET", "/_matrix/nowhere", "", "")).await, expect(404, "M_UNRECOGNIZED"));
    assert_eq!(check(&router, request("GET", "/_matrix/public/", "", "")).await, expect(404, "M_UNRECOGNIZED"));
    assert_eq!(check(&router, request("DELETE", "/_matrix/public", "", "")).await, expect(405, "M_UNRECOGNIZED"));
    let response = router.clone().oneshot(request("HEAD", "/_matrix/public", "", "")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn browsers_of_every_origin_may_ask_without_credentials() {
    let router = router();
    for path in ["/_matrix/user", "/_matrix/nowhere", "/.well-known/matrix/client"] {
        let (status, headers, _) = send(&router, request("OPTIONS", path, "", "")).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(headers["access-control-allow-methods"], "GET, POST, PUT, DELETE, OPTIONS");
        assert!(headers.contains_key("access-control-max-age"));
        assert!(!headers.contains_key("access-control-allow-credentials"));
    }
    let (_, headers, _) = send(&router, request("GET", "/_matrix/user", "", "")).await;
    assert_eq!(headers["access-control-allow-origin"], "*", "errors are readable too");
    let (_, headers, _) = send(&router, request("GET", "/elsewhere", "", "")).await;
    assert!(!headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn bodies_are_json_or_refused() {
    let router = router();
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let cases = [
        (r#"{"a":1}"#, 200, ""),
        ("", 200, ""),
        ("{", 400, "M_NOT_JSON"),
        (r#"{"a":1} x"#, 400, "M_NOT_JSON"),
        ("{'a':1}", 400, "M_NOT_JSON"),
        ("\u{feff}{}", 400, "M_NOT_JSON"),
        (&deep(100), 200, ""),
        (&deep(101), 400, "M_BAD_JSON"),
        (&deep(400), 400, "M_BAD_JSON"),
        (&format!(r#"{{"a":"{}"}}"#, "[\\\"".repeat(150)), 200, ""),
        (&format!("\"{}\"", "a".repeat(999)), 413, "M_TOO_LARGE"),
    ];
    for (body, status, errcode) in cases {
        let request = request("POST", "/_matrix/echo", "", body);
        assert_eq!(check(&router, request).await, expect(status, errcode), "{body}");
    }
    let invalid = Request::post("/_matrix/echo").body(Body::from(&b"\"\xff\""[..])).unwrap();
    assert_eq!(check(&router, invalid).await, expect(400, "M_NOT_JSON"));
    let mut packed = request("POST", "/_matrix/echo", "", "{}");
    packed.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert_eq!(check(&router, packed).await, expect(415, "M_NOT_JSON"));
}

#[tokio::test]
async fn a_large_body_is_refused_unread() {
    let router = router();
    let mut announced = request("POST", "/_matrix/echo", "", "{}");
    announced.headers_mut().insert("content-length", "1001".parse().unwrap());
    assert_eq!(check(&router, announced).await, expect(413, "M_TOO_LARGE"));

    // A body without announced length that never ends: the answer comes after the limit.
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 100])));
    let endless = Request::post("/_matrix/echo").body(Body::from_stream(endless)).unwrap();
    assert_eq!(check(&router, endless).await, expect(413, "M_TOO_LARGE"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let request = Request::post("/_matrix/echo").body(Body::from_stream(never)).unwrap();
    assert_eq!(check(&router(), request).await, expect(408, "M_UNKNOWN"));
}

#[tokio::test]
async fn parameters_are_parsed_once_into_types() {
    let router = router();
    let cases = [
        ("!a%3Aexample.org?limit=3", 200, ""),
        ("!a:example.org", 400, "M_MISSING_PARAM"),
        ("!a:example.org?limit=300", 400, "M_INVALID_PARAM"),
        ("!a:example.org?limit=x", 400, "M_INVALID_PARAM"),
        ("nonsense?limit=3", 400, "M_INVALID_PARAM"),
        ("%ff?limit=3", 400, "M_INVALID_PARAM"),
    ];
    for (path, status, errcode) in cases {
        let request = request("GET", &format!("/_matrix/typed/{path}"), "", "");
        assert_eq!(check(&router, request).await, expect(status, errcode), "{path}");
    }
}

#[tokio::test]
async fn ruma_requests_are_parsed_from_all_stable_paths() {
    let router = router();
    for version in ["r0", "v3"] {
        let path = format!("/_matrix/client/{version}/createRoom");
        let answer = check(&router, request("POST", &path, "alice", r#"{"name":"a"}"#)).await;
        assert_eq!(answer, expect(200, ""), "{path}");
    }
    let path = "/_matrix/client/v3/createRoom";
    assert_eq!(check(&router, request("POST", path, "alice", "")).await, expect(403, "M_FORBIDDEN"));
    assert_eq!(check(&router, request("POST", path, "alice", r#"{"name":3}"#)).await, expect(400, "M_BAD_JSON"));
    assert_eq!(check(&router, request("POST", path, "alice", "[")).await, expect(400, "M_NOT_JSON"));

    for (path, found) in [("m.room.name/%2Fk", "\"/k\""), ("m.room.name", "\"\""), ("m.room.name/", "\"\"")] {
        let path = format!("/_matrix/client/v3/rooms/!a:b/state/{path}");
        let (_, _, body) = send(&router, request("GET", &path, "alice", "")).await;
        assert_eq!(body["error"], format!("m.room.name {found}"));
    }
    let path = "/_matrix/client/v3/rooms/nonsense/state/m.room.name";
    assert_eq!(check(&router, request("GET", path, "alice", "")).await, expect(400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn a_panic_ends_its_own_request_only() {
    let router = router();
    for method in ["GET", "POST"] {
        assert_eq!(check(&router, request(method, "/_matrix/panics", "", "")).await, expect(500, "M_UNKNOWN"));
    }
    assert_eq!(check(&router, request("GET", "/_matrix/public", "", "")).await, expect(200, ""));
}

#[tokio::test]
async fn a_write_is_finished_though_nobody_waits() {
    let state = Arc::new(State::default());
    let router = router_with(&EdgeSettings::default(), &state);
    let answer = tokio::spawn(router.oneshot(request("POST", "/_matrix/slow", "", "")));
    state.begun.notified().await;
    answer.abort();
    assert!(answer.await.unwrap_err().is_cancelled());
    state.may_end.notify_one();
    state.ended.notified().await;
}

#[tokio::test]
async fn limits_are_per_account_or_address() {
    let rate = LimitRate { per_second: 0.01, burst: 2 };
    let rates = vec![(Limit::Registration, rate), (Limit::Message, rate)];
    let settings = EdgeSettings { limits: LimitSettings { enabled: true, rates }, ..EdgeSettings::default() };
    let state = Arc::default();
    let router = router_with(&settings, &state);
    let from = |address: &str| {
        let mut request = request("POST", "/_matrix/register", "", "");
        let address: SocketAddr = address.parse().unwrap();
        request.extensions_mut().insert(Peer(address));
        request
    };
    assert_eq!(check(&router, from("192.0.2.1:1")).await.0, 200);
    assert_eq!(check(&router, from("192.0.2.1:2")).await.0, 200);
    let (status, headers, body) = send(&router, from("192.0.2.1:3")).await;
    assert_eq!((status.as_u16(), body["errcode"].as_str()), (429, Some("M_LIMIT_EXCEEDED")));
    let wait = body["retry_after_ms"].as_u64().unwrap();
    assert!((90_000..=100_000).contains(&wait), "{wait}");
    assert_eq!(headers["retry-after"], wait.div_ceil(1_000).to_string());

    // Another address, another household, but the same household is one.
    assert_eq!(check(&router, from("192.0.2.2:1")).await.0, 200);
    for (address, status) in [("2001:db8::1", 200), ("2001:db8::2", 200), ("2001:db8::3", 429), ("2001:db8:0:1::", 200)]
    {
        assert_eq!(check(&router, from(&format!("[{address}]:1"))).await.0, status, "{address}");
    }
    // Accounts have buckets of their own, whatever their address.
    let sends = [200, 200, 429];
    for status in sends {
        assert_eq!(check(&router, request("POST", "/_matrix/send", "alice", "")).await.0, status);
    }
    let handled = state.calls.load(Ordering::Relaxed);
    assert_eq!(handled, 2 + 1 + 3 + 2, "refused requests do not reach their handler");
}

#[tokio::test]
async fn limits_can_be_switched_off() {
    let rates = vec![(Limit::Registration, LimitRate { per_second: 0.01, burst: 1 })];
    let settings = EdgeSettings { limits: LimitSettings { enabled: false, rates }, ..EdgeSettings::default() };
    let router = router_with(&settings, &Arc::default());
    for _ in 0..20 {
        assert_eq!(check(&router, request("POST", "/_matrix/register", "", "")).await.0, 200);
    }
}

/// A router that takes on two requests at once.
fn busy_router(state: &Arc<State>) -> Router {
    router_with(&EdgeSettings { requests_max: 2, ..EdgeSettings::default() }, state)
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_can_be_worked_on_are_refused_at_once() {
    let state = Arc::new(State::default());
    let router = busy_router(&state);
    let mut begun = Vec::new();
    // A read without `timeout` is no long-poll, however slow it is.
    for (method, path) in [("POST", "slow"), ("GET", "poll?timeout=0")] {
        let request = request(method, &format!("/_matrix/{path}"), "", "");
        begun.push(tokio::spawn(router.clone().oneshot(request)));
        state.begun.notified().await;
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    let (status, headers, body) = send(&router, request("POST", "/_matrix/echo", "", "{}")).await;
    assert_eq!((status.as_u16(), body["errcode"].as_str()), (503, Some("M_UNKNOWN")));
    assert_eq!(headers["retry-after"], "2");
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert_eq!(check(&router, request("GET", "/_matrix/user", "nonsense", "")).await.0, 503, "before anything is done");
    let unread = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let unread = Request::post("/_matrix/echo").body(unread).unwrap();
    assert_eq!(check(&router, unread).await.0, 503, "nothing is read of its body");

    let health = router.clone().oneshot(request("GET", "/_matrix/health", "", "")).await.unwrap();
    assert_eq!(health.status(), StatusCode::OK, "whoever watches the server is answered");
    // A write goes on, and counts, though its sender is gone.
    begun[0].abort();
    assert_eq!(check(&router, request("GET", "/_matrix/public", "", "")).await.0, 503);
    for _ in 0..2 {
        state.may_end.notify_one();
        state.ended.notified().await;
    }
    assert!(begun.pop().unwrap().await.unwrap().unwrap().status().is_success());
    tokio::task::yield_now().await;
    assert_eq!(check(&router, request("GET", "/_matrix/public", "", "")).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn waiting_and_dawdling_are_no_work() {
    let state = Arc::new(State::default());
    let router = busy_router(&state);
    let poll = || tokio::spawn(router.clone().oneshot(request("GET", "/_matrix/poll?timeout=30000", "", "")));
    let ask = || check(&router, request("GET", "/_matrix/public", "", ""));
    let mut polls = Vec::new();
    for _ in 0..5 {
        for _ in 0..2 {
            polls.push(poll());
            state.begun.notified().await;
        }
        assert_eq!(ask().await.0, 503, "they have only just begun");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ask().await.0, 200, "they wait");
    }
    let never = || Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let dawdlers = [(); 5].map(|()| {
        let request = Request::post("/_matrix/echo").body(never()).unwrap();
        tokio::spawn(router.clone().oneshot(request))
    });
    tokio::task::yield_now().await;
    assert_eq!(ask().await.0, 200, "a body that does not come keeps nobody out");
    dawdlers.iter().for_each(tokio::task::JoinHandle::abort);

    // Whoever is woken is answered, however much there is to do.
    for _ in 0..2 {
        tokio::spawn(router.clone().oneshot(request("GET", "/_matrix/poll", "", "")));
        state.begun.notified().await;
    }
    assert_eq!(ask().await.0, 503);
    for waiting in polls {
        state.may_end.notify_one();
        assert_eq!(waiting.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(ask().await.0, 503, "those who were woken have given back what was theirs, and no more");
}

#[tokio::test]
async fn only_trusted_proxies_say_who_the_client_is() {
    let trusted = ["10.0.0.0/8", "::1"].map(|range| range.parse().unwrap()).to_vec();
    let settings = EdgeSettings { trusted_proxies: trusted, ..EdgeSettings::default() };
    let router = router_with(&settings, &Arc::default());
    let cases = [
        ("10.0.0.1:1", "", "10.0.0.1"),
        ("10.0.0.1:1", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1:1", "203.0.113.9, 192.0.2.7, 10.2.2.2", "192.0.2.7"),
        ("10.0.0.1:1", "nonsense", "10.0.0.1"),
        ("[::1]:1", "2001:db8::1", "2001:db8::1"),
        ("[::ffff:10.0.0.1]:1", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.1:1", "203.0.113.9", "192.0.2.1"),
    ];
    for (peer, forwarded, client) in cases {
        let mut request = request("GET", "/_matrix/public", "", "");
        request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        if !forwarded.is_empty() {
            request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
        }
        let (_, _, body) = send(&router, request).await;
        assert_eq!(body["ip"], client, "{peer} {forwarded}");
    }
}

#[tokio::test]
async fn a_request_has_one_name_in_header_and_error() {
    let (_, headers, body) = send(&router(), request("GET", "/_matrix/user", "", "")).await;
    assert_eq!(headers["x-request-id"], body["request_id"].as_str().unwrap());
}

#[test]
#[should_panic(expected = "is routed twice")]
fn a_path_has_one_route_for_each_method() {
    let route = |name: &str| {
        let path = format!("/a/{{{name}}}");
        Route::raw(Method::GET, &[&path], Access::Public, Limit::None, whoami)
    };
    let entropy = SeededEntropy::new(1);
    let edge = Edge::new(&EdgeSettings::default(), Arc::new(Tokens), None, &entropy);
    drop(edge.routes(&Arc::default(), [route("x"), route("y")]));
}
