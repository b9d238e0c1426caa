//! `GET /_matrix/federation/v1/version`. [Specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1version).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use serde_json::json;

use crate::keys::KeyRing;

/// It needs no state, but all routes of a list have one.
pub(crate) fn route() -> Route<KeyRing> {
    Route::get(&["/_matrix/federation/v1/version"], Access::Public, Limit::Federation, version)
}

async fn version(_: Arc<KeyRing>, _: Call) -> Result<Reply, Error> {
    Ok(Reply::json(&json!({ "server": { "name": "hearth", "version": env!("CARGO_PKG_VERSION") } })))
}
