//! `POST /refresh`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::AuthError;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::paths;
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("refresh"), Access::Public, Limit::Default, refresh)
}

#[derive(Deserialize)]
struct Body {
    refresh_token: String,
}

async fn refresh(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Body = call.json()?;
    let opened = state.users.refresh(&body.refresh_token).await.map_err(|error| match error {
        AuthError::Unknown { soft_logout } => Error::unknown_token(soft_logout),
        AuthError::Fault(ours) => ours.into(),
    })?;
    let mut answer = Map::new();
    answer.insert("access_token".to_owned(), opened.access_token.into());
    if let Some(refresh_token) = opened.refresh_token {
        answer.insert("refresh_token".to_owned(), refresh_token.into());
    }
    if let Some(expires_in_ms) = opened.expires_in_ms {
        answer.insert("expires_in_ms".to_owned(), expires_in_ms.into());
    }
    Ok(Reply::json(&Value::Object(answer)))
}
