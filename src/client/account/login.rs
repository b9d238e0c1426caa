//! `GET /login`, `POST /login`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::{Localpart, LogInError, LoginError, PasswordError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    answers::{open_error, password_error, session_json, session_wish},
    paths,
};
use crate::ClientState;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![
        Route::get(paths!("login"), Access::Public, Limit::None, flows),
        Route::post(paths!("login"), Access::Public, Limit::Login, login),
    ]
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<Identifier>,
    /// Deprecated for `identifier`.
    user: Option<String>,
    password: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

/// Who logs in or proves who they are. (Client-server API, "Identifier types".)
#[derive(Deserialize)]
pub(super) struct Identifier {
    #[serde(rename = "type")]
    kind: String,
    user: Option<String>,
}

impl Identifier {
    /// The user that it names, as it is written.
    pub(super) fn user(self) -> Result<String, Error> {
        match self.kind.as_str() {
            "m.id.user" => self.user.ok_or_else(|| Error::missing_param("identifier.user is missing")),
            // No address or number can be bound to an account, so none of them is anybody's.
            "m.id.thirdparty" | "m.id.phone" => Err(forbidden()),
            _ => Err(Error::unknown("unknown identifier type")),
        }
    }
}

async fn flows(_: Arc<ClientState>, _: Call) -> Result<Reply, Error> {
    Ok(Reply::json(&json!({ "flows": [{ "type": "m.login.password" }] })))
}

async fn login(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Body = call.json()?;
    match body.kind.as_str() {
        "m.login.password" => {}
        "m.login.application_service" => return Err(Error::unknown("application services are not supported yet")),
        _ => return Err(Error::unknown("unknown login type")),
    }
    let user = match (body.identifier, body.user) {
        (Some(identifier), _) => identifier.user()?,
        (None, Some(user)) => user,
        (None, None) => return Err(Error::missing_param("identifier is missing")),
    };
    let password = body.password.ok_or_else(|| Error::missing_param("password is missing"))?;
    let user_id = Localpart::of_login(&user, &state.settings.server_name);
    call.limit(Limit::LoginAccount, user_id.as_ref().map_or(user.as_str(), |user_id| user_id.as_str()))?;
    let wish = session_wish(&call, body.device_id, body.initial_device_display_name, body.refresh_token)?;
    let opened = state.users.log_in(user_id.as_deref(), &password, &wish).await.map_err(|error| match error {
        LogInError::Login(LoginError::Forbidden | LoginError::Deactivated) => forbidden(),
        LogInError::Login(LoginError::Password(PasswordError::Empty)) => forbidden(),
        LogInError::Login(LoginError::Password(error)) => password_error(error),
        LogInError::Login(LoginError::Fault(ours)) => ours.into(),
        LogInError::Open(error) => open_error(error),
    })?;
    Ok(Reply::json(&Value::Object(session_json(&opened))))
}

fn forbidden() -> Error {
    Error::forbidden("wrong user name or password")
}
