//! Templates of member events: what `make_join`, `make_leave` and `make_knock` share.

use hearth_edge::{Call, Error, Reply};
use hearth_ports::Handshake;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;

use super::{
    Inbound,
    answers::{Object, handshake_error},
};

/// Versions that a server names; there are not nearly as many.
const VERSIONS_MAX: usize = 100;

#[derive(Deserialize)]
struct Query {
    #[serde(default)]
    ver: Vec<String>,
}

/// A template, with the room's version.
pub(super) async fn make(state: &Inbound, call: &Call, handshake: Handshake) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let user_id: OwnedUserId = call.path("user_id")?;
    let Query { ver: mut versions } = call.query()?;
    versions.truncate(VERSIONS_MAX);
    if versions.is_empty() {
        // "The room versions the sending server has support for. Defaults to ["1"]."
        versions.push("1".to_owned());
    }
    let made = state.rooms.make_template(call.origin(), handshake, &room_id, &user_id, &versions).await;
    let (version, event) = made.map_err(handshake_error)?;
    Ok(Object::new().field("room_version", version.as_str()).json("event", &event).reply())
}
