//! `GET /rooms/{roomId}/members` and `GET /rooms/{roomId}/joined_members`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmembers).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_sync::read::MembersQuery;
use ruma::OwnedRoomId;
use serde::Deserialize;

use super::{answer, place, reader};
use crate::ClientState;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    let all = ["/_matrix/client/v3/rooms/{room_id}/members", "/_matrix/client/r0/rooms/{room_id}/members"];
    let joined =
        ["/_matrix/client/v3/rooms/{room_id}/joined_members", "/_matrix/client/r0/rooms/{room_id}/joined_members"];
    vec![
        Route::get(&all, Access::UserOrGuest, Limit::None, members),
        Route::get(&joined, Access::UserOrGuest, Limit::None, joined_members),
    ]
}

#[derive(Deserialize)]
struct Query {
    at: Option<String>,
    membership: Option<MembershipName>,
    not_membership: Option<MembershipName>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MembershipName {
    Join,
    Invite,
    Knock,
    Leave,
    Ban,
}

impl MembershipName {
    fn text(self) -> String {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
        .to_owned()
    }
}

async fn members(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let query: Query = call.query()?;
    let query = MembersQuery {
        at: place("at", query.at.as_deref())?,
        membership: query.membership.map(MembershipName::text),
        not_membership: query.not_membership.map(MembershipName::text),
    };
    answer(state.reads.members(&reader(&call), &room_id, &query).await)
}

async fn joined_members(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    answer(state.reads.joined_members(&reader(&call), &room_id).await)
}
