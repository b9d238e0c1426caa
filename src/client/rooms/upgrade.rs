//! `POST /rooms/{roomId}/upgrade`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{Upgrade, UpgradeError};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::json;

use super::{
    answers::send_error,
    create_room::create_error,
    members::{carry_over, profile},
    paths,
};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/upgrade"), Access::User, Limit::CreateRoom, upgrade)
}

#[derive(Deserialize)]
struct Body {
    new_version: String,
    #[serde(default)]
    additional_creators: Vec<OwnedUserId>,
}

/// Puts a new room of another version in the place of this one.
async fn upgrade(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Body = call.json()?;
    let user = &call.requester().user_id;
    let upgrade = Upgrade {
        room_id: call.path("room_id")?,
        user: user.clone(),
        profile: profile(&state, user).await?,
        version: body.new_version,
        additional_creators: body.additional_creators,
    };
    let new_room = state.rooms.upgrade(upgrade).await.map_err(upgrade_error)?;
    carry_over(&state, user, &new_room).await;
    Ok(Reply::json(&json!({ "replacement_room": new_room })))
}

fn upgrade_error(error: UpgradeError) -> Error {
    match error {
        UpgradeError::UnsupportedVersion => Error::bad_request("M_UNSUPPORTED_ROOM_VERSION", error.to_string()),
        UpgradeError::NotFound => Error::not_found(error.to_string()),
        UpgradeError::Send(error) => send_error(error),
        UpgradeError::Create(error) => create_error(error),
    }
}
