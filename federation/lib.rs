//! The server-server API: requests of other servers, and ours to them.
//!
//! Who signs what, where a server is found, which keys are believed, when a server is left alone: all of it is here, once.
//! This crate never decides what may happen in a room and never reads one: that is `rooms`. It implements
//! [`hearth_ports::Peers`], so that services ask other servers without knowing an endpoint.
//!
//! Start with [`xmatrix`] (how requests are signed), [`discovery`] (where servers are) and [`remote`] (requests to them).

pub mod discovery;
mod flights;
pub mod outbound;
pub mod policy;
pub mod remote;
#[cfg(test)]
mod testing;
pub mod xmatrix;
