//! `PUT /sendToDevice/{eventType}/{txnId}`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::{ToDeviceContents, ToDeviceError};
use serde::Deserialize;

use super::paths;
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::put(paths!("sendToDevice/{event_type}/{txn_id}"), Access::UserOrGuest, Limit::Default, send)
}

#[derive(Deserialize)]
struct Body {
    messages: ToDeviceContents,
}

/// Hands messages to devices, here and elsewhere. The same transaction id does nothing twice.
async fn send(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let Body { messages } = call.json()?;
    let session = call.requester();
    let (kind, transaction) = (call.path_str("event_type"), call.path_str("txn_id"));
    let sent = state.users.send_to_device(session.user_id(), session.device_id(), kind, transaction, &messages);
    sent.await.map_err(refused)?;
    Ok(Reply::empty())
}

fn refused(error: ToDeviceError) -> Error {
    match error {
        ToDeviceError::Malformed => Error::bad_json(error.to_string()),
        ToDeviceError::TooLarge(reason) => Error::too_large(reason),
        ToDeviceError::Fault(ours) => ours.into(),
    }
}
