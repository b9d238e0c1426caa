//! What a server says of its keys, checked against itself.
//! [Publishing keys](https://spec.matrix.org/v1.19/server-server-api/#publishing-keys).

use std::collections::BTreeMap;

use hearth_core::{PublicKey, PublicKeys, SignatureError, keys::verify_json};
use hearth_store::tables::{KEY_ID_BYTES_MAX, KEYS_PER_SERVER_MAX};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

/// The largest answer that is read, in bytes: our bound on keys, each with a long id and a signature.
pub(super) const ANSWER_BYTES_MAX: usize = 32 << 10;

/// An answer that its server has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyAnswer {
    pub(super) server: OwnedServerName,
    /// The object as it came.
    pub(super) json: String,
    /// `valid_until_ts`, as the server has it.
    pub(super) valid_until_ms: u64,
    /// The keys that it signs with, by id.
    pub(super) current: BTreeMap<String, [u8; 32]>,
    /// Keys of old, and when they stopped.
    pub(super) old: BTreeMap<String, ([u8; 32], u64)>,
}

/// Why an answer does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    /// Not JSON of the right shape, or too large.
    #[error("it makes no sense: {0}")]
    Malformed(String),
    /// It speaks of another server.
    #[error("it is of {0}")]
    OtherServer(String),
    /// Not signed by one of the keys that it names, or by one of them wrongly.
    #[error("it is not signed by itself: {0}")]
    NotSigned(SignatureError),
}

#[derive(Deserialize)]
struct Fields {
    server_name: String,
    valid_until_ts: u64,
    verify_keys: BTreeMap<String, Verify>,
    #[serde(default)]
    old_verify_keys: BTreeMap<String, Old>,
}

#[derive(Deserialize)]
struct Verify {
    key: String,
}

#[derive(Deserialize)]
struct Old {
    key: String,
    expired_ts: u64,
}

impl KeyAnswer {
    /// Reads and checks an answer. Keys of other algorithms are passed over.
    pub(super) fn read(server: &ServerName, json: &[u8]) -> Result<Self, AnswerError> {
        let malformed = |reason: &str| AnswerError::Malformed(reason.to_owned());
        if json.len() > ANSWER_BYTES_MAX {
            return Err(malformed("it is too large"));
        }
        let json = std::str::from_utf8(json).map_err(|_| malformed("it is not UTF-8"))?;
        let fields: Fields = serde_json::from_str(json).map_err(|error| AnswerError::Malformed(error.to_string()))?;
        if fields.server_name != server.as_str() {
            return Err(AnswerError::OtherServer(fields.server_name.chars().take(300).collect()));
        }
        if fields.verify_keys.len() + fields.old_verify_keys.len() > KEYS_PER_SERVER_MAX {
            return Err(malformed("it names too many keys"));
        }
        let current = fields.verify_keys.into_iter();
        let current = current.filter_map(|(id, verify)| Some((key_id(id)?, bytes(&verify.key)?))).collect();
        let old = fields.old_verify_keys.into_iter();
        let old = old.filter_map(|(id, old)| Some((key_id(id)?, (bytes(&old.key)?, old.expired_ts)))).collect();
        let answer = Self {
            server: server.to_owned(),
            json: json.to_owned(),
            valid_until_ms: fields.valid_until_ts,
            current,
            old,
        };
        // Its own word, whatever the time: how long its keys count is decided by who uses them.
        verify_json(server, &answer.current_keys(), json.as_bytes(), 0).map_err(AnswerError::NotSigned)?;
        Ok(answer)
    }

    fn current_keys(&self) -> PublicKeys {
        let mut keys = PublicKeys::default();
        for (id, bytes) in &self.current {
            keys.insert(self.server.clone(), id.clone(), PublicKey { bytes: *bytes, valid_until_ms: u64::MAX });
        }
        keys
    }
}

/// The ids of the keys that an answer names, which was read before.
pub(super) fn key_ids(json: &str) -> Vec<String> {
    serde_json::from_str::<Fields>(json).map_or_else(
        |_| Vec::new(),
        |fields| fields.verify_keys.into_keys().chain(fields.old_verify_keys.into_keys()).collect(),
    )
}

fn key_id(id: String) -> Option<String> {
    let is_right = id.starts_with("ed25519:") && id.len() <= KEY_ID_BYTES_MAX && !id.contains(char::is_control);
    is_right.then_some(id)
}

fn bytes(base64: &str) -> Option<[u8; 32]> {
    Some(PublicKey::from_base64(base64, 0)?.bytes)
}
