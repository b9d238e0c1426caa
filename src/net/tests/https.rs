//! Requests to servers on this machine: what is sent, whose certificates are believed, what is bounded.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod world;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::Ordering,
};

use hearth_net::{AddressPolicy, HttpsClient, HttpsSettings, SettingsError};
use hearth_ports::{HttpClient as _, HttpError, HttpRequest};
use http::{HeaderValue, Method};
use tokio::io::AsyncWriteExt as _;
use world::{Authority, CHUNK_BYTES, NAME, Server, assert_unreachable, get, read_head, text, text_of};

const HTTP1: &[&str] = &["http/1.1"];
const HTTP2: &[&str] = &["h2", "http/1.1"];

/// Takes connections into its queue and says nothing.
fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn request(method: Method, mut request: HttpRequest) -> HttpRequest {
    request.method = method;
    request
}

#[tokio::test]
async fn a_request_arrives_as_it_was_meant() {
    let authority = Authority::new();
    let client = authority.client().await;
    for (protocols, version) in [(HTTP1, "HTTP/1.1"), (HTTP2, "HTTP/2.0"), (&[], "HTTP/1.1")] {
        let server = Server::http(&authority, NAME, protocols).await;
        let mut request = request(Method::PUT, server.get("/_matrix/a%2Fb?c=%20d"));
        request.host = format!("{NAME}:443");
        request.body = "{}".into();
        request.headers.insert("x-own", HeaderValue::from_static("1"));
        request.headers.insert("host", HeaderValue::from_static("evil.example"));
        request.headers.insert("content-length", HeaderValue::from_static("7"));
        let text = text(&client, request).await;
        let lines: Vec<_> = text.lines().collect();
        let uri = if version == "HTTP/2.0" { format!("https://{NAME}:443") } else { String::new() };
        assert_eq!(lines[0], format!("{version} PUT {uri}/_matrix/a%2Fb?c=%20d"));
        let mut rest = lines[1..].to_vec();
        rest.sort_unstable();
        let (host, agent) = (format!("host: {NAME}:443"), concat!("user-agent: hearth/", env!("CARGO_PKG_VERSION")));
        assert_eq!(rest, ["content-length: 2", host.as_str(), agent, "x-own: 1", "{}"]);
    }
}

#[tokio::test]
async fn only_a_certificate_for_the_name_by_a_known_authority_will_do() {
    let authority = Authority::new();
    let server = Server::http(&authority, NAME, HTTP2).await;
    let client = authority.client().await;
    assert!(client.send(server.get("/echo")).await.is_ok());
    let other_name = get("other.example.org", vec![server.address], "/echo");
    assert_unreachable(client.send(other_name).await, "certificate");
    // The name is what counts, not where the host header points.
    let mut misled = get("other.example.org", vec![server.address], "/echo");
    misled.host = NAME.to_owned();
    assert_unreachable(client.send(misled).await, "certificate");

    let stranger = Authority::new().client().await;
    assert_unreachable(stranger.send(server.get("/echo")).await, "invalid peer certificate");
}

#[tokio::test]
async fn any_certificate_does_for_machines_that_are_no_homeservers_where_that_is_wished() {
    let authority = Authority::new();
    let server = Server::http(&Authority::new(), NAME, HTTP2).await;
    let wished = HttpsSettings { trust_all_elsewhere: true, ..authority.settings() };
    let (client, strict) = (HttpsClient::open(wished).await.unwrap(), authority.client().await);
    assert_unreachable(strict.send_elsewhere(server.get("/echo")).await, "invalid peer certificate");
    assert!(client.send_elsewhere(server.get("/echo")).await.is_ok());
    assert!(client.send_elsewhere(get("other.example.org", vec![server.address], "/echo")).await.is_ok());
    // The connection that is open now is not one to a homeserver.
    assert_unreachable(client.send(server.get("/echo")).await, "invalid peer certificate");
    let denied = HttpsSettings { policy: AddressPolicy::default(), trust_all_elsewhere: true, ..authority.settings() };
    let answer = HttpsClient::open(denied).await.unwrap().send_elsewhere(server.get("/echo")).await;
    assert!(matches!(answer, Err(HttpError::Denied(_))), "addresses are checked all the same: {answer:?}");
}

#[tokio::test]
async fn an_address_as_name_is_verified_as_an_address() {
    let authority = Authority::new();
    let (named, numbered) =
        (Server::http(&authority, NAME, HTTP1).await, Server::http(&authority, "127.0.0.1", HTTP1).await);
    let client = authority.client().await;
    let mut request = get("127.0.0.1", vec![numbered.address], "/echo");
    request.host = "127.0.0.1".to_owned();
    let text = text(&client, request).await;
    assert!(text.contains("\nhost: 127.0.0.1\n"), "{text}");
    assert_unreachable(client.send(get("127.0.0.1", vec![named.address], "/echo")).await, "certificate");
    assert_unreachable(client.send(get("[::1]", vec![numbered.address], "/echo")).await, "certificate");
    assert_unreachable(client.send(get("not a name", vec![numbered.address], "/echo")).await, "no certificate can be");
}

#[tokio::test]
async fn a_denied_address_is_not_connected_to() {
    let authority = Authority::new();
    let (listener, address) = silent();
    let settings = HttpsSettings { policy: AddressPolicy::default(), ..authority.settings() };
    let client = HttpsClient::open(settings).await.unwrap();
    let mapped = format!("[::ffff:127.0.0.1]:{}", address.port()).parse().unwrap();
    for addresses in [vec![address], vec![mapped], vec![address, mapped], vec![]] {
        let answer = client.send(get(NAME, addresses, "/echo")).await;
        assert!(matches!(answer, Err(HttpError::Denied(_))), "{answer:?}");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody has knocked");
}

#[tokio::test]
async fn addresses_are_tried_in_order() {
    let authority = Authority::new();
    let (first, second) = (Server::http(&authority, NAME, HTTP1).await, Server::http(&authority, NAME, HTTP1).await);
    let (listener, denied) = silent();
    let refused = { silent().1 };
    let policy = AddressPolicy::new(vec!["127.0.0.2".parse().unwrap()], Vec::new());
    let client = HttpsClient::open(HttpsSettings { policy, ..authority.settings() }).await.unwrap();
    let denied = SocketAddr::from(([127, 0, 0, 2], denied.port()));
    let answer = client.send(get(NAME, vec![denied, refused, second.address, first.address], "/echo")).await;
    text_of(answer.unwrap());
    assert_eq!((first.accepted(), second.accepted()), (0, 1));
    assert!(listener.accept().is_err());
    // With nothing left to try, what failed matters more than what was not tried.
    assert_unreachable(client.send(get(NAME, vec![denied, refused], "/echo")).await, "refused");
}

#[tokio::test]
async fn a_silent_address_holds_nobody_up() {
    let authority = Authority::new();
    let server = Server::http(&authority, NAME, HTTP1).await;
    let (_listener, silent) = silent();
    let mut request = get(NAME, vec![silent, server.address], "/echo");
    request.timeout_ms = 8_000; // less than the time-out of the first address
    text(&authority.client().await, request).await;

    let client = HttpsClient::open(HttpsSettings { connect_timeout_ms: 50, ..authority.settings() }).await.unwrap();
    assert_unreachable(client.send(get(NAME, vec![silent], "/echo")).await, "took too long");
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes() {
    let authority = Authority::new();
    for protocols in [HTTP1, HTTP2] {
        let server = Server::http(&authority, NAME, protocols).await;
        let client = authority.client().await;
        for path in ["/fixed", "/chunks/10"] {
            assert_eq!(text(&client, server.get(path)).await.len(), 10 * CHUNK_BYTES);
        }
        for path in ["/chunks/11", "/endless"] {
            assert_eq!(client.send(server.get(path)).await.unwrap_err(), HttpError::TooLarge);
        }
        let small = HttpRequest { answer_bytes_max: 10 * CHUNK_BYTES - 1, ..server.get("/fixed") };
        assert_eq!(client.send(small).await.unwrap_err(), HttpError::TooLarge);
        // The length that a HEAD is told is no body.
        let head = HttpRequest { answer_bytes_max: 0, ..request(Method::HEAD, server.get("/fixed")) };
        assert_eq!(text(&client, head).await, "");
    }
}

#[tokio::test]
async fn an_answer_that_is_read_piece_by_piece_is_bounded_too() {
    let authority = Authority::new();
    for protocols in [HTTP1, HTTP2] {
        let server = Server::http(&authority, NAME, protocols).await;
        let client = authority.client().await;
        let opened = async |request: HttpRequest| {
            let mut opened = client.open(request).await?;
            let mut bytes = 0;
            while let Some(piece) = opened.body.next().await? {
                bytes += piece.len();
            }
            Ok::<usize, HttpError>(bytes)
        };
        assert_eq!(opened(server.get("/chunks/10")).await, Ok(10 * CHUNK_BYTES));
        assert_eq!(opened(server.get("/endless")).await, Err(HttpError::TooLarge));
        let impatient = HttpRequest { timeout_ms: 60, ..server.get("/stops") };
        assert_eq!(opened(impatient).await, Err(HttpError::TimedOut));
        assert_eq!(opened(HttpRequest { timeout_ms: 60, ..server.get("/never") }).await, Err(HttpError::TimedOut));
        // Who reads no further gives the rest up.
        drop(client.open(server.get("/endless")).await.unwrap());
        text(&client, server.get("/echo")).await;
    }
}

#[tokio::test]
async fn an_answer_is_bounded_in_time() {
    let authority = Authority::new();
    for protocols in [HTTP1, HTTP2] {
        let server = Server::http(&authority, NAME, protocols).await;
        let client = authority.client().await;
        for path in ["/never", "/stops"] {
            let request = HttpRequest { timeout_ms: 60, ..server.get(path) };
            assert_eq!(client.send(request).await.unwrap_err(), HttpError::TimedOut);
        }
        text(&client, server.get("/echo")).await;
    }
}

#[tokio::test]
async fn connections_are_kept_for_the_next_request() {
    let authority = Authority::new();
    for protocols in [HTTP1, HTTP2] {
        let (server, other) =
            (Server::http(&authority, NAME, protocols).await, Server::http(&authority, NAME, protocols).await);
        let client = authority.client().await;
        for _ in 0..3 {
            text(&client, server.get("/echo")).await;
        }
        assert_eq!(server.accepted(), 1);
        // A name that has more addresses than are looked up at once stays where it was …
        let at = |last| SocketAddr::from(([127, 0, 0, last], server.address.port()));
        for addresses in [vec![server.address, at(7)], vec![at(7), server.address], vec![at(7), at(8)]] {
            text(&client, get(NAME, addresses, "/echo")).await;
            assert_eq!(server.accepted(), 1);
        }
        // … and one that has moved is asked where it is now.
        assert_unreachable(client.send(get(NAME, vec![at(9)], "/echo")).await, "refused");
        text(&client, server.get("/echo")).await;
        assert_eq!(server.accepted(), 2);
        // Behind another port there may be another.
        text(&client, get(NAME, vec![server.address, other.address], "/echo")).await;
        assert_eq!((server.accepted(), other.accepted()), (3, 0));
        // Another name is another target: its certificate has not been seen.
        assert!(client.send(get("other.example.org", vec![server.address], "/echo")).await.is_err());
        assert_eq!(server.accepted(), 4);
    }
}

#[tokio::test]
async fn over_http2_one_connection_serves_many_at_once() {
    let authority = Authority::new();
    let server = Server::http(&authority, NAME, HTTP2).await;
    let client = authority.client().await;
    text(&client, server.get("/echo")).await;
    let many = (0..20).map(|_| client.send(server.get("/chunks/10")));
    for answer in futures_util::future::join_all(many).await {
        assert_eq!(text_of(answer.unwrap()).len(), 10 * CHUNK_BYTES);
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let authority = Authority::new();
    let mut server = Server::http(&authority, NAME, HTTP1).await;
    let client = HttpsClient::open(HttpsSettings { idle_timeout_ms: 30, ..authority.settings() }).await.unwrap();
    text(&client, server.get("/echo")).await;
    server.ended.wait_for(|ended| *ended == 1).await.unwrap();
}

#[tokio::test]
async fn kept_targets_are_bounded() {
    let authority = Authority::new();
    let mut server = Server::http(&authority, NAME, HTTP1).await;
    let client = HttpsClient::open(HttpsSettings { targets_max: 2, ..authority.settings() }).await.unwrap();
    for port in 1..=30 {
        let request = HttpRequest { host: format!("{NAME}:{port}"), ..server.get("/echo") };
        text(&client, request).await;
    }
    // Those of the last ones may be open.
    server.ended.wait_for(|ended| *ended >= 26).await.unwrap();
}

#[tokio::test]
async fn a_slow_target_keeps_its_requests_waiting_and_nobody_elses() {
    let authority = Authority::new();
    let (slow, other) = (Server::http(&authority, NAME, HTTP2).await, Server::http(&authority, NAME, HTTP2).await);
    let settings = HttpsSettings { requests_per_target_max: 1, requests_max: 2, ..authority.settings() };
    let client = HttpsClient::open(settings).await.unwrap();
    let never = HttpRequest { timeout_ms: 1_000, ..slow.get("/never") };
    let impatient = HttpRequest { timeout_ms: 50, ..slow.get("/echo") };
    let (never, impatient, patient, elsewhere) = tokio::join!(
        client.send(never),
        client.send(impatient),
        client.send(slow.get("/echo")),
        client.send(HttpRequest { timeout_ms: 900, ..other.get("/echo") }),
    );
    assert_eq!(never.unwrap_err(), HttpError::TimedOut);
    assert_eq!(impatient.unwrap_err(), HttpError::TimedOut, "it was not its turn");
    text_of(patient.unwrap());
    text_of(elsewhere.unwrap());
}

/// Answers the first request of the first connection, takes the second and hangs up.
async fn hangs_up_on_the_second(authority: &Authority) -> Server {
    Server::scripted(authority, |number, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        if number == 0 {
            read_head(&mut stream).await;
            return;
        }
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await
}

#[tokio::test]
async fn a_request_that_met_a_closing_connection_goes_out_again_if_it_may() {
    let authority = Authority::new();
    let client = authority.client().await;
    for (method, again) in [(Method::PUT, true), (Method::GET, true), (Method::POST, false)] {
        let server = hangs_up_on_the_second(&authority).await;
        text(&client, request(method.clone(), server.get("/a"))).await;
        let answer = client.send(request(method, server.get("/b"))).await;
        assert_eq!(answer.is_ok(), again, "{answer:?}");
        assert_eq!(server.accepted(), if again { 2 } else { 1 });
    }
}

#[tokio::test]
async fn broken_answers_are_told_from_whole_ones() {
    let authority = Authority::new();
    let client = authority.client().await;
    let answers: [&[u8]; 5] = [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nno length, no farewell",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ];
    for bytes in answers {
        let server = Server::scripted(&authority, move |_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(bytes).await.unwrap();
            stream.flush().await.unwrap();
        })
        .await;
        let answer = client.send(server.get("/a")).await;
        assert!(matches!(answer, Err(HttpError::Unreachable(_))), "{answer:?}");
        assert_eq!(server.accepted(), 1, "a new connection that breaks is not tried again");
    }
}

#[tokio::test]
async fn an_endless_head_is_given_up() {
    let authority = Authority::new();
    let client = authority.client().await;
    let server = Server::scripted(&authority, |_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
        while stream.write_all(&[b'x'; 4_096]).await.is_ok() {}
    })
    .await;
    assert_unreachable(client.send(server.get("/a")).await, "too large");
}

#[tokio::test]
async fn redirects_are_for_others_to_follow() {
    let authority = Authority::new();
    let server = Server::http(&authority, NAME, HTTP1).await;
    let answer = authority.client().await.send(server.get("/elsewhere")).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.headers.get("location").is_some()), (302, true));
}

#[tokio::test]
async fn what_is_no_request_is_not_sent() {
    let authority = Authority::new();
    let server = Server::http(&authority, NAME, HTTP1).await;
    let client = authority.client().await;
    for path in ["", "echo", "*", "/a b", "/a#b", "/a\r\nx: y", "//"] {
        let answer = client.send(server.get(path)).await;
        assert!(
            path == "//" && answer.is_ok() || matches!(answer, Err(HttpError::Unreachable(_))),
            "{path}: {answer:?}"
        );
    }
    for host in ["", "a b", "user@example.org", "a/b", "a\r\nx: y"] {
        let answer = client.send(HttpRequest { host: host.to_owned(), ..server.get("/") }).await;
        assert!(matches!(answer, Err(HttpError::Unreachable(_))), "{host}: {answer:?}");
    }
    assert!(client.send(request(Method::CONNECT, server.get("/"))).await.is_err());
    assert!(server.accepted.load(Ordering::SeqCst) <= 1);
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_named() {
    let authority = Authority::new();
    let open = async |files: Vec<std::path::PathBuf>| {
        let settings = HttpsSettings { extra_ca_files: files, ..authority.settings() };
        HttpsClient::open(settings).await.map(|_| ()).unwrap_err()
    };
    assert_eq!(open(Vec::new()).await, SettingsError::NoAuthorities);
    let empty = tempfile::NamedTempFile::new().unwrap();
    for file in ["/nowhere/ca.crt", empty.path().to_str().unwrap()] {
        let error = open(vec![authority.file.path().to_owned(), file.into()]).await;
        assert!(matches!(&error, SettingsError::AuthorityFile { path, .. } if path == file), "{error}");
    }
}
