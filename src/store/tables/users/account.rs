//! Accounts, the row that stands for a user's set of sessions, profiles and registration tokens.

use hearth_ports::{Key, Partition};
use serde::{Deserialize, Serialize};

use crate::{UserNumber, key, row};

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountKind {
    /// The full API.
    Full,
    /// What the module "Guest access" lists.
    Guest,
}

/// The argon2id hash of a password, with what it takes to compute it again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Random.
    pub salt: [u8; 16],
    /// The hash.
    pub hash: [u8; 32],
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// An account of this server. It is never deleted, so that its name is never given to somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRow {
    /// The user id.
    pub user_id: String,
    /// Full or guest.
    pub kind: AccountKind,
    /// `None`: nobody can log in with a password.
    pub password: Option<PasswordHash>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ts_ms: u64,
    /// An administrator of this server.
    pub admin: bool,
    /// See "Account suspension".
    pub suspended: bool,
    /// See "Account locking".
    pub locked: bool,
    /// Deactivated for ever.
    pub deactivated: bool,
    /// Deactivated with the wish that its messages be hidden from those who have not seen them.
    pub erased: bool,
}

row!(AccountRow, "account", version 1);

/// Changes with the set of a user's sessions: who adds one requires it, who ends all of them requires it, so that neither
/// misses the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSetRow {
    /// Rises with every change.
    pub version: u64,
    /// How many devices there are.
    pub devices: u32,
}

row!(SessionSetRow, "session set", version 1);

/// A user's profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRow {
    /// Field names and their values as JSON text, sorted by name.
    pub fields: Vec<(String, String)>,
}

row!(ProfileRow, "profile", version 1);

/// A token that admits registrations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationTokenRow {
    /// How many more accounts it admits; `None` is any number.
    pub uses_left: Option<u32>,
    /// The end of its validity, in milliseconds since the Unix epoch.
    pub expires_ts_ms: Option<u64>,
}

row!(RegistrationTokenRow, "registration token", version 1);

/// `Us`: an account.
pub fn account_key(user: UserNumber) -> Key {
    key(b'a').user(user).build()
}

/// What all keys of accounts begin with.
pub fn accounts_prefix() -> Key {
    key(b'a').build()
}

/// Whose account a key of [`account_key`] is.
pub fn account_of_key(key: &[u8]) -> Option<UserNumber> {
    let number = key.strip_prefix(b"a")?;
    Some(UserNumber(u64::from_be_bytes(number.try_into().ok()?)))
}

/// `Us`: the set of a user's sessions.
pub fn session_set_key(user: UserNumber) -> Key {
    key(b's').user(user).build()
}

/// `Us`: a profile.
pub fn profile_key(user: UserNumber) -> Key {
    key(b'p').user(user).build()
}

/// `Mi`: a registration token, in the partition of [`registration_token_partition`].
pub fn registration_token_key(token: &str) -> Key {
    key(b'g').raw(token.as_bytes()).build()
}

/// Where [`registration_token_key`] lives.
pub fn registration_token_partition(token: &str) -> Partition {
    UserNumber::first_candidate(token).partition()
}
