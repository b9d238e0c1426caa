//! [`GET /v1/hierarchy`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid)

use std::sync::Arc;

use hearth_edge::{Call, Error, Reply, Route};
use http::Method;
use ruma::OwnedRoomId;
use serde::Deserialize;

use super::{
    Inbound,
    answers::{Object, read_error},
    route,
    summary::RoomJson,
};

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![route(Method::GET, "v1/hierarchy/{room_id}", hierarchy)]
}

#[derive(Deserialize)]
struct Query {
    #[serde(default)]
    suggested_only: bool,
}

/// A space and its children, as far as the server may know them.
async fn hierarchy(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let Query { suggested_only } = call.query()?;
    let found = state.rooms.hierarchy_for_server(call.origin(), &room_id, suggested_only).await.map_err(read_error)?;
    let children: Vec<_> = found.children.iter().map(RoomJson::of_space).collect();
    Ok(Object::new()
        .field("room", &RoomJson::of_space(&found.room))
        .field("children", &children)
        .field("inaccessible_children", &found.inaccessible)
        .reply())
}
