//! `POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::{ReceiptError, ReceiptKind};
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;
use serde_json::Value;

use super::paths;
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    let path = paths!("rooms/{room_id}/receipt/{receipt_type}/{event_id}");
    Route::post(path, Access::UserOrGuest, Limit::Default, post).suspended_ok()
}

#[derive(Deserialize)]
struct Body {
    thread_id: Option<Value>,
}

async fn post(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let event_id: OwnedEventId = call.path("event_id")?;
    let body: Body = call.json_or_empty()?;
    let user_id = call.requester().user_id();
    let kind = match call.path_str("receipt_type") {
        "m.read" => ReceiptKind::Public,
        "m.read.private" => ReceiptKind::Private,
        "m.fully_read" => {
            if body.thread_id.is_some() {
                return Err(Error::invalid_param("m.fully_read has no thread_id"));
            }
            state.users.set_fully_read(user_id, &room_id, &event_id).await.map_err(receipt_error)?;
            return Ok(Reply::empty());
        }
        _ => return Err(Error::invalid_param("receipts are m.read, m.read.private or m.fully_read")),
    };
    let thread = thread(body.thread_id.as_ref())?;
    state.users.set_receipt(user_id, &room_id, kind, thread, &event_id).await.map_err(receipt_error)?;
    state.users.active(user_id).await;
    Ok(Reply::empty())
}

/// `main` or a thread root.
fn thread(thread_id: Option<&Value>) -> Result<Option<&str>, Error> {
    let Some(thread_id) = thread_id else { return Ok(None) };
    let thread_id = thread_id.as_str().filter(|thread_id| !thread_id.is_empty());
    thread_id.map(Some).ok_or_else(|| Error::invalid_param("thread_id must be a non-empty string"))
}

pub(super) fn receipt_error(error: ReceiptError) -> Error {
    match error {
        ReceiptError::NotJoined => Error::forbidden("you are not in this room"),
        ReceiptError::UnknownThread => Error::invalid_param("thread_id is neither main nor an event of this room"),
        ReceiptError::IdTooLong => Error::invalid_param("an event id has at most 255 bytes"),
        ReceiptError::Fault(ours) => ours.into(),
    }
}
