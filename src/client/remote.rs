//! What other servers' refusals and silence are to clients.

use hearth_edge::Error;
use hearth_ports::PeerError;
use http::StatusCode;

/// How long a client waits whom another server found too eager, in milliseconds.
const RETRY_MS: u64 = 1_000;

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

/// Another server did not do what it was asked on behalf of a client.
pub(crate) fn peer_error(error: PeerError) -> Error {
    match error {
        PeerError::Refused { status, errcode, error, .. } => refused(status, &errcode, &error),
        PeerError::Denied => Error::forbidden("this server does not talk to that server"),
        PeerError::Unreachable(_) | PeerError::BackingOff { .. } | PeerError::Malformed(_) => {
            unreachable(error.to_string())
        }
    }
}

/// Another server said no. What it found wrong with our request is not the client's doing: "the Client-Server API request
/// SHOULD fail with a 5xx error rather than being passed through".
pub(crate) fn refused(status: u16, errcode: &str, error: &str) -> Error {
    if errcode == "M_LIMIT_EXCEEDED" {
        return Error::limit_exceeded(RETRY_MS);
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
pub(crate) fn unreachable(message: String) -> Error {
    Error::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
}
