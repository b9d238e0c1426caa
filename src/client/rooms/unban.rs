//! `POST /rooms/{roomId}/unban`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::MemberAction;

use super::{members::moderate, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/unban"), Access::User, Limit::Default, unban)
}

/// Lifts a ban.
async fn unban(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    moderate(state, &call, MemberAction::Unban).await?;
    Ok(Reply::empty())
}
