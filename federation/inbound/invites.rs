//! [`PUT /v2/invite`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid) and
//! [its first version](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1inviteroomideventid).

use std::sync::Arc;

use hearth_edge::{Call, Error, Limit, Reply, Route};
use hearth_ports::EventBytes;
use hearth_rooms::Invitation;
use http::{Method, StatusCode};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Inbound,
    answers::{Object, handshake_error},
    requests::{List, body, slice},
    route,
};

/// Events that may come along to tell what the room is. The specification names eight kinds.
const ROOM_STATE_MAX: usize = 200;

/// Servers named to come in through.
const VIA_MAX: usize = 100;

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![
        route(Method::PUT, "v2/invite/{room_id}/{event_id}", invite),
        route(Method::PUT, "v1/invite/{room_id}/{event_id}", invite_v1),
    ]
}

#[derive(Deserialize)]
struct Body<'a> {
    room_version: String,
    #[serde(borrow)]
    event: &'a RawValue,
    #[serde(borrow, default)]
    invite_room_state: List<'a, ROOM_STATE_MAX>,
    #[serde(borrow, default)]
    via: List<'a, VIA_MAX>,
}

/// The first version's body is the event itself.
#[derive(Deserialize)]
struct BodyV1<'a> {
    #[serde(borrow, default)]
    unsigned: UnsignedV1<'a>,
}

#[derive(Deserialize, Default)]
struct UnsignedV1<'a> {
    #[serde(borrow, default)]
    invite_room_state: List<'a, ROOM_STATE_MAX>,
}

/// Takes the invite of one of our users; the answer is the event with our signature too.
async fn invite(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let given: Body<'_> = body(&call)?;
    let via = given.via.0.iter().filter_map(|server| serde_json::from_str::<OwnedServerName>(server.get()).ok());
    let invitation = Invitation {
        room_version: given.room_version,
        event: slice(call.body(), given.event),
        invite_room_state: given.invite_room_state.slices(call.body()),
        via: via.collect(),
    };
    let event = accept(&state, &call, invitation).await?;
    Ok(Object::new().json("event", &event).reply())
}

async fn invite_v1(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let given: BodyV1<'_> = body(&call)?;
    let room_state = given.unsigned.invite_room_state;
    let invitation = Invitation {
        room_version: version_v1(&room_state).to_owned(),
        event: call.body().clone(),
        invite_room_state: room_state.slices(call.body()),
        via: Vec::new(),
    };
    let event = accept(&state, &call, invitation).await?;
    Ok(Object::new().json("event", &event).reply_v1())
}

/// "Servers which receive a v1 invite request must assume that the room version is either "1" or "2"": the room's own
/// create event may tell which.
fn version_v1(room_state: &List<'_, ROOM_STATE_MAX>) -> &'static str {
    #[derive(Deserialize)]
    struct Create {
        r#type: String,
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<String>,
    }
    let says_2 = |item: &&RawValue| {
        let create = serde_json::from_str::<Create>(item.get());
        create
            .is_ok_and(|create| create.r#type == "m.room.create" && create.content.room_version.as_deref() == Some("2"))
    };
    if room_state.0.iter().any(says_2) { "2" } else { "1" }
}

async fn accept(state: &Inbound, call: &Call, invitation: Invitation) -> Result<EventBytes, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let event_id: OwnedEventId = call.path("event_id")?;
    let target = target_of(&invitation.event)?;
    call.limit(Limit::Invite, (call.origin(), &target))?;
    may_be_invited(state, &target).await?;
    let accepted = state.rooms.accept_invite(call.origin(), &room_id, &event_id, invitation);
    accepted.await.map_err(handshake_error)
}

/// Whom the event invites, if it is an invite: that is for `rooms` to see.
fn target_of(event: &EventBytes) -> Result<OwnedUserId, Error> {
    #[derive(Deserialize)]
    struct Target {
        state_key: OwnedUserId,
    }
    let target = serde_json::from_slice::<Target>(event);
    Ok(target.map_err(|error| Error::invalid_param(format!("the event invites nobody: {error}")))?.state_key)
}

/// Whether it is a user of ours, with an account, who wants invites.
pub(super) async fn may_be_invited(state: &Inbound, target: &OwnedUserId) -> Result<(), Error> {
    if !state.users.is_local(target) {
        return Err(Error::invalid_param("the invited user is not of this server"));
    }
    let account = state.users.account(target).await?.filter(|account| !account.deactivated);
    if account.is_none() {
        return Err(Error::forbidden("this server has no such user"));
    }
    if state.users.blocks_invites(target).await? {
        let error = Error::bad_request("M_INVITE_BLOCKED", "this user wants no invites");
        return Err(error.with_status(StatusCode::FORBIDDEN));
    }
    Ok(())
}
