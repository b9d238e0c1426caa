//! [`GET` and `POST /v1/publicRooms`](https://spec.matrix.org/v1.19/server-server-api/#published-room-directory): the
//! directory, if the operator shows it to other servers.

use std::sync::Arc;

use hearth_edge::{Call, Error, Reply, Route};
use hearth_rooms::{DirectoryError, DirectoryQuery};
use http::Method;
use serde::Deserialize;

use super::{
    Inbound,
    answers::{Object, unavailable},
    route,
    summary::RoomJson,
};

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![
        route(Method::GET, "v1/publicRooms", get_public_rooms),
        route(Method::POST, "v1/publicRooms", post_public_rooms),
    ]
}

#[derive(Deserialize)]
struct Wanted {
    limit: Option<u64>,
    since: Option<String>,
    third_party_instance_id: Option<String>,
    /// Not in queries.
    filter: Option<Filter>,
}

#[derive(Deserialize)]
struct Filter {
    generic_search_term: Option<String>,
    room_types: Option<Vec<Option<String>>>,
}

async fn get_public_rooms(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    #[derive(Deserialize)]
    struct Query {
        limit: Option<u64>,
        since: Option<String>,
        third_party_instance_id: Option<String>,
    }
    let Query { limit, since, third_party_instance_id } = call.query()?;
    list(&state, Wanted { limit, since, third_party_instance_id, filter: None }).await
}

async fn post_public_rooms(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    list(&state, call.json_or_empty()?).await
}

async fn list(state: &Inbound, wanted: Wanted) -> Result<Reply, Error> {
    if !state.settings.public_rooms {
        return Err(Error::forbidden("this server does not show its directory to other servers"));
    }
    if wanted.third_party_instance_id.is_some_and(|network| !network.is_empty()) {
        // No network is bridged here.
        return Ok(Object::new().field("chunk", &[0_u8; 0]).field("total_room_count_estimate", &0).reply());
    }
    let filter = wanted.filter.unwrap_or(Filter { generic_search_term: None, room_types: None });
    let query = DirectoryQuery {
        // 0 means no limit, as clients have it from old.
        limit: wanted.limit.filter(|limit| *limit > 0).map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        since: wanted.since,
        search: filter.generic_search_term,
        room_types: filter.room_types,
        is_for_server: true,
    };
    let page = state.rooms.directory(&query).await.map_err(|error| match error {
        DirectoryError::BadToken => Error::invalid_param(error.to_string()),
        DirectoryError::Unavailable(text) => unavailable(&text),
    })?;
    let chunk: Vec<_> = page.rooms.iter().map(|room| RoomJson::published(room)).collect();
    let mut answer = Object::new().field("chunk", &chunk).field("total_room_count_estimate", &page.total);
    for (name, token) in [("next_batch", page.next), ("prev_batch", page.previous)] {
        if let Some(token) = token {
            answer = answer.field(name, &token);
        }
    }
    Ok(answer.reply())
}
