//! Requests of other servers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use hearth_ports::SeededEntropy;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::BodyExt as _;
use ruma::OwnedServerName;
use serde_json::json;
use tokio::sync::Notify;
use tower::ServiceExt as _;

use crate::{
    Access, AuthenticateServer, BoxFuture, Call, Edge, EdgeSettings, Error, Limit, LimitRate, LimitSettings, Peer,
    Reply, Route, ServerRequest,
    tests::{State, Tokens, check, expect, request, send},
};

/// The header is the server's name; its key may have to be waited for.
#[derive(Default)]
struct Servers {
    asked: Notify,
    has_key: Notify,
}

impl AuthenticateServer for Servers {
    fn pre_check(&self, headers: &HeaderMap) -> Result<(), Error> {
        headers.get(AUTHORIZATION).map(drop).ok_or_else(Error::missing_token)
    }

    fn authenticate<'a>(&'a self, request: ServerRequest<'a>) -> BoxFuture<'a, Result<OwnedServerName, Error>> {
        Box::pin(async move {
            let name = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let name = name.ok_or_else(|| Error::forbidden(format!("{} {}", request.method, request.uri)))?;
            if name == "slow.example" {
                self.asked.notify_one();
                self.has_key.notified().await;
            }
            Ok(name.try_into().unwrap())
        })
    }
}

async fn origin(_: Arc<State>, call: Call) -> Result<Reply, Error> {
    Ok(Reply::json(&json!({ "origin": call.origin(), "bytes": call.body().len() })))
}

async fn large(_: Arc<State>, call: Call) -> Result<Reply, Error> {
    let bytes = Bytes::from(vec![0; call.path::<usize>("bytes")?]);
    Ok(Reply::raw(HeaderValue::from_static("application/octet-stream"), bytes))
}

/// Waits for other servers, who are not there.
async fn stall(_: Arc<State>, _: Call) -> Result<Reply, Error> {
    std::future::pending().await
}

fn router(settings: &EdgeSettings, servers: &Arc<Servers>) -> Router {
    edge(settings, servers).router_of(|path| path.starts_with("/_matrix/federation/"))
}

fn edge(settings: &EdgeSettings, servers: &Arc<Servers>) -> Edge {
    let path = ["/_matrix/federation/v1/origin"];
    let routes = [
        Route::raw(Method::GET, &path, Access::Server, Limit::Federation, origin),
        Route::raw(Method::PUT, &path, Access::Server, Limit::Federation, origin).body_max(100 << 20),
        Route::get(&["/_matrix/federation/v1/stall"], Access::Server, Limit::None, stall),
        Route::get(&["/_matrix/federation/v1/large/{bytes}"], Access::Server, Limit::Federation, large),
        Route::get(&["/_matrix/client/versions"], Access::Public, Limit::None, |_, _| async { Ok(Reply::empty()) }),
    ];
    Edge::new(settings, Arc::new(Tokens), Some(servers.clone()), &SeededEntropy::new(1)).routes(&Arc::default(), routes)
}

fn of(server: &str, method: &str, body: &str) -> Request<Body> {
    let mut request = request(method, "/_matrix/federation/v1/origin?a=%20b", "", body);
    request.headers_mut().insert(AUTHORIZATION, server.parse().unwrap());
    request
}

#[tokio::test]
async fn the_handler_knows_who_signed() {
    let router = router(&EdgeSettings::default(), &Arc::default());
    for (method, body) in [("GET", ""), ("HEAD", ""), ("PUT", "{\"a\": 1.5}")] {
        let (status, _, answer) = send(&router, of("a.example", method, body)).await;
        assert_eq!((status.as_u16(), &answer["origin"]), (200, &json!("a.example")), "{method}");
    }
    let (_, _, answer) = send(&router, request("HEAD", "/_matrix/federation/v1/origin?a=%20b", "", "")).await;
    assert_eq!(answer["error"], "HEAD /_matrix/federation/v1/origin?a=%20b", "what is signed is what came");
}

#[tokio::test]
async fn bodies_are_checked_before_signatures_and_may_nest_deeply() {
    let router = router(&EdgeSettings::default(), &Arc::default());
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(check(&router, of("a.example", "PUT", &nested(1_000))).await, expect(200, ""));
    assert_eq!(check(&router, of("a.example", "PUT", &nested(2_000))).await, expect(400, "M_BAD_JSON"));
    assert_eq!(check(&router, of("a.example", "PUT", "{")).await, expect(400, "M_NOT_JSON"));
}

#[tokio::test]
async fn nothing_is_read_of_a_body_without_a_signature() {
    let router = router(&EdgeSettings::default(), &Arc::default());
    let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let request = Request::put("/_matrix/federation/v1/origin").body(Body::from_stream(never)).unwrap();
    let refused = check(&router, request).now_or_never();
    assert_eq!(refused, Some(expect(401, "M_MISSING_TOKEN")), "it does not wait for the body");
}

#[tokio::test]
async fn a_router_of_some_paths_has_no_others() {
    let router = router(&EdgeSettings::default(), &Arc::default());
    assert_eq!(check(&router, request("GET", "/_matrix/client/versions", "", "")).await, expect(404, "M_UNRECOGNIZED"));
}

#[tokio::test]
async fn servers_are_limited_by_name_and_strangers_by_address() {
    let once = LimitRate { per_second: 0.001, burst: 1 };
    let twice = LimitRate { per_second: 0.001, burst: 2 };
    let rates = vec![(Limit::Federation, once), (Limit::FederationAddress, twice)];
    let limits = LimitSettings { rates, ..LimitSettings::default() };
    let router = router(&EdgeSettings { limits, ..EdgeSettings::default() }, &Arc::default());
    assert_eq!(check(&router, of("a.example", "GET", "")).await, expect(200, ""));
    assert_eq!(check(&router, of("a.example", "GET", "")).await, expect(429, "M_LIMIT_EXCEEDED"));
    assert_eq!(check(&router, of("b.example", "GET", "")).await, expect(429, "M_LIMIT_EXCEEDED"));
}

#[tokio::test]
async fn who_waits_for_a_key_keeps_nobody_out() {
    let servers = Arc::new(Servers::default());
    let router = router(&EdgeSettings { requests_max: 1, ..EdgeSettings::default() }, &servers);
    let (slow, ()) = tokio::join!(check(&router, of("slow.example", "GET", "")), async {
        servers.asked.notified().await;
        assert_eq!(check(&router, of("a.example", "GET", "")).await, expect(200, ""));
        servers.has_key.notify_one();
    });
    assert_eq!(slow, expect(200, ""));
}

#[tokio::test]
async fn requests_that_wait_for_others_keep_neither_other_addresses_nor_clients_out() {
    let router = edge(&EdgeSettings { requests_max: 20, ..EdgeSettings::default() }, &Arc::default()).into_router();
    let stall = |name: &str, address: &str| {
        let mut request = request("GET", "/_matrix/federation/v1/stall", "", "");
        request.headers_mut().insert(AUTHORIZATION, name.parse().unwrap());
        request.extensions_mut().insert(Peer(SocketAddr::new(address.parse().unwrap(), 1)));
        request
    };
    let mut stalled = Vec::new();
    for number in 0..20 {
        let mut waiting = Box::pin(check(&router, stall(&format!("s{number}.example"), "192.0.2.1")));
        match waiting.as_mut().now_or_never() {
            None => stalled.push(waiting),
            Some(refused) => assert_eq!(refused, expect(503, "M_UNKNOWN")),
        }
    }
    assert_eq!(stalled.len(), 5, "one address has its share, whatever it calls itself");
    assert_eq!(check(&router, of("a.example", "GET", "")).await, expect(200, ""));
    for number in 2..200 {
        let address = format!("192.0.2.{number}");
        let mut waiting = Box::pin(check(&router, stall("s.example", &address)));
        if waiting.as_mut().now_or_never().is_none() {
            stalled.push(waiting);
        }
    }
    assert_eq!(stalled.len(), 20);
    assert_eq!(
        check(&router, of("a.example", "GET", "")).await,
        expect(503, "M_UNKNOWN"),
        "servers have no place left"
    );
    assert_eq!(check(&router, request("GET", "/_matrix/client/versions", "", "")).await, expect(200, ""));
}

/// A body from this address that begins with so many spaces and goes on with `rest`.
fn upload(address: &str, spaces: usize, rest: Body) -> Request<Body> {
    let mut request = of("a.example", "PUT", "");
    let piece = Ok(Bytes::from(vec![b' '; spaces]));
    let begin = futures_util::stream::once(std::future::ready::<Result<_, axum::Error>>(piece));
    *request.body_mut() = Body::from_stream(begin.chain(rest.into_data_stream()));
    request.extensions_mut().insert(Peer(SocketAddr::new(address.parse().unwrap(), 1)));
    request
}

fn never() -> Body {
    Body::from_stream(futures_util::stream::pending::<Result<Bytes, axum::Error>>())
}

#[tokio::test]
async fn bodies_that_do_not_end_keep_no_other_address_out() {
    let router = router(&EdgeSettings::default(), &Arc::default());
    let mut stalled = Vec::new();
    let mut refused = 0;
    // Twelve that could become as large as the route allows, and more that have come almost whole.
    for spaces in [[1; 12], [10 << 20; 12]].concat() {
        let mut upload = Box::pin(check(&router, upload("192.0.2.1", spaces, never())));
        match upload.as_mut().now_or_never() {
            None => stalled.push(upload),
            Some(answer) => {
                assert_eq!(answer, expect(503, "M_UNKNOWN"));
                refused += 1;
            }
        }
    }
    assert_eq!((stalled.len(), refused), (15, 9), "one address has its share");
    let large = || Body::from("{}");
    assert_eq!(check(&router, upload("192.0.2.2", 2 << 20, large())).await, expect(200, ""));
    assert_eq!(check(&router, upload("192.0.2.1", 2 << 20, large())).await, expect(503, "M_UNKNOWN"));
    assert_eq!(check(&router, upload("192.0.2.1", 9 << 10, large())).await, expect(200, ""), "most are small");
    drop(stalled);
    assert_eq!(check(&router, upload("192.0.2.1", 2 << 20, large())).await, expect(200, ""));
}

#[tokio::test]
async fn the_memory_of_a_body_is_held_until_it_was_worked_on() {
    let servers = Arc::new(Servers::default());
    let router = router(&EdgeSettings::default(), &servers);
    let large = |server: &str| {
        let mut request = upload("192.0.2.1", 20 << 20, Body::from("{}"));
        request.headers_mut().insert(AUTHORIZATION, server.parse().unwrap());
        request
    };
    let (first, ()) = tokio::join!(check(&router, large("slow.example")), async {
        servers.asked.notified().await;
        assert_eq!(check(&router, large("a.example")).await, expect(503, "M_UNKNOWN"));
        servers.has_key.notify_one();
    });
    assert_eq!(first, expect(200, ""));
    assert_eq!(check(&router, large("a.example")).await, expect(200, ""));
}

async fn ask(router: &Router, server: &str, bytes: usize) -> Response<Body> {
    let mut request = request("GET", &format!("/_matrix/federation/v1/large/{bytes}"), "", "");
    request.headers_mut().insert(AUTHORIZATION, server.parse().unwrap());
    router.clone().oneshot(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_are_bounded_and_dropped() {
    let router = router(&EdgeSettings::default(), &Arc::default());
    let ask = |server, bytes| ask(&router, server, bytes);
    let first = ask("a.example", 60 << 20).await;
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(first.headers()["content-length"], "62914560");
    let refused = ask("a.example", 60 << 20).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "one has its share");
    assert!(refused.headers().contains_key("retry-after"));
    // Others have theirs, of which the first may be large, until nothing is left.
    let others = [ask("b.example", 100 << 20).await, ask("c.example", 200 << 20).await];
    assert!(others.iter().all(|answer| answer.status() == StatusCode::OK));
    assert_eq!(ask("d.example", 1 << 20).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask("d.example", 1_000).await.status(), StatusCode::OK, "most are small");

    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(ask("d.example", 200 << 20).await.status(), StatusCode::OK);
    assert!(first.into_body().collect().await.is_err(), "it is gone");
    drop(others);
}

#[tokio::test(start_paused = true)]
async fn slow_readers_get_their_answers_to_the_end() {
    let router = router(&EdgeSettings::default(), &Arc::default());
    let answer = ask(&router, "a.example", 60 << 20).await;
    let (mut body, mut taken) = (answer.into_body(), 0);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(59)).await;
        taken += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    assert_eq!(ask(&router, "a.example", 60 << 20).await.status(), StatusCode::SERVICE_UNAVAILABLE, "it still counts");
    let last = body.collect().await.unwrap().to_bytes();
    assert_eq!(taken + last.len(), 60 << 20);
    assert_eq!(ask(&router, "a.example", 60 << 20).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn pieces_that_lie_in_a_connection_count() {
    let router = router(&EdgeSettings::default(), &Arc::default());
    // What a connection has of an answer whose reader grants nothing.
    for (server, bytes, pieces_of_each) in [("a.example", 1 << 20, 2), ("b.example", 60 << 10, 1)] {
        let mut pieces = Vec::new();
        for _ in 0..1_000 {
            let answer = ask(&router, server, bytes).await;
            if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
                break;
            }
            let mut body = answer.into_body();
            for _ in 0..pieces_of_each {
                pieces.push(body.frame().await.unwrap().unwrap().into_data().unwrap());
            }
        }
        let held: usize = pieces.iter().map(Bytes::len).sum();
        assert!((40 << 20..53 << 20).contains(&held), "{held}");
    }
}

#[test]
#[should_panic(expected = "nothing tells who they are")]
fn a_route_for_servers_needs_somebody_who_knows_them() {
    let route: Route<State> = Route::get(&["/_matrix/federation/v1/origin"], Access::Server, Limit::None, origin);
    let edge = Edge::new(&EdgeSettings::default(), Arc::new(Tokens), None, &SeededEntropy::new(1));
    drop(edge.routes(&Arc::default(), [route]));
}
