//! `GET /rooms/{roomId}/initialSync`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidinitialsync).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;

use super::{answer, reader};
use crate::ClientState;

/// Events where the client does not say how many.
const LIMIT_DEFAULT: u64 = 10;

/// The most events.
const LIMIT_MAX: u64 = 100;

pub(super) fn route() -> Route<ClientState> {
    let paths = ["/_matrix/client/v3/rooms/{room_id}/initialSync", "/_matrix/client/r0/rooms/{room_id}/initialSync"];
    Route::get(&paths, Access::UserOrGuest, Limit::None, initial_sync)
}

#[derive(Deserialize)]
struct Query {
    limit: Option<u64>,
}

async fn initial_sync(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let query: Query = call.query()?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX) as usize;
    let visibility = visibility(&state, &room_id).await;
    answer(state.reads.initial_sync(&reader(&call), &room_id, limit, visibility).await)
}

/// Whether the room is in this server's directory; one that cannot be asked about is not.
async fn visibility(state: &ClientState, room_id: &RoomId) -> &'static str {
    match state.rooms.is_published(room_id).await {
        Ok(true) => "public",
        Ok(false) | Err(_) => "private",
    }
}
