//! `GET /rooms/{roomId}/event/{eventId}`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomideventeventid).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::{OwnedEventId, OwnedRoomId};

use super::{answer, reader};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    let paths =
        ["/_matrix/client/v3/rooms/{room_id}/event/{event_id}", "/_matrix/client/r0/rooms/{room_id}/event/{event_id}"];
    Route::get(&paths, Access::UserOrGuest, Limit::None, event)
}

async fn event(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let event_id: OwnedEventId = call.path("event_id")?;
    answer(state.reads.event(&reader(&call), &room_id, &event_id).await)
}
