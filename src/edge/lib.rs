//! The inbound HTTP kit: erased routes, authentication, errors, limits.
//!
//! An endpoint is one [`Route`]: method, paths, [`Access`], rate-limit class and a handler, which may take a `ruma`
//! request or the bare [`Call`]. [`Edge`] turns lists of routes into one router; everything between the socket and the
//! handler (bounds on bodies, tokens, limits, CORS, errors, metrics) happens there, once. A route cannot be built
//! without naming who may call it.
//!
//! This crate never knows an endpoint, a room or how a token is stored. Start with [`Route`], then `serve.rs`.

mod access;
mod address;
mod answer;
mod body;
mod budget;
mod call;
mod cors;
mod error;
mod limits;
mod observe;
mod overload;
mod reply;
mod route;
mod serve;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;

pub use access::{Access, Authenticate, AuthenticateServer, ServerRequest};
pub use address::{Cidr, CidrError, Peer};
pub use call::Call;
pub use error::Error;
pub use hearth_ports::BoxFuture;
pub use hearth_users::Session;
pub use limits::{Limit, LimitRate, LimitSettings, Limits};
pub use reply::Reply;
pub use route::Route;
pub use serve::{Edge, EdgeSettings};
