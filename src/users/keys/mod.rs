//! Public keys for end-to-end encryption: uploaded by devices, asked for and claimed by others, here and elsewhere.
//! [Key distribution](https://spec.matrix.org/v1.19/client-server-api/#key-distribution).
//!
//! Start with [`KeyUpload`] (what devices bring), then [`KeyQuery`] and [`KeyClaim`] (what others ask). Device keys are not
//! checked cryptographically: whoever uses them has to do that, as this server could say anything. What it does see to:
//! a device speaks for itself only, a one-time key is given out once, cross-signing keys change only with their user's
//! word.

mod claim;
mod cross_signing;
mod lists;
mod query;
mod remote;
mod signatures;
mod told;
mod upload;

use std::{collections::BTreeMap, sync::Arc};

use hearth_core::{Limits, check_json};
use hearth_ports::Partition;
use hearth_store::{
    Table, UserNumber,
    tables::users::{ClaimableKeysRow, claimable_keys_key},
};
use ruma::{DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId};
use serde_json::{Map, Value, value::RawValue};

pub use claim::{CLAIMS_MAX, KeyClaim};
pub use cross_signing::{CrossSigningError, CrossSigningPlan, CrossSigningUpload};
pub use lists::{DeviceUpdate, SigningKeysUpdate};
pub use query::{DeviceListKeys, KeyQuery, QUERIED_DEVICES_MAX, QUERIED_USERS_MAX};
pub use signatures::{SIGNED_OBJECTS_MAX, SignatureRefusal};
pub use told::ToldDevice;
pub use upload::{KeyUpload, UploadError};

pub(crate) use lists::ListMemory;

use crate::{Fault, Users, memory::Memory};

/// Devices whose counts of keys are remembered: some 200 bytes each.
const COUNTS_MAX: usize = 32_768;

/// The algorithm of which devices keep one-time keys. Clients take an absent count as no news, and so would never learn
/// that all their keys have been given out.
const ONE_TIME_ALGORITHM: &str = "signed_curve25519";

/// What a device still has to give out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// One-time keys by algorithm. [`ONE_TIME_ALGORITHM`] is always there, also with 0; of others none is 0.
    pub one_time: BTreeMap<String, u64>,
    /// Algorithms whose fallback key was never given out.
    pub unused_fallbacks: Vec<String>,
}

impl From<&ClaimableKeysRow> for KeyCounts {
    fn from(row: &ClaimableKeysRow) -> Self {
        let mut counts = Self::default();
        counts.one_time.insert(ONE_TIME_ALGORITHM.to_owned(), 0);
        for key in &row.one_time {
            *counts.one_time.entry(key.algorithm.clone()).or_default() += 1;
        }
        let unused = row.fallback.iter().filter(|fallback| !fallback.used);
        counts.unused_fallbacks = unused.map(|fallback| fallback.key.algorithm.clone()).collect();
        counts
    }
}

/// Devices by user: of each the ids that are wanted; none means all.
pub type WantedDevices = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// Wanted one-time keys: by user and device, the algorithm.
pub type WantedOneTimeKeys = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>;

/// JSON objects as they are passed on, by user.
pub type KeysByUser = BTreeMap<OwnedUserId, Box<RawValue>>;

/// JSON values as they are passed on, by user, then by device.
pub type KeysByDevice = BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>;

/// Servers that did not answer, with a text for clients.
pub type Failures = BTreeMap<OwnedServerName, String>;

/// What is kept in memory about keys.
pub(crate) struct KeyMemory {
    counts: Memory<(UserNumber, OwnedDeviceId), Arc<KeyCounts>>,
    /// Who changes the claimable keys of a user goes one after the other, by partition, so that a run on one device's keys
    /// does not wear itself out in lost races. What makes it right is that each batch requires the row that it changes.
    turns: [tokio::sync::Mutex<()>; Partition::COUNT],
}

impl KeyMemory {
    pub(crate) fn new() -> Self {
        Self { counts: Memory::new(COUNTS_MAX), turns: std::array::from_fn(|_| tokio::sync::Mutex::default()) }
    }

    /// Waits until nobody else here changes keys of the user.
    async fn turn(&self, user: UserNumber) -> tokio::sync::MutexGuard<'_, ()> {
        self.turns[usize::from(user.partition().index())].lock().await
    }

    /// To be called after devices of a user have ended.
    pub(crate) fn forget(&self, user: UserNumber) {
        self.counts.retain(|(owner, _), _| *owner != user);
    }
}

impl Users {
    /// What a device still has to give out. Costs a look into memory, mostly.
    pub async fn key_counts(&self, user: UserNumber, device_id: &DeviceId) -> Result<Arc<KeyCounts>, Fault> {
        let place = (user, device_id.to_owned());
        if let Some(counts) = self.keys.counts.get(&place) {
            return Ok(counts);
        }
        let begun = self.keys.counts.begin();
        let row = self.store.get::<ClaimableKeysRow>(Table::Us, &claimable_keys_key(user, device_id.as_str())).await?;
        let counts = Arc::new(KeyCounts::from(&row.unwrap_or_default()));
        self.keys.counts.insert(begun, place, Arc::clone(&counts));
        Ok(counts)
    }
}

/// A stored object.
fn parse(what: &str, json: &str) -> Result<Map<String, Value>, Fault> {
    serde_json::from_str(json).map_err(|error| Fault::Broken(format!("{what}: {error}")))
}

/// An object as it is passed on.
fn raw(object: &Map<String, Value>) -> Box<RawValue> {
    serde_json::value::to_raw_value(object).expect("a map of values is JSON")
}

/// Whether JSON can be part of what this server signs, which is
/// [canonical](https://spec.matrix.org/v1.19/appendices/#canonical-json): another server that reads other numbers writes
/// them in its own way and finds the signature wrong, and with it all that came in the same request.
pub(crate) fn is_canonical(json: &str) -> bool {
    check_json(json.as_bytes(), &Limits::EVENT).is_ok()
}

/// Whether two objects say the same, whoever signed them and whatever others added.
fn is_same_signed(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let said = |object: &Map<String, Value>| {
        let mut object = object.clone();
        object.remove("signatures");
        object.remove("unsigned");
        object
    };
    said(one) == said(other)
}

/// The signatures of one user in an object, by key id.
fn signatures_of<'o>(object: &'o Map<String, Value>, user_id: &str) -> impl Iterator<Item = (&'o str, &'o str)> {
    let signatures = object.get("signatures").and_then(|signatures| signatures.get(user_id)).and_then(Value::as_object);
    signatures.into_iter().flatten().filter_map(|(key_id, signature)| Some((key_id.as_str(), signature.as_str()?)))
}

/// Adds a signature to an object.
fn add_signature(object: &mut Map<String, Value>, user_id: &str, key_id: &str, signature: &str) {
    let signatures = object.entry("signatures").or_insert_with(|| Value::Object(Map::new()));
    let Some(signatures) = signatures.as_object_mut() else { return };
    let ours = signatures.entry(user_id).or_insert_with(|| Value::Object(Map::new()));
    if let Some(ours) = ours.as_object_mut() {
        ours.insert(key_id.to_owned(), signature.into());
    }
}

/// The public key of a cross-signing key: the value of its only `keys` entry.
fn public_key(key: &Map<String, Value>) -> Option<&str> {
    key.get("keys")?.as_object()?.values().next()?.as_str()
}
