//! `POST /rooms/{roomId}/leave`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{MemberAction, MemberChange};
use serde::Deserialize;

use super::{answers::send_error, members::reason, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    // "Servers SHOULD permit suspended users to leave rooms and reject invites."
    Route::post(paths!("rooms/{room_id}/leave"), Access::UserOrGuest, Limit::Default, leave).suspended_ok()
}

#[derive(Deserialize)]
struct Body {
    reason: Option<String>,
}

/// Leaves the room, rejects an invite or takes back a knock. Leaving twice is leaving once.
async fn leave(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Body = call.json_or_empty()?;
    let user = &call.requester().user_id;
    let change = MemberChange {
        room_id: call.path("room_id")?,
        sender: user.clone(),
        target: user.clone(),
        action: MemberAction::Leave,
        content: reason(body.reason),
        guest: call.requester().guest,
    };
    state.rooms.change_member(change).await.map_err(send_error)?;
    Ok(Reply::empty())
}
