//! `GET /events`, as far as old test tools need it: to learn where the present is, and to be seen.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3events), deprecated.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::PresenceState;
use serde::Deserialize;
use serde_json::json;

use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    let paths = ["/_matrix/client/v3/events", "/_matrix/client/r0/events"];
    Route::get(&paths, Access::UserOrGuest, Limit::None, events)
}

#[derive(Deserialize)]
struct Query {
    from: Option<String>,
    timeout: Option<u64>,
}

/// Nothing has happened since now. What would have to be looked up or waited for is not built.
async fn events(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let query: Query = call.query()?;
    if query.from.is_some() || query.timeout != Some(0) {
        return Err(Error::unrecognized());
    }
    let _online = state.users.syncing(call.requester().user_id(), PresenceState::Online).await?;
    let now = state.syncs.now_token();
    Ok(Reply::json(&json!({ "chunk": [], "start": now, "end": now })))
}
