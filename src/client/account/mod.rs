//! Accounts, sessions, devices, profiles, account data, presence: what belongs to a user.

use hearth_edge::Route;

use crate::ClientState;

/// The endpoints of this folder.
pub(crate) fn routes() -> Vec<Route<ClientState>> {
    Vec::new()
}
