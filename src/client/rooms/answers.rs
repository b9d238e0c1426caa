//! How errors of the rooms service are told to clients, where several endpoints share them.

use hearth_core::BuildError;
use hearth_edge::Error;
use hearth_rooms::{AliasError, SendError};
use http::StatusCode;

use crate::remote::{peer_error, refused, unreachable};

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
        AliasError::Peer(error) => peer_error(error),
        AliasError::Unavailable(text) => unavailable(&text),
    }
}

/// Our fault: the cause is for the log.
pub(super) fn unavailable(cause: &str) -> Error {
    tracing::error!(cause, "a request about a room failed");
    Error::unavailable()
}
