//! `POST /rooms/{roomId}/kick`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::MemberAction;

use super::{members::moderate, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/kick"), Access::User, Limit::Default, kick)
}

/// Removes a user from the room, or takes back an invite.
async fn kick(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    moderate(state, &call, MemberAction::Kick).await?;
    Ok(Reply::empty())
}
