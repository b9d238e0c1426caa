//! `POST /createRoom`

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_rooms::{CreateError, Creation, InitialState, Preset};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    answers::{build_error, unavailable},
    invite::{GivenAddress, invite_address},
    members::{may_be_invited, profile},
    paths,
};
use crate::ClientState;

/// People who are invited by their addresses: each is up to three requests to an identity server.
const ADDRESSES_MAX: usize = 20;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("createRoom"), Access::User, Limit::CreateRoom, create_room)
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    visibility: Visibility,
    room_alias_name: Option<String>,
    name: Option<String>,
    topic: Option<String>,
    invite: Option<Vec<OwnedUserId>>,
    invite_3pid: Option<Vec<GivenAddress>>,
    room_version: Option<String>,
    creation_content: Option<Map<String, Value>>,
    initial_state: Option<Vec<GivenState>>,
    preset: Option<GivenPreset>,
    #[serde(default)]
    is_direct: bool,
    power_level_content_override: Option<Map<String, Value>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Visibility {
    Public,
    #[default]
    Private,
}

#[derive(Clone, Copy, Deserialize)]
enum GivenPreset {
    #[serde(rename = "private_chat")]
    Private,
    #[serde(rename = "public_chat")]
    Public,
    #[serde(rename = "trusted_private_chat")]
    TrustedPrivate,
}

#[derive(Deserialize)]
struct GivenState {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    state_key: String,
    content: Map<String, Value>,
}

/// Creates a room.
async fn create_room(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Body = call.json()?;
    let addresses = body.invite_3pid.unwrap_or_default();
    if addresses.len() > ADDRESSES_MAX {
        return Err(Error::invalid_param("too many people are invited by their addresses"));
    }
    let requester = call.requester();
    let mut invite = Vec::new();
    for user in body.invite.unwrap_or_default() {
        if user != requester.user_id && !invite.iter().any(|(known, _)| *known == user) {
            may_be_invited(&state, &user).await?;
            let profile = profile(&state, &user).await?;
            invite.push((user, profile));
        }
    }
    let preset = match (body.preset, body.visibility) {
        (Some(GivenPreset::Private), _) | (None, Visibility::Private) => Preset::Private,
        (Some(GivenPreset::TrustedPrivate), _) => Preset::TrustedPrivate,
        (Some(GivenPreset::Public), _) | (None, Visibility::Public) => Preset::Public,
    };
    let given = body.initial_state.unwrap_or_default().into_iter();
    let creation = Creation {
        creator: requester.user_id.clone(),
        is_admin: requester.admin,
        profile: profile(&state, &requester.user_id).await?,
        version: body.room_version,
        preset,
        is_published: body.visibility == Visibility::Public,
        alias_name: body.room_alias_name,
        name: body.name,
        topic: body.topic,
        invite,
        is_direct: body.is_direct,
        creation_content: body.creation_content.unwrap_or_default(),
        initial_state: given
            .map(|GivenState { kind, state_key, content }| InitialState { kind, state_key, content })
            .collect(),
        power_levels: body.power_level_content_override.unwrap_or_default(),
    };
    let room_id = state.rooms.create(creation).await.map_err(create_error)?;
    for address in addresses {
        // The room is there; that somebody is not invited is no reason to say otherwise.
        if let Err(error) = invite_address(&state, &room_id, &requester.user_id, address).await {
            tracing::info!(%room_id, ?error, "an invite by an address came to nothing");
        }
    }
    Ok(Reply::json(&json!({ "room_id": room_id })))
}

/// Why a room was not created.
pub(super) fn create_error(error: CreateError) -> Error {
    match error {
        CreateError::Forbidden(reason) => Error::forbidden(reason),
        CreateError::UnsupportedVersion => Error::bad_request("M_UNSUPPORTED_ROOM_VERSION", error.to_string()),
        CreateError::AliasTaken => Error::bad_request("M_ROOM_IN_USE", error.to_string()),
        CreateError::BadAlias(reason) => Error::invalid_param(reason),
        CreateError::InvalidState { .. } => Error::bad_request("M_INVALID_ROOM_STATE", error.to_string()),
        CreateError::Content { error, .. } => build_error(&error),
        CreateError::TooMuch(reason) => Error::too_large(reason),
        CreateError::Unavailable(text) => unavailable(&text),
    }
}
