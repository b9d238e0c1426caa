//! What other servers are told of changes of our users' devices, for whoever tells them.

use hearth_ports::{KeyRange, Page};
use hearth_store::{
    Table, UserNumber, Write,
    tables::users::{ToldDevicesRow, device_key, device_keys_prefix, device_of_keys_key, told_devices_key},
};
use serde_json::{Map, value::RawValue};

use super::raw;
use crate::{Fault, Users};

/// A device as other servers are told of it: they get no names.
#[derive(Debug)]
pub enum ToldDevice {
    /// It is there, with its identity keys if it has any.
    There(Option<Box<RawValue>>),
    /// It is not, or no more.
    Gone,
}

impl Users {
    /// A device of a user of ours.
    pub async fn told_device(&self, user: UserNumber, device_id: &str) -> Result<ToldDevice, Fault> {
        if self.store.get_bytes(Table::Us, &device_key(user, device_id)).await?.is_none() {
            return Ok(ToldDevice::Gone);
        }
        let (keys, _) = self.load_device_keys(user, device_id).await?;
        let with_unsigned = |mut keys: Map<String, serde_json::Value>| {
            keys.insert("unsigned".to_owned(), Map::new().into());
            raw(&keys)
        };
        Ok(ToldDevice::There(keys.map(with_unsigned)))
    }

    /// Any device of a user of ours that has keys; `None`: there is nothing of which others should know.
    pub async fn some_device_with_keys(&self, user: UserNumber) -> Result<Option<String>, Fault> {
        let range = KeyRange::prefix(device_keys_prefix(user));
        let first = self.store.scan_bytes(Table::Us, range, Page::first(1)).await?.pop();
        Ok(first.and_then(|row| device_of_keys_key(&row.key).map(str::to_owned)))
    }

    /// The newest update of a user's devices that other servers were told of; 0: none.
    pub async fn told_devices(&self, user: UserNumber) -> Result<u64, Fault> {
        let row = self.store.get::<ToldDevicesRow>(Table::Us, &told_devices_key(user)).await?;
        Ok(row.unwrap_or_default().stream_id)
    }

    /// Other servers were told of this update: the next one follows it. Whoever tells them is alone with that.
    pub async fn set_told_devices(&self, user: UserNumber, stream_id: u64) -> Result<(), Fault> {
        let mut write = Write::new(user.partition());
        write.put(Table::Us, told_devices_key(user), &ToldDevicesRow { stream_id });
        self.store.commit(write).await?;
        Ok(())
    }
}
