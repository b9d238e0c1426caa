//! Public keys for end-to-end encryption: of devices, one-time, fallback, for cross-signing. All in `Us`, in the user's
//! partition.

use hearth_ports::{Batch, Key};
use serde::{Deserialize, Serialize};

use crate::{UserNumber, key, row};

/// A device's identity keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceKeysRow {
    /// The object as its device uploaded it, with the signatures added since; JSON without `unsigned`.
    pub json: String,
}

row!(DeviceKeysRow, "device keys", version 1);

/// The keys that others may claim of a device. They are one row, so that what is claimed is one requirement, counting
/// them one read, and their end with the device one deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimableKeysRow {
    /// Each is given out once, in this order: that of upload. No two of one algorithm have one id.
    pub one_time: Vec<ClaimableKey>,
    /// Given out when no one-time key of the algorithm is left; one for each algorithm.
    pub fallback: Vec<FallbackKey>,
}

row!(ClaimableKeysRow, "claimable keys", version 1);

/// A key that others may claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimableKey {
    /// As in `signed_curve25519`.
    pub algorithm: String,
    /// What follows the colon in its name.
    pub id: String,
    /// The key: a JSON string or object.
    pub json: String,
}

/// A key that is given out again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackKey {
    /// The key.
    pub key: ClaimableKey,
    /// It was given out.
    pub used: bool,
}

/// The longest algorithm of a claimable key, in bytes.
pub const KEY_ALGORITHM_BYTES_MAX: usize = 64;

/// The longest id of a claimable key, in bytes.
pub const CLAIMABLE_KEY_ID_BYTES_MAX: usize = 255;

/// What all claimable keys of a device may take together, in bytes: some 300 as clients sign them.
pub const CLAIMABLE_KEYS_BYTES_MAX: usize = 80_000;

/// The largest object of device keys or of a cross-signing key, with all its signatures, in bytes.
pub const IDENTITY_KEYS_BYTES_MAX: usize = 12_000;

const _: () = assert!(CLAIMABLE_KEYS_BYTES_MAX + 4_000 < Batch::VALUE_BYTES_MAX, "a row fits");
const _: () = assert!(3 * IDENTITY_KEYS_BYTES_MAX + 1_000 < Batch::VALUE_BYTES_MAX, "a row fits");

impl ClaimableKey {
    /// About what it takes in its row, in bytes.
    pub const fn size_bytes(&self) -> usize {
        // Three lengths of at most three bytes, and a flag.
        self.algorithm.len() + self.id.len() + self.json.len() + 10
    }
}

impl ClaimableKeysRow {
    /// About what the row takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        let fallback = self.fallback.iter().map(|fallback| fallback.key.size_bytes());
        self.one_time.iter().map(ClaimableKey::size_bytes).chain(fallback).sum()
    }
}

/// A user's cross-signing keys: JSON objects as the user uploaded them, the master key with its signatures by the user's
/// own devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrossSigningRow {
    /// The master key.
    pub master: Option<String>,
    /// Signs the user's devices.
    pub self_signing: Option<String>,
    /// Signs other users' master keys; shown to its user only.
    pub user_signing: Option<String>,
}

row!(CrossSigningRow, "cross-signing keys", version 1);

/// What a user's user-signing key has signed: another user's master key. Shown to the one who signed only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSignatureRow {
    /// The public key that is signed, base64.
    pub signed: String,
    /// The id of the key that signed (`ed25519:…`).
    pub signer: String,
    /// The signature, base64.
    pub signature: String,
}

row!(UserSignatureRow, "user signature", version 1);

/// The last change of a user's devices or identity keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceListRow {
    /// Its position, filled at commit.
    #[serde(skip)]
    pub position: u64,
}

row!(DeviceListRow, "device list", version 1, positions position);

/// `Us`: a device's identity keys.
pub fn device_keys_key(user: UserNumber, device_id: &str) -> Key {
    key(b'k').user(user).raw(device_id.as_bytes()).build()
}

/// What all keys of [`device_keys_key`] of a user begin with.
pub fn device_keys_prefix(user: UserNumber) -> Key {
    key(b'k').user(user).build()
}

/// The device id in a key of [`device_keys_key`].
pub fn device_of_keys_key(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(9..)?).ok()
}

/// `Us`: the keys that others may claim of a device.
pub fn claimable_keys_key(user: UserNumber, device_id: &str) -> Key {
    key(b'o').user(user).raw(device_id.as_bytes()).build()
}

/// `Us`: a user's cross-signing keys.
pub fn cross_signing_key(user: UserNumber) -> Key {
    key(b'c').user(user).build()
}

/// `Us`: what a user signed of another user, in the signing user's partition.
pub fn user_signature_key(user: UserNumber, signed_user_id: &str) -> Key {
    key(b'v').user(user).raw(signed_user_id.as_bytes()).build()
}

/// `Us`: the last change of keys that concern their user alone, as a [`DeviceListRow`]. [`crate::Write::log`] keeps it.
pub fn own_keys_key(user: UserNumber) -> Key {
    key(b'm').user(user).build()
}

/// `Us`: the last change that the user alone sees in the keys of somebody: whose key the user signed, or the user, whose
/// user-signing key it is. A [`DeviceListRow`]; it is newer only if [`own_keys_key`] is.
pub fn own_view_key(user: UserNumber, seen_user_id: &str) -> Key {
    key(b'm').user(user).raw(seen_user_id.as_bytes()).build()
}

/// Whose keys an [`own_view_key`] is about.
pub fn seen_of_own_view_key(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(9..)?).ok().filter(|user_id| !user_id.is_empty())
}

/// `Us`: the last change of a user's device list. [`crate::Write::log`] keeps it.
pub fn device_list_key(user: UserNumber) -> Key {
    key(b'l').user(user).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};

    #[test]
    fn a_full_row_is_within_its_bound() {
        let key = |id: usize| ClaimableKey {
            algorithm: "a".repeat(KEY_ALGORITHM_BYTES_MAX),
            id: format!("{id:0255}"),
            json: "\"\"".to_owned(),
        };
        let mut row = ClaimableKeysRow::default();
        while row.size_bytes() + key(0).size_bytes() <= CLAIMABLE_KEYS_BYTES_MAX {
            row.one_time.push(key(row.one_time.len()));
        }
        let bytes = encode(&row);
        assert!(bytes.len() <= CLAIMABLE_KEYS_BYTES_MAX, "{}", bytes.len());
        assert_eq!(decode::<ClaimableKeysRow>(&bytes).unwrap(), row);
    }
}
