//! `GET /sync`.
//! [Specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync).

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_sync::{Reader, StateForm, SyncError, SyncQuery};
use hearth_users::PresenceState;
use serde::Deserialize;

use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    let paths = ["/_matrix/client/v3/sync", "/_matrix/client/r0/sync"];
    Route::get(&paths, Access::UserOrGuest, Limit::None, sync)
}

#[derive(Deserialize)]
struct Query {
    filter: Option<String>,
    since: Option<String>,
    #[serde(default)]
    full_state: bool,
    set_presence: Option<String>,
    #[serde(default)]
    timeout: u64,
    #[serde(default)]
    use_state_after: bool,
    #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
    use_state_after_unstable: bool,
}

async fn sync(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let query = read(call.query()?)?;
    let session = Arc::clone(call.requester());
    let reader = Reader { user_id: session.user_id.clone(), device_id: session.device_id.clone() };
    // Who waits keeps no more of the request than this.
    drop(call);
    let end = state.users.session_end(&session);
    tokio::select! {
        biased;
        () = end.ended() => Err(Error::unknown_token(false)),
        answer = state.syncs.sync(&reader, &query) => answer.map(Reply::bytes).map_err(refusal),
    }
}

fn read(query: Query) -> Result<SyncQuery, Error> {
    let set_presence = match query.set_presence.as_deref() {
        None => PresenceState::Online,
        Some(name) => PresenceState::of_name(name)
            .ok_or_else(|| Error::invalid_param("set_presence is online, unavailable or offline"))?,
    };
    let state = match (query.use_state_after, query.use_state_after_unstable) {
        (true, _) => StateForm::After,
        (false, true) => StateForm::AfterUnstable,
        (false, false) => StateForm::Before,
    };
    Ok(SyncQuery {
        filter: query.filter,
        since: query.since,
        full_state: query.full_state,
        set_presence,
        timeout_ms: query.timeout,
        state,
    })
}

pub(crate) fn refusal(error: SyncError) -> Error {
    match error {
        SyncError::BadToken(_) | SyncError::UnknownFilter => Error::invalid_param(error.to_string()),
        SyncError::UnknownPlace => Error::bad_request("M_UNKNOWN_POS", error.to_string()),
        SyncError::BadFilter(_) => Error::bad_json(error.to_string()),
        SyncError::UnknownUser => Error::not_found(error.to_string()),
        SyncError::Fault(fault) => fault.into(),
    }
}
