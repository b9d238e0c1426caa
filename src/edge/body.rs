//! Reads request bodies: bounded in bytes before and while reading, and in time.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use hearth_core::json::{self, JsonError, Limits, Numbers};
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, overload::RETRY_AFTER_MS};

/// A JSON body unless a route says otherwise: key uploads and filters are the largest that clients send.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// Memory for bodies above [`BYTES_MAX`], all together, in KiB: few routes take them, and strangers may send there.
pub(crate) const LARGE_KIB_MAX: usize = 128 << 10;

/// A client that needs longer for its body holds memory without using it.
const READ_TIME_MAX: Duration = Duration::from_secs(60);

/// A body that was read.
#[derive(Default)]
pub(crate) struct Read {
    pub(crate) body: Bytes,
    /// Its share of [`LARGE_KIB_MAX`], to be held for as long as the body.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// The whole body, or 413, 408, 400, or 503 if too many large ones are being read or worked on.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    large: &Arc<Semaphore>,
) -> Result<Read, Error> {
    let encoded = headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
    if encoded {
        let error = Error::not_json("compressed bodies are not accepted");
        return Err(error.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    // Without a word about its length it may become as large as any.
    let expected = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(bytes_max);
    let room = (expected > BYTES_MAX).then(|| {
        let share = u32::try_from(expected.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        Arc::clone(large).try_acquire_many_owned(share).map_err(|_| Error::overloaded(RETRY_AFTER_MS))
    });
    let room = room.transpose()?;
    match tokio::time::timeout(READ_TIME_MAX, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(body)) => Ok(Read { body: body.to_bytes(), room }),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(bytes_max)),
        Ok(Err(_)) => Err(Error::unknown("the body ended early")),
        Err(_) => Err(Error::unknown("the body took too long").with_status(StatusCode::REQUEST_TIMEOUT)),
    }
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
