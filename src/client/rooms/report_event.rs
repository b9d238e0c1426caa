//! `POST /rooms/{roomId}/report/{eventId}`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::ReportError;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;

use super::{answers::unavailable, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/report/{event_id}"), Access::User, Limit::Default, report_event)
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    reason: Option<String>,
    score: Option<i16>,
}

/// Tells the administrators of an event in a room that the user is in.
async fn report_event(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let (room_id, event_id): (OwnedRoomId, OwnedEventId) = (call.path("room_id")?, call.path("event_id")?);
    let body: Body = call.json_or_empty()?;
    if body.score.is_some_and(|score| !(-100..=0).contains(&score)) {
        return Err(Error::invalid_param("score must be from -100 to 0"));
    }
    let reason = body.reason.unwrap_or_default();
    let kept = state.rooms.report_event(&call.requester().user_id, &room_id, &event_id, &reason, body.score).await;
    match kept {
        Ok(()) => Ok(Reply::empty()),
        Err(error @ ReportError::NotFound) => Err(Error::not_found(error.to_string())),
        Err(ReportError::Unavailable(text)) => Err(unavailable(&text)),
    }
}
