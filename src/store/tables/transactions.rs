//! Transaction ids: `Ix` rows `x user device8 target transaction16`, in the partition of the target.

use hearth_ports::Key;
use ruma::ServerName;
use serde::{Deserialize, Serialize};

use crate::{UserNumber, id16, key, row};

/// What a request with this transaction id was answered. It is written in the batch of what the request did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionRow {
    /// The answer: an event id, or nothing. Of a message to devices: nothing once all of the recipient's have it, else
    /// the last one that does.
    pub answer: String,
    /// When, in milliseconds since the Unix epoch; old rows are deleted.
    pub answered_ts_ms: u64,
}

row!(TransactionRow, "transaction", version 1);

/// `Ix`: the transaction id of a user's device, for a path of the API. `target` is the number of the room, or of the
/// recipient of a to-device message; the row belongs to its partition. A session without a device has the device "".
pub fn transaction_key(user: UserNumber, device: &str, target: u64, path: &str, transaction: &str) -> Key {
    // A path has no byte 0, so the pair cannot be read in two ways.
    let of_path = id16(&format!("{path}\0{transaction}"));
    key(b'x').user(user).raw(&id16(device)[..8]).u64(target).raw(&of_path).build()
}

/// `Ix`: the id that another server gave a message, for a recipient. It belongs to the recipient's partition.
pub fn remote_transaction_key(recipient: UserNumber, origin: &ServerName, message: &str) -> Key {
    // A server's name has no byte 0. Where a user of ours would stand is 0, which no user has.
    let of_message = id16(&format!("{origin}\0{message}"));
    key(b'x').u64(0).raw(&id16(origin.as_str())[..8]).u64(recipient.0).raw(&of_message).build()
}
