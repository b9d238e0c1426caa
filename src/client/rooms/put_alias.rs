//! `PUT /directory/room/{roomAlias}`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::{OwnedRoomAliasId, OwnedRoomId};
use serde::Deserialize;

use super::{answers::alias_error, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::put(paths!("directory/room/{room_alias}"), Access::User, Limit::Default, put_alias)
}

#[derive(Deserialize)]
struct Body {
    room_id: OwnedRoomId,
}

/// Makes an alias.
async fn put_alias(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let alias: OwnedRoomAliasId = call.path("room_alias")?;
    let body: Body = call.json()?;
    let requester = call.requester();
    let made = state.rooms.create_alias(&requester.user_id, requester.admin, &alias, &body.room_id).await;
    made.map_err(alias_error)?;
    Ok(Reply::empty())
}
