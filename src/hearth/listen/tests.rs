//! Connections, without sockets: time passes when everybody waits.

use axum::routing::get;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;

/// More than all buffers in between take.
const ANSWER_BYTES: usize = 4 << 20;

/// The client's end of a connection on which a large answer was asked for, and the server's, until it is closed. It ends
/// with `graceful`, too.
async fn ask(graceful: &GracefulShutdown) -> (DuplexStream, JoinHandle<()>) {
    let router = Router::new().route("/", get(|| async { vec![b'a'; ANSWER_BYTES] }));
    let handler = Handler { router, peer: ([192, 0, 2, 1], 1).into(), requests: Arc::default() };
    let rules = Rules { head_bytes_max: 8_192, head_time_max: Duration::from_secs(90) };
    let connection = Connection { handler, rules, watcher: graceful.watcher() };
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
