//! The client-server API: one file per endpoint, in folders by subject.
//!
//! A file holds its route, its handler and the mapping of the service's error to the specification's codes. Nothing here
//! decides who may do what: that is in `users`, `rooms` and `sync`. Start with [`routes`].

mod account;
mod reads;
mod remote;
mod rooms;
mod server;
mod state;
mod sync;

pub use account::finish_departures;
pub use server::{SupportContact, WellKnown};
pub use state::{ClientSettings, ClientState};

use hearth_edge::Route;

/// Every endpoint of this API that is built.
pub fn routes() -> Vec<Route<ClientState>> {
    [account::routes(), reads::routes(), rooms::routes(), server::routes(), sync::routes()]
        .into_iter()
        .flatten()
        .collect()
}
