//! [`GET /v1/query/directory`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1querydirectory)

use std::sync::Arc;

use hearth_edge::{Call, Error, Reply, Route};
use hearth_rooms::AliasError;
use http::Method;
use ruma::OwnedRoomAliasId;
use serde::Deserialize;

use super::{
    Inbound,
    answers::{Object, read_error, unavailable},
    route,
};

/// Servers named to come in through: enough that one of them is there.
const SERVERS_MAX: usize = 20;

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![route(Method::GET, "v1/query/directory", directory)]
}

#[derive(Deserialize)]
struct Query {
    room_alias: OwnedRoomAliasId,
}

/// Where an alias of ours points, and who is there.
async fn directory(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let Query { room_alias } = call.query()?;
    if room_alias.server_name() != state.settings.server_name {
        return Err(Error::not_found("the alias is not of this server"));
    }
    let room_id = state.rooms.resolve_alias(&room_alias).await.map_err(|error| match error {
        AliasError::NotFound => Error::not_found("there is no such alias"),
        AliasError::Unavailable(text) => unavailable(&text),
        // What changes of aliases, and aliases of other servers, run into: nothing here makes them.
        AliasError::Taken | AliasError::Forbidden(_) | AliasError::Invalid(_) | AliasError::Peer(_) => {
            unavailable(&error.to_string())
        }
    })?;
    let servers = state.rooms.servers_to_join(&room_id, SERVERS_MAX).await.map_err(read_error)?;
    Ok(Object::new().field("room_id", &room_id).field("servers", &servers).reply())
}
