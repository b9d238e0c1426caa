//! `POST /register`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::{
    AccountKind, AuthError, CreateError, Localpart, NewAccount, Passed, RegisterError, Registrant, Registration,
    Remembered, SessionWish, Stage, Users,
};
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    answers::{bad_name, open_error, password_error, session_json, session_wish, user_in_use, user_json},
    interactive, paths,
};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("register"), Access::Public, Limit::Registration, register)
}

#[derive(Deserialize)]
struct Query {
    #[serde(default = "user")]
    kind: String,
}

fn user() -> String {
    "user".to_owned()
}

#[derive(Deserialize)]
struct Body {
    username: Option<String>,
    password: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    inhibit_login: Option<bool>,
    #[serde(default)]
    refresh_token: bool,
    guest_access_token: Option<String>,
    /// Set by application services.
    #[serde(rename = "type")]
    kind: Option<String>,
}

async fn register(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let fields: Map<String, Value> = call.json_or_empty()?;
    let body: Body = call.json_or_empty()?;
    match call.query::<Query>()?.kind.as_str() {
        "guest" => return register_guest(&state, &call, body).await,
        "user" => {}
        _ => return Err(Error::invalid_param("kind is either user or guest")),
    }
    if body.kind.as_deref() == Some("m.login.application_service") {
        return Err(Error::unknown("application services are not supported yet"));
    }
    let flows: &[&[Stage]] = match state.users.settings().registration {
        Registration::Closed => return Err(Error::forbidden("registration is disabled")),
        Registration::Token => &[&[Stage::RegistrationToken]],
        Registration::Open => &[&[Stage::Dummy]],
    };
    let (localpart, guest) = wished_name(&state, &body).await?;
    let has_session = interactive::session_of(&fields).is_some();
    let taken = match &localpart {
        Some(localpart) if guest.is_none() => state.users.is_taken(localpart).await?,
        _ => false,
    };
    // With a session the name may be taken by this very registration, which was repeated.
    if taken && !has_session {
        return Err(user_in_use());
    }
    let remember = if has_session { None } else { Some(remembered(&state.users, &body, localpart.as_ref()).await?) };
    let passed = interactive::authenticate_registration(&state.users, &call, &fields, flows, remember).await;
    let passed = match passed {
        Err(error) if taken && error.errcode().is_empty() => return Err(user_in_use()),
        passed => passed?,
    };
    finish(&state, &call, body, localpart, guest, passed).await
}

/// The account is made, or was made by the same request before; what is left is its session.
async fn finish(
    state: &ClientState,
    call: &Call,
    body: Body,
    localpart: Option<Localpart>,
    guest: Option<OwnedUserId>,
    passed: Passed,
) -> Result<Reply, Error> {
    let remembered = passed.remembered.clone().unwrap_or_default();
    let device_id = body.device_id.clone().or_else(|| remembered.device_id.clone());
    let device_name = body.initial_device_display_name.clone().or_else(|| remembered.device_name.clone());
    let wish = session_wish(call, device_id, device_name, body.refresh_token)?;
    let user_id = match passed.registered.clone() {
        Some(user_id) => user_id,
        None => {
            let user_id = make(&state.users, &body, localpart, guest, &passed, remembered.clone()).await?;
            if let Some(session) = &passed.session {
                state.users.note_registered(session, &user_id).await?;
            }
            user_id
        }
    };
    let inhibit_login = body.inhibit_login.unwrap_or(remembered.inhibit_login);
    answer(&state.users, &user_id, inhibit_login, &wish).await
}

async fn make(
    users: &Users,
    body: &Body,
    localpart: Option<Localpart>,
    guest: Option<OwnedUserId>,
    passed: &Passed,
    remembered: Remembered,
) -> Result<OwnedUserId, Error> {
    // A session remembers the first password; one without may bring it later.
    let password = match (remembered.password, &body.password) {
        (Some(hash), _) => hash,
        (None, Some(password)) => users.hash_password(password).await.map_err(password_error)?,
        (None, None) => return Err(Error::missing_param("password is missing")),
    };
    let registrant = match guest {
        Some(user_id) => Registrant::Guest { user_id, password },
        None => {
            let localpart = match (localpart, remembered.username) {
                (Some(localpart), _) => localpart,
                (None, Some(name)) => Localpart::parse(&name, &users.settings().server_name).map_err(bad_name)?,
                (None, None) => users.free_localpart(),
            };
            let password = Some(password);
            Registrant::New(NewAccount { localpart, password, kind: AccountKind::Full, admin: false })
        }
    };
    users.register(passed, &registrant).await.map_err(|error| match error {
        RegisterError::InUse => user_in_use(),
        RegisterError::NoGuest | RegisterError::Token => Error::forbidden(error.to_string()),
        RegisterError::Fault(ours) => ours.into(),
    })
}

async fn answer(users: &Users, user_id: &UserId, inhibit_login: bool, wish: &SessionWish) -> Result<Reply, Error> {
    if inhibit_login {
        return Ok(Reply::json(&Value::Object(user_json(user_id))));
    }
    let opened = users.open_session(user_id, None, wish).await.map_err(open_error)?;
    Ok(Reply::json(&Value::Object(session_json(&opened))))
}

/// "All parameters in the request body with the exception of `initial_device_display_name` MUST BE ignored."
async fn register_guest(state: &ClientState, call: &Call, body: Body) -> Result<Reply, Error> {
    if !state.users.settings().guests {
        return Err(Error::forbidden("guests are not admitted"));
    }
    let wish = session_wish(call, None, body.initial_device_display_name, false)?;
    let user_id = state.users.create_guest().await.map_err(|error| match error {
        CreateError::InUse => user_in_use(),
        CreateError::Fault(ours) => ours.into(),
    })?;
    answer(&state.users, &user_id, false, &wish).await
}

/// The name that is asked for, and the guest who keeps it, if it is a guest's.
async fn wished_name(state: &ClientState, body: &Body) -> Result<(Option<Localpart>, Option<OwnedUserId>), Error> {
    let server_name = &state.settings.server_name;
    let Some(token) = &body.guest_access_token else {
        let localpart = body.username.as_ref().map(|name| Localpart::parse(name, server_name)).transpose();
        return Ok((localpart.map_err(bad_name)?, None));
    };
    let name = body.username.as_ref().ok_or_else(|| Error::missing_param("a guest must name itself as username"))?;
    let localpart = Localpart::parse_any(name, server_name).map_err(bad_name)?;
    let session = state.users.authenticate(token).await.map_err(|error| match error {
        AuthError::Unknown { .. } => Error::forbidden("unknown guest access token"),
        AuthError::Fault(ours) => ours.into(),
    })?;
    let user_id = localpart.user_id(server_name);
    if session.guest && session.user_id == user_id {
        return Ok((Some(localpart), Some(user_id)));
    }
    // The registration that is repeated has made the guest a full account already.
    if session.user_id == user_id {
        return Ok((Some(localpart), None));
    }
    Err(Error::forbidden("the guest access token is another user's"))
}

/// What the session will remember of its first request. A name of ours is chosen now, so that the same session never
/// makes two accounts.
async fn remembered(users: &Users, body: &Body, localpart: Option<&Localpart>) -> Result<Remembered, Error> {
    let password = match &body.password {
        Some(password) => Some(users.hash_password(password).await.map_err(password_error)?),
        None => None,
    };
    let localpart = localpart.cloned().unwrap_or_else(|| users.free_localpart());
    Ok(Remembered {
        username: Some(localpart.as_str().to_owned()),
        password,
        device_id: body.device_id.clone(),
        device_name: body.initial_device_display_name.clone(),
        inhibit_login: body.inhibit_login.unwrap_or(false),
    })
}
