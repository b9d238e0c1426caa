//! Sessions of user-interactive authentication.

use hearth_ports::{Key, Partition};
use serde::{Deserialize, Serialize};

use crate::{UserNumber, key, row, tables::users::PasswordHash};

/// What a registration said in its first request and need not say again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The user name asked for.
    pub username: Option<String>,
    /// The password, hashed: plain ones are never stored.
    pub password: Option<PasswordHash>,
    /// The device id asked for.
    pub device_id: Option<String>,
    /// The device's name.
    pub device_name: Option<String>,
    /// No session is wanted.
    pub inhibit_login: bool,
}

/// A session of user-interactive authentication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InteractiveRow {
    /// Whose; `None` for registrations.
    pub user_id: Option<String>,
    /// A hash of what is to be done: method, path and body.
    pub operation: [u8; 16],
    /// Stages that are done.
    pub completed: Vec<String>,
    /// The registration token that was shown, to be used up with the registration.
    pub registration_token: Option<String>,
    /// For registrations.
    pub remembered: Option<Remembered>,
    /// For registrations: the account that was made.
    pub registered: Option<String>,
    /// The end of its validity, in milliseconds since the Unix epoch.
    pub expires_ts_ms: u64,
}

row!(InteractiveRow, "interactive authentication", version 1);

/// `Us`: a session, in the partition of [`interactive_partition`].
pub fn interactive_key(session: &str) -> Key {
    key(b'b').raw(session.as_bytes()).build()
}

/// What all keys of [`interactive_key`] begin with.
pub fn interactive_prefix() -> Key {
    key(b'b').build()
}

/// Where [`interactive_key`] lives.
pub fn interactive_partition(session: &str) -> Partition {
    UserNumber::first_candidate(session).partition()
}
