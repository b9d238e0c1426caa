//! Asking for identity keys.
//! [`POST /keys/query`](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery).

use std::collections::{BTreeMap, HashMap};

use hearth_ports::{KeyRange, Page, Peers};
use hearth_store::{
    Table, UserNumber,
    tables::users::{
        CrossSigningRow, DeviceKeysRow, UserSignatureRow, device_keys_prefix, device_of_keys_key, user_signature_key,
    },
};
use ruma::{OwnedDeviceId, UserId};
use serde_json::{Map, Value, value::RawValue};

use super::{Failures, KeysByDevice, KeysByUser, WantedDevices, add_signature, parse, public_key, raw};
use crate::{Fault, Users};

/// Users that one request may ask for. Clients ask for some 250 at once.
pub const QUERIED_USERS_MAX: usize = 2_000;

/// Devices that one request may name of a user.
pub const QUERIED_DEVICES_MAX: usize = 2_000;

/// Keys of our own users in one answer, in bytes. It is met only by users who fill their keys on purpose: those who do not
/// fit are left out.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Rows of a page while reading all devices of a user.
const PAGE: usize = 500;

/// Identity keys, as they may be passed on.
#[derive(Debug, Default)]
pub struct KeyQuery {
    /// By user and device. A user without any is there, one that does not exist is not.
    pub device_keys: KeysByDevice,
    /// Master keys.
    pub master_keys: KeysByUser,
    /// Self-signing keys.
    pub self_signing_keys: KeysByUser,
    /// User-signing keys: the asking user's own.
    pub user_signing_keys: KeysByUser,
    /// Servers that did not answer.
    pub failures: Failures,
}

/// A user's devices and identity keys, for another server.
#[derive(Debug)]
pub struct DeviceListKeys {
    /// The newest update that other servers were told of.
    pub stream_id: u64,
    /// Devices that have keys.
    pub devices: BTreeMap<String, Box<RawValue>>,
    /// The master key.
    pub master_key: Option<Box<RawValue>>,
    /// The self-signing key.
    pub self_signing_key: Option<Box<RawValue>>,
}

impl Users {
    /// Keys of users here and elsewhere, as `asker` may see them; other servers have `timeout_ms` to answer, in
    /// milliseconds.
    pub async fn query_keys(
        &self,
        peers: &dyn Peers,
        asker: &UserId,
        wanted: WantedDevices,
        timeout_ms: u64,
    ) -> Result<KeyQuery, Fault> {
        let (here, elsewhere): (WantedDevices, WantedDevices) =
            wanted.into_iter().partition(|(user_id, _)| self.is_local(user_id));
        let ours = self.query_local_keys(Some(asker), here);
        let theirs = self.query_remote_keys(peers, elsewhere, timeout_ms);
        let (ours, mut query) = futures_util::future::try_join(ours, theirs).await?;
        query.device_keys.extend(ours.device_keys);
        query.master_keys.extend(ours.master_keys);
        query.self_signing_keys.extend(ours.self_signing_keys);
        query.user_signing_keys.extend(ours.user_signing_keys);
        self.add_user_signatures(asker, &mut query.master_keys).await?;
        Ok(query)
    }

    /// Keys of our own users. `asker`: the user who asks; `None` is another server, which is told no names of devices.
    pub async fn query_local_keys(&self, asker: Option<&UserId>, wanted: WantedDevices) -> Result<KeyQuery, Fault> {
        let mut query = KeyQuery::default();
        let mut bytes_left = ANSWER_BYTES_MAX;
        for (user_id, devices) in wanted {
            let Some(user) = self.active_user(&user_id).await? else { continue };
            let keys = self.load_keys_of(user, &devices, asker.is_some()).await?;
            let bytes: usize = keys.values().map(|keys| keys.get().len()).sum();
            let Some(left) = bytes_left.checked_sub(bytes) else {
                tracing::warn!(%user_id, "an answer with keys would become too large");
                continue;
            };
            bytes_left = left;
            let CrossSigningRow { master, self_signing, user_signing } = self.load_cross_signing(user).await?.0;
            query.device_keys.insert(user_id.clone(), keys);
            let put = |to: &mut KeysByUser, key: Option<String>| -> Result<(), Fault> {
                to.extend(key.map(|key| Ok::<_, Fault>((user_id.clone(), stored(key)?))).transpose()?);
                Ok(())
            };
            put(&mut query.master_keys, master)?;
            put(&mut query.self_signing_keys, self_signing)?;
            if asker == Some(&*user_id) {
                put(&mut query.user_signing_keys, user_signing)?;
            }
        }
        Ok(query)
    }

    /// Devices and keys of a user of ours, for another server; `None`: there is no such account.
    pub async fn device_list(&self, user_id: &UserId) -> Result<Option<DeviceListKeys>, Fault> {
        let Some(user) = self.active_user(user_id).await? else { return Ok(None) };
        // First: what is added meanwhile comes once more, in the next update.
        let told = self.told_devices(user).await?;
        let devices = self.load_keys_of(user, &[], false).await?;
        let CrossSigningRow { master, self_signing, .. } = self.load_cross_signing(user).await?.0;
        Ok(Some(DeviceListKeys {
            stream_id: told,
            devices,
            master_key: master.map(stored).transpose()?,
            self_signing_key: self_signing.map(stored).transpose()?,
        }))
    }

    /// The number of a user of ours whose account has not ended.
    pub(crate) async fn active_user(&self, user_id: &UserId) -> Result<Option<UserNumber>, Fault> {
        if !self.is_local(user_id) {
            return Ok(None);
        }
        let account = self.account(user_id).await?.filter(|account| !account.deactivated);
        Ok(account.map(|account| account.user))
    }

    /// Identity keys of these devices, or of all, each with `unsigned`; `with_names`: with what its user calls it.
    async fn load_keys_of(
        &self,
        user: UserNumber,
        devices: &[OwnedDeviceId],
        with_names: bool,
    ) -> Result<BTreeMap<String, Box<RawValue>>, Fault> {
        let mut objects: Vec<(String, Map<String, Value>)> = Vec::new();
        if devices.is_empty() {
            objects = self.load_all_keys(user).await?;
        } else {
            for device_id in devices {
                let (keys, _) = self.load_device_keys(user, device_id.as_str()).await?;
                objects.extend(keys.map(|keys| (device_id.to_string(), keys)));
            }
        }
        let names = if with_names { self.load_device_names(user, &objects).await? } else { HashMap::new() };
        let with_unsigned = objects.into_iter().map(|(device_id, mut keys)| {
            let mut unsigned = Map::new();
            if let Some(name) = names.get(&device_id) {
                unsigned.insert("device_display_name".to_owned(), name.as_str().into());
            }
            keys.insert("unsigned".to_owned(), unsigned.into());
            (device_id, raw(&keys))
        });
        Ok(with_unsigned.collect())
    }

    async fn load_all_keys(&self, user: UserNumber) -> Result<Vec<(String, Map<String, Value>)>, Fault> {
        let mut range = KeyRange::prefix(device_keys_prefix(user));
        let mut objects = Vec::new();
        loop {
            let page = self.store.scan::<DeviceKeysRow>(Table::Us, range.clone(), Page::first(PAGE)).await?;
            let Some((last, _)) = page.last() else { return Ok(objects) };
            range.from = [&last[..], &[0]].concat().into();
            for (key, row) in page {
                let device_id = device_of_keys_key(&key);
                let device_id = device_id.ok_or_else(|| Fault::Broken("a device's key is no text".to_owned()))?;
                objects.push((device_id.to_owned(), parse("device keys", &row.json)?));
            }
        }
    }

    async fn load_device_names(
        &self,
        user: UserNumber,
        objects: &[(String, Map<String, Value>)],
    ) -> Result<HashMap<String, String>, Fault> {
        let mut names = HashMap::new();
        for (device_id, _) in objects {
            let row = self.load_device(user, device_id).await?;
            let name = row.and_then(|(row, _)| row.display_name);
            names.extend(name.map(|name| (device_id.clone(), name)));
        }
        Ok(names)
    }

    /// Adds what the asking user's own user-signing key has signed: "users will not be able to see signatures made by other
    /// users' user-signing keys".
    async fn add_user_signatures(&self, asker: &UserId, master_keys: &mut KeysByUser) -> Result<(), Fault> {
        let Some(user) = self.number(asker).await? else { return Ok(()) };
        for (user_id, key) in master_keys.iter_mut().filter(|(user_id, _)| **user_id != asker) {
            let place = user_signature_key(user, user_id.as_str());
            let Some(row) = self.store.get::<UserSignatureRow>(Table::Us, &place).await? else { continue };
            // Other servers may send whatever they like for a key.
            let Ok(mut object) = serde_json::from_str::<Map<String, Value>>(key.get()) else { continue };
            if public_key(&object) == Some(&row.signed) {
                add_signature(&mut object, asker.as_str(), &row.signer, &row.signature);
                *key = raw(&object);
            }
        }
        Ok(())
    }
}

/// A stored object as it is passed on.
pub(super) fn stored(json: String) -> Result<Box<RawValue>, Fault> {
    RawValue::from_string(json).map_err(|error| Fault::Broken(format!("cross-signing key: {error}")))
}
