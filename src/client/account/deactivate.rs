//! `POST /account/deactivate`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{MemberAction, MemberChange, Rooms, SendError};
use hearth_users::{AccountError, Departure, Users};
use ruma::RoomId;
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
    let departure = state.users.deactivate(user_id, body.erase).await.map_err(|error| match error {
        AccountError::NotFound => Error::unknown_token(false),
        AccountError::Password(error) => password_error(error),
        AccountError::Fault(ours) => ours.into(),
    })?;
    leave_rooms(&state.users, &state.rooms, &departure).await;
    Ok(Reply::json(&json!({ "id_server_unbind_result": "no-support" })))
}

/// Departures that are looked at together.
const DEPARTURES_PAGE: usize = 100;

/// Leaves the rooms of all who have ended their account and are still in some: a crash came between, or a room could not
/// be left at the time. What is done already is not done again.
pub async fn finish_departures(users: &Users, rooms: &Arc<Rooms>) {
    let mut after = None;
    loop {
        let page = match users.departures(after, DEPARTURES_PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%error, "who has yet to leave rooms could not be read");
                return;
            }
        };
        let Some(last) = page.last() else { return };
        after = Some(last.user);
        for departure in &page {
            leave_rooms(users, rooms, departure).await;
        }
    }
}

/// Leaves what rooms there are; the account is gone whatever happens here. What is worth another try stays a job for
/// [`finish_departures`].
async fn leave_rooms(users: &Users, rooms: &Arc<Rooms>, departure: &Departure) {
    let user_id = &departure.user_id;
    let present = match users.present_rooms(user_id).await {
        Ok(present) => present,
        Err(error) => {
            tracing::error!(%user_id, %error, "the rooms of a deactivated account could not be read");
            return;
        }
    };
    let mut is_done = true;
    for room_id in present {
        is_done &= leave(rooms, departure, &room_id).await;
    }
    if is_done && let Err(error) = users.departed(departure).await {
        tracing::warn!(%user_id, %error, "the rooms of a deactivated account will be looked at again");
    }
}

/// Whether another try is of no use: the room is left, or refuses to be.
async fn leave(rooms: &Arc<Rooms>, departure: &Departure, room_id: &RoomId) -> bool {
    let user_id = &departure.user_id;
    let change = MemberChange {
        room_id: room_id.to_owned(),
        sender: user_id.clone(),
        target: user_id.clone(),
        action: MemberAction::Leave,
        content: Map::new(),
        guest: false,
    };
    let Err(error) = rooms.change_member(change).await else { return true };
    tracing::warn!(%user_id, %room_id, %error, "a deactivated account did not leave a room");
    match error {
        SendError::Conflict | SendError::Busy | SendError::Unavailable(_) | SendError::Unreachable(_) => false,
        SendError::Forbidden(_)
        | SendError::Remote
        | SendError::Refused { .. }
        | SendError::IncompatibleVersion(_)
        | SendError::GuestsForbidden
        | SendError::UnknownRoom
        | SendError::UnknownEvent
        | SendError::Content(_)
        | SendError::BadContent(_)
        | SendError::InvalidParam(_)
        | SendError::BadAlias(_) => true,
    }
}
