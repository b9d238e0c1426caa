//! `PUT /rooms/{roomId}/redact/{eventId}/{txnId}`, and without a transaction id by POST, as old test tools do.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::Redaction;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::to_raw_value};

use super::{answers::send_error, paths, send::transaction};
use crate::ClientState;

pub(super) fn put() -> Route<ClientState> {
    let paths = paths!("rooms/{room_id}/redact/{event_id}/{txn_id}");
    Route::put(paths, Access::User, Limit::Message, redact).suspended_ok()
}

pub(super) fn post() -> Route<ClientState> {
    let paths = paths!("rooms/{room_id}/redact/{event_id}");
    Route::post(paths, Access::User, Limit::Message, redact).suspended_ok()
}

#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Redacts an event. Suspended users may redact only what they have sent themselves.
async fn redact(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Body = call.json_or_empty()?;
    let redaction = Redaction {
        room_id: call.path("room_id")?,
        sender: call.requester().user_id.clone(),
        target: call.path("event_id")?,
        content: to_raw_value(&body).map_err(|error| Error::bad_json(error.to_string()))?,
        transaction: call.path_opt("txn_id").map(|id| transaction(&call, id)),
        only_own: call.requester().suspended,
    };
    let event_id = state.rooms.redact(redaction).await.map_err(send_error)?;
    state.users.active(call.requester().user_id()).await;
    Ok(Reply::json(&json!({ "event_id": event_id })))
}
