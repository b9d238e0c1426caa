//! Reading rooms: messages, context, single events, state, members.

mod context;
mod event;
mod initial_sync;
mod members;
mod messages;
mod state;
mod timestamp_to_event;

use hearth_edge::{Call, Error, Reply, Route};
use hearth_sync::read::{Direction, ReadError, Reader};
use hearth_view::{PlaceToken, RoomEventFilter};
use serde::Deserialize;

use crate::ClientState;

/// The endpoints of this folder.
pub(crate) fn routes() -> Vec<Route<ClientState>> {
    [
        vec![context::route(), event::route(), initial_sync::route(), messages::route(), timestamp_to_event::route()],
        members::routes(),
        state::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Who reads.
fn reader(call: &Call) -> Reader {
    let requester = call.requester();
    Reader { user_id: requester.user_id.clone(), device_id: Some(requester.device_id.clone()) }
}

/// A JSON text, or what the specification says of why there is none.
fn answer(result: Result<bytes::Bytes, ReadError>) -> Result<Reply, Error> {
    result.map(Reply::bytes).map_err(|error| refusal(&error))
}

fn refusal(error: &ReadError) -> Error {
    match error {
        ReadError::Forbidden => Error::forbidden(error.to_string()),
        ReadError::NotFound(_) => Error::not_found(error.to_string()),
        ReadError::BadToken => Error::invalid_param(error.to_string()),
        ReadError::NotYet => Error::unavailable(),
        ReadError::Unavailable(reason) => {
            tracing::error!(%reason, "a room could not be read");
            Error::unavailable()
        }
    }
}

/// `dir`.
#[derive(Clone, Copy, Debug, Deserialize)]
enum Dir {
    #[serde(rename = "b")]
    Backward,
    #[serde(rename = "f")]
    Forward,
}

impl From<Dir> for Direction {
    fn from(dir: Dir) -> Self {
        match dir {
            Dir::Backward => Self::Backward,
            Dir::Forward => Self::Forward,
        }
    }
}

/// A token of a query, if there is one; an empty one counts as none.
fn place(name: &str, token: Option<&str>) -> Result<Option<PlaceToken>, Error> {
    let token = token.filter(|token| !token.is_empty());
    token.map(|token| token.parse().map_err(|error| Error::invalid_param(format!("{name}: {error}")))).transpose()
}

/// The `filter` of a query: a RoomEventFilter as JSON.
fn filter(json: Option<&str>) -> Result<RoomEventFilter, Error> {
    let Some(json) = json else { return Ok(RoomEventFilter::default()) };
    RoomEventFilter::parse(json.as_bytes()).map_err(|error| Error::bad_json(format!("filter: {error}")))
}
