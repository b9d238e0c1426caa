//! Changing rooms: create, join, send, invite, aliases, directory.

use hearth_edge::Route;

use crate::ClientState;

/// The endpoints of this folder.
pub(crate) fn routes() -> Vec<Route<ClientState>> {
    Vec::new()
}
