//! [Backfilling](https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events):
//! `GET /v1/backfill`, `POST /v1/get_missing_events`, and `GET /v1/timestamp_to_event`.

use std::sync::Arc;

use hearth_edge::{Call, Error, Reply, Route};
use hearth_ports::MissingEvents;
use http::Method;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;

use super::{
    Inbound,
    answers::{Object, serve_error},
    events::transaction,
    requests::{List, body},
    route,
};

/// Ids that one request may name as ends of a walk. Whoever has more open ends asks in pieces.
const ENDS_MAX: usize = 1_000;

/// "The maximum number of events to retrieve. Defaults to 10."
const MISSING_LIMIT: usize = 10;

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![
        route(Method::GET, "v1/backfill/{room_id}", backfill),
        route(Method::POST, "v1/get_missing_events/{room_id}", get_missing_events),
        route(Method::GET, "v1/timestamp_to_event/{room_id}", timestamp_to_event),
    ]
}

#[derive(Deserialize)]
struct BackfillQuery {
    #[serde(default)]
    v: Vec<OwnedEventId>,
    limit: u64,
}

async fn backfill(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let BackfillQuery { v: from, limit } = call.query()?;
    if from.is_empty() {
        return Err(Error::missing_param("v names the events to begin with"));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let events = state.rooms.serve_backfill(call.origin(), &room_id, &from, limit).await.map_err(serve_error)?;
    Ok(transaction(&state, &events))
}

#[derive(Deserialize)]
struct MissingBody<'a> {
    limit: Option<u64>,
    min_depth: Option<u64>,
    #[serde(borrow, default)]
    earliest_events: List<'a, ENDS_MAX>,
    #[serde(borrow, default)]
    latest_events: List<'a, ENDS_MAX>,
}

async fn get_missing_events(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let given: MissingBody<'_> = body(&call)?;
    let wanted = MissingEvents {
        earliest: ids(&given.earliest_events)?,
        latest: ids(&given.latest_events)?,
        limit: given.limit.map_or(MISSING_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        min_depth: given.min_depth.unwrap_or(0),
    };
    let events = state.rooms.serve_missing(call.origin(), &room_id, &wanted).await.map_err(serve_error)?;
    Ok(Object::new().events("events", &events).reply())
}

fn ids(list: &List<'_, ENDS_MAX>) -> Result<Vec<OwnedEventId>, Error> {
    let ids = list.0.iter().map(|id| serde_json::from_str(id.get()));
    ids.collect::<Result<_, _>>().map_err(|error| Error::bad_json(error.to_string()))
}

#[derive(Deserialize)]
struct NearQuery {
    ts: u64,
    dir: Direction,
}

#[derive(Deserialize, PartialEq, Eq)]
enum Direction {
    #[serde(rename = "f")]
    Forwards,
    #[serde(rename = "b")]
    Backwards,
}

async fn timestamp_to_event(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let NearQuery { ts, dir } = call.query()?;
    let near = state.rooms.serve_event_near(call.origin(), &room_id, ts, dir == Direction::Backwards).await;
    let (event_id, ts_ms) = near.map_err(serve_error)?;
    Ok(Object::new().field("event_id", &event_id).field("origin_server_ts", &ts_ms).reply())
}
