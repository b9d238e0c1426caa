//! `/.well-known/matrix/server`: a web server's answers. The way to the document stays within its bounds and on https, what
//! it says is believed only if it is a server name, and it counts as long as it may.
//!
//! The input is answers as on the wire, with bare line feeds, between lines of `--`; the last is given again and again. The
//! first line is the status, or `unreachable`, `timeout`, `large`.

#![no_main]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use hearth_federation::discovery::{Discovery, Step};
use hearth_fuzz::{room::NOW_MS, run};
use hearth_ports::{
    BoxFuture, HttpAnswer, HttpClient, HttpError, HttpRequest, ManualClock, ResolveFailed, Resolver, SrvTarget,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
    uri::{Authority, PathAndQuery},
};
use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName, server_name};
use serde_json::Value;

const HOST: &str = "example.test";

/// The document itself, and redirects to it.
const REQUESTS_MAX: usize = 6;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// Bounds on how long a document counts.
const LIFETIME_MS: (u64, u64) = (5 * MINUTE_MS, 48 * HOUR_MS);

/// Answers of one input.
const ANSWERS_MAX: usize = 10;

struct Web {
    answers: Vec<Result<HttpAnswer, HttpError>>,
    asked: Mutex<Vec<HttpRequest>>,
}

impl HttpClient for Web {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpAnswer, HttpError>> {
        let mut asked = self.asked.lock();
        let answer = self.answers[asked.len().min(self.answers.len() - 1)].clone();
        let bytes_max = request.answer_bytes_max;
        asked.push(request);
        let fits =
            answer.and_then(|answer| if answer.body.len() > bytes_max { Err(HttpError::TooLarge) } else { Ok(answer) });
        Box::pin(std::future::ready(fits))
    }
}

/// Every name has one address, and none a service.
struct Names;

impl Resolver for Names {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveFailed>> {
        Box::pin(std::future::ready(Ok(vec![Ipv4Addr::new(192, 0, 2, 1).into()])))
    }

    fn services<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<SrvTarget>, ResolveFailed>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

fuzz_target!(|input: &[u8]| {
    let answers: Vec<_> = parts(input, b"\n--\n").take(ANSWERS_MAX).map(answer).collect();
    run(find(answers));
});

async fn find(answers: Vec<Result<HttpAnswer, HttpError>>) {
    let web = Arc::new(Web { answers, asked: Mutex::default() });
    let clock = Arc::new(ManualClock::at_ms(NOW_MS));
    let discovery = Discovery::new(web.clone(), Arc::new(Names), clock.clone());
    let (steps, place) = discovery.explain(server_name!("example.test")).await;
    let Some(Step::WellKnown(said)) = steps.first() else { panic!("the document is asked for first: {steps:?}") };
    let place = place.expect("every name has an address");
    let asked = web.asked.lock().clone();
    assert!((1..=REQUESTS_MAX).contains(&asked.len()), "asked {} times", asked.len());
    assert_eq!((&*asked[0].host, &*asked[0].path), (HOST, "/.well-known/matrix/server"));
    asked.iter().for_each(is_well_formed);
    let last = &web.answers[(asked.len() - 1).min(web.answers.len() - 1)];
    match said {
        Ok(delegate) => {
            let last = last.as_ref().expect("an error says nothing");
            assert_eq!(delegated(last).as_ref(), Some(delegate), "it is not what the document says");
            let is_named = delegate.port().is_some() || delegate.is_ip_literal();
            let host = if is_named { delegate.as_str() } else { delegate.host() };
            assert_eq!(place.host, host);
            assert!(!place.target.tls_name.contains(['/', '@', '?', '[']), "{:?}", place.target);
        }
        Err(_) => {
            // What cannot be believed says nothing: the server is at its own name.
            let port = SocketAddr::from(([192, 0, 2, 1], 8448));
            assert_eq!((&*place.host, &*place.target.tls_name, &*place.target.addresses), (HOST, HOST, &[port][..]));
            let is_clear =
                |answer: &HttpAnswer| answer.status == StatusCode::OK && asked.len() == 1 && is_clear(answer);
            assert!(!last.as_ref().is_ok_and(is_clear), "a right document was not believed: {steps:?}");
        }
    }
    if let (Ok(_), Ok(last)) = (said, last) {
        counts_as_long_as_it_may(&web, &clock, &discovery, last).await;
    } else {
        failure_is_remembered(&web, &clock, &discovery).await;
    }
}

/// Nothing in a request is what its text was not to be.
fn is_well_formed(request: &HttpRequest) {
    assert_eq!(request.method, Method::GET);
    assert!(request.answer_bytes_max <= 16 << 10 && request.body.is_empty() && request.headers.is_empty());
    let path = PathAndQuery::try_from(&*request.path).expect("a path");
    assert!(request.path.starts_with('/') && path.as_str() == request.path, "{}", request.path);
    assert!(HeaderValue::from_str(&request.host).is_ok(), "{}", request.host);
    let host = Authority::try_from(&*request.host).expect("a host");
    assert!(!request.host.contains('@') && host.host() == request.target.tls_name, "{request:?}");
    let port = host.port_u16().unwrap_or(443);
    assert!(!request.target.addresses.is_empty() && request.target.addresses.len() <= 4);
    assert!(request.target.addresses.iter().all(|address| address.port() == port), "{request:?}");
}

/// The delegate of a document, read another way.
fn delegated(answer: &HttpAnswer) -> Option<OwnedServerName> {
    let document: Value = serde_json::from_slice(&answer.body).ok()?;
    let name = document.get("m.server")?.as_str()?;
    (answer.status == StatusCode::OK).then(|| ServerName::parse(name).ok())?
}

/// The document holds nothing but a server name.
fn is_clear(answer: &HttpAnswer) -> bool {
    let Some(name) = delegated(answer) else { return false };
    answer.body == format!("{{\"m.server\":\"{name}\"}}")
}

/// It is not asked for again while it counts, and is when it no longer does.
async fn counts_as_long_as_it_may(web: &Web, clock: &ManualClock, discovery: &Discovery, last: &HttpAnswer) {
    let mut values = last.headers.get_all(CACHE_CONTROL).into_iter();
    let stated = match (values.next(), values.next()) {
        (None, _) => Some(24 * HOUR_MS),
        (Some(one), None) => stated_ms(one),
        (Some(_), Some(_)) => None,
    };
    let (at_least, at_most) = match stated {
        Some(stated) => [stated.clamp(LIFETIME_MS.0, LIFETIME_MS.1); 2].into(),
        None => LIFETIME_MS,
    };
    assert!(!is_asked(web, clock, discovery, at_least - 1).await, "it counted for less than {at_least} ms");
    let rest = at_most - (at_least - 1);
    assert!(is_asked(web, clock, discovery, rest).await, "it counted for more than {at_most} ms");
}

/// The lifetime of a header that says nothing else.
fn stated_ms(value: &HeaderValue) -> Option<u64> {
    let seconds = value.to_str().ok()?.strip_prefix("max-age=")?;
    let seconds = Some(seconds).filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some(seconds.parse::<u64>().ok()?.saturating_mul(1_000))
}

/// A host that says nothing is left in peace for a minute, and not for more than an hour.
async fn failure_is_remembered(web: &Web, clock: &ManualClock, discovery: &Discovery) {
    assert!(!is_asked(web, clock, discovery, MINUTE_MS - 1).await, "it is asked too often");
    assert!(is_asked(web, clock, discovery, HOUR_MS).await, "it is never asked again");
}

/// Whether finding the server asks for the document, some time later.
async fn is_asked(web: &Web, clock: &ManualClock, discovery: &Discovery, later_ms: u64) -> bool {
    clock.advance_ms(later_ms);
    let before = web.asked.lock().len();
    discovery.find(server_name!("example.test")).await.expect("every name has an address");
    let asked = web.asked.lock();
    asked[before..].iter().for_each(is_well_formed);
    asked.len() > before
}

/// The parts between separators, at least one.
fn parts<'a>(text: &'a [u8], separator: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let at = text.windows(separator.len()).position(|window| window == separator);
        rest = at.map(|at| &text[at + separator.len()..]);
        Some(&text[..at.unwrap_or(text.len())])
    })
}

fn answer(text: &[u8]) -> Result<HttpAnswer, HttpError> {
    let mut halves = parts(text, b"\n\n");
    let head = halves.next().unwrap_or_default();
    let body = text.get(head.len() + 2..).unwrap_or_default();
    let mut lines = head.split(|byte| *byte == b'\n');
    let status = match lines.next().unwrap_or_default() {
        b"unreachable" => return Err(HttpError::Unreachable("refused".to_owned())),
        b"timeout" => return Err(HttpError::TimedOut),
        b"large" => return Err(HttpError::TooLarge),
        status => StatusCode::from_bytes(status).unwrap_or(StatusCode::OK),
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    Ok(HttpAnswer { status, headers, body: Bytes::copy_from_slice(body) })
}
