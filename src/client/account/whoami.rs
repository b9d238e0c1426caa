//! `GET /account/whoami`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use serde_json::json;

use super::paths;
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(paths!("account/whoami"), Access::UserOrGuest, Limit::None, whoami)
}

async fn whoami(_: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let requester = call.requester();
    Ok(Reply::json(&json!({
        "user_id": requester.user_id,
        "device_id": requester.device_id,
        "is_guest": requester.guest,
    })))
}
