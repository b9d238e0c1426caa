//! `POST /rooms/{roomId}/ban`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::MemberAction;

use super::{members::moderate, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/ban"), Access::User, Limit::Default, ban)
}

/// Bans a user, who leaves if they are in the room.
async fn ban(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    moderate(state, &call, MemberAction::Ban).await?;
    Ok(Reply::empty())
}
