//! [`GET /v1/make_join`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid),
//! [`PUT /v2/send_join`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid) and
//! its first version.

use std::sync::Arc;

use hearth_edge::{Call, Error, Reply, Route};
use hearth_ports::{Handshake, JoinAnswer};
use http::Method;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;

use super::{
    Inbound,
    answers::{Object, handshake_error},
    route, templates,
};

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![
        route(Method::GET, "v1/make_join/{room_id}/{user_id}", make_join),
        route(Method::PUT, "v2/send_join/{room_id}/{event_id}", send_join),
        route(Method::PUT, "v1/send_join/{room_id}/{event_id}", send_join_v1),
    ]
}

#[derive(Deserialize)]
struct Query {
    #[serde(default)]
    omit_members: bool,
}

async fn make_join(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    templates::make(&state, &call, Handshake::Join).await
}

/// Takes the join; the answer is what the other server needs to follow the room.
async fn send_join(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let Query { omit_members } = call.query()?;
    Ok(join(&state, &call, omit_members).await?.reply())
}

async fn send_join_v1(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    Ok(join(&state, &call, false).await?.reply_v1())
}

async fn join(state: &Inbound, call: &Call, omit_members: bool) -> Result<Object, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let event_id: OwnedEventId = call.path("event_id")?;
    let accepted = state.rooms.accept_join(call.origin(), &room_id, &event_id, call.body().clone(), omit_members);
    let JoinAnswer { event, state: room_state, auth_chain, members_omitted, servers_in_room } =
        accepted.await.map_err(handshake_error)?;
    let mut answer = Object::new()
        .field("origin", &state.settings.server_name)
        .field("members_omitted", &members_omitted)
        .events("state", &room_state)
        .events("auth_chain", &auth_chain);
    if let Some(event) = event {
        answer = answer.json("event", &event);
    }
    if members_omitted {
        answer = answer.field("servers_in_room", &servers_in_room);
    }
    Ok(answer)
}
