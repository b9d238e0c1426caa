//! Each step of the specification's list, and how documents of `/.well-known` are cached.

use std::sync::Arc;

use hearth_ports::{HttpError, ManualClock};
use ruma::ServerName;
use serde_json::json;

use super::*;
use crate::testing::{Net, answer, clock};

const HOUR_MS: u64 = 3_600_000;
const WELL_KNOWN: &str = "/.well-known/matrix/server";

struct World {
    net: Arc<Net>,
    clock: Arc<ManualClock>,
    discovery: Discovery,
}

impl World {
    fn new() -> Self {
        let (net, clock) = (Net::new(), clock());
        let discovery = Discovery::new(net.clone(), net.clone(), clock.clone());
        Self { net, clock, discovery }
    }

    async fn try_find(&self, server: &str) -> Result<Place, DiscoveryError> {
        self.discovery.find(<&ServerName>::try_from(server).unwrap()).await
    }

    async fn find(&self, server: &str) -> Place {
        self.try_find(server).await.unwrap()
    }

    /// example.org, at 192.0.2.1, has this document.
    fn well_known(&self, headers: &[(&str, &str)], body: &str) {
        self.net.name("example.org", &["192.0.2.1"]);
        let answer = answer(200, headers, body);
        self.net.respond("example.org", WELL_KNOWN, move |_| Ok(answer.clone()));
    }

    fn delegated(&self, to: &str) {
        self.well_known(&[], &json!({ "m.server": to }).to_string());
    }
}

fn place(host: &str, tls_name: &str, addresses: &[&str]) -> Place {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Place { host: host.to_owned(), target: HttpTarget { tls_name: tls_name.to_owned(), addresses } }
}

#[tokio::test]
async fn step_1_an_ip_literal_is_the_address() {
    let world = World::new();
    for (name, wanted) in [
        ("192.0.2.7", place("192.0.2.7", "192.0.2.7", &["192.0.2.7:8448"])),
        ("192.0.2.7:80", place("192.0.2.7:80", "192.0.2.7", &["192.0.2.7:80"])),
        ("[2001:db8::7]", place("[2001:db8::7]", "2001:db8::7", &["[2001:db8::7]:8448"])),
        ("[2001:db8::7]:80", place("[2001:db8::7]:80", "2001:db8::7", &["[2001:db8::7]:80"])),
    ] {
        assert_eq!(world.find(name).await, wanted);
    }
    assert_eq!((world.net.asked().len(), world.net.looked_up().len()), (0, 0));
}

#[tokio::test]
async fn step_2_an_explicit_port_needs_no_well_known() {
    let world = World::new();
    world.delegated("elsewhere.example");
    world.net.srv("_matrix-fed._tcp.example.org", &[("elsewhere.example", 1)]);
    let found = world.find("example.org:8888").await;
    assert_eq!(found, place("example.org:8888", "example.org", &["192.0.2.1:8888"]));
    assert_eq!((world.net.asked().len(), world.net.looked_up()), (0, vec!["example.org".to_owned()]));
}

#[tokio::test]
async fn step_3_asks_the_host_over_https() {
    let world = World::new();
    world.delegated("203.0.113.9");
    world.find("example.org").await;
    let asked = world.net.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].host.as_str(), asked[0].path.as_str()), ("example.org", WELL_KNOWN));
    let target = HttpTarget { tls_name: "example.org".to_owned(), addresses: vec!["192.0.2.1:443".parse().unwrap()] };
    assert_eq!(asked[0].target, target);
    assert!(asked[0].headers.is_empty(), "nothing that is signed goes to the web server");
}

#[tokio::test]
async fn step_3_1_delegated_to_an_ip_literal() {
    let world = World::new();
    world.delegated("203.0.113.9");
    assert_eq!(world.find("example.org").await, place("203.0.113.9", "203.0.113.9", &["203.0.113.9:8448"]));
    let world = World::new();
    world.delegated("[2001:db8::9]:443");
    assert_eq!(world.find("example.org").await, place("[2001:db8::9]:443", "2001:db8::9", &["[2001:db8::9]:443"]));
}

#[tokio::test]
async fn step_3_2_delegated_to_a_host_with_a_port() {
    let world = World::new();
    world.delegated("matrix.example.net:443");
    world.net.name("matrix.example.net", &["2001:db8::5", "203.0.113.5"]);
    let wanted = place("matrix.example.net:443", "matrix.example.net", &["[2001:db8::5]:443", "203.0.113.5:443"]);
    assert_eq!(world.find("example.org").await, wanted);
}

#[tokio::test]
async fn steps_3_3_to_3_5_delegated_to_a_host_without_a_port() {
    let world = World::new();
    world.delegated("delegate.example");
    world.net.name("delegate.example", &["203.0.113.1"]);
    world.net.name("fed.example", &["203.0.113.2"]);
    world.net.name("old.example", &["203.0.113.3"]);
    // A document of the delegate is not asked for.
    world.net.json("delegate.example", WELL_KNOWN, &json!({ "m.server": "third.example:1" }));
    let wanted = |address| place("delegate.example", "delegate.example", &[address]);

    assert_eq!(world.find("example.org").await, wanted("203.0.113.1:8448"));
    world.net.srv("_matrix._tcp.delegate.example", &[("old.example", 2222)]);
    assert_eq!(world.find("example.org").await, wanted("203.0.113.3:2222"));
    world.net.srv("_matrix-fed._tcp.delegate.example", &[("fed.example", 1111)]);
    assert_eq!(world.find("example.org").await, wanted("203.0.113.2:1111"));
    assert_eq!(world.net.asked_urls(), [format!("example.org{WELL_KNOWN}")]);
}

#[tokio::test]
async fn steps_4_to_6_without_a_document() {
    let world = World::new();
    world.net.name("example.org", &["192.0.2.1"]);
    world.net.name("fed.example", &["203.0.113.2"]);
    world.net.name("old.example", &["203.0.113.3"]);
    let wanted = |address| place("example.org", "example.org", &[address]);

    assert_eq!(world.find("example.org").await, wanted("192.0.2.1:8448"));
    world.net.srv("_matrix._tcp.example.org", &[("old.example", 2222)]);
    assert_eq!(world.find("example.org").await, wanted("203.0.113.3:2222"));
    world.net.broken_srv("_matrix-fed._tcp.example.org");
    assert_eq!(world.find("example.org").await, wanted("203.0.113.3:2222"));
    world.net.srv("_matrix-fed._tcp.example.org", &[("fed.example", 1111)]);
    assert_eq!(world.find("example.org").await, wanted("203.0.113.2:1111"));
}

#[tokio::test]
async fn the_places_of_a_record_are_tried_in_order_and_within_bounds() {
    let world = World::new();
    let places: Vec<_> = (0..9).map(|n| format!("s{n}.example")).collect();
    for (n, name) in places.iter().enumerate().filter(|(n, _)| *n != 1) {
        let addresses: Vec<_> = (0..3).map(|m| format!("203.0.113.{}", n * 10 + m)).collect();
        world.net.name(name, &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let targets: Vec<_> = places.iter().map(|name| (name.as_str(), 1)).collect();
    world.net.srv("_matrix-fed._tcp.example.org", &targets);
    let wanted: Vec<_> = [0, 1, 2, 20, 21, 22, 30, 31].map(|n| format!("203.0.113.{n}:1")).into();
    let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
    assert_eq!(world.find("example.org").await, place("example.org", "example.org", &wanted));
}

#[tokio::test]
async fn a_server_that_is_nowhere() {
    let world = World::new();
    assert_eq!(world.try_find("example.org").await, Err(DiscoveryError::NoAddress("example.org".to_owned())));
    world.net.broken_name("example.net");
    assert!(matches!(world.try_find("example.net:1").await, Err(DiscoveryError::Dns { .. })));
    // A record that names nothing is not passed over: the server says that it is there.
    world.net.name("example.com", &["192.0.2.1"]);
    world.net.srv("_matrix._tcp.example.com", &[("gone.example", 1)]);
    assert_eq!(world.try_find("example.com").await, Err(DiscoveryError::NoAddress("gone.example".to_owned())));
}

#[tokio::test]
async fn a_document_that_does_not_count_is_passed_over() {
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"m.server": 8448}"#,
        r#"{"m.server": ""}"#,
        r#"{"m.server": "a.example:http"}"#,
        r#"{"m.server": "https://a.example"}"#,
        r#"{"m.server": "a.example/path"}"#,
    ] {
        let world = World::new();
        world.well_known(&[], body);
        assert_eq!(world.find("example.org").await, place("example.org", "example.org", &["192.0.2.1:8448"]), "{body}");
    }
    for status in [201, 204, 304, 400, 401, 404, 500] {
        let world = World::new();
        world.net.name("example.org", &["192.0.2.1"]);
        let right = answer(status, &[], r#"{"m.server": "203.0.113.9"}"#);
        world.net.respond("example.org", WELL_KNOWN, move |_| Ok(right.clone()));
        assert_eq!(world.find("example.org").await.host, "example.org", "{status}");
    }
    let world = World::new();
    world.well_known(&[], &format!("{}{}", r#"{"m.server": "203.0.113.9"}"#, " ".repeat(1 << 20)));
    assert_eq!(world.find("example.org").await.host, "example.org");
}

#[tokio::test]
async fn redirects_are_followed_over_https_only_and_not_for_ever() {
    let redirect = |to: &str| answer(302, &[("location", to)], "");
    for (to, asked) in [
        ("https://www.example.org/x/../matrix?a=b#c", Some("www.example.org/matrix?a=b")),
        ("//www.example.org:8443/matrix", Some("www.example.org:8443/matrix")),
        ("/elsewhere", Some("example.org/elsewhere")),
        ("other", Some("example.org/.well-known/matrix/other")),
        ("https://[2001:db8::1]/", Some("[2001:db8::1]/")),
        ("http://www.example.org/matrix", None),
        ("https://user:secret@www.example.org/matrix", None),
        ("https://", None),
        ("ftp://www.example.org/", None),
        ("https://www.exa\"mple.org/", None),
        ("https://{www}.example.org/", None),
    ] {
        let world = World::new();
        world.net.name("example.org", &["192.0.2.1"]);
        world.net.name("www.example.org", &["192.0.2.2"]);
        let answer = redirect(to);
        world.net.respond("example.org", WELL_KNOWN, move |_| Ok(answer.clone()));
        let document = json!({ "m.server": "203.0.113.9" });
        for host in ["www.example.org", "www.example.org:8443", "[2001:db8::1]"] {
            world.net.json(host, "/", &document);
        }
        for path in ["/elsewhere", "/.well-known/matrix/other"] {
            world.net.json("example.org", path, &document);
        }
        let found = world.find("example.org").await.host;
        assert_eq!(found, if asked.is_some() { "203.0.113.9" } else { "example.org" }, "{to}");
        assert_eq!(world.net.asked_urls().get(1).map(String::as_str), asked, "{to}");
    }
    let world = World::new();
    world.net.name("example.org", &["192.0.2.1"]);
    world.net.respond("example.org", "/", move |_| Ok(redirect("/.well-known/matrix/server")));
    assert_eq!(world.find("example.org").await.host, "example.org");
    assert_eq!(world.net.asked().len(), 6);
}

#[tokio::test]
async fn a_redirect_connects_to_where_it_points() {
    let world = World::new();
    world.net.name("example.org", &["192.0.2.1"]);
    world.net.name("www.example.org", &["192.0.2.2"]);
    world
        .net
        .respond("example.org", WELL_KNOWN, |_| Ok(answer(307, &[("location", "https://www.example.org:8443/")], "")));
    world.find("example.org").await;
    let asked = world.net.asked();
    let target =
        HttpTarget { tls_name: "www.example.org".to_owned(), addresses: vec!["192.0.2.2:8443".parse().unwrap()] };
    assert_eq!((asked[1].host.as_str(), &asked[1].target), ("www.example.org:8443", &target));
}

/// How often the document is asked for when the server is looked for again after so many hours.
async fn asked_after(headers: &[(&str, &str)], hours: f64) -> usize {
    let world = World::new();
    world.well_known(headers, r#"{"m.server": "203.0.113.9"}"#);
    world.find("example.org").await;
    world.find("example.org").await;
    world.clock.advance_ms((hours * HOUR_MS as f64) as u64);
    world.find("example.org").await;
    world.net.asked().len()
}

#[tokio::test]
async fn a_document_counts_as_long_as_it_says_within_bounds() {
    for (cache_control, kept_h, gone_h) in [
        ("public", 23.9, 24.1),
        ("max-age=7200", 1.9, 2.1),
        ("public, MAX-AGE=\"7200\"", 1.9, 2.1),
        ("max-age=31536000", 47.9, 48.1),
        ("max-age=99999999999999999999", 23.9, 24.1),
        ("max-age=1", 0.08, 0.09),
        ("no-store, max-age=7200", 0.08, 0.09),
        ("no-cache", 0.08, 0.09),
    ] {
        let headers = [("cache-control", cache_control)];
        assert_eq!(asked_after(&headers, kept_h).await, 1, "{cache_control}");
        assert_eq!(asked_after(&headers, gone_h).await, 2, "{cache_control}");
    }
    assert_eq!(asked_after(&[], 23.9).await, 1);
    assert_eq!(asked_after(&[], 24.1).await, 2);
}

#[tokio::test]
async fn failures_are_asked_again_less_and_less_often() {
    let world = World::new();
    world.net.name("example.org", &["192.0.2.1"]);
    for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
        world.find("example.org").await;
        assert_eq!(world.net.asked().len(), 1, "{minutes}");
        world.clock.advance_ms(minutes * 60_000 - 1);
        world.find("example.org").await;
        assert_eq!(world.net.asked().len(), 0, "{minutes}");
        world.clock.advance_ms(1);
    }
    // A success ends it.
    world.delegated("203.0.113.9");
    assert_eq!(world.find("example.org").await.host, "203.0.113.9");
}

#[tokio::test]
async fn an_outage_of_the_web_server_does_not_move_the_server() {
    let world = World::new();
    world.delegated("203.0.113.9");
    world.find("example.org").await;
    world.clock.advance_ms(25 * HOUR_MS);
    world.net.fail("example.org", WELL_KNOWN, HttpError::TimedOut);
    assert_eq!(world.find("example.org").await.host, "203.0.113.9");
    world.net.respond("example.org", WELL_KNOWN, |_| Ok(answer(503, &[], "")));
    world.clock.advance_ms(HOUR_MS);
    assert_eq!(world.find("example.org").await.host, "203.0.113.9");
    // Not for longer than an answer is ever cached.
    world.clock.advance_ms(23 * HOUR_MS);
    assert_eq!(world.find("example.org").await.host, "example.org");
}

#[tokio::test]
async fn a_document_that_was_taken_away_no_longer_counts() {
    let world = World::new();
    world.delegated("203.0.113.9");
    world.find("example.org").await;
    world.clock.advance_ms(25 * HOUR_MS);
    world.net.respond("example.org", WELL_KNOWN, |_| Ok(answer(404, &[], "")));
    assert_eq!(world.find("example.org").await.host, "example.org");
}

#[tokio::test]
async fn many_who_look_at_once_ask_once() {
    let world = World::new();
    world.delegated("203.0.113.9");
    world.net.hold();
    let looks = futures_util::future::join_all((0..20).map(|_| world.find("example.org")));
    let go_on = async {
        tokio::task::yield_now().await;
        world.net.go_on();
    };
    let (found, ()) = tokio::join!(looks, go_on);
    assert!(found.iter().all(|place| place.host == "203.0.113.9"));
    assert_eq!(world.net.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_web_server_that_says_nothing_is_not_waited_for_for_ever() {
    let world = World::new();
    world.delegated("203.0.113.9");
    world.net.hold();
    assert_eq!(world.find("example.org").await.host, "example.org");
}

#[tokio::test]
async fn the_way_is_explained() {
    let world = World::new();
    world.delegated("delegate.example");
    world.net.name("delegate.example", &["203.0.113.1"]);
    world.net.broken_srv("_matrix-fed._tcp.delegate.example");
    world.find("example.org").await;
    let (steps, found) = world.discovery.explain(<&ServerName>::try_from("example.org").unwrap()).await;
    let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        steps,
        [
            "/.well-known/matrix/server: delegate.example",
            "SRV _matrix-fed._tcp.delegate.example: the name server did not answer: SERVFAIL",
            "SRV _matrix._tcp.delegate.example: none",
            "port 8448, as nothing says otherwise",
            "addresses of delegate.example: 203.0.113.1",
        ]
    );
    assert_eq!(found, Ok(place("delegate.example", "delegate.example", &["203.0.113.1:8448"])));
    assert_eq!(world.net.asked().len(), 2, "the document is asked for anew");
}
