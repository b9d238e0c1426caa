//! What an ended account leaves to be done.

use hearth_ports::Key;
use serde::{Deserialize, Serialize};

use crate::{UserNumber, key, row};

/// A user whose account has ended and who may still be in rooms. The batch that ends the account writes it; it goes when
/// all rooms are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepartureRow {
    /// When the account ended, in milliseconds since the Unix epoch.
    pub ended_ts_ms: u64,
}

row!(DepartureRow, "departure", version 1);

/// Which job it is: others may come.
const LEAVE: &str = "leave";

/// `Mi`: rooms are to be left, in the user's partition.
pub fn departure_key(user: UserNumber) -> Key {
    key(b'j').text(LEAVE).user(user).build()
}

/// What all keys of [`departure_key`] begin with.
pub fn departures_prefix() -> Key {
    key(b'j').text(LEAVE).build()
}

/// Whose departure a key of [`departure_key`] is.
pub fn departure_of_key(key: &[u8]) -> Option<UserNumber> {
    let number = key.strip_prefix(&departures_prefix()[..])?;
    Some(UserNumber(u64::from_be_bytes(number.try_into().ok()?)))
}
