//! `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{MemberAction, MemberChange, StateChange};
use hearth_users::AccountKind;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Map, json, value::RawValue};

use super::{
    answers::{send_error, unavailable},
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
        "m.room.guest_access" => remove_guests(&state, &room_id).await,
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

/// "If the room no longer lets guests in, those who are in it leave."
/// [Guest access](https://spec.matrix.org/v1.19/client-server-api/#mroomguest_access).
async fn remove_guests(state: &ClientState, room_id: &OwnedRoomId) {
    let guests = match state.rooms.unwelcome_guests(room_id).await {
        Ok(guests) => guests,
        Err(error) => {
            // The state is set; whoever sets it again tries again.
            unavailable(&error.to_string());
            return;
        }
    };
    for guest in guests {
        // Who joined as a guest may have a full account by now.
        let account = state.users.account(&guest).await;
        if !matches!(account, Ok(Some(account)) if account.kind == AccountKind::Guest) {
            continue;
        }
        let change = MemberChange {
            room_id: room_id.clone(),
            sender: guest.clone(),
            target: guest,
            action: MemberAction::Leave,
            content: Map::new(),
            guest: true,
        };
        if let Err(error) = state.rooms.change_member(change).await {
            tracing::warn!(%error, "a guest stays in a room that no longer wants guests");
        }
    }
}
