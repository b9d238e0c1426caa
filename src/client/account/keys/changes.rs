//! `GET /keys/changes`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_sync::{KeyChanges, Reader};
use serde::Deserialize;
use serde_json::json;

use super::paths;
use crate::{ClientState, sync::refusal};

pub(super) fn route() -> Route<ClientState> {
    Route::get(paths!("keys/changes"), Access::UserOrGuest, Limit::Default, changes)
}

#[derive(Deserialize)]
struct Query {
    from: String,
    to: String,
}

async fn changes(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let Query { from, to } = call.query()?;
    let session = call.requester();
    let reader = Reader { user_id: session.user_id.clone(), device_id: session.device_id.clone() };
    let KeyChanges { changed, left } = state.syncs.key_changes(&reader, &from, &to).await.map_err(refusal)?;
    Ok(Reply::json(&json!({ "changed": changed, "left": left })))
}
