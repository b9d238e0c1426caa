//! What several endpoints of accounts share: how errors are told, and who may ask.

use hearth_edge::{Call, Error};
use hearth_users::{BadName, OpenError, OpenedSession, PasswordError, SessionWish};
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value};

/// How long a client waits while too many passwords are being checked, in milliseconds.
const BUSY_RETRY_MS: u64 = 2_000;

/// The longest device id, in bytes, as for all identifiers.
const DEVICE_ID_BYTES_MAX: usize = 255;

/// The longest name of a device, in bytes.
const DEVICE_NAME_BYTES_MAX: usize = 512;

/// A password that was not hashed.
pub(super) fn password_error(error: PasswordError) -> Error {
    match error {
        PasswordError::TooLong | PasswordError::Empty => Error::invalid_param(error.to_string()),
        PasswordError::Busy => Error::limit_exceeded(BUSY_RETRY_MS),
    }
}

/// A user name that can't be one.
pub(super) fn bad_name(error: BadName) -> Error {
    Error::bad_request("M_INVALID_USERNAME", error.to_string())
}

/// A user name that somebody has.
pub(super) fn user_in_use() -> Error {
    Error::bad_request("M_USER_IN_USE", "the user name is taken")
}

/// A session that was not opened.
pub(super) fn open_error(error: OpenError) -> Error {
    match error {
        OpenError::Forbidden | OpenError::TooManyDevices => Error::forbidden(error.to_string()),
        OpenError::Locked => Error::user_locked(),
        OpenError::Fault(ours) => ours.into(),
    }
}

/// The user of the path, who must be the one who asks.
pub(super) fn own(call: &Call) -> Result<OwnedUserId, Error> {
    let user_id: OwnedUserId = call.path("user_id")?;
    if user_id != call.requester().user_id() {
        return Err(Error::forbidden("this belongs to another user"));
    }
    Ok(user_id)
}

/// The body's JSON object as it was written, and what it says.
pub(super) fn object(call: &Call) -> Result<(&str, Map<String, Value>), Error> {
    let fields = call.json()?;
    let text = std::str::from_utf8(call.body()).map_err(|_| Error::not_json("the body is not UTF-8"))?;
    Ok((text, fields))
}

/// The session that a login or registration asks for.
pub(super) fn session_wish(
    call: &Call,
    device_id: Option<String>,
    device_name: Option<String>,
    refreshable: bool,
) -> Result<SessionWish, Error> {
    if device_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > DEVICE_ID_BYTES_MAX) {
        return Err(Error::invalid_param("device_id must have 1 to 255 bytes"));
    }
    if device_name.as_ref().is_some_and(|name| name.len() > DEVICE_NAME_BYTES_MAX) {
        return Err(Error::invalid_param("initial_device_display_name must have at most 512 bytes"));
    }
    Ok(SessionWish { device_id: device_id.map(Into::into), device_name, refreshable, ip: Some(call.ip()) })
}

/// The answer of a login or registration.
pub(super) fn session_json(opened: &OpenedSession) -> Map<String, Value> {
    let mut body = user_json(&opened.user_id);
    body.insert("access_token".to_owned(), opened.access_token.clone().into());
    body.insert("device_id".to_owned(), opened.device_id.as_str().into());
    if let Some(refresh_token) = &opened.refresh_token {
        body.insert("refresh_token".to_owned(), refresh_token.clone().into());
    }
    if let Some(expires_in_ms) = opened.expires_in_ms {
        body.insert("expires_in_ms".to_owned(), expires_in_ms.into());
    }
    body
}

/// The part of it that is there without a session.
pub(super) fn user_json(user_id: &UserId) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("user_id".to_owned(), user_id.as_str().into());
    body.insert("home_server".to_owned(), user_id.server_name().as_str().into());
    body
}
