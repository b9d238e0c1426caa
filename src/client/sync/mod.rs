//! Sync, and what old clients call instead. (Filters are stored with the account.)

mod events;
mod long_poll;

use hearth_edge::Route;

pub(crate) use long_poll::refusal;

use crate::ClientState;

/// The endpoints of this folder.
pub(crate) fn routes() -> Vec<Route<ClientState>> {
    vec![events::route(), long_poll::route()]
}
