//! What a device uploads of its own keys.
//! [`POST /keys/upload`](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysupload).

use std::sync::Arc;

use bytes::Bytes;
use hearth_store::{
    LogEntry, Table, UserNumber, Write,
    tables::users::{
        CLAIMABLE_KEY_ID_BYTES_MAX, CLAIMABLE_KEYS_BYTES_MAX, ClaimableKey, ClaimableKeysRow, CrossSigningRow,
        DeviceKeysRow, FallbackKey, IDENTITY_KEYS_BYTES_MAX, KEY_ALGORITHM_BYTES_MAX, claimable_keys_key,
        cross_signing_key, device_key, device_keys_key,
    },
};
use ruma::{DeviceId, UserId};
use serde_json::{Map, Value};

use super::{KeyCounts, add_signature, is_canonical, is_same_signed, parse, public_key, raw};
use crate::{
    Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// What a device uploads; what is absent stays as it is.
#[derive(Clone, Debug, Default)]
pub struct KeyUpload {
    /// Its identity keys.
    pub device_keys: Option<Map<String, Value>>,
    /// Keys that are given out once, by `algorithm:id`.
    pub one_time_keys: Map<String, Value>,
    /// Keys that are given out when the others are used up, by `algorithm:id`.
    pub fallback_keys: Map<String, Value>,
}

/// Why nothing of an upload was taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UploadError {
    /// It has not the shape that keys have (`M_BAD_JSON`).
    #[error("{0}")]
    Malformed(String),
    /// It speaks for another user or device, or gives a known key another value (`M_INVALID_PARAM`).
    #[error("{0}")]
    Wrong(String),
    /// The device has the id of a key of its user (403 `M_FORBIDDEN`).
    #[error("the device's id is that of a cross-signing key")]
    IdInUse,
    /// More than a device may have (`M_TOO_LARGE`).
    #[error("{0}")]
    TooLarge(&'static str),
    /// The session has no device (any more).
    #[error("there is no such device")]
    NoDevice,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What is wrong with what is not canonical.
const NOT_CANONICAL: &str = "numbers must be integers within ±(2^53 − 1)";

/// An upload that has the right shape.
struct Checked {
    device_keys: Option<Map<String, Value>>,
    one_time: Vec<ClaimableKey>,
    fallback: Vec<ClaimableKey>,
}

impl Users {
    /// Takes keys that a device uploads, all or none; the answer is what it then has to give out.
    pub async fn upload_keys(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        upload: KeyUpload,
    ) -> Result<Arc<KeyCounts>, UploadError> {
        let checked = check(user_id, device_id, upload)?;
        let user = self.store.user_number(user_id).await.map_err(Fault::from)?.ok_or(UploadError::NoDevice)?;
        let is_nothing = checked.device_keys.is_none() && checked.one_time.is_empty() && checked.fallback.is_empty();
        if is_nothing {
            return Ok(self.key_counts(user, device_id).await?);
        }
        let _turn = self.keys.turn(user).await;
        for _ in 0..COMMIT_ATTEMPTS {
            let mut write = Write::new(user.partition());
            // Keys live and end with their device.
            let device = self.load_device(user, device_id.as_str()).await?.ok_or(UploadError::NoDevice)?;
            write.require(Table::Us, device_key(user, device_id.as_str()), Some(device.1));
            if let Some(device_keys) = &checked.device_keys {
                self.put_device_keys(&mut write, user, device_id.as_str(), device_keys).await?;
            }
            let key = claimable_keys_key(user, device_id.as_str());
            let bytes = self.store.get_bytes(Table::Us, &key).await.map_err(Fault::from)?;
            let row = bytes.as_deref().map(hearth_store::decode::<ClaimableKeysRow>).transpose();
            let mut row = row.map_err(Fault::from)?.unwrap_or_default();
            let before = row.clone();
            take_claimable(&mut row, &checked)?;
            if row != before {
                write.require(Table::Us, key.clone(), bytes);
                write.put(Table::Us, key, &row);
            }
            if committed(self.store.commit(write).await)? {
                self.keys.counts.remove([&(user, device_id.to_owned())]);
                return Ok(Arc::new(KeyCounts::from(&row)));
            }
        }
        Err(Fault::contended().into())
    }

    /// Adds identity keys to a batch, unless they stand already. Signatures that others' keys made of the same object stay.
    async fn put_device_keys(
        &self,
        write: &mut Write,
        user: UserNumber,
        device_id: &str,
        device_keys: &Map<String, Value>,
    ) -> Result<(), UploadError> {
        let cross_signing = self.load_cross_signing(user).await?.0;
        let CrossSigningRow { master, self_signing, user_signing } = &cross_signing;
        for key in [master, self_signing, user_signing].into_iter().flatten() {
            if public_key(&parse("cross-signing key", key)?) == Some(device_id) {
                return Err(UploadError::IdInUse);
            }
        }
        let (stored, bytes) = self.load_device_keys(user, device_id).await?;
        let mut object = device_keys.clone();
        if let Some(stored) = stored.as_ref().filter(|stored| is_same_signed(stored, device_keys)) {
            let mut signed = stored.clone();
            let given = device_keys.get("signatures").and_then(Value::as_object).into_iter().flatten();
            for (signer, signatures) in given {
                for (key_id, signature) in signatures.as_object().into_iter().flatten() {
                    add_signature(&mut signed, signer, key_id, signature.as_str().unwrap_or_default());
                }
            }
            object = signed;
        }
        if stored.as_ref() == Some(&object) {
            return Ok(());
        }
        self.put_device_object(write, user, device_id, &object, bytes)?;
        let at = write.position();
        write.log(at, LogEntry::Device { user, device: device_id.to_owned() });
        Ok(())
    }

    /// Adds the row of identity keys to a batch.
    pub(super) fn put_device_object(
        &self,
        write: &mut Write,
        user: UserNumber,
        device_id: &str,
        object: &Map<String, Value>,
        before: Option<Bytes>,
    ) -> Result<(), UploadError> {
        let json = serde_json::to_string(object).expect("a map of values is JSON");
        if json.len() > IDENTITY_KEYS_BYTES_MAX {
            return Err(UploadError::TooLarge("the device's keys are too large"));
        }
        write.require(Table::Us, device_keys_key(user, device_id), before);
        write.put(Table::Us, device_keys_key(user, device_id), &DeviceKeysRow { json });
        Ok(())
    }

    /// Identity keys as they are stored, and the row's bytes.
    pub(super) async fn load_device_keys(
        &self,
        user: UserNumber,
        device_id: &str,
    ) -> Result<(Option<Map<String, Value>>, Option<Bytes>), Fault> {
        let bytes = self.store.get_bytes(Table::Us, &device_keys_key(user, device_id)).await?;
        let row = bytes.as_deref().map(hearth_store::decode::<DeviceKeysRow>).transpose()?;
        Ok((row.map(|row| parse("device keys", &row.json)).transpose()?, bytes))
    }

    /// Cross-signing keys as they are stored, and the row's bytes.
    pub(super) async fn load_cross_signing(&self, user: UserNumber) -> Result<(CrossSigningRow, Option<Bytes>), Fault> {
        let bytes = self.store.get_bytes(Table::Us, &cross_signing_key(user)).await?;
        let row = bytes.as_deref().map(hearth_store::decode::<CrossSigningRow>).transpose()?;
        Ok((row.unwrap_or_default(), bytes))
    }
}

fn check(user_id: &UserId, device_id: &DeviceId, upload: KeyUpload) -> Result<Checked, UploadError> {
    let KeyUpload { device_keys, one_time_keys, fallback_keys } = upload;
    let device_keys = device_keys.map(|keys| check_device_keys(user_id, device_id, keys)).transpose()?;
    let claimable = |keys: Map<String, Value>| {
        keys.into_iter().map(|(name, key)| claimable(&name, &key)).collect::<Result<Vec<_>, UploadError>>()
    };
    Ok(Checked { device_keys, one_time: claimable(one_time_keys)?, fallback: claimable(fallback_keys)? })
}

/// The fields that identity keys must have; `unsigned` is not the device's to say.
fn check_device_keys(
    user_id: &UserId,
    device_id: &DeviceId,
    mut keys: Map<String, Value>,
) -> Result<Map<String, Value>, UploadError> {
    let malformed = |what: &str| UploadError::Malformed(format!("device_keys: {what}"));
    let text = |field: &str| keys.get(field).and_then(Value::as_str);
    if text("user_id").ok_or_else(|| malformed("user_id is missing"))? != user_id {
        return Err(UploadError::Wrong("device_keys are of another user".to_owned()));
    }
    if text("device_id").ok_or_else(|| malformed("device_id is missing"))? != device_id.as_str() {
        return Err(UploadError::Wrong("device_keys are of another device".to_owned()));
    }
    let algorithms = keys.get("algorithms").and_then(Value::as_array);
    if !algorithms.is_some_and(|algorithms| algorithms.iter().all(Value::is_string)) {
        return Err(malformed("algorithms must be a list of names"));
    }
    let public = keys.get("keys").and_then(Value::as_object);
    if !public.is_some_and(|public| public.values().all(Value::is_string)) {
        return Err(malformed("keys must be an object of strings"));
    }
    let is_signatures =
        |signatures: &Value| signatures.as_object().is_some_and(|by_key| by_key.values().all(Value::is_string));
    let signatures = keys.get("signatures").and_then(Value::as_object);
    if !signatures.is_some_and(|by_user| by_user.values().all(is_signatures)) {
        return Err(malformed("signatures must be an object of objects of strings"));
    }
    keys.remove("unsigned");
    if !is_canonical(raw(&keys).get()) {
        return Err(UploadError::Malformed(format!("device_keys: {NOT_CANONICAL}")));
    }
    Ok(keys)
}

/// A key that others may claim, from its name and value.
fn claimable(name: &str, key: &Value) -> Result<ClaimableKey, UploadError> {
    let malformed = |what: &str| UploadError::Malformed(format!("key {name:.300}: {what}"));
    let (algorithm, id) = name.split_once(':').ok_or_else(|| malformed("its name must be algorithm:id"))?;
    if algorithm.is_empty() || algorithm.len() > KEY_ALGORITHM_BYTES_MAX {
        return Err(malformed("its algorithm must have 1 to 64 bytes"));
    }
    if id.is_empty() || id.len() > CLAIMABLE_KEY_ID_BYTES_MAX {
        return Err(malformed("its id must have 1 to 255 bytes"));
    }
    let is_key = match key {
        Value::String(_) => true,
        Value::Object(object) => object.get("key").is_some_and(Value::is_string),
        _ => false,
    };
    if !is_key {
        return Err(malformed("it must be a string, or an object with a string `key`"));
    }
    let json = key.to_string();
    if !is_canonical(&json) {
        return Err(malformed(NOT_CANONICAL));
    }
    Ok(ClaimableKey { algorithm: algorithm.to_owned(), id: id.to_owned(), json })
}

/// Adds uploaded keys to those that the device has. A one-time key that is there already may come again, for the answer of
/// its upload may have been lost; with another value it may not.
fn take_claimable(row: &mut ClaimableKeysRow, checked: &Checked) -> Result<(), UploadError> {
    for key in &checked.one_time {
        match row.one_time.iter().find(|known| known.algorithm == key.algorithm && known.id == key.id) {
            None => row.one_time.push(key.clone()),
            Some(known) if is_same_key(&known.json, &key.json) => {}
            Some(_) => {
                let ClaimableKey { algorithm, id, .. } = key;
                return Err(UploadError::Wrong(format!("one-time key {algorithm}:{id} already exists")));
            }
        }
    }
    for key in &checked.fallback {
        let known = row.fallback.iter_mut().find(|known| known.key.algorithm == key.algorithm);
        match known {
            Some(known) if known.key == *key => {}
            Some(known) => *known = FallbackKey { key: key.clone(), used: false },
            None => row.fallback.push(FallbackKey { key: key.clone(), used: false }),
        }
    }
    if row.size_bytes() > CLAIMABLE_KEYS_BYTES_MAX {
        return Err(UploadError::TooLarge("the device has too many one-time and fallback keys"));
    }
    Ok(())
}

/// Whether two keys are the same but for their signatures, which differ each time with some algorithms.
fn is_same_key(one: &str, other: &str) -> bool {
    let read = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
    match (read(one), read(other)) {
        (Value::Object(one), Value::Object(other)) => is_same_signed(&one, &other),
        (one, other) => one == other,
    }
}
