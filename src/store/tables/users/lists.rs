//! Devices and identity keys of other servers' users, as far as they are known and kept up to date: `Fd` rows `u user` and
//! `v user device`, and the `Mi` rows of lists that are to be asked for anew. They live in the partition of the user, whose
//! changes they are.

use hearth_ports::Key;
use serde::{Deserialize, Serialize};

use crate::{UserNumber, key, row};

/// What is known of a remote user's devices. While there is no row nothing is, and the user's server is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteListRow {
    /// The id of the last update that is in it.
    pub stream_id: i64,
    /// Updates are missing: it is not to be used, and asked for anew.
    pub stale: bool,
    /// How many updates came while it was stale: who asks sees whether one came meanwhile.
    pub missed: u32,
    /// The master key, a JSON object.
    pub master: Option<String>,
    /// The self-signing key.
    pub self_signing: Option<String>,
    /// How many devices there are.
    pub devices: u32,
    /// What they take, in bytes.
    pub bytes: u32,
}

row!(RemoteListRow, "remote device list", version 1);

/// A device of a remote user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteDeviceRow {
    /// Its identity keys, a JSON object; `None`: it has none.
    pub keys: Option<String>,
    /// Its name, if the other server tells it.
    pub display_name: Option<String>,
}

row!(RemoteDeviceRow, "remote device", version 1);

/// The last of a local user's changes of devices that other servers were told of: the `stream_id` of the newest
/// `m.device_list_update`, which the next one names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldDevicesRow {
    /// Its log position.
    pub stream_id: u64,
}

row!(ToldDevicesRow, "told devices", version 1);

/// Which job it is.
const REFRESH: &str = "list";

/// `Fd`: what is known of a remote user's devices.
pub fn remote_list_key(user: UserNumber) -> Key {
    key(b'u').user(user).build()
}

/// `Fd`: a device of a remote user.
pub fn remote_device_key(user: UserNumber, device_id: &str) -> Key {
    key(b'v').user(user).raw(device_id.as_bytes()).build()
}

/// What all keys of [`remote_device_key`] of a user begin with.
pub fn remote_devices_prefix(user: UserNumber) -> Key {
    key(b'v').user(user).build()
}

/// `Mi`: a remote user's list is to be asked for anew; the value is empty.
pub fn refresh_key(user: UserNumber) -> Key {
    key(b'j').text(REFRESH).user(user).build()
}

/// What all keys of [`refresh_key`] begin with.
pub fn refreshes_prefix() -> Key {
    key(b'j').text(REFRESH).build()
}

/// Whose list a key of [`refresh_key`] is about.
pub fn refresh_of_key(key: &[u8]) -> Option<UserNumber> {
    let number = key.strip_prefix(&refreshes_prefix()[..])?;
    Some(UserNumber(u64::from_be_bytes(number.try_into().ok()?)))
}

/// `Us`: what other servers were told of a local user's devices.
pub fn told_devices_key(user: UserNumber) -> Key {
    key(b'e').user(user).build()
}
