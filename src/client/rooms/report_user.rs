//! `POST /users/{userId}/report`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedUserId;
use serde::Deserialize;

use super::{answers::unavailable, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("users/{user_id}/report"), Access::User, Limit::Default, report_user)
}

#[derive(Deserialize)]
struct Body {
    reason: String,
}

/// Tells the administrators of a user. The answer does not say whether the user exists.
async fn report_user(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id: OwnedUserId = call.path("user_id")?;
    let body: Body = call.json()?;
    let account = state.users.account(&user_id).await.map_err(|fault| unavailable(&fault.to_string()))?;
    if account.is_some() {
        let kept = state.rooms.report_user(&call.requester().user_id, &user_id, &body.reason).await;
        kept.map_err(|error| unavailable(&error.to_string()))?;
    }
    Ok(Reply::empty())
}
