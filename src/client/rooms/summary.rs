//! `GET /v1/room_summary/{roomIdOrAlias}`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{Membership, ReadError};

use super::{
    answers::unavailable,
    join::{Place, place_named},
    public_rooms::room_summary,
};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(&["/_matrix/client/v1/room_summary/{room_id_or_alias}"], Access::Optional, Limit::Search, summary)
}

/// A room as it looks to somebody who may join it.
async fn summary(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let Place { room_id, via } = place_named(&state, &call, call.path("room_id_or_alias")?).await?;
    let user = call.optional_requester().map(|requester| requester.user_id());
    let (summary, membership) = match (state.rooms.summary_for(user, &room_id).await, user) {
        // Other servers are only asked for who has an account here.
        (Err(ReadError::NotFound), Some(user)) => {
            let far = state.rooms.far_summary(user, &room_id, &via).await;
            far.map_err(|error| unavailable(&error.to_string()))?.ok_or(ReadError::NotFound).map_err(read_error)?
        }
        (here, _) => here.map_err(read_error)?,
    };
    let mut answer = room_summary(&summary);
    if let Some(membership) = membership {
        answer.insert("membership".to_owned(), membership_name(membership).into());
    }
    Ok(Reply::json(&answer))
}

/// Why a room was not shown.
pub(super) fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::NotFound => Error::not_found(error.to_string()),
        ReadError::Forbidden(reason) => Error::forbidden(reason),
        ReadError::BadToken => Error::invalid_param(error.to_string()),
        ReadError::Unavailable(text) => unavailable(&text),
    }
}

const fn membership_name(membership: Membership) -> &'static str {
    match membership {
        Membership::Join => "join",
        Membership::Invite => "invite",
        Membership::Knock => "knock",
        Membership::Leave => "leave",
        Membership::Ban => "ban",
    }
}
