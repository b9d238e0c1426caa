//! `POST /account/password`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::{AccountError, PASSWORD_BYTES_MAX};
use serde::Deserialize;

use super::{
    answers::{object, password_error},
    interactive, paths,
};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    // By e-mail alone a password can't be set: no address can be bound to an account. So a token is needed.
    Route::post(paths!("account/password"), Access::User, Limit::Default, change).suspended_ok()
}

#[derive(Deserialize)]
struct Body {
    new_password: Option<String>,
    #[serde(default = "yes")]
    logout_devices: bool,
}

fn yes() -> bool {
    true
}

async fn change(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let (_, fields) = object(&call)?;
    let body: Body = call.json()?;
    if body.new_password.as_ref().is_some_and(|password| password.is_empty() || password.len() > PASSWORD_BYTES_MAX) {
        return Err(Error::invalid_param(format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes")));
    }
    interactive::authenticate(&state.users, &call, &fields).await?;
    let new_password = body.new_password.ok_or_else(|| Error::missing_param("new_password is missing"))?;
    let requester = call.requester();
    let keep = Some(requester.device_id().as_str());
    let changed = state.users.set_password(requester.user_id(), &new_password, body.logout_devices, keep);
    changed.await.map_err(|error| match error {
        AccountError::NotFound => Error::unknown_token(false),
        AccountError::Password(error) => password_error(error),
        AccountError::Fault(ours) => ours.into(),
    })?;
    Ok(Reply::empty())
}
