//! `POST /knock/{roomIdOrAlias}`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::MemberAction;
use serde::Deserialize;
use serde_json::json;

use super::{
    join::place_named,
    members::{enter, reason},
    paths,
};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("knock/{room_id_or_alias}"), Access::User, Limit::Join, knock)
}

#[derive(Deserialize)]
struct Body {
    reason: Option<String>,
}

/// Asks to be let in.
async fn knock(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Body = call.json_or_empty()?;
    let place = place_named(&state, &call, call.path("room_id_or_alias")?).await?;
    let room_id = enter(&state, &call, place, MemberAction::Knock, reason(body.reason)).await?;
    Ok(Reply::json(&json!({ "room_id": room_id })))
}
