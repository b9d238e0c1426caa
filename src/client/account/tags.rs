//! `GET /user/{userId}/rooms/{roomId}/tags`, `PUT` and `DELETE` of one tag.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::TagError;
use ruma::OwnedRoomId;
use serde_json::{Map, Value, json};

use super::{answers::own, paths};
use crate::ClientState;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![
        Route::get(paths!("user/{user_id}/rooms/{room_id}/tags"), Access::User, Limit::Default, list),
        Route::put(paths!("user/{user_id}/rooms/{room_id}/tags/{tag}"), Access::User, Limit::Default, put)
            .suspended_ok(),
        Route::delete(paths!("user/{user_id}/rooms/{room_id}/tags/{tag}"), Access::User, Limit::Default, delete)
            .suspended_ok(),
    ]
}

async fn list(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let (user_id, room_id): (_, OwnedRoomId) = (own(&call)?, call.path("room_id")?);
    let tags = state.users.tags(&user_id, &room_id).await?;
    Ok(Reply::json(&json!({ "tags": tags })))
}

async fn put(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let (user_id, room_id): (_, OwnedRoomId) = (own(&call)?, call.path("room_id")?);
    let content: Map<String, Value> = call.json_or_empty()?;
    let order = content.get("order").filter(|order| !order.is_null());
    if order.is_some_and(|order| !order.as_f64().is_some_and(|order| (0.0..=1.0).contains(&order))) {
        return Err(Error::bad_json("order must be a number between 0 and 1"));
    }
    let content = Value::Object(content);
    state.users.put_tag(&user_id, &room_id, call.path_str("tag"), &content).await.map_err(tag_error)?;
    Ok(Reply::empty())
}

async fn delete(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let (user_id, room_id): (_, OwnedRoomId) = (own(&call)?, call.path("room_id")?);
    match state.users.delete_tag(&user_id, &room_id, call.path_str("tag")).await {
        Ok(()) | Err(TagError::NotFound) => Ok(Reply::empty()),
        Err(error) => Err(tag_error(error)),
    }
}

fn tag_error(error: TagError) -> Error {
    match error {
        TagError::NotFound => Error::not_found(error.to_string()),
        TagError::TooLarge => Error::too_large(error.to_string()),
        TagError::Fault(ours) => ours.into(),
    }
}
