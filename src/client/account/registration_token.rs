//! `GET /_matrix/client/v1/register/m.login.registration_token/validity`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::Registration;
use serde::Deserialize;
use serde_json::json;

use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    let path = "/_matrix/client/v1/register/m.login.registration_token/validity";
    Route::get(&[path], Access::Public, Limit::Registration, validity)
}

#[derive(Deserialize)]
struct Query {
    token: String,
}

async fn validity(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let query: Query = call.query()?;
    if state.users.settings().registration == Registration::Closed {
        return Err(Error::forbidden("registration is disabled"));
    }
    let valid = state.users.registration_token_is_valid(&query.token).await?;
    Ok(Reply::json(&json!({ "valid": valid })))
}
