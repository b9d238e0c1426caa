//! `GET /admin/whois/{userId}`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::OwnedUserId;
use serde_json::{Map, Value, json};

use super::paths;
use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    Route::get(paths!("admin/whois/{user_id}"), Access::User, Limit::Default, whois)
}

async fn whois(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id: OwnedUserId = call.path("user_id")?;
    if user_id != call.requester().user_id() && !call.requester().admin {
        return Err(Error::forbidden("only the user and administrators may ask this"));
    }
    if !state.users.is_local(&user_id) {
        return Err(Error::invalid_param("the user does not belong to the local server"));
    }
    state.users.account(&user_id).await?.ok_or_else(|| Error::not_found("no such account"))?;
    let mut devices = Map::new();
    for device in state.users.devices(&user_id).await? {
        let connection = match device.last_seen_ip {
            Some(ip) => json!({ "ip": ip, "last_seen": device.last_seen_ts_ms }),
            None => json!({ "last_seen": device.last_seen_ts_ms }),
        };
        devices.insert(device.device_id.to_string(), json!({ "sessions": [{ "connections": [connection] }] }));
    }
    Ok(Reply::json(&json!({ "user_id": user_id, "devices": Value::Object(devices) })))
}
