//! `GET /directory/room/{roomAlias}`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedRoomAliasId;
use serde_json::json;

use super::{answers::alias_error, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(paths!("directory/room/{room_alias}"), Access::Public, Limit::Default, get_alias)
}

/// The room that an alias points to, and servers that are in it.
async fn get_alias(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let alias: OwnedRoomAliasId = call.path("room_alias")?;
    let found = state.rooms.find_alias(&alias).await.map_err(alias_error)?;
    Ok(Reply::json(&json!({ "room_id": found.room_id, "servers": found.servers })))
}
