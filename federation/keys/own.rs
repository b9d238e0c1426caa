//! Our own keys, as we publish them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hearth_core::{JsonError, PublicKey, SigningKey};
use hearth_ports::Clock;
use parking_lot::Mutex;
use ruma::OwnedServerName;
use serde_json::{Value, json};

const HOUR_MS: u64 = 3_600_000;

/// How long others may use an answer without asking again.
const VALID_MS: u64 = 24 * HOUR_MS;

/// So long the same answer is given, so that it is not signed on each request. "Avoid returning responses that expire in
/// less than an hour."
const SAME_MS: u64 = HOUR_MS;

/// A key that we signed with once. What it signed must stay verifiable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// As in `ed25519:a_1`.
    pub id: String,
    /// The ed25519 public key.
    pub bytes: [u8; 32],
    /// When we stopped to use it, in milliseconds since the Unix epoch.
    pub expired_ms: u64,
}

/// Our keys.
pub struct OwnKeys {
    server: OwnedServerName,
    key: Arc<SigningKey>,
    old: Vec<OldKey>,
    clock: Arc<dyn Clock>,
    /// The answer and when it was made.
    answer: Mutex<Option<(u64, Bytes)>>,
}

impl OwnKeys {
    /// The key in use and those before it.
    pub fn new(server: OwnedServerName, key: Arc<SigningKey>, old: Vec<OldKey>, clock: Arc<dyn Clock>) -> Self {
        Self { server, key, old, clock, answer: Mutex::new(None) }
    }

    /// Our name.
    pub fn server(&self) -> &OwnedServerName {
        &self.server
    }

    /// The answer to `GET /_matrix/key/v2/server`: a signed JSON object.
    /// [Publishing keys](https://spec.matrix.org/v1.19/server-server-api/#publishing-keys).
    pub fn answer(&self) -> Bytes {
        let now_ms = self.clock.now_ms();
        let mut answer = self.answer.lock();
        match &*answer {
            Some((made_ms, bytes)) if (*made_ms..made_ms + SAME_MS).contains(&now_ms) => bytes.clone(),
            Some(_) | None => {
                let bytes = Bytes::from(self.signed(now_ms));
                *answer = Some((now_ms, bytes.clone()));
                bytes
            }
        }
    }

    fn signed(&self, now_ms: u64) -> String {
        let old = self.old.iter().map(|old| {
            let key = PublicKey { bytes: old.bytes, valid_until_ms: 0 }.to_base64();
            (old.id.clone(), json!({ "key": key, "expired_ts": old.expired_ms }))
        });
        let answer = json!({
            "server_name": self.server,
            "verify_keys": { self.key.id(): { "key": self.key.public_key_base64() } },
            "old_verify_keys": old.collect::<serde_json::Map<String, Value>>(),
            "valid_until_ts": now_ms + VALID_MS,
        });
        self.cosign(&answer.to_string()).expect("times of this age are canonical JSON")
    }

    /// Adds our signature to a JSON object.
    pub fn cosign(&self, object: &str) -> Result<String, JsonError> {
        self.key.sign_json(&self.server, object.as_bytes())
    }

    /// What verifies what we have signed.
    pub fn public(&self) -> BTreeMap<String, PublicKey> {
        let old =
            self.old.iter().map(|old| (old.id.clone(), PublicKey { bytes: old.bytes, valid_until_ms: old.expired_ms }));
        let current = PublicKey { bytes: self.key.public_key(), valid_until_ms: u64::MAX };
        old.chain([(self.key.id().to_owned(), current)]).collect()
    }
}
