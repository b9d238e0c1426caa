//! `POST /keys/device_signing/upload`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::keys::{CrossSigningError, CrossSigningUpload};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{interactive, paths};
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("keys/device_signing/upload"), Access::User, Limit::Default, upload)
        .also("/_matrix/client/unstable/keys/device_signing/upload")
}

#[derive(Deserialize)]
struct Body {
    master_key: Option<Map<String, Value>>,
    self_signing_key: Option<Map<String, Value>>,
    user_signing_key: Option<Map<String, Value>>,
}

async fn upload(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let fields: Map<String, Value> = call.json()?;
    let Body { master_key, self_signing_key, user_signing_key } = call.json()?;
    let upload = CrossSigningUpload { master_key, self_signing_key, user_signing_key };
    let plan = state.users.plan_cross_signing(call.requester().user_id(), upload).await.map_err(refused)?;
    if plan.needs_authentication() {
        interactive::authenticate(&state.users, &call, &fields).await?;
    }
    state.users.commit_cross_signing(plan).await?;
    Ok(Reply::empty())
}

fn refused(error: CrossSigningError) -> Error {
    let message = error.to_string();
    match error {
        CrossSigningError::Malformed(_) => Error::bad_json(message),
        CrossSigningError::OtherUser(_) => Error::invalid_param(message),
        CrossSigningError::NoMasterKey => Error::missing_param(message),
        CrossSigningError::NotSigned(_) => Error::bad_request("M_INVALID_SIGNATURE", message),
        CrossSigningError::IdInUse | CrossSigningError::NoAccount => Error::forbidden(message),
        CrossSigningError::Fault(ours) => ours.into(),
    }
}
