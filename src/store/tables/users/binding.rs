//! What is left to be done once somebody has bound an identifier under which they were invited.

use hearth_ports::Key;
use serde::{Deserialize, Serialize};

use crate::{UserNumber, id16, key, row};

/// A pending invite of a user of ours that the inviter's server could not be asked for yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingRow {
    /// The room.
    pub room_id: String,
    /// Who invited.
    pub sender: String,
    /// Who is invited.
    pub target: String,
    /// The identity server's word, JSON.
    pub signed: String,
    /// When we heard of it, in milliseconds since the Unix epoch.
    pub bound_ts_ms: u64,
}

row!(BindingRow, "bound invite", version 1);

/// Which job it is.
const BIND: &str = "bind";

/// `Mi`: a bound invite, in the user's partition. `invite` names it among those of the user.
pub fn binding_key(user: UserNumber, invite: &str) -> Key {
    key(b'j').text(BIND).user(user).raw(&id16(invite)).build()
}

/// What all keys of [`binding_key`] of a user begin with; of everybody's with `None`.
pub fn bindings_prefix(user: Option<UserNumber>) -> Key {
    let all = key(b'j').text(BIND);
    match user {
        Some(user) => all.user(user).build(),
        None => all.build(),
    }
}
