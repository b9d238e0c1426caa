//! `PUT /rooms/{roomId}/typing/{userId}`.

use std::{sync::Arc, time::Duration};

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedRoomId;
use serde::Deserialize;

use super::{answers::own, paths};
use crate::ClientState;

/// How long somebody types who does not say how long.
const TIMEOUT_DEFAULT_MS: u64 = 30_000;

pub(super) fn route() -> Route<ClientState> {
    Route::put(paths!("rooms/{room_id}/typing/{user_id}"), Access::UserOrGuest, Limit::Profile, put)
}

#[derive(Deserialize)]
struct Body {
    typing: bool,
    timeout: Option<u64>,
}

async fn put(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id = own(&call)?;
    let room_id: OwnedRoomId = call.path("room_id")?;
    let body: Body = call.json()?;
    let room = state.users.joined_room(&user_id, &room_id).await?;
    let room = room.ok_or_else(|| Error::forbidden("you are not in this room"))?;
    let timeout = Duration::from_millis(body.timeout.unwrap_or(TIMEOUT_DEFAULT_MS));
    state.users.set_typing(room, &user_id, body.typing.then_some(timeout));
    state.users.active(&user_id).await;
    Ok(Reply::empty())
}
