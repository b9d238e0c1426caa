//! `POST /rooms/{roomId}/invite`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{MemberAction, MemberChange};
use serde_json::{Map, Value};

use super::{
    answers::send_error,
    members::{TargetBody, may_be_invited, profile, reason},
    paths,
};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("rooms/{room_id}/invite"), Access::User, Limit::Invite, invite)
}

/// Invites a user.
async fn invite(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Map<String, Value> = call.json()?;
    if !body.contains_key("user_id") && body.contains_key("medium") {
        return Err(Error::bad_request("M_THREEPID_DENIED", "this server does not know third-party identifiers"));
    }
    let body: TargetBody = call.json()?;
    may_be_invited(&state, &body.user_id).await?;
    let mut content = profile(&state, &body.user_id).await?;
    content.extend(reason(body.reason));
    let change = MemberChange {
        room_id: call.path("room_id")?,
        sender: call.requester().user_id.clone(),
        target: body.user_id,
        action: MemberAction::Invite,
        content,
        guest: false,
    };
    state.rooms.change_member(change).await.map_err(send_error)?;
    Ok(Reply::empty())
}
