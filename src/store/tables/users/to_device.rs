//! Messages to devices: what waits for each device, how much, and what an ended device has left. All in the user's
//! partition.

use hearth_ports::{Batch, Key};
use serde::{Deserialize, Serialize};

use crate::{UserNumber, key, row};

/// A message that waits for its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToDeviceRow {
    /// The id of the user who sent it.
    pub sender: String,
    /// Its type.
    pub kind: String,
    /// Its content: a JSON object of at most [`TO_DEVICE_CONTENT_BYTES_MAX`].
    pub content: String,
}

row!(ToDeviceRow, "message to a device", version 1);

/// The largest content of a message to a device, in bytes: with its addresses it fits into an EDU as large as an event.
pub const TO_DEVICE_CONTENT_BYTES_MAX: usize = 60 << 10;

const _: () = assert!(TO_DEVICE_CONTENT_BYTES_MAX + 4_000 < Batch::VALUE_BYTES_MAX, "a row fits");

impl ToDeviceRow {
    /// About what the row takes, in bytes.
    pub const fn size_bytes(&self) -> usize {
        self.sender.len() + self.kind.len() + self.content.len()
    }
}

/// How much waits for a device; there is no row for nothing. Every batch that adds or deletes messages changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToDeviceCountRow {
    /// Messages.
    pub messages: u32,
    /// Their sizes, in bytes.
    pub bytes: u64,
}

row!(ToDeviceCountRow, "messages of a device", version 1);

/// `Us`: a message. The position at [`to_device_position_offset`] is filled at commit.
pub fn to_device_key(user: UserNumber, device_id: &str, position: u64) -> Key {
    key(b'q').user(user).text(device_id).u64(position).build()
}

/// Where the position stands in [`to_device_key`].
pub fn to_device_position_offset(device_id: &str) -> u16 {
    key(b'q').user(UserNumber(0)).text(device_id).offset()
}

/// What all keys of [`to_device_key`] of a device begin with.
pub fn to_device_prefix(user: UserNumber, device_id: &str) -> Key {
    key(b'q').user(user).text(device_id).build()
}

/// The position in a key of [`to_device_key`].
pub fn to_device_position(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.last_chunk()?))
}

/// `Us`: how much waits for a device.
pub fn to_device_count_key(user: UserNumber, device_id: &str) -> Key {
    key(b'Q').user(user).raw(device_id.as_bytes()).build()
}

/// Which job it is.
const ENDED_DEVICE: &str = "device";

/// `Mi`: an ended device whose messages are yet to be deleted; the value is empty. The batch that ends the device writes
/// it, and while it stands no device gets this id.
pub fn ended_device_key(user: UserNumber, device_id: &str) -> Key {
    key(b'j').text(ENDED_DEVICE).user(user).raw(device_id.as_bytes()).build()
}

/// What all keys of [`ended_device_key`] begin with.
pub fn ended_devices_prefix() -> Key {
    key(b'j').text(ENDED_DEVICE).build()
}

/// Whose device a key of [`ended_device_key`] names, and which.
pub fn ended_device_of_key(key: &[u8]) -> Option<(UserNumber, &str)> {
    let rest = key.strip_prefix(&ended_devices_prefix()[..])?;
    let (user, device_id) = rest.split_first_chunk()?;
    Some((UserNumber(u64::from_be_bytes(*user)), std::str::from_utf8(device_id).ok()?))
}
