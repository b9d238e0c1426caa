//! Signing keys, ours and others'. [Signing JSON](https://spec.matrix.org/v1.19/appendices/#signing-json).

use std::{borrow::Cow, collections::BTreeMap, fmt};

use ed25519_dalek::{Signature, Signer, Verifier, VerifyingKey};
use ruma::{OwnedServerName, ServerName};

use crate::{
    hash,
    json::{self, JsonError, Limits, Numbers, Object, Value},
};

/// Our ed25519 key pair. Its secret never shows in debug output.
pub struct SigningKey {
    pair: ed25519_dalek::SigningKey,
    id: String,
}

impl SigningKey {
    /// From a secret seed and the name after `ed25519:`, which should be of `a-z A-Z 0-9 _`.
    pub fn from_seed(seed: &[u8; 32], version: &str) -> Self {
        Self { pair: ed25519_dalek::SigningKey::from_bytes(seed), id: format!("ed25519:{version}") }
    }

    /// `ed25519:` and the version.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name after `ed25519:`.
    pub fn version(&self) -> &str {
        &self.id["ed25519:".len()..]
    }

    /// The public half, 32 bytes.
    pub fn public_key(&self) -> [u8; 32] {
        self.pair.verifying_key().to_bytes()
    }

    /// The public half in unpadded base64.
    pub fn public_key_base64(&self) -> String {
        hash::base64(&self.public_key())
    }

    /// The signature of these bytes in unpadded base64.
    pub fn sign_bytes(&self, bytes: &[u8]) -> String {
        hash::base64(&self.pair.sign(bytes).to_bytes())
    }

    /// Signs a JSON object in `entity`'s name: adds to `signatures`, keeps `unsigned`, returns the canonical form.
    /// Refuses what is not canonical JSON.
    pub fn sign_json(&self, entity: &ServerName, object: &[u8]) -> Result<String, JsonError> {
        let limits = Limits { depth_max: json::SIGNED_DEPTH_MAX, numbers: Numbers::Strict };
        let Value::Object(mut object) = json::parse(object, &limits)? else {
            return Err(JsonError::Malformed(0));
        };
        let signature = self.sign_bytes(signed_json(&object).as_bytes());
        add_signature(&mut object, entity, &self.id, signature);
        let mut out = String::new();
        object.write(&mut out);
        Ok(out)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A server's public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// The 32 bytes of an ed25519 public key.
    pub bytes: [u8; 32],
    /// Events after this time (milliseconds since the Unix epoch) are not covered, from room version 5 on. "Servers
    /// MUST use the lesser of `valid_until_ts` and 7 days into the future": whoever fetches the key has the clock.
    pub valid_until_ms: u64,
}

impl PublicKey {
    /// From base64, padded or not.
    pub fn from_base64(text: &str, valid_until_ms: u64) -> Option<Self> {
        Some(Self { bytes: hash::from_base64(text)?.try_into().ok()?, valid_until_ms })
    }

    /// In unpadded base64.
    pub fn to_base64(&self) -> String {
        hash::base64(&self.bytes)
    }
}

/// Public keys by server and key id (`ed25519:…`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicKeys(pub BTreeMap<OwnedServerName, BTreeMap<String, PublicKey>>);

impl PublicKeys {
    /// Adds or replaces a key.
    pub fn insert(&mut self, server: OwnedServerName, key_id: String, key: PublicKey) {
        self.0.entry(server).or_default().insert(key_id, key);
    }

    /// The key of this id.
    pub fn get(&self, server: &ServerName, key_id: &str) -> Option<&PublicKey> {
        self.0.get(server)?.get(key_id)
    }
}

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none by this server, or none by a key that we were given: other keys may help.
    #[error("no signature of {0} by a known key")]
    Missing(OwnedServerName),
    /// The server's signature is wrong.
    #[error("the signature of {0} is wrong")]
    Wrong(OwnedServerName),
    /// Not a signed JSON object.
    #[error("not a signed object: {0}")]
    Malformed(&'static str),
}

/// Checks that a JSON object carries a valid signature of this server by one of these keys, at this time
/// (milliseconds since the Unix epoch; 0: whenever).
/// [Checking for a signature](https://spec.matrix.org/v1.19/appendices/#checking-for-a-signature).
pub fn verify_json(server: &ServerName, keys: &PublicKeys, object: &[u8], at_ms: u64) -> Result<(), SignatureError> {
    let limits = Limits { depth_max: json::SIGNED_DEPTH_MAX, numbers: Numbers::Lenient };
    let tree = json::parse(object, &limits).map_err(|_| SignatureError::Malformed("not JSON"))?;
    let object = tree.as_object().ok_or(SignatureError::Malformed("not an object"))?;
    verify_text(server, keys, object, &signed_json(object), at_ms)
}

/// Whether a JSON object carries a valid signature of `entity`, whatever that is (a user, an identity server, a policy
/// server), by this one key: its id (`ed25519:…`) and its public half in base64.
pub fn is_signed_by(object: &[u8], entity: &str, key_id: &str, public_key: &str) -> bool {
    let limits = Limits { depth_max: json::SIGNED_DEPTH_MAX, numbers: Numbers::Lenient };
    let Ok(tree) = json::parse(object, &limits) else { return false };
    let Some(object) = tree.as_object() else { return false };
    signature_of(object, entity, key_id)
        .is_some_and(|signature| is_signature(&signed_json(object), signature, public_key))
}

/// The signature of `entity` by this key, as it stands in the object.
pub(crate) fn signature_of<'o>(object: &'o Object<'_>, entity: &str, key_id: &str) -> Option<&'o str> {
    object.get("signatures")?.as_object()?.get(entity)?.as_object()?.get(key_id)?.as_str()
}

/// Whether this signature, in base64, is of this text by this key, in base64.
pub(crate) fn is_signature(text: &str, signature: &str, public_key: &str) -> bool {
    let Some(key) = PublicKey::from_base64(public_key, 0) else { return false };
    let Ok(key) = VerifyingKey::from_bytes(&key.bytes) else { return false };
    let signature = hash::from_base64(signature).and_then(|bytes| Signature::from_slice(&bytes).ok());
    signature.is_some_and(|signature| key.verify(text.as_bytes(), &signature).is_ok())
}

/// Checks one server's signatures in `object` over `text`: every one by a known key must be right, and there must be
/// one.
pub(crate) fn verify_text(
    server: &ServerName,
    keys: &PublicKeys,
    object: &Object<'_>,
    text: &str,
    at_ms: u64,
) -> Result<(), SignatureError> {
    let missing = || SignatureError::Missing(server.to_owned());
    let wrong = || SignatureError::Wrong(server.to_owned());
    let signatures = object.get("signatures").and_then(Value::as_object).ok_or_else(missing)?;
    let signatures = signatures.get(server.as_str()).and_then(Value::as_object).ok_or_else(missing)?;
    let mut is_signed = false;
    for (key_id, signature) in signatures.iter().filter(|(key_id, _)| key_id.starts_with("ed25519:")) {
        let Some(key) = keys.get(server, key_id).filter(|key| at_ms <= key.valid_until_ms) else {
            continue;
        };
        let bytes = signature.as_str().and_then(hash::from_base64).ok_or_else(wrong)?;
        let signature = Signature::from_slice(&bytes).map_err(|_| wrong())?;
        let key = VerifyingKey::from_bytes(&key.bytes).map_err(|_| wrong())?;
        key.verify(text.as_bytes(), &signature).map_err(|_| wrong())?;
        is_signed = true;
    }
    if is_signed { Ok(()) } else { Err(missing()) }
}

/// "Remove the signatures and unsigned keys", then canonical.
fn signed_json(object: &Object<'_>) -> String {
    let mut text = String::new();
    object.write_where(&mut text, |key| key != "signatures" && key != "unsigned");
    text
}

pub(crate) fn add_signature<'a>(object: &mut Object<'a>, entity: &ServerName, key_id: &str, signature: String) {
    let owned = |text: &str| Cow::<'a, str>::Owned(text.to_owned());
    let taken = |value: Option<Value<'a>>| match value {
        Some(Value::Object(object)) => object,
        _ => Object::default(),
    };
    let mut signatures = taken(object.remove("signatures"));
    let mut ours = taken(signatures.remove(entity.as_str()));
    ours.insert(owned(key_id), Value::String(Cow::Owned(signature)));
    signatures.insert(owned(entity.as_str()), Value::Object(ours));
    object.insert(Cow::Borrowed("signatures"), Value::Object(signatures));
}
