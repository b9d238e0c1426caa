//! Devices: the rows that sessions hang on.

use std::net::IpAddr;

use bytes::Bytes;
use hearth_ports::{KeyRange, Page};
use hearth_store::{
    LogEntry, Table, UserNumber, Write,
    tables::users::{
        DeviceRow, TokenHash, claimable_keys_key, device_key, device_keys_key, device_of_key, devices_prefix,
        session_set_key, token_key,
    },
};
use quick_cache::sync::Cache;
use ruma::{DeviceId, OwnedDeviceId, UserId};

use crate::{
    Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
    sessions::tokens_of,
};

/// Devices of one account: as many as one batch can end, at less than 2 kB each.
pub(crate) const DEVICES_MAX: u32 = 2_000;

/// The longest name of a device, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// A device as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// Its name.
    pub display_name: Option<String>,
    /// When it was last seen, in milliseconds since the Unix epoch.
    pub last_seen_ts_ms: u64,
    /// From where.
    pub last_seen_ip: Option<String>,
}

/// Why a device was not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeviceError {
    /// The user has no such device.
    #[error("no such device")]
    NotFound,
    /// The name is longer than 512 bytes.
    #[error("the name is longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Devices whose last request is remembered: some 100 bytes each.
const SIGHTINGS_MAX: usize = 32_768;

/// When and from where devices were last seen. Only memory knows: a write for each request would cost more than the
/// request.
pub(crate) struct Sightings(Cache<(UserNumber, OwnedDeviceId), (u64, IpAddr)>);

impl Sightings {
    pub(crate) fn new() -> Self {
        Self(Cache::new(SIGHTINGS_MAX))
    }
}

impl Users {
    /// Notes that a device made a request.
    pub fn saw(&self, user: UserNumber, device_id: &DeviceId, ip: IpAddr) {
        self.sightings.0.insert((user, device_id.to_owned()), (self.clock.now_ms(), ip));
    }

    /// All devices of a user.
    pub async fn devices(&self, user_id: &UserId) -> Result<Vec<Device>, Fault> {
        let Some(user) = self.store.user_number(user_id).await? else { return Ok(Vec::new()) };
        let rows = self.load_devices(user).await?;
        Ok(rows.into_iter().map(|(device_id, _, row)| self.device_as_seen(user, device_id, row)).collect())
    }

    /// One device of a user.
    pub async fn device(&self, user_id: &UserId, device_id: &str) -> Result<Device, DeviceError> {
        let user = self.store.user_number(user_id).await.map_err(Fault::from)?.ok_or(DeviceError::NotFound)?;
        let (row, _) = self.load_device(user, device_id).await?.ok_or(DeviceError::NotFound)?;
        Ok(self.device_as_seen(user, device_id.to_owned(), row))
    }

    /// Gives a device another name; `None` keeps it.
    pub async fn rename_device(
        &self,
        user_id: &UserId,
        device_id: &str,
        name: Option<&str>,
    ) -> Result<(), DeviceError> {
        if name.is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            return Err(DeviceError::NameTooLong);
        }
        let user = self.store.user_number(user_id).await.map_err(Fault::from)?.ok_or(DeviceError::NotFound)?;
        for _ in 0..COMMIT_ATTEMPTS {
            let (mut row, bytes) = self.load_device(user, device_id).await?.ok_or(DeviceError::NotFound)?;
            let Some(name) = name else { return Ok(()) };
            row.display_name = Some(name.to_owned());
            let mut write = Write::new(user.partition());
            write.require(Table::Us, device_key(user, device_id), Some(bytes));
            write.put(Table::Us, device_key(user, device_id), &row);
            let at = write.position();
            write.log(at, LogEntry::Device { user, device: device_id.to_owned() });
            if committed(self.store.commit(write).await)? {
                return Ok(());
            }
        }
        Err(Fault::contended().into())
    }

    /// Ends the sessions of these devices and deletes them; those that do not exist are gone already.
    pub async fn delete_devices(&self, user_id: &UserId, devices: &[OwnedDeviceId]) -> Result<(), Fault> {
        let Some(user) = self.store.user_number(user_id).await? else { return Ok(()) };
        self.log_out(user, |device| devices.iter().any(|named| named.as_str() == device)).await
    }

    /// Ends all sessions of a user.
    pub async fn log_out_all(&self, user_id: &UserId) -> Result<(), Fault> {
        let Some(user) = self.store.user_number(user_id).await? else { return Ok(()) };
        self.log_out(user, |_| true).await
    }

    async fn log_out(&self, user: UserNumber, which: impl Fn(&str) -> bool + Send + Sync) -> Result<(), Fault> {
        for _ in 0..COMMIT_ATTEMPTS {
            let mut write = Write::new(user.partition());
            let ended = self.end_devices(&mut write, user, &which).await?;
            if ended.is_empty() {
                return Ok(());
            }
            if committed(self.store.commit(write).await)? {
                self.end_tokens(&ended);
                self.keys.forget(user);
                return Ok(());
            }
        }
        Err(Fault::contended())
    }

    /// Adds to a batch the end of these devices, tells the log, and gives the hashes of their tokens, never none for a device. The batch
    /// then requires that no device came, and that none of these was refreshed.
    pub(crate) async fn end_devices(
        &self,
        write: &mut Write,
        user: UserNumber,
        which: impl Fn(&str) -> bool + Send + Sync,
    ) -> Result<Vec<TokenHash>, Fault> {
        // The set is read first: a device that comes later changes it.
        let (mut set, set_bytes) = self.load_session_set(user).await?;
        let mut ended = Vec::new();
        for (device_id, bytes, row) in self.load_devices(user).await? {
            if !which(&device_id) {
                continue;
            }
            let tokens = tokens_of(&row);
            tokens.iter().for_each(|hash| write.delete(Table::Ix, token_key(hash)));
            ended.extend(tokens);
            write.require(Table::Us, device_key(user, &device_id), Some(bytes));
            for key in [device_key(user, &device_id), device_keys_key(user, &device_id)] {
                write.delete(Table::Us, key);
            }
            write.delete(Table::Us, claimable_keys_key(user, &device_id));
            self.end_messages(write, user, &device_id).await?;
            let at = write.position();
            write.log(at, LogEntry::Device { user, device: device_id });
            set.devices = set.devices.saturating_sub(1);
        }
        set.version += 1;
        write.require(Table::Us, session_set_key(user), set_bytes);
        write.put(Table::Us, session_set_key(user), &set);
        Ok(ended)
    }

    /// Forgets what memory knows of ended sessions and of a user whose rights have changed.
    pub(crate) fn forget(&self, user: UserNumber, ended: &[TokenHash]) {
        self.end_tokens(ended);
        self.keys.forget(user);
        self.sessions.remove_user(user);
    }

    pub(crate) async fn load_device(
        &self,
        user: UserNumber,
        device_id: &str,
    ) -> Result<Option<(DeviceRow, Bytes)>, Fault> {
        let Some(bytes) = self.store.get_bytes(Table::Us, &device_key(user, device_id)).await? else { return Ok(None) };
        Ok(Some((hearth_store::decode(&bytes)?, bytes)))
    }

    pub(crate) async fn load_devices(&self, user: UserNumber) -> Result<Vec<(String, Bytes, DeviceRow)>, Fault> {
        let prefix = devices_prefix(user);
        let mut range = KeyRange::prefix(prefix);
        let mut devices = Vec::new();
        loop {
            let page = self.store.scan_bytes(Table::Us, range.clone(), Page::first(DEVICES_MAX as usize)).await?;
            let Some(last) = page.last() else { return Ok(devices) };
            range.from = [&last.key[..], &[0]].concat().into();
            for entry in page {
                let device_id =
                    device_of_key(&entry.key).ok_or_else(|| Fault::Broken("a device's key is no text".to_owned()))?;
                let row = hearth_store::decode(&entry.value)?;
                devices.push((device_id.to_owned(), entry.value, row));
            }
        }
    }

    fn device_as_seen(&self, user: UserNumber, device_id: String, row: DeviceRow) -> Device {
        let device_id = OwnedDeviceId::from(device_id);
        let seen = self.sightings.0.get(&(user, device_id.clone()));
        let (last_seen_ts_ms, last_seen_ip) = match seen {
            Some((ts_ms, ip)) if ts_ms >= row.last_seen_ts_ms => (ts_ms, Some(ip.to_string())),
            _ => (row.last_seen_ts_ms, row.last_seen_ip),
        };
        Device { device_id, display_name: row.display_name, last_seen_ts_ms, last_seen_ip }
    }
}
