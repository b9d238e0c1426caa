//! `POST /rooms/{roomId}/join`, `POST /join/{roomIdOrAlias}`: the same, but for how the room is named.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{MemberAction, ThirdPartyInvite};
use ruma::{OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    answers::{alias_error, send_error},
    members::enter,
    paths,
};
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
    if let Some(signed) = given.remove("third_party_signed").filter(|signed| !signed.is_null()) {
        claim(state, call, &place.room_id, signed).await?;
    }
    if given.get("reason").is_some_and(|reason| !reason.is_string()) {
        return Err(Error::bad_json("reason must be a string"));
    }
    let room_id = enter(state, call, place, MemberAction::Join, given).await?;
    Ok(Reply::json(&json!({ "room_id": room_id })))
}

/// Has the invite made that an identity server's word gives the user a right to.
async fn claim(state: &ClientState, call: &Call, room_id: &RoomId, signed: Value) -> Result<(), Error> {
    let bad = |error: serde_json::Error| Error::bad_json(format!("third_party_signed: {error}"));
    let mut signed: Map<String, Value> = serde_json::from_value(signed).map_err(bad)?;
    let sender = signed.get("sender").cloned().unwrap_or_default();
    // What is signed is what the event has: the id, the token, and where the identity server says so the sender.
    signed.retain(|name, _| matches!(name.as_str(), "mxid" | "sender" | "signatures" | "token"));
    let invite = ThirdPartyInvite {
        room_id: room_id.to_owned(),
        sender: serde_json::from_value(sender).map_err(bad)?,
        target: call.requester().user_id.clone(),
        signed,
    };
    state.rooms.claim_third_party_invite(invite).await.map_err(send_error)
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
