//! `POST /rooms/{roomId}/read_markers`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::ReceiptKind;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;

use super::{paths, receipt::receipt_error};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/read_markers"), Access::UserOrGuest, Limit::Default, post).suspended_ok()
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "m.fully_read")]
    fully_read: Option<OwnedEventId>,
    #[serde(rename = "m.read")]
    read: Option<OwnedEventId>,
    #[serde(rename = "m.read.private")]
    read_private: Option<OwnedEventId>,
}

async fn post(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let body: Body = call.json()?;
    let (users, user_id) = (&state.users, call.requester().user_id());
    let fully_read = async {
        let Some(event_id) = &body.fully_read else { return Ok(()) };
        users.set_fully_read(user_id, &room_id, event_id).await
    };
    let receipt = async |kind, event_id: &Option<OwnedEventId>| {
        let Some(event_id) = event_id else { return Ok(()) };
        users.set_receipt(user_id, &room_id, kind, None, event_id).await
    };
    let (read, private) = (receipt(ReceiptKind::Public, &body.read), receipt(ReceiptKind::Private, &body.read_private));
    // At the same time, so that both receipts are of one batch.
    tokio::try_join!(fully_read, read, private).map_err(receipt_error)?;
    users.active(user_id).await;
    Ok(Reply::empty())
}
