//! `GET /versions`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use serde_json::json;

use crate::ClientState;

/// The versions whose endpoints, as far as they are built, behave as those versions say. Clients choose paths and shapes
/// by this list; an optional part that is absent answers `M_UNRECOGNIZED`.
const VERSIONS: [&str; 19] = [
    "r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
    "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16",
];

pub(super) fn route() -> Route<ClientState> {
    Route::get(&["/_matrix/client/versions"], Access::Optional, Limit::None, versions)
}

async fn versions(_: Arc<ClientState>, _: Call) -> Result<Reply, Error> {
    Ok(Reply::json(&json!({ "versions": VERSIONS, "unstable_features": {} })))
}
