//! `DELETE /directory/room/{roomAlias}`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedRoomAliasId;

use super::{answers::alias_error, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::delete(paths!("directory/room/{room_alias}"), Access::User, Limit::Default, delete_alias)
}

/// Deletes an alias, and takes it out of the room's canonical alias where the user may.
async fn delete_alias(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let alias: OwnedRoomAliasId = call.path("room_alias")?;
    let requester = call.requester();
    state.rooms.delete_alias(&requester.user_id, requester.admin, &alias).await.map_err(alias_error)?;
    Ok(Reply::empty())
}
