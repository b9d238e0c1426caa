//! `GET` and `POST /publicRooms`: the directory, without and with a filter.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{DirectoryError, DirectoryQuery, RoomSummary};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{answers::unavailable, paths};
use crate::{
    ClientState,
    remote::{peer_error, unreachable},
};

pub(super) fn get() -> Route<ClientState> {
    Route::get(paths!("publicRooms"), Access::Optional, Limit::Search, get_public_rooms)
}

pub(super) fn post() -> Route<ClientState> {
    Route::post(paths!("publicRooms"), Access::UserOrGuest, Limit::Search, post_public_rooms).suspended_ok()
}

#[derive(Deserialize)]
struct Query {
    limit: Option<u64>,
    since: Option<String>,
    server: Option<OwnedServerName>,
}

#[derive(Deserialize)]
struct Body {
    limit: Option<u64>,
    since: Option<String>,
    filter: Option<Filter>,
    #[serde(default)]
    include_all_networks: bool,
    third_party_instance_id: Option<String>,
}

#[derive(Deserialize)]
struct Filter {
    generic_search_term: Option<String>,
    room_types: Option<Vec<Option<String>>>,
}

async fn get_public_rooms(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    // The specification asks for no token here; the operator may.
    if call.optional_requester().is_none() && !state.settings.public_rooms_without_auth {
        return Err(Error::missing_token());
    }
    let query: Query = call.query()?;
    if let Some(server) = query.server.filter(|server| *server != state.settings.server_name) {
        let body = json!({ "limit": query.limit, "since": query.since });
        return list_elsewhere(&state, &server, body).await;
    }
    let wanted = DirectoryQuery { limit: limit(query.limit), since: query.since, ..DirectoryQuery::default() };
    list(&state, &wanted).await
}

async fn post_public_rooms(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let query: Query = call.query()?;
    let body: Body = call.json_or_empty()?;
    if body.third_party_instance_id.is_some() && body.include_all_networks {
        return Err(Error::invalid_param("include_all_networks and third_party_instance_id exclude each other"));
    }
    if let Some(server) = query.server.filter(|server| *server != state.settings.server_name) {
        return list_elsewhere(&state, &server, call.json_or_empty()?).await;
    }
    let filter = body.filter.unwrap_or(Filter { generic_search_term: None, room_types: None });
    let wanted = DirectoryQuery {
        limit: limit(body.limit),
        since: body.since,
        search: filter.generic_search_term,
        room_types: filter.room_types,
        is_for_server: false,
    };
    if body.third_party_instance_id.is_some() {
        // No network is bridged here.
        return Ok(Reply::json(&json!({ "chunk": [], "total_room_count_estimate": 0 })));
    }
    list(&state, &wanted).await
}

/// 0 means no limit, as clients have it from old.
fn limit(given: Option<u64>) -> Option<usize> {
    given.filter(|limit| *limit > 0).map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// The directory of another server: the question and its answer are passed on.
async fn list_elsewhere(state: &ClientState, server: &ServerName, mut body: Value) -> Result<Reply, Error> {
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let answer = state.peers.public_rooms(server, body.to_string().into()).await.map_err(peer_error)?;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    if !answer["chunk"].is_array() {
        return Err(unreachable("the other server's answer makes no sense".to_owned()));
    }
    Ok(Reply::json(&answer))
}

async fn list(state: &ClientState, query: &DirectoryQuery) -> Result<Reply, Error> {
    let page = state.rooms.directory(query).await.map_err(|error| match error {
        DirectoryError::BadToken => Error::invalid_param(error.to_string()),
        DirectoryError::Unavailable(text) => unavailable(&text),
    })?;
    let chunk: Vec<_> = page.rooms.iter().map(|room| published_room(room)).collect();
    let mut answer = json!({ "chunk": chunk, "total_room_count_estimate": page.total });
    for (name, token) in [("next_batch", page.next), ("prev_batch", page.previous)] {
        if let Some(token) = token {
            answer[name] = token.into();
        }
    }
    Ok(Reply::json(&answer))
}

/// A `PublishedRoomsChunk`.
pub(super) fn published_room(room: &RoomSummary) -> Map<String, Value> {
    let mut chunk = Map::new();
    chunk.insert("room_id".to_owned(), room.room_id.as_str().into());
    chunk.insert("num_joined_members".to_owned(), room.joined.into());
    chunk.insert("world_readable".to_owned(), room.is_world_readable.into());
    chunk.insert("guest_can_join".to_owned(), room.guests_may_join.into());
    chunk.insert("join_rule".to_owned(), room.join_rule.as_str().into());
    let optional = [
        ("name", &room.name),
        ("topic", &room.topic),
        ("avatar_url", &room.avatar_url),
        ("canonical_alias", &room.canonical_alias),
        ("room_type", &room.room_type),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            chunk.insert(name.to_owned(), value.as_str().into());
        }
    }
    chunk
}

/// A `RoomSummary`.
pub(super) fn room_summary(room: &RoomSummary) -> Map<String, Value> {
    let mut summary = published_room(room);
    summary.insert("room_version".to_owned(), room.version.as_str().into());
    if let Some(encryption) = &room.encryption {
        summary.insert("encryption".to_owned(), encryption.as_str().into());
    }
    if !room.allowed_room_ids.is_empty() {
        summary.insert("allowed_room_ids".to_owned(), json!(room.allowed_room_ids));
    }
    summary
}
