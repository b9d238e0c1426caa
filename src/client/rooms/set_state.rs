//! `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::StateChange;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    answers::send_error,
    members::{carry_over, may_be_invited},
    paths,
};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    let paths = paths!("rooms/{room_id}/state/{event_type}/{state_key}");
    // An empty state key may be left out, with or without the slash before it.
    Route::put(paths, Access::UserOrGuest, Limit::Message, set_state)
        .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}")
        .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
        .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}/")
        .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}/")
}

/// Sets state. Setting what stands already changes nothing.
async fn set_state(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let requester = call.requester();
    let room_id: OwnedRoomId = call.path("room_id")?;
    let kind = call.path_str("event_type").to_owned();
    let content = call.json::<Box<RawValue>>()?;
    if kind == "m.room.member" && is_invite(&content) {
        may_be_invited(&state, &call.path::<OwnedUserId>("state_key")?).await?;
    }
    let change = StateChange {
        room_id: room_id.clone(),
        sender: requester.user_id.clone(),
        kind: kind.clone(),
        state_key: call.path_opt("state_key").unwrap_or_default().to_owned(),
        content,
        guest: requester.guest,
        ts_ms: None,
    };
    let event_id = state.rooms.set_state(change).await.map_err(send_error)?;
    state.users.active(requester.user_id()).await;
    match kind.as_str() {
        "m.room.guest_access" => state.rooms.remove_unwelcome_guests(&room_id).await,
        "m.room.member" => carry_over(&state, &requester.user_id, &room_id).await,
        _ => {}
    }
    Ok(Reply::json(&json!({ "event_id": event_id })))
}

/// Whether the content of a member event invites. Content of another shape is refused by the room.
fn is_invite(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Member {
        membership: String,
    }
    serde_json::from_str::<Member>(content.get()).is_ok_and(|member| member.membership == "invite")
}
