//! Giving out one-time keys, each once.
//! [`POST /keys/claim`](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysclaim).

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use hearth_ports::{BoxFuture, Peers};
use hearth_store::{
    Table, UserNumber, Write,
    tables::users::{ClaimableKey, ClaimableKeysRow, claimable_keys_key},
};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::value::RawValue;

use super::{Failures, KeysByDevice, WantedOneTimeKeys, remote};
use crate::{
    Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// Devices of which one request may claim a key: all of some thousand users.
pub const CLAIMS_MAX: usize = 10_000;

/// Users whose keys are claimed at once for one request.
const USERS_AT_ONCE: usize = 16;

/// A batch that has grown to so many bytes takes no more; engines like batches of at most 1 MB.
const BATCH_BYTES: usize = 800_000;

/// What was claimed.
#[derive(Debug, Default)]
pub struct KeyClaim {
    /// By user and device, an object with one key under its `algorithm:id`.
    pub one_time_keys: KeysByDevice,
    /// Servers that did not answer.
    pub failures: Failures,
}

type ClaimedDevices = BTreeMap<String, Box<RawValue>>;

impl Users {
    /// Claims keys of users here and elsewhere; other servers have `timeout_ms` to answer, in milliseconds.
    pub async fn claim_keys(&self, peers: &dyn Peers, wanted: WantedOneTimeKeys, timeout_ms: u64) -> KeyClaim {
        let (here, elsewhere): (WantedOneTimeKeys, WantedOneTimeKeys) =
            wanted.into_iter().partition(|(user_id, _)| self.is_local(user_id));
        let ours = self.claim_local_keys(here);
        let theirs = remote::claim(peers, elsewhere, timeout_ms);
        let (ours, mut claim) = futures_util::future::join(ours, theirs).await;
        claim.one_time_keys.extend(ours);
        claim
    }

    /// Claims keys of our own users. What is in the answer was taken out of the store before, and nobody else gets it;
    /// users whose keys cannot be had now are not in it.
    pub async fn claim_local_keys(&self, wanted: WantedOneTimeKeys) -> KeysByDevice {
        let mut claims: Vec<BoxFuture<'_, (OwnedUserId, ClaimedDevices)>> = Vec::with_capacity(wanted.len());
        for (user_id, devices) in wanted {
            if self.is_local(&user_id) {
                claims.push(Box::pin(async move {
                    let claimed = self.claim_of_user(&user_id, devices).await;
                    (user_id, claimed)
                }));
            }
        }
        let mut claims = stream::iter(claims).buffer_unordered(USERS_AT_ONCE);
        let mut all = KeysByDevice::new();
        while let Some((user_id, claimed)) = claims.next().await {
            if !claimed.is_empty() {
                all.insert(user_id, claimed);
            }
        }
        all
    }

    async fn claim_of_user(&self, user_id: &OwnedUserId, devices: BTreeMap<OwnedDeviceId, String>) -> ClaimedDevices {
        let mut claimed = ClaimedDevices::new();
        let user = match self.store.user_number(user_id).await {
            Ok(Some(user)) => user,
            Ok(None) => return claimed,
            Err(error) => {
                tracing::error!(%user_id, %error, "keys were not claimed");
                return claimed;
            }
        };
        let _turn = self.keys.turn(user).await;
        let mut devices: Vec<(OwnedDeviceId, String)> = devices.into_iter().collect();
        while !devices.is_empty() {
            // Keys of batches before this one are given out, whatever becomes of it.
            match self.claim_batch(user, &mut devices).await {
                Ok(batch) => claimed.extend(batch),
                Err(error) => {
                    tracing::error!(%user_id, %error, "keys were not claimed");
                    break;
                }
            }
        }
        claimed
    }

    /// Takes keys of as many devices as fit into a batch off the list.
    async fn claim_batch(
        &self,
        user: UserNumber,
        devices: &mut Vec<(OwnedDeviceId, String)>,
    ) -> Result<ClaimedDevices, Fault> {
        for _ in 0..COMMIT_ATTEMPTS {
            let mut write = Write::new(user.partition());
            let mut claimed = ClaimedDevices::new();
            let mut changed = Vec::new();
            let mut done = 0;
            for (device_id, algorithm) in devices.iter() {
                if write.size_bytes() >= BATCH_BYTES {
                    break;
                }
                done += 1;
                let key = claimable_keys_key(user, device_id.as_str());
                let Some(bytes) = self.store.get_bytes(Table::Us, &key).await? else { continue };
                let mut row: ClaimableKeysRow = hearth_store::decode(&bytes)?;
                let before = row.clone();
                let Some(taken) = take(&mut row, algorithm) else { continue };
                if row != before {
                    write.require(Table::Us, key.clone(), Some(bytes));
                    write.put(Table::Us, key, &row);
                    changed.push((user, device_id.clone()));
                }
                claimed.insert(device_id.to_string(), named(&taken)?);
            }
            if changed.is_empty() || committed(self.store.commit(write).await)? {
                self.keys.counts.remove(&changed);
                devices.drain(..done);
                return Ok(claimed);
            }
        }
        Err(Fault::contended())
    }
}

/// The oldest one-time key of an algorithm, which is then gone, or the fallback key.
fn take(row: &mut ClaimableKeysRow, algorithm: &str) -> Option<ClaimableKey> {
    if let Some(oldest) = row.one_time.iter().position(|key| key.algorithm == algorithm) {
        return Some(row.one_time.remove(oldest));
    }
    let fallback = row.fallback.iter_mut().find(|fallback| fallback.key.algorithm == algorithm)?;
    fallback.used = true;
    Some(fallback.key.clone())
}

/// `{"algorithm:id": key}`
fn named(key: &ClaimableKey) -> Result<Box<RawValue>, Fault> {
    let broken = |error: serde_json::Error| Fault::Broken(format!("one-time key: {error}"));
    let value: &RawValue = serde_json::from_str(&key.json).map_err(broken)?;
    let object = BTreeMap::from([(format!("{}:{}", key.algorithm, key.id), value)]);
    serde_json::value::to_raw_value(&object).map_err(broken)
}
