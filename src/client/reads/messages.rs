//! `GET /rooms/{roomId}/messages`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_sync::read::{GapAhead, MessagesQuery, Reader};
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;

use super::{Dir, answer, filter, place, reader, refusal};
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
    let reader = reader(&call);
    let stop = fill_gaps(&state, &reader, &room_id, &query).await?;
    answer(state.reads.messages(&reader, &room_id, &query, stop).await)
}

/// Gaps that one request has filled: each is a question or two to another server.
const FILLS_MAX: usize = 3;

/// Has other servers asked for what is missing on the page. Where they do not help, the page goes on with what there is
/// behind the gap. Gives the first gap that nobody was asked about: the page ends there.
async fn fill_gaps(
    state: &ClientState,
    reader: &Reader,
    room_id: &RoomId,
    query: &MessagesQuery,
) -> Result<Option<GapAhead>, Error> {
    let mut unfilled = None;
    for nth in 0..=FILLS_MAX {
        let gap = state.reads.gap_ahead(reader, room_id, query, unfilled).await.map_err(|error| refusal(&error))?;
        let Some(gap) = gap else { return Ok(None) };
        if nth == FILLS_MAX || !gap.is_on_page {
            return Ok(Some(gap));
        }
        match state.rooms.backfill(room_id, gap.order).await {
            Ok(0) => unfilled = Some(gap),
            Ok(_) => {}
            Err(error) => {
                tracing::info!(%room_id, %error, "a gap of history was not filled");
                unfilled = Some(gap);
            }
        }
    }
    Ok(None)
}
