//! `POST /keys/upload`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysupload).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::keys::{KeyUpload, UploadError};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::paths;
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    // The path with a device id is of r0; it was always the session's own.
    Route::post(paths!("keys/upload"), Access::UserOrGuest, Limit::Default, upload)
        .also("/_matrix/client/r0/keys/upload/{device_id}")
}

#[derive(Deserialize)]
struct Body {
    device_keys: Option<Map<String, Value>>,
    #[serde(default)]
    one_time_keys: Option<Map<String, Value>>,
    #[serde(default)]
    fallback_keys: Option<Map<String, Value>>,
}

async fn upload(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let Body { device_keys, one_time_keys, fallback_keys } = call.json()?;
    let session = call.requester();
    if call.path_opt("device_id").is_some_and(|device_id| device_id != session.device_id().as_str()) {
        return Err(Error::invalid_param("keys are uploaded by their own device"));
    }
    let upload = KeyUpload {
        device_keys,
        one_time_keys: one_time_keys.unwrap_or_default(),
        fallback_keys: fallback_keys.unwrap_or_default(),
    };
    let counts = state.users.upload_keys(session.user_id(), session.device_id(), upload).await.map_err(refused)?;
    Ok(Reply::json(&json!({ "one_time_key_counts": counts.one_time })))
}

fn refused(error: UploadError) -> Error {
    match error {
        UploadError::Malformed(reason) => Error::bad_json(reason),
        UploadError::Wrong(reason) => Error::invalid_param(reason),
        UploadError::IdInUse | UploadError::NoDevice => Error::forbidden(error.to_string()),
        UploadError::TooLarge(reason) => Error::too_large(reason),
        UploadError::Fault(ours) => ours.into(),
    }
}
