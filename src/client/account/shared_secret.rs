//! `GET` and `POST /_synapse/admin/v1/register`: registration by those who know the configured secret, as tools that were
//! made for Synapse do it.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::SharedSecretError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::{bad_name, open_error, password_error, session_json, session_wish, user_in_use};
use crate::ClientState;

const PATH: &str = "/_synapse/admin/v1/register";

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![
        Route::get(&[PATH], Access::Public, Limit::Registration, nonce),
        Route::post(&[PATH], Access::Public, Limit::Registration, register),
    ]
}

#[derive(Deserialize)]
struct Body {
    nonce: String,
    username: String,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    mac: String,
    #[serde(default)]
    inhibit_login: bool,
}

async fn nonce(state: Arc<ClientState>, _: Call) -> Result<Reply, Error> {
    let nonce = state.users.shared_secret_nonce().map_err(shared_secret_error)?;
    Ok(Reply::json(&json!({ "nonce": nonce })))
}

async fn register(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Body = call.json()?;
    let user_type = body.user_type.as_deref();
    let made = state.users.register_by_shared_secret(
        &body.nonce,
        &body.username,
        &body.password,
        body.admin,
        user_type,
        &body.mac,
    );
    let user_id = made.await.map_err(shared_secret_error)?;
    if body.inhibit_login {
        return Ok(Reply::json(&json!({ "user_id": user_id })));
    }
    let wish = session_wish(&call, None, None, false)?;
    let opened = state.users.open_session(&user_id, None, &wish).await.map_err(open_error)?;
    Ok(Reply::json(&Value::Object(session_json(&opened))))
}

fn shared_secret_error(error: SharedSecretError) -> Error {
    match error {
        SharedSecretError::Disabled | SharedSecretError::Nonce => Error::unknown(error.to_string()),
        SharedSecretError::Code => Error::forbidden(error.to_string()),
        SharedSecretError::Name(error) => bad_name(error),
        SharedSecretError::Password(error) => password_error(error),
        SharedSecretError::InUse => user_in_use(),
        SharedSecretError::Fault(ours) => ours.into(),
    }
}
