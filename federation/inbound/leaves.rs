//! [`GET /v1/make_leave`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_leaveroomiduserid),
//! [`PUT /v2/send_leave`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_leaveroomideventid)
//! and its first version.

use std::sync::Arc;

use hearth_edge::{Call, Error, Reply, Route};
use hearth_ports::Handshake;
use http::Method;
use ruma::OwnedRoomId;

use super::{
    Inbound,
    answers::{Object, handshake_error},
    route, templates,
};

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![
        route(Method::GET, "v1/make_leave/{room_id}/{user_id}", make_leave),
        route(Method::PUT, "v2/send_leave/{room_id}/{event_id}", send_leave),
        route(Method::PUT, "v1/send_leave/{room_id}/{event_id}", send_leave_v1),
    ]
}

async fn make_leave(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    templates::make(&state, &call, Handshake::Leave).await
}

async fn send_leave(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    leave(&state, &call).await?;
    Ok(Reply::empty())
}

async fn send_leave_v1(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    leave(&state, &call).await?;
    Ok(Object::new().reply_v1())
}

async fn leave(state: &Inbound, call: &Call) -> Result<(), Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let event_id = call.path_str("event_id");
    let accepted = state.rooms.accept_leave(call.origin(), &room_id, event_id, call.body().clone());
    accepted.await.map_err(handshake_error)
}
