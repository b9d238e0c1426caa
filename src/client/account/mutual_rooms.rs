//! `GET /_matrix/client/v1/mutual_rooms`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::json;

use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(&["/_matrix/client/v1/mutual_rooms"], Access::User, Limit::Default, mutual_rooms)
}

#[derive(Deserialize)]
struct Query {
    user_id: OwnedUserId,
    from: Option<String>,
}

async fn mutual_rooms(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let query: Query = call.query()?;
    let own = call.requester().user_id();
    if query.user_id == own {
        return Err(Error::invalid_param("this is your own user id"));
    }
    // An answer is never cut, so no token was ever given out.
    if query.from.is_some() {
        return Err(Error::invalid_param("unknown pagination token"));
    }
    let joined = state.users.mutual_rooms(own, &query.user_id).await?;
    Ok(Reply::json(&json!({ "count": joined.len(), "joined": joined })))
}
