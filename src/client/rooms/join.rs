//! `POST /rooms/{roomId}/join`, `POST /join/{roomIdOrAlias}`: the same, but for how the room is named.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::MemberAction;
use ruma::{OwnedRoomId, OwnedRoomOrAliasId};
use serde_json::{Map, Value, json};

use super::{answers::alias_error, members::enter, paths};
use crate::ClientState;

pub(super) fn by_id() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/join"), Access::UserOrGuest, Limit::Join, join_by_id)
}

pub(super) fn by_id_or_alias() -> Route<ClientState> {
    Route::post(paths!("join/{room_id_or_alias}"), Access::UserOrGuest, Limit::Join, join_by_id_or_alias)
}

async fn join_by_id(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id = call.path("room_id")?;
    join(&state, &call, room_id).await
}

async fn join_by_id_or_alias(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id = room_named(&state, call.path("room_id_or_alias")?).await?;
    join(&state, &call, room_id).await
}

/// Joins, with what the body adds to the member event. Joining twice is joining once.
async fn join(state: &ClientState, call: &Call, room_id: OwnedRoomId) -> Result<Reply, Error> {
    let mut given: Map<String, Value> = call.json_or_empty()?;
    if given.remove("third_party_signed").is_some_and(|signed| !signed.is_null()) {
        return Err(Error::forbidden("this server does not know third-party invites"));
    }
    if given.get("reason").is_some_and(|reason| !reason.is_string()) {
        return Err(Error::bad_json("reason must be a string"));
    }
    let room_id = enter(state, call, room_id, MemberAction::Join, given).await?;
    Ok(Reply::json(&json!({ "room_id": room_id })))
}

/// The room that an id or an alias names.
pub(super) async fn room_named(state: &ClientState, name: OwnedRoomOrAliasId) -> Result<OwnedRoomId, Error> {
    match OwnedRoomId::try_from(name) {
        Ok(room_id) => Ok(room_id),
        Err(alias) => state.rooms.resolve_alias(&alias).await.map_err(alias_error),
    }
}
