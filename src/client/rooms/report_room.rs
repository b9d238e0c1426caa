//! `POST /rooms/{roomId}/report`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::ReportError;
use ruma::OwnedRoomId;
use serde::Deserialize;

use super::{answers::unavailable, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/report"), Access::User, Limit::Default, report_room)
}

#[derive(Deserialize)]
struct Body {
    reason: String,
}

/// Tells the administrators of a room. "Homeservers MAY return 200 regardless of the existence of the reported room":
/// nobody learns by this which rooms there are.
async fn report_room(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let body: Body = call.json()?;
    match state.rooms.report_room(&call.requester().user_id, &room_id, &body.reason).await {
        Ok(()) | Err(ReportError::NotFound) => Ok(Reply::empty()),
        Err(ReportError::Unavailable(text)) => Err(unavailable(&text)),
    }
}
