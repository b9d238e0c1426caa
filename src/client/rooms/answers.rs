//! How errors of the rooms service are told to clients, where several endpoints share them.

use hearth_core::BuildError;
use hearth_edge::Error;
use hearth_rooms::{AliasError, SendError};
use http::StatusCode;

/// How long a client waits whose room is busy, in milliseconds.
const BUSY_RETRY_MS: u64 = 1_000;

/// Why an event was not sent.
pub(super) fn send_error(error: SendError) -> Error {
    match error {
        SendError::Forbidden(reason) => Error::forbidden(reason.to_string()),
        SendError::GuestsForbidden => Error::guest_access_forbidden(),
        SendError::UnknownRoom => Error::not_found(error.to_string()),
        SendError::Remote => Error::forbidden(error.to_string()),
        SendError::Refused { status, errcode, error } => refused(status, &errcode, &error),
        SendError::Unreachable(text) => unreachable(text),
        SendError::IncompatibleVersion(version) => Error::incompatible_room_version(&version),
        SendError::UnknownEvent | SendError::InvalidParam(_) => Error::invalid_param(error.to_string()),
        SendError::Content(error) => build_error(&error),
        SendError::BadContent(_) => Error::bad_json(error.to_string()),
        SendError::BadAlias(_) => Error::bad_request("M_BAD_ALIAS", error.to_string()),
        SendError::Conflict | SendError::Busy => Error::limit_exceeded(BUSY_RETRY_MS),
        SendError::Unavailable(text) => unavailable(&text),
    }
}

/// Errcodes of other servers that tell a client something. Others are no better than `M_UNKNOWN`.
const PEER_ERRCODES: [&str; 8] = [
    "M_FORBIDDEN",
    "M_NOT_FOUND",
    "M_INVITE_BLOCKED",
    "M_UNABLE_TO_AUTHORISE_JOIN",
    "M_UNABLE_TO_GRANT_JOIN",
    "M_GUEST_ACCESS_FORBIDDEN",
    "M_TOO_LARGE",
    "M_USER_DEACTIVATED",
];

/// Another server said no. What it found wrong with our request is not the client's doing: "the Client-Server API request
/// SHOULD fail with a 5xx error rather than being passed through".
pub(super) fn refused(status: u16, errcode: &str, error: &str) -> Error {
    if errcode == "M_LIMIT_EXCEEDED" {
        return Error::limit_exceeded(BUSY_RETRY_MS);
    }
    let known = PEER_ERRCODES.into_iter().find(|known| *known == errcode);
    let status = StatusCode::from_u16(status).ok().filter(StatusCode::is_client_error);
    let message = format!("the other server says: {error}");
    match (known, status) {
        (Some(errcode), Some(status)) => Error::new(status, errcode, message),
        _ => unreachable(message),
    }
}

/// No other server could help.
pub(super) fn unreachable(message: String) -> Error {
    Error::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
}

/// Why an event cannot be made.
pub(super) fn build_error(error: &BuildError) -> Error {
    match error {
        BuildError::Content(_) | BuildError::ContentNotObject => Error::bad_json(error.to_string()),
        BuildError::TooLarge | BuildError::FieldTooLong(_) => Error::too_large(error.to_string()),
        BuildError::Incomplete(_) => {
            tracing::error!(%error, "an event was not made");
            Error::internal()
        }
    }
}

/// Why an alias or the directory was not changed.
pub(super) fn alias_error(error: AliasError) -> Error {
    match error {
        AliasError::Taken => Error::unknown(error.to_string()).with_status(StatusCode::CONFLICT),
        AliasError::NotFound => Error::not_found(error.to_string()),
        AliasError::Forbidden(reason) => Error::forbidden(reason),
        AliasError::Invalid(reason) => Error::invalid_param(reason),
        AliasError::Unavailable(text) => unavailable(&text),
    }
}

/// Our fault: the cause is for the log.
pub(super) fn unavailable(cause: &str) -> Error {
    tracing::error!(cause, "a request about a room failed");
    Error::unavailable()
}
