//! Sync, filters, and what old clients call instead.

use hearth_edge::Route;

use crate::ClientState;

/// The endpoints of this folder.
pub(crate) fn routes() -> Vec<Route<ClientState>> {
    Vec::new()
}
