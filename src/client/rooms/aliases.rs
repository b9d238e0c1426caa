//! `GET /rooms/{roomId}/aliases`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedRoomId;
use serde_json::json;

use super::{answers::alias_error, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(paths!("rooms/{room_id}/aliases"), Access::User, Limit::Default, aliases)
}

/// This server's aliases of a room.
async fn aliases(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let aliases = state.rooms.aliases(&call.requester().user_id, &room_id).await.map_err(alias_error)?;
    Ok(Reply::json(&json!({ "aliases": aliases })))
}
