//! `GET` and `PUT /_matrix/client/v1/admin/lock/{userId}` and `/suspend/{userId}`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::{Account, AccountError};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::json;

use super::answers::password_error;
use crate::ClientState;

const LOCK: &str = "/_matrix/client/v1/admin/lock/{user_id}";
const SUSPEND: &str = "/_matrix/client/v1/admin/suspend/{user_id}";

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![
        Route::get(&[LOCK], Access::Admin, Limit::Default, get_lock),
        Route::put(&[LOCK], Access::Admin, Limit::Default, put_lock),
        Route::get(&[SUSPEND], Access::Admin, Limit::Default, get_suspend),
        Route::put(&[SUSPEND], Access::Admin, Limit::Default, put_suspend),
    ]
}

#[derive(Deserialize)]
struct Lock {
    locked: bool,
}

#[derive(Deserialize)]
struct Suspend {
    suspended: bool,
}

async fn get_lock(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let account = target(&state, &call).await?;
    Ok(Reply::json(&json!({ "locked": account.locked })))
}

async fn put_lock(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let account = changeable(&state, &call).await?;
    let body: Lock = call.json()?;
    state.users.set_locked(&account.user_id, body.locked).await.map_err(account_error)?;
    Ok(Reply::json(&json!({ "locked": body.locked })))
}

async fn get_suspend(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let account = target(&state, &call).await?;
    Ok(Reply::json(&json!({ "suspended": account.suspended })))
}

async fn put_suspend(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let account = changeable(&state, &call).await?;
    let body: Suspend = call.json()?;
    state.users.set_suspended(&account.user_id, body.suspended).await.map_err(account_error)?;
    Ok(Reply::json(&json!({ "suspended": body.suspended })))
}

/// The account of the path. The kit has seen before that an administrator asks.
async fn target(state: &ClientState, call: &Call) -> Result<Account, Error> {
    let user_id: OwnedUserId = call.path("user_id")?;
    if !state.users.is_local(&user_id) {
        return Err(Error::invalid_param("the user does not belong to the local server"));
    }
    let account = state.users.account(&user_id).await?;
    account.filter(|account| !account.deactivated).ok_or_else(|| Error::not_found("no such account"))
}

/// "The target user is another administrator": not even another administrator may.
async fn changeable(state: &ClientState, call: &Call) -> Result<Account, Error> {
    let account = target(state, call).await?;
    if account.admin {
        return Err(Error::forbidden("administrators cannot be locked or suspended"));
    }
    Ok(account)
}

fn account_error(error: AccountError) -> Error {
    match error {
        AccountError::NotFound => Error::not_found(error.to_string()),
        AccountError::Password(error) => password_error(error),
        AccountError::Fault(ours) => ours.into(),
    }
}
