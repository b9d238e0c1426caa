//! `GET /rooms/{roomId}/timestamp_to_event`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_sync::read::{FoundEvent, ReadError};
use ruma::{OwnedRoomId, RoomId};
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
    let reader = reader(&call);
    let found = state.reads.event_at(&reader, &room_id, query.ts, query.dir.into()).await;
    if fetch_nearer(&state, &room_id, &query, &found).await {
        return answer(state.reads.event_at(&reader, &room_id, query.ts, query.dir.into()).await);
    }
    answer(found)
}

/// Asks other servers for an event that is nearer, where our history may lack one. Whether one came.
async fn fetch_nearer(
    state: &ClientState,
    room_id: &RoomId,
    query: &Query,
    found: &Result<FoundEvent, ReadError>,
) -> bool {
    let known_ms = match found {
        Ok(found) => Some(found.origin_server_ts_ms),
        Err(ReadError::NotFound(_)) => None,
        // Who may not read the room does not make us ask for it.
        Err(_) => return false,
    };
    let backwards = matches!(query.dir, Dir::Backward);
    match state.rooms.fetch_near(room_id, query.ts, backwards, known_ms).await {
        Ok(fetched) => fetched.is_some(),
        Err(error) => {
            tracing::info!(%room_id, %error, "no nearer event was fetched");
            false
        }
    }
}

fn answer(found: Result<FoundEvent, ReadError>) -> Result<Reply, Error> {
    let found = found.map_err(|error| refusal(&error))?;
    Ok(Reply::json(&json!({ "event_id": found.event_id, "origin_server_ts": found.origin_server_ts_ms })))
}
