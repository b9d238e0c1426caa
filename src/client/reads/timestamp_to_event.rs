//! `GET /rooms/{roomId}/timestamp_to_event`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedRoomId;
use serde::Deserialize;
use serde_json::json;

use super::{Dir, reader, refusal};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    let paths = ["/_matrix/client/v1/rooms/{room_id}/timestamp_to_event"];
    Route::get(&paths, Access::UserOrGuest, Limit::Default, timestamp_to_event)
}

#[derive(Deserialize)]
struct Query {
    ts: u64,
    dir: Dir,
}

async fn timestamp_to_event(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let query: Query = call.query()?;
    let found = state.reads.event_at(&reader(&call), &room_id, query.ts, query.dir.into()).await;
    let found = found.map_err(|error| refusal(&error))?;
    Ok(Reply::json(&json!({ "event_id": found.event_id, "origin_server_ts": found.origin_server_ts_ms })))
}
