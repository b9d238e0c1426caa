//! `GET` and `PUT /presence/{userId}/status`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::PresenceState;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::json;

use super::{answers::own, paths};
use crate::ClientState;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![
        Route::get(paths!("presence/{user_id}/status"), Access::User, Limit::Default, get),
        Route::put(paths!("presence/{user_id}/status"), Access::User, Limit::Profile, put),
    ]
}

#[derive(Deserialize)]
struct Body {
    presence: String,
    status_msg: Option<String>,
}

async fn get(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id: OwnedUserId = call.path("user_id")?;
    if !state.users.share_room(call.requester().user_id(), &user_id).await? {
        return Err(Error::forbidden("you share no room with this user"));
    }
    let presence = state.users.presence(&user_id);
    let mut answer = json!({ "presence": presence.state.name() });
    if let Some(ago_ms) = presence.last_active_ago_ms {
        answer["last_active_ago"] = ago_ms.into();
    }
    if let Some(status_msg) = presence.status_msg {
        answer["status_msg"] = status_msg.into();
    }
    if presence.state == PresenceState::Online {
        answer["currently_active"] = presence.currently_active.into();
    }
    Ok(Reply::json(&answer))
}

async fn put(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id = own(&call)?;
    let body: Body = call.json()?;
    let presence = PresenceState::of_name(&body.presence)
        .ok_or_else(|| Error::invalid_param("presence is one of online, unavailable, offline"))?;
    state.users.set_presence(&user_id, presence, body.status_msg).await?;
    Ok(Reply::empty())
}
