//! The standard error response, and one constructor per errcode.

use std::borrow::Cow;

use bytes::Bytes;
use hearth_users::Fault;
use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use ruma::api::error::{DeserializationError, FromHttpRequestError};
use serde_json::{Map, Value};

use crate::Reply;

/// An error answer: a status, an errcode, a sentence for people, and what the errcode asks for besides.
///
/// Services know nothing of it; each endpoint maps its service's error to one of these.
#[derive(Clone, Debug)]
pub struct Error {
    status: StatusCode,
    /// `None` only for the first answer of interactive authentication, which has no errcode.
    errcode: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
    retry_after_ms: Option<u64>,
    fields: Option<Box<Map<String, Value>>>,
}

impl Error {
    /// Any error. Prefer a named constructor.
    pub fn new(
        status: StatusCode,
        errcode: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, errcode: Some(errcode.into()), message: message.into(), retry_after_ms: None, fields: None }
    }

    /// 401 with the body of user-interactive authentication (`flows`, `params`, `session`, `completed`). A body with an
    /// `errcode` and `error` keeps them; otherwise the answer has neither.
    pub fn interactive(body: Map<String, Value>) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            errcode: None,
            message: Cow::Borrowed(""),
            retry_after_ms: None,
            fields: Some(Box::new(body)),
        }
    }

    /// 403 `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "M_FORBIDDEN", message)
    }

    /// 404 `M_NOT_FOUND`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", message)
    }

    /// 404 `M_UNRECOGNIZED`: no such path.
    pub fn unrecognized() -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "unrecognized request")
    }

    /// 405 `M_UNRECOGNIZED`: the path exists, but not with this method.
    pub fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", "this path has no such method")
    }

    /// 400 with another errcode of the specification that needs no more than a message.
    pub fn bad_request(errcode: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, errcode, message)
    }

    /// 400 `M_BAD_JSON`: JSON of the wrong shape.
    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::bad_request("M_BAD_JSON", message)
    }

    /// 400 `M_NOT_JSON`.
    pub fn not_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::bad_request("M_NOT_JSON", message)
    }

    /// 400 `M_INVALID_PARAM`: a path or query parameter, or a field, has a value that it cannot have.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::bad_request("M_INVALID_PARAM", message)
    }

    /// 400 `M_MISSING_PARAM`: a required parameter is absent.
    pub fn missing_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::bad_request("M_MISSING_PARAM", message)
    }

    /// 400 `M_UNKNOWN`: wrong in a way that no errcode names.
    pub fn unknown(message: impl Into<Cow<'static, str>>) -> Self {
        Self::bad_request("M_UNKNOWN", message)
    }

    /// 413 `M_TOO_LARGE`.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", message)
    }

    /// 401 `M_MISSING_TOKEN`.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN", "this request needs an access token")
    }

    /// 401 `M_UNKNOWN_TOKEN`. With `soft_logout` the client keeps its keys and logs in again.
    pub fn unknown_token(soft_logout: bool) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", "unknown access token").with("soft_logout", soft_logout)
    }

    /// 401 `M_USER_LOCKED`, always a soft logout.
    pub fn user_locked() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", "this account has been locked").with("soft_logout", true)
    }

    /// 403 `M_USER_SUSPENDED`.
    pub fn user_suspended() -> Self {
        let message = "you cannot perform this action while suspended";
        Self::new(StatusCode::FORBIDDEN, "M_USER_SUSPENDED", message)
    }

    /// 403 `M_GUEST_ACCESS_FORBIDDEN`.
    pub fn guest_access_forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", "guests may not do this")
    }

    /// 429 `M_LIMIT_EXCEEDED`, with `retry_after_ms` and the `Retry-After` header.
    pub fn limit_exceeded(retry_after_ms: u64) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "too many requests");
        Self { retry_after_ms: Some(retry_after_ms), ..error }
    }

    /// 400 `M_INCOMPATIBLE_ROOM_VERSION` with the room's version.
    pub fn incompatible_room_version(room_version: &str) -> Self {
        Self::bad_request("M_INCOMPATIBLE_ROOM_VERSION", "the room's version is not supported")
            .with("room_version", room_version)
    }

    /// 500 `M_UNKNOWN`: our fault. The cause belongs in the log, not in here.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "internal server error")
    }

    /// 503 `M_UNKNOWN`: a part of the server cannot be reached now.
    pub fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", "the server is not available at the moment")
    }

    /// 503 `M_UNKNOWN` with the `Retry-After` header: more requests are in progress than the server takes on.
    pub(crate) fn overloaded(retry_after_ms: u64) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", "the server is busy");
        Self { retry_after_ms: Some(retry_after_ms), ..error }
    }

    /// Adds a field to the body.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.fields.get_or_insert_default().insert(key.to_owned(), value.into());
        self
    }

    /// The same error with another status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The errcode; empty for the first answer of interactive authentication.
    pub fn errcode(&self) -> &str {
        self.errcode.as_deref().unwrap_or_default()
    }

    /// Whether it says when to come back: then it is a bound that was met, not a failure.
    pub(crate) fn is_bound(&self) -> bool {
        self.retry_after_ms.is_some()
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The answer; `request_id` lets a person who reports it be found in the log.
    pub(crate) fn into_reply(self, request_id: &str) -> Reply {
        let mut body = self.fields.map_or_else(Map::new, |fields| *fields);
        if let Some(errcode) = self.errcode {
            body.insert("errcode".to_owned(), errcode.into_owned().into());
            body.insert("error".to_owned(), self.message.into_owned().into());
            body.insert("request_id".to_owned(), request_id.into());
        }
        if let Some(retry_after_ms) = self.retry_after_ms {
            body.insert("retry_after_ms".to_owned(), retry_after_ms.into());
        }
        let mut reply = Reply::bytes(Bytes::from(Value::Object(body).to_string())).with_status(self.status);
        if let Some(retry_after_ms) = self.retry_after_ms {
            reply = reply.with_header(RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1_000)));
        }
        reply
    }
}

/// What no user can change; its text goes to the log.
impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        tracing::error!(%fault, "a request failed");
        match fault {
            Fault::Unavailable(_) => Self::unavailable(),
            Fault::Broken(_) => Self::internal(),
        }
    }
}

impl From<FromHttpRequestError> for Error {
    fn from(error: FromHttpRequestError) -> Self {
        match error {
            FromHttpRequestError::Deserialization(error) => error.into(),
            FromHttpRequestError::MethodMismatch { .. } => Self::wrong_method(),
            other => Self::bad_json(other.to_string()),
        }
    }
}

impl From<DeserializationError> for Error {
    fn from(error: DeserializationError) -> Self {
        let message = error.to_string();
        match error {
            // The body was found to be JSON before; what is left is its shape.
            DeserializationError::Json(_) => Self::bad_json(message),
            DeserializationError::Utf8(_) => Self::not_json(message),
            // Path parameters come as this variant too.
            DeserializationError::Query(_) => Self::parameter(message),
            DeserializationError::Ident(_) | DeserializationError::Header(_) => Self::invalid_param(message),
            _ => Self::bad_json(message),
        }
    }
}

impl Error {
    /// `M_MISSING_PARAM` or `M_INVALID_PARAM`, by serde's own words.
    pub(crate) fn parameter(message: String) -> Self {
        if message.starts_with("missing field") { Self::missing_param(message) } else { Self::invalid_param(message) }
    }
}
