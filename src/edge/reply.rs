//! Answers.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};
use serde::Serialize;

use crate::Error;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// 200 with this value as JSON. A value that does not serialise is our mistake: it is logged and answered with 500.
    pub fn json(value: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::bytes(body.into()),
            Err(error) => {
                tracing::error!(%error, "an answer does not serialise");
                Error::internal().into_reply("")
            }
        }
    }

    /// 200 with bytes that are JSON already.
    pub fn bytes(body: Bytes) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, JSON);
        Self { status: StatusCode::OK, headers, body }
    }

    /// 200 with `{}`.
    pub fn empty() -> Self {
        Self::bytes(Bytes::from_static(b"{}"))
    }

    /// 200 with bytes of this content type.
    pub fn raw(content_type: HeaderValue, body: Bytes) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, content_type);
        Self { status: StatusCode::OK, headers, body }
    }

    /// 302 to this place; 500 if it is no header value, which is our mistake.
    pub fn redirect(to: &str) -> Self {
        match HeaderValue::from_str(to) {
            Ok(to) => Self::empty().with_status(StatusCode::FOUND).with_header(LOCATION, to),
            Err(_) => Error::internal().into_reply(""),
        }
    }

    /// The same answer with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Sets a header, in place of what it was.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}
