//! What the server says of itself: versions, capabilities, well-known documents.

mod capabilities;
mod protocols;
mod versions;
mod well_known;

pub use well_known::{SupportContact, WellKnown};

use hearth_edge::Route;

use crate::ClientState;

/// The endpoints of this folder.
pub(crate) fn routes() -> Vec<Route<ClientState>> {
    let mut routes = vec![capabilities::route(), protocols::route(), versions::route()];
    routes.extend(well_known::routes());
    routes
}
