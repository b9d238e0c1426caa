//! `POST /rooms/{roomId}/invite`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{Address, MemberAction, MemberChange};
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    answers::send_error,
    members::{TargetBody, may_be_invited, profile, reason},
    paths,
};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/invite"), Access::User, Limit::Invite, invite)
}

/// Invites a user.
async fn invite(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let sender = &call.requester().user_id;
    let body: Map<String, Value> = call.json()?;
    if !body.contains_key("user_id") && body.contains_key("medium") {
        let given: GivenAddress = call.json()?;
        invite_address(&state, &room_id, sender, given).await?;
        return Ok(Reply::empty());
    }
    let TargetBody { user_id, reason } = call.json()?;
    invite_user(&state, room_id, sender, user_id, reason).await?;
    Ok(Reply::empty())
}

/// [Third-party invites](https://spec.matrix.org/v1.19/client-server-api/#third-party-invites).
#[derive(Deserialize)]
pub(super) struct GivenAddress {
    id_server: String,
    id_access_token: String,
    medium: String,
    address: String,
    reason: Option<String>,
}

/// Invites whoever is at an address: the user who has bound it, or whoever will.
pub(super) async fn invite_address(
    state: &ClientState,
    room_id: &RoomId,
    sender: &OwnedUserId,
    given: GivenAddress,
) -> Result<(), Error> {
    let GivenAddress { id_server, id_access_token, medium, address, reason } = given;
    let address = Address { identity_server: id_server, access_token: id_access_token, medium, address };
    match state.rooms.find_by_address(&address).await.map_err(send_error)? {
        Some(user_id) => invite_user(state, room_id.to_owned(), sender, user_id, reason).await,
        None => state.rooms.invite_by_address(room_id, sender, &address).await.map(drop).map_err(send_error),
    }
}

async fn invite_user(
    state: &ClientState,
    room_id: OwnedRoomId,
    sender: &OwnedUserId,
    target: OwnedUserId,
    given_reason: Option<String>,
) -> Result<(), Error> {
    may_be_invited(state, &target).await?;
    let mut content = profile(state, &target).await?;
    content.extend(reason(given_reason));
    let (sender, action) = (sender.clone(), MemberAction::Invite);
    let change = MemberChange { room_id, sender, target, action, content, guest: false };
    state.rooms.change_member(change).await.map(drop).map_err(send_error)
}
