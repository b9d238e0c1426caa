//! `POST /keys/claim`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysclaim).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::keys::{CLAIMS_MAX, KeyClaim, WantedOneTimeKeys};
use serde::Deserialize;
use serde_json::json;

use super::{failures_json, paths, timeout_ms};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("keys/claim"), Access::UserOrGuest, Limit::Default, claim)
}

#[derive(Deserialize)]
struct Body {
    timeout: Option<u64>,
    one_time_keys: WantedOneTimeKeys,
}

async fn claim(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let Body { timeout, one_time_keys } = call.json()?;
    let devices: usize = one_time_keys.values().map(std::collections::BTreeMap::len).sum();
    if devices > CLAIMS_MAX {
        return Err(Error::too_large("too many keys at once"));
    }
    let KeyClaim { one_time_keys, failures } =
        state.users.claim_keys(&*state.peers, one_time_keys, timeout_ms(timeout)).await;
    Ok(Reply::json(&json!({ "one_time_keys": one_time_keys, "failures": failures_json(failures) })))
}
