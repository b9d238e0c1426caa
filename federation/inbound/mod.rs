//! What other servers ask of us. One file an endpoint or small family: it parses, bounds and calls `rooms` or `users`, and
//! says the outcome in the specification's words. What a server may read or do is decided there, not here.
//!
//! Start with [`routes`]. Events travel as slices of the request's body, and into answers by one copy.

mod answers;
mod directory;
mod ephemeral;
mod events;
mod hierarchy;
mod history;
mod invites;
mod joins;
mod keys;
mod knocks;
mod lasting;
mod leaves;
mod openid;
mod profile;
mod public_rooms;
mod requests;
mod send;
mod summary;
mod templates;
#[cfg(test)]
mod tests;
mod third_party;
mod transactions;

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_ports::Clock;
use hearth_rooms::Rooms;
use hearth_users::Users;
use http::Method;
use ruma::{OwnedServerName, ServerName};

use self::transactions::Transactions;

/// What the operator says about requests of other servers.
#[derive(Clone, Debug)]
pub struct InboundSettings {
    /// Our own name.
    pub server_name: OwnedServerName,
    /// Whether other servers may read the directory of published rooms.
    pub public_rooms: bool,
}

/// Learns of each request that a server has proven to be its own: it is there. Must not wait.
pub type Heard = Arc<dyn Fn(&ServerName) + Send + Sync>;

/// What the handlers use.
pub struct Inbound {
    rooms: Arc<Rooms>,
    users: Arc<Users>,
    clock: Arc<dyn Clock>,
    heard: Heard,
    transactions: Transactions,
    settings: InboundSettings,
}

impl Inbound {
    /// The state of [`routes`].
    pub fn new(
        rooms: Arc<Rooms>,
        users: Arc<Users>,
        clock: Arc<dyn Clock>,
        heard: Heard,
        settings: InboundSettings,
    ) -> Arc<Self> {
        Arc::new(Self { rooms, users, clock, heard, transactions: Transactions::new(), settings })
    }
}

/// All endpoints of this folder.
pub fn routes() -> Vec<Route<Inbound>> {
    let mut routes = vec![openid::route()];
    for family in [
        directory::routes(),
        events::routes(),
        hierarchy::routes(),
        history::routes(),
        invites::routes(),
        joins::routes(),
        keys::routes(),
        knocks::routes(),
        leaves::routes(),
        profile::routes(),
        public_rooms::routes(),
        send::routes(),
        third_party::routes(),
    ] {
        routes.extend(family);
    }
    routes
}

/// An endpoint for servers, by its path below `/_matrix/federation`.
fn route<H, F>(method: Method, path: &str, handler: H) -> Route<Inbound>
where
    H: Fn(Arc<Inbound>, Call) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send + 'static,
{
    let path = format!("/_matrix/federation/{path}");
    let heard = move |state: Arc<Inbound>, call: Call| {
        (state.heard)(call.origin());
        handler(state, call)
    };
    Route::raw(method, &[&path], Access::Server, Limit::Federation, heard)
}
