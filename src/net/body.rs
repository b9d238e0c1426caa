//! Reading an answer's body within its bound.

use bytes::{Bytes, BytesMut};
use hearth_ports::HttpError;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use crate::https::unreachable;

/// Set aside on the word of the other end. A larger body grows its buffer as it comes.
const PROMISED_BYTES_MAX: usize = 65_536;

/// The whole body, or `TooLarge` as soon as it is known to exceed `bytes_max`; what is left of it is then not read.
pub(crate) async fn read(asked: &Method, mut body: Incoming, bytes_max: usize) -> Result<Bytes, HttpError> {
    // The answer to a HEAD promises what a GET would get.
    let promised = if *asked == Method::HEAD { 0 } else { body.size_hint().lower() };
    let promised = usize::try_from(promised).unwrap_or(usize::MAX);
    if promised > bytes_max {
        return Err(HttpError::TooLarge);
    }
    let mut bytes = BytesMut::with_capacity(promised.min(PROMISED_BYTES_MAX));
    while let Some(data) = next(&mut body).await? {
        if data.len() > bytes_max - bytes.len() {
            return Err(HttpError::TooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// The next data of a body; `None`: that was all.
pub(crate) async fn next(body: &mut Incoming) -> Result<Option<Bytes>, HttpError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unreachable(&error))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
