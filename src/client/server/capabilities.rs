//! `GET /capabilities`.

use std::sync::Arc;

use hearth_core::RoomVersion;
use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use serde_json::{Map, Value, json};

use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    let paths = ["/_matrix/client/v3/capabilities", "/_matrix/client/r0/capabilities"];
    Route::get(&paths, Access::UserOrGuest, Limit::Default, capabilities)
}

async fn capabilities(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let available: Map<String, Value> =
        RoomVersion::ALL.iter().map(|version| (version.as_str().to_owned(), "stable".into())).collect();
    let mut capabilities = json!({
        "m.change_password": { "enabled": true },
        "m.room_versions": { "default": state.settings.default_room_version.as_str(), "available": available },
        "m.profile_fields": { "enabled": true },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.3pid_changes": { "enabled": false },
        "m.get_login_token": { "enabled": false },
        "m.forget_forced_upon_leave": { "enabled": false },
    });
    if call.requester().admin {
        capabilities["m.account_moderation"] = json!({ "suspend": true, "lock": true });
    }
    Ok(Reply::json(&json!({ "capabilities": capabilities })))
}
