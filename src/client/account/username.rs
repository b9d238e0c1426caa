//! `GET /register/available`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::Localpart;
use serde::Deserialize;
use serde_json::json;

use super::{
    answers::{bad_name, user_in_use},
    paths,
};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(paths!("register/available"), Access::Public, Limit::Registration, available)
}

#[derive(Deserialize)]
struct Query {
    username: String,
}

async fn available(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let query: Query = call.query()?;
    let localpart = Localpart::parse(&query.username, &state.settings.server_name).map_err(bad_name)?;
    if state.users.is_taken(&localpart).await? {
        return Err(user_in_use());
    }
    Ok(Reply::json(&json!({ "available": true })))
}
