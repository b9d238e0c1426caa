//! Reads request bodies: bounded in bytes before and while reading, and in time.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hearth_core::json::{self, JsonError, Limits, Numbers};
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH},
};
use http_body_util::BodyExt as _;

use crate::{Error, budget::Share};

/// A JSON body unless a route says otherwise: key uploads and filters are the largest that clients send.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// Memory for the larger bodies of clients, all together, and as much for those of other servers. A server that has been
/// away gets what it missed in a few hundred transactions of some 100 KiB at once.
pub(crate) const ALL_BYTES_MAX: usize = 128 << 20;

/// What a body may take without being counted: most are smaller, and a connection takes as much.
const SMALL_BYTES: usize = 16 << 10;

/// A client that needs longer for its body holds memory without using it.
const READ_TIME_MAX: Duration = Duration::from_secs(60);

/// The whole body, or 413, 408, 400, or 503 if too much is being read or worked on. It must not outlive its `share`, which
/// counts what has come, not what was announced: dawdlers hold little.
pub(crate) async fn read(headers: &HeaderMap, body: Body, bytes_max: usize, share: &mut Share) -> Result<Bytes, Error> {
    let encoded = headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
    if encoded {
        let error = Error::not_json("compressed bodies are not accepted");
        return Err(error.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    let expected = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(bytes_max);
    tokio::time::timeout(READ_TIME_MAX, collect(body, expected, bytes_max, share))
        .await
        .unwrap_or_else(|_| Err(Error::unknown("the body took too long").with_status(StatusCode::REQUEST_TIMEOUT)))
}

/// Copies the body into one buffer, which doubles as it fills: what came in little pieces takes no more than its size.
async fn collect(mut body: Body, expected: usize, bytes_max: usize, share: &mut Share) -> Result<Bytes, Error> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Error::unknown("the body ended early"))?;
        // Trailers mean nothing to us.
        let Ok(data) = frame.into_data() else { continue };
        let bytes = read.len().saturating_add(data.len());
        if bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        if bytes > read.capacity() {
            let doubled = read.capacity().saturating_mul(2).max(SMALL_BYTES);
            let capacity = doubled.min(expected).max(bytes);
            if capacity > SMALL_BYTES {
                share.hold(capacity)?;
            }
            read.reserve_exact(capacity - read.len());
        }
        read.extend_from_slice(&data);
    }
    Ok(read.into())
}

fn too_large(bytes_max: usize) -> Error {
    Error::too_large(format!("the body is larger than {bytes_max} bytes"))
}

/// What a body may be.
pub(crate) const CLIENTS: Limits = Limits::BODY;

/// Other servers' bodies are lists of what others have made: one event that nests too deeply must not spoil those beside
/// it.
pub(crate) const SERVERS: Limits = Limits { depth_max: json::SIGNED_DEPTH_MAX, numbers: Numbers::Lenient };

/// Refuses what is not UTF-8, not JSON or nested too deeply, before any type is read from it.
pub(crate) fn check_json(body: &[u8], limits: &Limits) -> Result<(), Error> {
    json::check_json(body, limits).map_err(|error| match error {
        JsonError::Malformed(_) => Error::not_json(error.to_string()),
        JsonError::TooDeep | JsonError::Number => Error::bad_json(error.to_string()),
    })
}
