//! Connections, without sockets: time passes when everybody waits.

use std::net::IpAddr;

use axum::routing::get;
use hearth_edge::{Access, Authenticate, BoxFuture, Edge, EdgeSettings, Limit, Reply, Route, Session};
use hearth_ports::SystemEntropy;
use hearth_users::AuthError;
use hyper::{StatusCode, client};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;

/// More than all buffers in between take.
const ANSWER_BYTES: usize = 4 << 20;

fn connection(router: Router, graceful: &GracefulShutdown) -> Connection {
    let handler = Handler { router, peer: ([192, 0, 2, 1], 1).into(), requests: Arc::default() };
    let rules = Rules { connections_max: 10, head_bytes_max: 8_192, head_time_max: Duration::from_secs(90) };
    Connection { handler, rules, watcher: graceful.watcher() }
}

/// The client's end of a connection on which a large answer was asked for, and the server's, until it is closed. It ends
/// with `graceful`, too.
async fn ask(graceful: &GracefulShutdown) -> (DuplexStream, JoinHandle<()>) {
    let router = Router::new().route("/", get(|| async { vec![b'a'; ANSWER_BYTES] }));
    let connection = connection(router, graceful);
    let (mut client, server) = duplex(1_024);
    let connection = tokio::spawn(connection.run(server, None));
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    (client, connection)
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_of_its_answer_is_cut_off() {
    let graceful = GracefulShutdown::new();
    let (client, connection) = ask(&graceful).await;
    let begun = Instant::now();
    timeout(WRITE_TIME_MAX * 2, connection).await.expect("it is closed").unwrap();
    assert_eq!(begun.elapsed().as_secs(), WRITE_TIME_MAX.as_secs());
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_gets_its_answer() {
    let graceful = GracefulShutdown::new();
    let (mut client, connection) = ask(&graceful).await;
    for _ in 0..50 {
        tokio::time::sleep(WRITE_TIME_MAX - Duration::from_secs(1)).await;
        client.read_u8().await.unwrap();
    }
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() > ANSWER_BYTES - 50 && rest.ends_with(b"a"), "{}", rest.len());
    connection.await.unwrap();
}

/// Knows nobody.
struct Nobody;

impl Authenticate for Nobody {
    fn authenticate<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Arc<Session>, AuthError>> {
        Box::pin(async { Err(AuthError::Unknown { soft_logout: false }) })
    }

    fn saw(&self, _: &Session, _: IpAddr) {}
}

/// Answers with more than one may have twice.
fn large_answers() -> Router {
    let large = |_, _| async { Ok(Reply::bytes(vec![0; 60 << 20].into())) };
    let route: Route<()> = Route::get(&["/"], Access::Public, Limit::None, large);
    let edge = Edge::new(&EdgeSettings::default(), Arc::new(Nobody), None, &SystemEntropy);
    edge.routes(&Arc::default(), [route]).into_router()
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_which_nothing_is_granted_does_not_stay_in_memory() {
    let graceful = GracefulShutdown::new();
    let (client, server) = duplex(64 << 10);
    tokio::spawn(connection(large_answers(), &graceful).http2(server));
    let mut builder = client::conn::http2::Builder::new(TokioExecutor::new());
    let client = builder.initial_stream_window_size(1).handshake(TokioIo::new(client));
    let (mut client, connection) = client.await.unwrap();
    // It answers the server's pings.
    let connection = tokio::spawn(connection);
    let mut ask = || {
        let request = Request::get("http://x/").body(Body::empty()).unwrap();
        client.send_request(request)
    };
    let first = ask().await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(ask().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::sleep(WRITE_TIME_MAX * 3).await;
    assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
    assert!(!connection.is_finished());
    // What it has of the first does not stay for ever.
    timeout(GRANT_TIME_MAX * 3, connection).await.expect("it is closed").unwrap().unwrap_err();
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_answers_are_taken_stays() {
    let graceful = GracefulShutdown::new();
    let (client, server) = duplex(64 << 10);
    tokio::spawn(connection(large_answers(), &graceful).http2(server));
    let client = client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client));
    let (mut client, connection) = client.await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::get("http://x/").body(Body::empty()).unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.headers()["content-length"], (60 << 20).to_string());
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 60 << 20);
        tokio::time::sleep(GRANT_TIME_MAX).await;
    }
    assert!(!connection.is_finished());
}
