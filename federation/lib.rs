//! The server-server API: requests of other servers, and ours to them.
//!
//! Who signs what, where a server is found, which keys are believed, when a server is left alone: all of it is here, once.
//! This crate never decides what may happen in a room and never reads one: that is `rooms`. It implements
//! [`hearth_ports::Peers`], so that services ask other servers without knowing an endpoint.
//!
//! Start with [`xmatrix`] (how requests are signed), [`discovery`] (where servers are), [`remote`] (requests to
//! them) and [`keys`].

mod auth;
mod check;
pub mod discovery;
mod flights;
mod identifiers;
mod identity;
pub mod inbound;
pub mod keys;
pub mod outbound;
pub mod peers;
pub mod policy;
pub mod remote;
mod slices;
#[cfg(test)]
mod testing;
mod version;
pub mod xmatrix;

pub use auth::ServerAuth;
pub use check::check;

use hearth_edge::Route;

/// The endpoints that need no signature: keys and the version.
pub fn open_routes() -> Vec<Route<keys::KeyRing>> {
    let mut routes = keys::routes();
    routes.push(version::route());
    routes
}
