//! What other servers' refusals and silence are to clients.

use hearth_edge::Error;
use hearth_ports::PeerError;
use http::StatusCode;

/// How long a client waits whom another server found too eager, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The longest errcode that is passed on, in bytes. Those of the specification have some 30.
const ERRCODE_BYTES_MAX: usize = 64;

/// Errcodes that are about the request between the servers, or by which a client would log out, lock itself or ask its
/// user for consent: another server has no say in that.
const NOT_FOR_CLIENTS: [&str; 14] = [
    "M_UNKNOWN",
    "M_UNRECOGNIZED",
    "M_UNAUTHORIZED",
    "M_NOT_JSON",
    "M_BAD_JSON",
    "M_MISSING_PARAM",
    "M_INVALID_PARAM",
    "M_MISSING_TOKEN",
    "M_UNKNOWN_TOKEN",
    "M_USER_LOCKED",
    "M_USER_SUSPENDED",
    "M_USER_LIMIT_EXCEEDED",
    "M_CONSENT_NOT_GIVEN",
    "M_RESOURCE_LIMIT_EXCEEDED",
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

/// Another server said no: "the error should be passed through to clients so that they may give better feedback to
/// users". What it found wrong with our request is not the client's doing: "the Client-Server API request SHOULD fail with
/// a 5xx error rather than being passed through".
pub(crate) fn refused(status: u16, errcode: &str, error: &str) -> Error {
    if errcode == "M_LIMIT_EXCEEDED" {
        return Error::limit_exceeded(RETRY_MS);
    }
    // 401 would have the client log out.
    let is_for_clients = |status: &StatusCode| status.is_client_error() && *status != StatusCode::UNAUTHORIZED;
    let status = StatusCode::from_u16(status).ok().filter(is_for_clients);
    let message = format!("the other server says: {error}");
    match status.filter(|_| is_errcode(errcode) && !NOT_FOR_CLIENTS.contains(&errcode)) {
        Some(status) => Error::new(status, errcode.to_owned(), message),
        None => unreachable(message),
    }
}

/// Whether it has the form of errcodes: `M_FORBIDDEN`, `ORG.EXAMPLE.NO_CATS`.
fn is_errcode(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    (1..=ERRCODE_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// No other server could help.
pub(crate) fn unreachable(message: String) -> Error {
    Error::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_has_no_say_in_what_a_client_does_with_its_session() {
        let told = |status, errcode: &str| {
            let error = refused(status, errcode, "no");
            (error.status().as_u16(), error.errcode().to_owned())
        };
        for (status, errcode) in [(403, "M_FORBIDDEN"), (400, "M_UNABLE_TO_GRANT_JOIN"), (400, "ORG.EXAMPLE.NO_CATS")] {
            assert_eq!(told(status, errcode), (status, errcode.to_owned()), "passed through");
        }
        let others = [
            (401, "M_UNKNOWN_TOKEN"),
            (403, "M_UNKNOWN_TOKEN"),
            (401, "M_FORBIDDEN"),
            (403, "M_USER_LOCKED"),
            (400, "M_INVALID_PARAM"),
            (500, "M_FORBIDDEN"),
            (403, "no code"),
            (403, ""),
        ];
        for (status, errcode) in others {
            assert_eq!(told(status, errcode), (502, "M_UNKNOWN".to_owned()), "{status} {errcode}");
        }
        assert_eq!(told(403, &"M".repeat(65)).0, 502);
        assert_eq!(told(429, "M_LIMIT_EXCEEDED"), (429, "M_LIMIT_EXCEEDED".to_owned()));
    }
}
