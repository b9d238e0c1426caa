//! `GET /joined_rooms`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use serde_json::json;

use super::{answers::unavailable, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(paths!("joined_rooms"), Access::UserOrGuest, Limit::None, joined_rooms)
}

/// The rooms that the user is in.
async fn joined_rooms(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let rooms = state.rooms.joined_rooms(&call.requester().user_id).await;
    let rooms = rooms.map_err(|error| unavailable(&error.to_string()))?;
    Ok(Reply::json(&json!({ "joined_rooms": rooms })))
}
