//! `GET /v1/rooms/{roomId}/hierarchy`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::HierarchyQuery;
use ruma::OwnedRoomId;
use serde::Deserialize;
use serde_json::json;

use super::{public_rooms::room_summary, summary::read_error};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(&["/_matrix/client/v1/rooms/{room_id}/hierarchy"], Access::UserOrGuest, Limit::Search, hierarchy)
}

#[derive(Deserialize)]
struct Query {
    #[serde(default)]
    suggested_only: bool,
    limit: Option<u32>,
    max_depth: Option<u32>,
    from: Option<String>,
}

/// The rooms of a space that the user may see, depth first.
async fn hierarchy(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let Query { suggested_only, limit, max_depth, from } = call.query()?;
    if limit == Some(0) {
        return Err(Error::invalid_param("limit must be greater than 0"));
    }
    let query = HierarchyQuery { is_suggested_only: suggested_only, limit, max_depth, from };
    let page = state.rooms.hierarchy(&call.requester().user_id, &room_id, &query).await.map_err(read_error)?;
    let rooms = page.rooms.iter().map(|room| {
        let mut answer = room_summary(&room.summary);
        answer.insert("children_state".to_owned(), room.children.to_vec().into());
        answer
    });
    let rooms: Vec<_> = rooms.collect();
    let mut answer = json!({ "rooms": rooms });
    if let Some(next) = page.next {
        answer["next_batch"] = next.into();
    }
    Ok(Reply::json(&answer))
}
