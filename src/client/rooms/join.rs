//! `POST /rooms/{roomId}/join`, `POST /join/{roomIdOrAlias}`: the same, but for how the room is named.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::MemberAction;
use ruma::{OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{answers::alias_error, members::enter, paths};
use crate::ClientState;

/// Servers that a request may name.
const VIA_MAX: usize = 20;

pub(super) fn by_id() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/join"), Access::UserOrGuest, Limit::Join, join_by_id)
}

pub(super) fn by_id_or_alias() -> Route<ClientState> {
    Route::post(paths!("join/{room_id_or_alias}"), Access::UserOrGuest, Limit::Join, join_by_id_or_alias)
}

async fn join_by_id(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let place = Place { room_id: call.path("room_id")?, via: Vec::new() };
    join(&state, &call, place).await
}

async fn join_by_id_or_alias(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let place = place_named(&state, &call, call.path("room_id_or_alias")?).await?;
    join(&state, &call, place).await
}

/// Joins, with what the body adds to the member event. Joining twice is joining once.
async fn join(state: &ClientState, call: &Call, place: Place) -> Result<Reply, Error> {
    let mut given: Map<String, Value> = call.json_or_empty()?;
    if given.remove("third_party_signed").is_some_and(|signed| !signed.is_null()) {
        return Err(Error::forbidden("this server does not know third-party invites"));
    }
    if given.get("reason").is_some_and(|reason| !reason.is_string()) {
        return Err(Error::bad_json("reason must be a string"));
    }
    let room_id = enter(state, call, place, MemberAction::Join, given).await?;
    Ok(Reply::json(&json!({ "room_id": room_id })))
}

/// A room, and servers that may help to get into it.
pub(super) struct Place {
    pub(super) room_id: OwnedRoomId,
    pub(super) via: Vec<OwnedServerName>,
}

#[derive(Deserialize)]
struct Query {
    #[serde(default)]
    via: Vec<String>,
    /// What `via` was called before version 1.12 of the specification.
    #[serde(default)]
    server_name: Vec<String>,
}

/// The room that an id or an alias names, with the servers that the request names (`via`) and those that the alias's
/// server does. "If `via` is given, `server_name` is ignored."
pub(super) async fn place_named(state: &ClientState, call: &Call, name: OwnedRoomOrAliasId) -> Result<Place, Error> {
    let Query { via, server_name } = call.query()?;
    let named = if via.is_empty() { server_name } else { via };
    // A name that is none helps nobody, and is no reason not to try the others.
    let mut via: Vec<OwnedServerName> =
        named.into_iter().take(VIA_MAX).filter_map(|server| OwnedServerName::try_from(server).ok()).collect();
    match OwnedRoomId::try_from(name) {
        Ok(room_id) => Ok(Place { room_id, via }),
        Err(alias) => {
            let found = state.rooms.find_alias(&alias).await.map_err(alias_error)?;
            via.extend(found.servers);
            via.push(alias.server_name().to_owned());
            Ok(Place { room_id: found.room_id, via })
        }
    }
}
