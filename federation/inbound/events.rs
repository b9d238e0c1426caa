//! [Retrieving events](https://spec.matrix.org/v1.19/server-server-api/#retrieving-events), and what authorises them:
//! `GET /v1/event`, `/state`, `/state_ids`, `/event_auth`.

use std::sync::Arc;

use hearth_edge::{Call, Error, Reply, Route};
use hearth_ports::{EventBytes, StateEvents, StateIds};
use http::Method;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;

use super::{
    Inbound,
    answers::{Object, serve_error},
    route,
};

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![
        route(Method::GET, "v1/event/{event_id}", event),
        route(Method::GET, "v1/state/{room_id}", state),
        route(Method::GET, "v1/state_ids/{room_id}", state_ids),
        route(Method::GET, "v1/event_auth/{room_id}/{event_id}", event_auth),
    ]
}

#[derive(Deserialize)]
struct At {
    event_id: OwnedEventId,
}

/// Events as in a transaction.
pub(super) fn transaction(state: &Inbound, events: &[EventBytes]) -> Reply {
    Object::new()
        .field("origin", &state.settings.server_name)
        .field("origin_server_ts", &state.clock.now_ms())
        .events("pdus", events)
        .reply()
}

async fn event(inbound: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let event_id: OwnedEventId = call.path("event_id")?;
    let event = inbound.rooms.serve_event(call.origin(), &event_id).await.map_err(serve_error)?;
    Ok(transaction(&inbound, &[event]))
}

async fn state(inbound: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let At { event_id } = call.query()?;
    let state = inbound.rooms.serve_state(call.origin(), &room_id, &event_id).await;
    let StateEvents { state, auth_chain } = state.map_err(serve_error)?;
    Ok(Object::new().events("pdus", &state).events("auth_chain", &auth_chain).reply())
}

async fn state_ids(inbound: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let At { event_id } = call.query()?;
    let ids = inbound.rooms.serve_state_ids(call.origin(), &room_id, &event_id).await;
    let StateIds { state, auth_chain } = ids.map_err(serve_error)?;
    Ok(Object::new().field("pdu_ids", &state).field("auth_chain_ids", &auth_chain).reply())
}

async fn event_auth(inbound: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let room_id: OwnedRoomId = call.path("room_id")?;
    let event_id: OwnedEventId = call.path("event_id")?;
    let chain = inbound.rooms.serve_event_auth(call.origin(), &room_id, &event_id).await;
    Ok(Object::new().events("auth_chain", &chain.map_err(serve_error)?).reply())
}
