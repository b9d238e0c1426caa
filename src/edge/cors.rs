//! Cross-origin headers: everyone may ask, nobody with ambient credentials.
//! (Client-server API, "Web Browser Clients".)

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    },
};

use crate::Reply;

/// Only protocol paths are for browsers of other origins; health and metrics are not.
pub(crate) fn applies(path: &str) -> bool {
    path.starts_with("/_matrix/") || path.starts_with("/.well-known/")
}

/// Adds what every answer carries.
pub(crate) fn add(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS"));
    let allowed = HeaderValue::from_static("X-Requested-With, Content-Type, Authorization");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After, X-Request-Id"));
}

/// The answer to `OPTIONS`, whatever the path: no logic runs for it.
pub(crate) fn preflight() -> Reply {
    let mut reply = Reply::bytes(Bytes::from_static(b"{}")).with_status(StatusCode::OK);
    // A day is the most that browsers honour; each preflight saved is a round trip.
    reply.headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    reply
}
