//! What the server says of itself: versions, capabilities, well-known documents.

use hearth_edge::Route;

use crate::ClientState;

/// The endpoints of this folder.
pub(crate) fn routes() -> Vec<Route<ClientState>> {
    Vec::new()
}
