//! `/health` and `/ready`, for whoever watches the process.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use serde_json::json;

use crate::lifecycle::Lifecycle;

/// Both.
pub(crate) fn routes() -> Vec<Route<Lifecycle>> {
    vec![
        Route::get(&["/health"], Access::Public, Limit::None, health).always(),
        Route::get(&["/ready"], Access::Public, Limit::None, ready).always(),
    ]
}

/// 200 as long as the process lives.
async fn health(_: Arc<Lifecycle>, _: Call) -> Result<Reply, Error> {
    Ok(Reply::json(&json!({ "status": "alive" })))
}

/// 200 if requests can be sent here; 503 while the server stops.
async fn ready(lifecycle: Arc<Lifecycle>, _: Call) -> Result<Reply, Error> {
    if lifecycle.is_ready() { Ok(Reply::json(&json!({ "status": "ready" }))) } else { Err(Error::unavailable()) }
}
