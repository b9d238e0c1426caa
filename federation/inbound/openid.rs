//! [`GET /v1/openid/userinfo`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1openiduserinfo)

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use serde::Deserialize;
use serde_json::json;

use super::Inbound;

pub(super) fn route() -> Route<Inbound> {
    Route::get(&["/_matrix/federation/v1/openid/userinfo"], Access::Public, Limit::Federation, userinfo)
}

#[derive(Deserialize)]
struct Query {
    access_token: Option<String>,
}

/// Whose token it is, for third parties to whom a user of ours has given it.
async fn userinfo(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let Query { access_token } = call.query()?;
    let token = access_token.filter(|token| !token.is_empty()).ok_or_else(Error::missing_token)?;
    let user_id = state.users.openid_user(&token).ok_or_else(|| Error::unknown_token(false))?;
    Ok(Reply::json(&json!({ "sub": user_id })))
}
