//! `GET /account/3pid`: always empty, since no address or number can be bound to an account.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use serde_json::json;

use super::paths;
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(paths!("account/3pid"), Access::User, Limit::Default, list)
}

async fn list(_: Arc<ClientState>, _: Call) -> Result<Reply, Error> {
    Ok(Reply::json(&json!({ "threepids": [] })))
}
