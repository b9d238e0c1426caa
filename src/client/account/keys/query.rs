//! `POST /keys/query`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::keys::{KeyQuery, QUERIED_DEVICES_MAX, QUERIED_USERS_MAX, WantedDevices};
use serde::Deserialize;
use serde_json::json;

use super::{failures_json, paths, timeout_ms};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("keys/query"), Access::UserOrGuest, Limit::Default, query).suspended_ok()
}

#[derive(Deserialize)]
struct Body {
    timeout: Option<u64>,
    device_keys: WantedDevices,
}

async fn query(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let Body { timeout, device_keys } = call.json()?;
    if device_keys.len() > QUERIED_USERS_MAX || device_keys.values().any(|ids| ids.len() > QUERIED_DEVICES_MAX) {
        return Err(Error::too_large("too many users or devices at once"));
    }
    let asker = call.requester().user_id();
    let query = state.users.query_keys(&*state.peers, asker, device_keys, timeout_ms(timeout)).await?;
    let KeyQuery { device_keys, master_keys, self_signing_keys, user_signing_keys, failures } = query;
    Ok(Reply::json(&json!({
        "device_keys": device_keys,
        "master_keys": master_keys,
        "self_signing_keys": self_signing_keys,
        "user_signing_keys": user_signing_keys,
        "failures": failures_json(failures),
    })))
}
