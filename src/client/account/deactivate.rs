//! `POST /account/deactivate`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{MemberAction, MemberChange};
use hearth_users::AccountError;
use ruma::UserId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{answers::password_error, interactive, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("account/deactivate"), Access::User, Limit::Default, deactivate).suspended_ok()
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    erase: bool,
}

async fn deactivate(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let fields: Map<String, Value> = call.json_or_empty()?;
    let body: Body = call.json_or_empty()?;
    interactive::authenticate(&state.users, &call, &fields).await?;
    let user_id = call.requester().user_id();
    state.users.deactivate(user_id, body.erase).await.map_err(|error| match error {
        AccountError::NotFound => Error::unknown_token(false),
        AccountError::Password(error) => password_error(error),
        AccountError::Fault(ours) => ours.into(),
    })?;
    leave_rooms(&state, user_id).await;
    Ok(Reply::json(&json!({ "id_server_unbind_result": "no-support" })))
}

/// The account is gone whatever happens here: a room that can't be left now stays as it is, and is named in the log.
async fn leave_rooms(state: &ClientState, user_id: &UserId) {
    let rooms = match state.users.present_rooms(user_id).await {
        Ok(rooms) => rooms,
        Err(error) => {
            tracing::error!(%user_id, %error, "the rooms of a deactivated account could not be read");
            return;
        }
    };
    for room_id in rooms {
        let change = MemberChange {
            room_id: room_id.clone(),
            sender: user_id.to_owned(),
            target: user_id.to_owned(),
            action: MemberAction::Leave,
            content: Map::new(),
            guest: false,
        };
        if let Err(error) = state.rooms.change_member(change).await {
            tracing::warn!(%user_id, %room_id, %error, "a deactivated account did not leave a room");
        }
    }
}
