//! `GET /directory/list/room/{roomId}`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedRoomId;
use serde_json::json;

use super::{answers::alias_error, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(paths!("directory/list/room/{room_id}"), Access::Public, Limit::None, get_visibility)
}

/// Whether the room is published in this server's directory.
async fn get_visibility(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let is_published = state.rooms.is_published(&room_id).await.map_err(alias_error)?;
    Ok(Reply::json(&json!({ "visibility": if is_published { "public" } else { "private" } })))
}
