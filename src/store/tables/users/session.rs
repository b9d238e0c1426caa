//! Devices and the tokens of their sessions.

use hearth_ports::Key;
use serde::{Deserialize, Serialize};

use crate::{UserNumber, key, row};

/// The BLAKE3 of an access or refresh token. Tokens themselves are never stored.
pub type TokenHash = [u8; 32];

/// The tokens that were given out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPair {
    /// Hash of the access token.
    pub access: TokenHash,
    /// Hash of the refresh token, for clients that can refresh.
    pub refresh: Option<TokenHash>,
}

/// A device of a local user, which is also its session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// The name that its user gave it.
    pub display_name: Option<String>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ts_ms: u64,
    /// When it was last seen, in milliseconds since the Unix epoch. Memory knows it better than this row.
    pub last_seen_ts_ms: u64,
    /// From where it was last seen.
    pub last_seen_ip: Option<String>,
    /// The newest tokens; `None` once the session has ended while the device remains.
    pub tokens: Option<TokenPair>,
    /// The pair that [`Self::tokens`] replaced by a refresh. Valid until one of the new ones is used.
    pub replaced: Option<TokenPair>,
    /// Refresh tokens whose use again would show that they were stolen. Newest last.
    pub retired: Vec<TokenHash>,
}

row!(DeviceRow, "device", version 1);

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenKind {
    /// Authenticates requests.
    Access,
    /// Is exchanged for a new pair.
    Refresh,
    /// Was a refresh token, exchanged for a pair that has been used.
    RetiredRefresh,
    /// Was an access token of a session that was ended for safety while its device remains.
    Ended,
}

/// Where a token stands in the sequence of refreshes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefreshStep {
    /// The pair that it replaced is gone, or there was none.
    Settled,
    /// The first use of it retires the pair that it replaced.
    Fresh,
}

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// Whose.
    pub user: UserNumber,
    /// The device.
    pub device_id: String,
    /// What it is for.
    pub kind: TokenKind,
    /// See [`RefreshStep`].
    pub step: RefreshStep,
    /// The end of its validity, in milliseconds since the Unix epoch.
    pub expires_ts_ms: Option<u64>,
}

row!(TokenRow, "token", version 1);

/// `Us`: a device.
pub fn device_key(user: UserNumber, device_id: &str) -> Key {
    key(b'D').user(user).raw(device_id.as_bytes()).build()
}

/// What all keys of a user's devices begin with.
pub fn devices_prefix(user: UserNumber) -> Key {
    key(b'D').user(user).build()
}

/// The device id in a key of [`device_key`].
pub fn device_of_key(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(9..)?).ok()
}

/// `Ix`: a token, in the partition of its user.
pub fn token_key(hash: &TokenHash) -> Key {
    key(b't').raw(hash).build()
}
