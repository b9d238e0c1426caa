//! `POST /user/{userId}/openid/request_token`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use serde_json::{Map, Value, json};

use super::{answers::own, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("user/{user_id}/openid/request_token"), Access::User, Limit::Default, request)
}

async fn request(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id = own(&call)?;
    let _: Map<String, Value> = call.json_or_empty()?;
    let token = state.users.openid_token(&user_id);
    Ok(Reply::json(&json!({
        "access_token": token.access_token,
        "token_type": "Bearer",
        "matrix_server_name": state.settings.server_name,
        "expires_in": token.expires_in_s,
    })))
}
