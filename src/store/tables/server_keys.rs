//! Other servers' signing keys: `Fd` rows `k server`, in the server's partition. All of a server's keys are one row, so
//! that what is learned of them is one requirement and what is needed of them one read.

use hearth_ports::{Batch, Key};
use ruma::ServerName;
use serde::{Deserialize, Serialize};

use crate::{key, row};

/// What is known of a server's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeysRow {
    /// The keys, no two with one id.
    pub keys: Vec<ServerKeyRow>,
    /// What the server has said about its keys, newest first, as it signed it. Others may ask us for it.
    pub answers: Vec<KeyAnswerRow>,
    /// When the server itself was last heard, in milliseconds since the Unix epoch; 0: never.
    pub heard_ms: u64,
}

row!(ServerKeysRow, "server keys", version 1);

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeyRow {
    /// As in `ed25519:a_1`.
    pub id: String,
    /// The ed25519 public key.
    pub bytes: [u8; 32],
    /// What it signs later is not valid, in milliseconds since the Unix epoch.
    pub valid_until_ms: u64,
    /// The server no longer signs with it.
    pub is_old: bool,
    /// When it was last said to be so, in milliseconds since the Unix epoch.
    pub fetched_ms: u64,
    /// By another server than its own.
    pub from_notary: bool,
}

/// What a server said about its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAnswerRow {
    /// The signed object.
    pub json: String,
    /// Its `valid_until_ts`, in milliseconds since the Unix epoch.
    pub valid_until_ms: u64,
    /// When it was fetched, in milliseconds since the Unix epoch.
    pub fetched_ms: u64,
}

/// The longest [`KeyAnswerRow::json`] that is kept, in bytes: 60 keys with their signatures.
pub const KEY_ANSWER_BYTES_MAX: usize = 12 << 10;

/// The most [`ServerKeysRow::answers`]: a server that gets a new key each time it loses its old one.
pub const KEY_ANSWERS_MAX: usize = 4;

/// The most [`ServerKeysRow::keys`].
pub const KEYS_PER_SERVER_MAX: usize = 64;

/// The longest id of a key that is kept, in bytes.
pub const KEY_ID_BYTES_MAX: usize = 128;

const _: () = assert!(
    KEY_ANSWERS_MAX * (KEY_ANSWER_BYTES_MAX + 64) + KEYS_PER_SERVER_MAX * (KEY_ID_BYTES_MAX + 64)
        < Batch::VALUE_BYTES_MAX,
    "a row fits"
);

/// `Fd`: a server's keys.
pub fn server_keys_key(server: &ServerName) -> Key {
    key(b'k').raw(server.as_str().as_bytes()).build()
}
