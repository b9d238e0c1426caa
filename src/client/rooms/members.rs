//! What the endpoints that change a membership share.

use std::sync::Arc;

use hearth_edge::{Call, Error};
use hearth_rooms::{MemberAction, MemberChange};
use http::StatusCode;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    answers::{send_error, unavailable},
    join::Place,
};
use crate::ClientState;

/// The body of invite, kick, ban and unban.
#[derive(Deserialize)]
pub(super) struct TargetBody {
    /// Whose membership.
    pub(super) user_id: OwnedUserId,
    /// Why.
    pub(super) reason: Option<String>,
}

/// The fields of a member event that come from the user's profile.
pub(super) async fn profile(state: &ClientState, user: &UserId) -> Result<Map<String, Value>, Error> {
    let profile = state.users.member_profile(user).await.map_err(|fault| unavailable(&fault.to_string()))?;
    let (displayname, avatar_url) = profile;
    let fields = [("displayname", displayname), ("avatar_url", avatar_url)];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
    Ok(fields.collect())
}

/// "When invites to a given user are blocked, the user's homeserver MUST respond […] with […] `M_INVITE_BLOCKED`."
/// [Invite permission](https://spec.matrix.org/v1.19/client-server-api/#invite-permission).
pub(super) async fn may_be_invited(state: &ClientState, user: &UserId) -> Result<(), Error> {
    let blocks = state.users.blocks_invites(user).await.map_err(|fault| unavailable(&fault.to_string()))?;
    if blocks {
        let error = Error::bad_request("M_INVITE_BLOCKED", "this user wants no invites");
        return Err(error.with_status(StatusCode::FORBIDDEN));
    }
    Ok(())
}

/// Does what kick, ban and unban do: somebody sets another user's membership, with a reason.
pub(super) async fn moderate(state: Arc<ClientState>, call: &Call, action: MemberAction) -> Result<(), Error> {
    let body: TargetBody = call.json()?;
    let change = MemberChange {
        room_id: call.path("room_id")?,
        sender: call.requester().user_id.clone(),
        target: body.user_id,
        action,
        content: reason(body.reason),
        guest: false,
    };
    state.rooms.change_member(change).await.map_err(send_error)?;
    Ok(())
}

/// Content of a member event that has nothing but, perhaps, a reason.
pub(super) fn reason(reason: Option<String>) -> Map<String, Value> {
    reason.map(|reason| ("reason".to_owned(), reason.into())).into_iter().collect()
}

/// The requester enters a room, or knocks; afterwards what they had set for the room's predecessor is theirs here too.
pub(super) async fn enter(
    state: &ClientState,
    call: &Call,
    place: Place,
    action: MemberAction,
    given: Map<String, Value>,
) -> Result<OwnedRoomId, Error> {
    let Place { room_id, via } = place;
    let requester = call.requester();
    let mut content = profile(state, &requester.user_id).await?;
    content.extend(given);
    let change = MemberChange {
        room_id: room_id.clone(),
        sender: requester.user_id.clone(),
        target: requester.user_id.clone(),
        action,
        content,
        guest: requester.guest,
    };
    state.rooms.change_member_via(change, &via).await.map_err(send_error)?;
    if action == MemberAction::Join {
        carry_over(state, &requester.user_id, &room_id).await;
    }
    Ok(room_id)
}

/// "When a user joins the new room, the server should automatically transfer some of the user's personalized settings."
/// [Room upgrades](https://spec.matrix.org/v1.19/client-server-api/#room-upgrades).
pub(super) async fn carry_over(state: &ClientState, user: &UserId, room_id: &OwnedRoomId) {
    let old = match state.rooms.predecessor(room_id).await {
        Ok(Some(old)) => old,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "the predecessor of a joined room could not be read");
            return;
        }
    };
    if let Err(error) = state.rooms.follow_upgrade(&old, room_id).await {
        tracing::warn!(%error, "aliases of an upgraded room were not carried over");
    }
    // The user is in the room; settings that did not come along are only an annoyance.
    if let Err(error) = state.users.copy_room_settings(user, &old, room_id).await {
        tracing::warn!(%error, "settings of an upgraded room were not carried over");
    }
}
