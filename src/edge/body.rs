//! Reads request bodies: bounded in bytes before and while reading, and in time.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use hearth_core::json::{self, JsonError};
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::Error;

/// A JSON body unless a route says otherwise: key uploads and filters are the largest that clients send.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// A client that needs longer for its body holds memory without using it.
const READ_TIME_MAX: Duration = Duration::from_secs(60);

/// The whole body, or 413, 408 or 400.
pub(crate) async fn read(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, Error> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let encoded = headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
    if encoded {
        let error = Error::not_json("compressed bodies are not accepted");
        return Err(error.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    match tokio::time::timeout(READ_TIME_MAX, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(bytes_max)),
        Ok(Err(_)) => Err(Error::unknown("the body ended early")),
        Err(_) => Err(Error::unknown("the body took too long").with_status(StatusCode::REQUEST_TIMEOUT)),
    }
}

fn too_large(bytes_max: usize) -> Error {
    Error::too_large(format!("the body is larger than {bytes_max} bytes"))
}

/// Refuses what is not UTF-8, not JSON or nested too deeply, before any type is read from it.
pub(crate) fn check_json(body: &[u8]) -> Result<(), Error> {
    json::check_json(body, &json::Limits::BODY).map_err(|error| match error {
        JsonError::Malformed(_) => Error::not_json(error.to_string()),
        JsonError::TooDeep | JsonError::Number => Error::bad_json(error.to_string()),
    })
}
