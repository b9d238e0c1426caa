//! `GET /rooms/{roomId}/state` and `GET /rooms/{roomId}/state/{eventType}/{stateKey}`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstate).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedRoomId;
use serde::Deserialize;

use super::{answer, reader};
use crate::ClientState;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    let whole = ["/_matrix/client/v3/rooms/{room_id}/state", "/_matrix/client/r0/rooms/{room_id}/state"];
    // Clients leave an empty state key away, with its slash or without.
    let entry = [
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
        "/_matrix/client/r0/rooms/{room_id}/state/{event_type}/{state_key}",
        "/_matrix/client/r0/rooms/{room_id}/state/{event_type}/",
        "/_matrix/client/r0/rooms/{room_id}/state/{event_type}",
    ];
    vec![
        Route::get(&whole, Access::UserOrGuest, Limit::None, state_events),
        Route::get(&entry, Access::UserOrGuest, Limit::None, state_entry),
    ]
}

async fn state_events(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    answer(state.reads.state(&reader(&call), &room_id).await)
}

#[derive(Deserialize)]
struct Query {
    format: Option<Format>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Format {
    Content,
    Event,
}

async fn state_entry(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let query: Query = call.query()?;
    let whole = query.format == Some(Format::Event);
    let (kind, state_key) = (call.path_str("event_type"), call.path_opt("state_key").unwrap_or_default());
    answer(state.reads.state_entry(&reader(&call), &room_id, kind, state_key, whole).await)
}
