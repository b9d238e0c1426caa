//! `GET` and `PUT /user/{userId}/account_data/{type}`, and the same for a room.

use std::sync::Arc;

use bytes::Bytes;
use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::AccountDataError;
use http::StatusCode;
use ruma::OwnedRoomId;

use super::{
    answers::{object, own},
    paths,
};
use crate::ClientState;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![
        Route::get(paths!("user/{user_id}/account_data/{type}"), Access::UserOrGuest, Limit::Default, get),
        Route::put(paths!("user/{user_id}/account_data/{type}"), Access::User, Limit::Default, put).suspended_ok(),
        Route::get(
            paths!("user/{user_id}/rooms/{room_id}/account_data/{type}"),
            Access::UserOrGuest,
            Limit::Default,
            get,
        ),
        Route::put(paths!("user/{user_id}/rooms/{room_id}/account_data/{type}"), Access::User, Limit::Default, put)
            .suspended_ok(),
    ]
}

async fn get(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id = own(&call)?;
    let room_id = room(&call)?;
    let content = state.users.account_data(&user_id, room_id.as_deref(), call.path_str("type")).await?;
    let content = content.ok_or_else(|| Error::not_found("there is no such account data"))?;
    Ok(Reply::bytes(Bytes::from(content)))
}

async fn put(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id = own(&call)?;
    let room_id = room(&call)?;
    let kind = call.path_str("type");
    // "This type of account data is controlled by the server; it cannot be modified by clients."
    if matches!(kind, "m.fully_read" | "m.push_rules") {
        let error = Error::bad_json(format!("{kind} cannot be set through this API"));
        return Err(error.with_status(StatusCode::METHOD_NOT_ALLOWED));
    }
    let (content, _) = object(&call)?;
    state.users.put_account_data(&user_id, room_id.as_deref(), kind, content).await.map_err(account_data_error)?;
    Ok(Reply::empty())
}

fn room(call: &Call) -> Result<Option<OwnedRoomId>, Error> {
    call.path_opt("room_id").map(|_| call.path("room_id")).transpose()
}

fn account_data_error(error: AccountDataError) -> Error {
    match error {
        AccountDataError::NotFound => Error::not_found(error.to_string()),
        AccountDataError::TooLarge => Error::too_large(error.to_string()),
        AccountDataError::Fault(ours) => ours.into(),
    }
}
