//! `POST /rooms/{roomId}/forget`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::ForgetError;
use ruma::OwnedRoomId;

use super::{answers::unavailable, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/forget"), Access::UserOrGuest, Limit::Default, forget).suspended_ok()
}

/// Takes a room that the user has left out of their sight.
async fn forget(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    match state.rooms.forget(&call.requester().user_id, &room_id).await {
        // A room that the user has nothing to do with is as forgotten as it can be.
        Ok(()) | Err(ForgetError::NotFound) => Ok(Reply::empty()),
        Err(error @ ForgetError::StillIn) => Err(Error::unknown(error.to_string())),
        Err(ForgetError::Unavailable(text)) => Err(unavailable(&text)),
    }
}
