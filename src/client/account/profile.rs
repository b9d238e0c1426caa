//! `GET /profile/{userId}`, `GET`, `PUT` and `DELETE /profile/{userId}/{keyName}`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::ProfileError;
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value};

use super::{
    answers::{object, own},
    paths,
};
use crate::{
    ClientState,
    remote::{peer_error, unreachable},
};

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![
        Route::get(paths!("profile/{user_id}"), Access::Public, Limit::Default, get),
        Route::get(paths!("profile/{user_id}/{key_name}"), Access::Public, Limit::Default, get_field),
        Route::put(paths!("profile/{user_id}/{key_name}"), Access::UserOrGuest, Limit::Profile, put_field),
        Route::delete(paths!("profile/{user_id}/{key_name}"), Access::UserOrGuest, Limit::Profile, delete_field),
    ]
}

async fn get(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id: OwnedUserId = call.path("user_id")?;
    if !state.users.is_local(&user_id) {
        return Ok(Reply::json(&Value::Object(remote(&state, &user_id, None).await?)));
    }
    let profile = state.users.profile(&user_id).await.map_err(profile_error)?;
    Ok(Reply::json(&Value::Object(profile)))
}

async fn get_field(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id: OwnedUserId = call.path("user_id")?;
    let name = call.path_str("key_name");
    if !state.users.is_local(&user_id) {
        let mut profile = remote(&state, &user_id, Some(name)).await?;
        profile.retain(|field, _| field == name);
        return match profile.is_empty() && !is_member_field(name) {
            true => Err(profile_error(ProfileError::NotFound)),
            false => Ok(Reply::json(&Value::Object(profile))),
        };
    }
    let value = match state.users.profile_field(&user_id, name).await {
        // These two were always there, if only empty, before there were others; clients do not expect a 404 for them.
        Err(ProfileError::NotFound) if is_member_field(name) => {
            state.users.profile(&user_id).await.map_err(profile_error)?;
            return Ok(Reply::empty());
        }
        // "There is no profile field with this key for this user", whatever the key looks like.
        Err(ProfileError::BadKey | ProfileError::KeyTooLarge) => return Err(profile_error(ProfileError::NotFound)),
        value => value.map_err(profile_error)?,
    };
    let mut answer = Map::new();
    answer.insert(name.to_owned(), value);
    Ok(Reply::json(&Value::Object(answer)))
}

async fn put_field(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id = may_change(&call)?;
    let name = call.path_str("key_name");
    let (_, mut fields) = object(&call)?;
    let value = fields.remove(name).ok_or_else(|| Error::missing_param(format!("{name} is missing")))?;
    // Old clients take a display name or an avatar away in this way.
    let value = Some(value).filter(|value| !(value.is_null() && is_member_field(name)));
    change(&state, &user_id, name, value.as_ref()).await
}

async fn delete_field(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id = may_change(&call)?;
    change(&state, &user_id, call.path_str("key_name"), None).await
}

/// Changes a field, and for those that stand in member events the user's rooms.
async fn change(state: &ClientState, user_id: &UserId, name: &str, value: Option<&Value>) -> Result<Reply, Error> {
    let changed = state.users.set_profile_field(user_id, name, value).await.map_err(profile_error)?;
    if changed && is_member_field(name) {
        let changes = [(name.to_owned(), value.cloned().unwrap_or_default())].into_iter().collect();
        // The profile is changed; a room that does not take it is no reason to say otherwise.
        if let Err(error) = state.rooms.update_profile(user_id, &changes).await {
            tracing::error!(%error, "a changed profile did not reach all rooms");
        }
    }
    Ok(Reply::empty())
}

fn is_member_field(name: &str) -> bool {
    matches!(name, "displayname" | "avatar_url")
}

/// "Guest users may only modify their display name; other profile fields may not be changed."
fn may_change(call: &Call) -> Result<OwnedUserId, Error> {
    let user_id = own(call)?;
    if call.requester().guest && call.path_str("key_name") != "displayname" {
        return Err(Error::guest_access_forbidden());
    }
    Ok(user_id)
}

/// What another server says of its user.
async fn remote(state: &ClientState, user_id: &UserId, field: Option<&str>) -> Result<Map<String, Value>, Error> {
    let answer = state.peers.profile(user_id, field).await.map_err(peer_error)?;
    serde_json::from_slice(&answer).map_err(|_| unreachable("the other server's answer makes no sense".to_owned()))
}

fn profile_error(error: ProfileError) -> Error {
    match error {
        ProfileError::NotFound => Error::not_found(error.to_string()),
        ProfileError::KeyTooLarge => Error::bad_request("M_KEY_TOO_LARGE", error.to_string()),
        ProfileError::BadKey => Error::invalid_param(error.to_string()),
        ProfileError::BadValue => Error::bad_json(error.to_string()),
        ProfileError::TooLarge => Error::bad_request("M_PROFILE_TOO_LARGE", error.to_string()),
        ProfileError::Fault(ours) => ours.into(),
    }
}
