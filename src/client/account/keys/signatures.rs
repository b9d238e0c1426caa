//! `POST /keys/signatures/upload`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload).

use std::{collections::BTreeMap, sync::Arc};

use hearth_core::{Limits, check_json};
use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::keys::{SIGNED_OBJECTS_MAX, SignatureRefusal};
use ruma::OwnedUserId;
use serde_json::{Map, Value, json};

use super::paths;
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("keys/signatures/upload"), Access::User, Limit::Default, upload)
        .also("/_matrix/client/unstable/keys/signatures/upload")
}

async fn upload(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let signed: BTreeMap<OwnedUserId, BTreeMap<String, Map<String, Value>>> = call.json()?;
    // What is signed is canonical JSON.
    check_json(call.body(), &Limits::EVENT).map_err(|error| Error::bad_json(error.to_string()))?;
    if signed.values().map(BTreeMap::len).sum::<usize>() > SIGNED_OBJECTS_MAX {
        return Err(Error::too_large("too many signatures at once"));
    }
    let refused = state.users.upload_signatures(&*state.peers, call.requester().user_id(), signed).await?;
    let told = |(id, refusal): (String, SignatureRefusal)| (id, refusal_json(&refusal));
    let failures: BTreeMap<OwnedUserId, BTreeMap<String, Value>> =
        refused.into_iter().map(|(user_id, by_id)| (user_id, by_id.into_iter().map(told).collect())).collect();
    Ok(Reply::json(&json!({ "failures": failures })))
}

fn refusal_json(refusal: &SignatureRefusal) -> Value {
    let errcode = match refusal {
        SignatureRefusal::OtherObject => "M_INVALID_PARAM",
        SignatureRefusal::NotFound => "M_NOT_FOUND",
        SignatureRefusal::Invalid => "M_INVALID_SIGNATURE",
        SignatureRefusal::TooLarge => "M_TOO_LARGE",
        SignatureRefusal::Fault(fault) => {
            tracing::error!(%fault, "a signature was not stored");
            return json!({ "errcode": "M_UNKNOWN", "error": "the server is not available at the moment" });
        }
    };
    json!({ "errcode": errcode, "error": refusal.to_string() })
}
