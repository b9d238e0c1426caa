//! [Third-party invites](https://spec.matrix.org/v1.19/server-server-api/#third-party-invites):
//! `PUT /v1/exchange_third_party_invite` by other servers, `PUT /v1/3pid/onbind` by identity servers.

use std::sync::Arc;

use futures_util::future::join_all;
use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::ThirdPartyInvite;
use http::Method;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    Inbound,
    answers::handshake_error,
    invites::may_be_invited,
    requests::{List, body},
    route,
};

/// Pending invites of one identifier. Each may be a request to another server.
const INVITES_MAX: usize = 10;

pub(super) fn routes() -> Vec<Route<Inbound>> {
    let onbind_path = "/_matrix/federation/v1/3pid/onbind";
    vec![
        route(Method::PUT, "v1/exchange_third_party_invite/{room_id}", exchange),
        // Identity servers do not sign their requests: what counts is what they have signed inside.
        Route::put(&[onbind_path], Access::Public, Limit::Federation, onbind),
        // As identity servers did before the specification.
        Route::post(&[onbind_path], Access::Public, Limit::Federation, onbind),
    ]
}

/// Makes the invite that another server's user has a right to, before the answer.
async fn exchange(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    call.limit(Limit::Invite, call.origin())?;
    if call.body().is_empty() {
        return Err(Error::not_json("the request needs a JSON body"));
    }
    let exchanged = state.rooms.exchange_third_party_invite(call.origin(), &room_id, call.body());
    exchanged.await.map_err(handshake_error)?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
struct Bound<'a> {
    mxid: OwnedUserId,
    #[serde(borrow)]
    invites: List<'a, INVITES_MAX>,
}

#[derive(Deserialize)]
struct Pending {
    mxid: OwnedUserId,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    signed: Map<String, Value>,
}

/// Takes note that a user of ours has bound an identifier under which they were invited. An invite that comes to nothing
/// does not take the others with it, and is not the identity server's concern. What is to be done is stored before the answer;
/// the inviter's server is waited for only a moment, since anybody may name slow ones.
async fn onbind(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let Bound { mxid, invites } = body(&call)?;
    call.limit(Limit::Invite, &mxid)?;
    may_be_invited(&state, &mxid).await?;
    join_all(invites.0.into_iter().map(|invite| claim(&state, &mxid, invite))).await;
    Ok(Reply::empty())
}

async fn claim(state: &Inbound, user_id: &OwnedUserId, invite: &RawValue) {
    let invite = match serde_json::from_str::<Pending>(invite.get()) {
        Ok(invite) if invite.mxid == *user_id => invite,
        Ok(_) => return tracing::info!(%user_id, "a pending invite is another user's"),
        Err(error) => return tracing::info!(%user_id, %error, "a pending invite does not read"),
    };
    let Pending { mxid: target, room_id, sender, signed } = invite;
    let invite = ThirdPartyInvite { room_id: room_id.clone(), sender, target, signed };
    if let Err(error) = state.rooms.claim_bound_invite(invite).await {
        tracing::info!(%user_id, %room_id, %error, "a pending invite came to nothing yet");
    }
}
