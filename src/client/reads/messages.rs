//! `GET /rooms/{roomId}/messages`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_sync::read::MessagesQuery;
use ruma::OwnedRoomId;
use serde::Deserialize;

use super::{Dir, answer, filter, place, reader};
use crate::ClientState;

/// Events of a page where the client does not say how many.
const LIMIT_DEFAULT: u64 = 10;

pub(super) fn route() -> Route<ClientState> {
    let paths = ["/_matrix/client/v3/rooms/{room_id}/messages", "/_matrix/client/r0/rooms/{room_id}/messages"];
    Route::get(&paths, Access::UserOrGuest, Limit::None, messages)
}

#[derive(Deserialize)]
struct Query {
    from: Option<String>,
    to: Option<String>,
    dir: Dir,
    limit: Option<u64>,
    filter: Option<String>,
}

async fn messages(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let query: Query = call.query()?;
    let filter = filter(query.filter.as_deref())?;
    let limit = query.limit.or(filter.events.limit).unwrap_or(LIMIT_DEFAULT);
    let query = MessagesQuery {
        from: place("from", query.from.as_deref())?,
        to: place("to", query.to.as_deref())?,
        direction: query.dir.into(),
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        filter,
    };
    answer(state.reads.messages(&reader(&call), &room_id, &query).await)
}
