//! `PUT /rooms/{roomId}/send/{eventType}/{txnId}`, and without a transaction id by POST, as old test tools do.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{Message, TransactionId};
use serde_json::{json, value::RawValue};

use super::{answers::send_error, paths};
use crate::ClientState;

pub(super) fn put() -> Route<ClientState> {
    let paths = paths!("rooms/{room_id}/send/{event_type}/{txn_id}");
    // Of suspended users only redactions of their own events are taken.
    Route::put(paths, Access::UserOrGuest, Limit::Message, send).suspended_ok()
}

pub(super) fn post() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/send/{event_type}"), Access::UserOrGuest, Limit::Message, send)
}

/// Sends a message-like event. The same transaction id means the same event, and its id once more.
async fn send(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let requester = call.requester();
    let kind = call.path_str("event_type").to_owned();
    if requester.suspended && kind != "m.room.redaction" {
        return Err(Error::user_suspended());
    }
    let message = Message {
        room_id: call.path("room_id")?,
        sender: requester.user_id.clone(),
        kind,
        content: call.json::<Box<RawValue>>()?,
        transaction: call.path_opt("txn_id").map(|id| transaction(&call, id)),
        only_own: requester.suspended,
        ts_ms: None,
    };
    let event_id = state.rooms.send(message).await.map_err(send_error)?;
    state.users.active(requester.user_id()).await;
    Ok(Reply::json(&json!({ "event_id": event_id })))
}

/// The transaction of a request's device.
pub(super) fn transaction(call: &Call, id: &str) -> TransactionId {
    let device = call.requester().device_id().to_string();
    TransactionId { device, id: id.to_owned() }
}
