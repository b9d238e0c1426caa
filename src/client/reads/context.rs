//! `GET /rooms/{roomId}/context/{eventId}`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidcontexteventid).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_sync::read::ContextQuery;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;

use super::{answer, filter, reader};
use crate::ClientState;

/// Events around the one asked for where the client does not say how many.
const LIMIT_DEFAULT: u64 = 10;

/// The most events around one.
const LIMIT_MAX: u64 = 100;

pub(super) fn route() -> Route<ClientState> {
    let paths = [
        "/_matrix/client/v3/rooms/{room_id}/context/{event_id}",
        "/_matrix/client/r0/rooms/{room_id}/context/{event_id}",
    ];
    Route::get(&paths, Access::UserOrGuest, Limit::None, context)
}

#[derive(Deserialize)]
struct Query {
    limit: Option<u64>,
    filter: Option<String>,
}

async fn context(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let event_id: OwnedEventId = call.path("event_id")?;
    let query: Query = call.query()?;
    let filter = filter(query.filter.as_deref())?;
    let limit = query.limit.or(filter.events.limit).unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX) as usize;
    let query = ContextQuery { limit, filter };
    answer(state.reads.context(&reader(&call), &room_id, &event_id, &query).await)
}
