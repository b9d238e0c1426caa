//! [`GET /v1/make_knock`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_knockroomiduserid),
//! [`PUT /v1/send_knock`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_knockroomideventid).

use std::sync::Arc;

use hearth_edge::{Call, Error, Reply, Route};
use hearth_ports::Handshake;
use http::Method;
use ruma::{OwnedEventId, OwnedRoomId};

use super::{
    Inbound,
    answers::{Object, handshake_error},
    route, templates,
};

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![
        route(Method::GET, "v1/make_knock/{room_id}/{user_id}", make_knock),
        route(Method::PUT, "v1/send_knock/{room_id}/{event_id}", send_knock),
    ]
}

async fn make_knock(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    templates::make(&state, &call, Handshake::Knock).await
}

/// Takes the knock; the answer tells what the room is.
async fn send_knock(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let event_id: OwnedEventId = call.path("event_id")?;
    let accepted = state.rooms.accept_knock(call.origin(), &room_id, &event_id, call.body().clone());
    let room_state = accepted.await.map_err(handshake_error)?;
    Ok(Object::new().events("knock_room_state", &room_state).reply())
}
