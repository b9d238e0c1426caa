//! How errors of services are told to other servers, and how answers are written that carry events.

use bytes::Bytes;
use hearth_edge::{Error, Reply};
use hearth_ports::EventBytes;
use hearth_rooms::{HandshakeError, ReadError, ServeError};
use serde::Serialize;

/// How long a server waits that asked too much at once, in milliseconds.
pub(super) const BUSY_RETRY_MS: u64 = 1_000;

/// Why a handshake came to nothing.
pub(super) fn handshake_error(error: HandshakeError) -> Error {
    match error {
        HandshakeError::Forbidden(reason) => Error::forbidden(reason.to_string()),
        HandshakeError::UnknownRoom => Error::not_found(error.to_string()),
        HandshakeError::IncompatibleVersion(version) => Error::incompatible_room_version(&version),
        HandshakeError::UnableToAuthoriseJoin => Error::bad_request("M_UNABLE_TO_AUTHORISE_JOIN", error.to_string()),
        HandshakeError::UnableToGrantJoin => Error::bad_request("M_UNABLE_TO_GRANT_JOIN", error.to_string()),
        HandshakeError::BadJson(reason) => Error::bad_json(reason),
        HandshakeError::Malformed(reason) => Error::invalid_param(reason),
        HandshakeError::Busy => Error::limit_exceeded(BUSY_RETRY_MS),
        HandshakeError::Unavailable(text) => unavailable(&text),
    }
}

/// Why a server is not given what it asked for.
pub(super) fn serve_error(error: ServeError) -> Error {
    match error {
        ServeError::Forbidden(reason) => Error::forbidden(reason),
        ServeError::NotFound | ServeError::Busy => Error::not_found(error.to_string()),
        ServeError::Unavailable(text) => unavailable(&text),
    }
}

/// Why a room is not shown.
pub(super) fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::NotFound => Error::not_found(error.to_string()),
        ReadError::Forbidden(reason) => Error::forbidden(reason),
        ReadError::BadToken => Error::invalid_param(error.to_string()),
        ReadError::Unavailable(text) => unavailable(&text),
    }
}

/// Our fault: the cause is for the log.
pub(super) fn unavailable(cause: &str) -> Error {
    tracing::error!(cause, "a request of another server failed");
    Error::unavailable()
}

/// A JSON object that is written once, field by field; events go in as the bytes that they are.
pub(super) struct Object(Vec<u8>);

impl Object {
    pub(super) fn new() -> Self {
        Self(vec![b'{'])
    }

    /// A field of small values.
    pub(super) fn field(mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Self {
        self.name(name);
        serde_json::to_writer(&mut self.0, value).expect("strings and numbers are JSON, and memory takes them");
        self
    }

    /// A field whose value is JSON already.
    pub(super) fn json(mut self, name: &str, value: &[u8]) -> Self {
        self.0.reserve(name.len() + value.len() + 5);
        self.name(name);
        self.0.extend_from_slice(value);
        self
    }

    /// A list of events.
    pub(super) fn events(mut self, name: &str, events: &[EventBytes]) -> Self {
        let bytes: usize = events.iter().map(|event| event.len() + 1).sum();
        self.0.reserve(name.len() + bytes + 6);
        self.name(name);
        self.0.push(b'[');
        for (index, event) in events.iter().enumerate() {
            if index > 0 {
                self.0.push(b',');
            }
            self.0.extend_from_slice(event);
        }
        self.0.push(b']');
        self
    }

    pub(super) fn reply(self) -> Reply {
        Reply::bytes(self.bytes())
    }

    /// `[200, {…}]`, as the first version of some endpoints has it.
    pub(super) fn reply_v1(self) -> Reply {
        let object = self.bytes();
        Reply::bytes([b"[200,", &object[..], b"]"].concat().into())
    }

    fn bytes(mut self) -> Bytes {
        self.0.push(b'}');
        self.0.into()
    }

    /// Names are ours, and none needs an escape.
    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}
