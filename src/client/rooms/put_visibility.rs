//! `PUT /directory/list/room/{roomId}`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedRoomId;
use serde::Deserialize;

use super::{answers::alias_error, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::put(paths!("directory/list/room/{room_id}"), Access::User, Limit::Default, put_visibility)
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    visibility: Visibility,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Visibility {
    #[default]
    Public,
    Private,
}

/// Publishes a room in the directory, or takes it out.
async fn put_visibility(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let body: Body = call.json_or_empty()?;
    let requester = call.requester();
    let is_published = body.visibility == Visibility::Public;
    let set = state.rooms.set_published(&requester.user_id, requester.admin, &room_id, is_published).await;
    set.map_err(alias_error)?;
    Ok(Reply::empty())
}
