//! [`PUT /v1/send`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid): live events and
//! news of another server.

use std::{borrow::Cow, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use hearth_edge::{Call, Error, Reply, Route};
use hearth_ports::EventBytes;
use hearth_rooms::{ReceiveError, Received};
use http::Method;
use metrics::counter;
use ruma::{OwnedRoomId, OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Inbound,
    answers::{BUSY_RETRY_MS, unavailable},
    ephemeral::Ephemeral,
    lasting,
    requests::{List, body, slice},
    route,
    transactions::Entry,
};

/// "Must not include more than 50 PDUs."
const EVENTS_MAX: usize = 50;

/// "Must not include more than 100 EDUs."
const NEWS_MAX: usize = 100;

/// The largest body, in bytes: fifty of the largest events, with escapes, and the largest news of a few rooms.
const BODY_BYTES_MAX: usize = 10 << 20;

/// The longest transaction id, in bytes, as of all ids.
const TRANSACTION_ID_BYTES_MAX: usize = 255;

/// Rooms of one transaction that receive at the same time.
const ROOMS_AT_ONCE: usize = 4;

/// Of why an event was refused, in characters.
const REASON_MAX: usize = 300;

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![route(Method::PUT, "v1/send/{txn_id}", send).body_max(BODY_BYTES_MAX)]
}

#[derive(Deserialize)]
struct Body<'a> {
    origin: OwnedServerName,
    #[serde(borrow)]
    pdus: List<'a, EVENTS_MAX>,
    #[serde(borrow, default)]
    edus: List<'a, NEWS_MAX>,
}

/// Takes a transaction. Each item is taken or refused on its own; only if something of ours fails the whole is to be sent
/// again.
async fn send(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let id = call.path_str("txn_id");
    if id.len() > TRANSACTION_ID_BYTES_MAX {
        return Err(Error::invalid_param("the transaction id is too long"));
    }
    let given: Body<'_> = body(&call)?;
    let origin = call.origin();
    if given.origin != origin {
        return Err(Error::forbidden("the transaction is of another server than the request"));
    }
    let turn = match state.transactions.enter(origin, id, call.body()).await {
        Entry::New(turn) => turn,
        Entry::Repeated(answer) => return Ok(Reply::bytes(answer)),
        Entry::Crowded => return Err(Error::limit_exceeded(BUSY_RETRY_MS)),
    };
    lasting::take(&state, origin, &given.edus.0).await?;
    let mut news = Ephemeral::read(origin, &given.edus.0);
    news.tell(&state, origin).await;
    let rooms = by_room(origin, call.body(), &given.pdus.0);
    // Receipts take a moment, for which events need not wait.
    let (results, ()) = tokio::join!(receive(&state, origin, rooms), news.read_up_to(&state, origin));
    let Results { pdus, is_final } = results?;
    let answer = Bytes::from(json!({ "pdus": pdus }).to_string());
    if is_final {
        turn.answered(&answer);
    }
    Ok(Reply::bytes(answer))
}

/// The events by room, each room's in their order. What names no room cannot be taken, nor named in the answer: event
/// ids depend on the room's version.
fn by_room(origin: &ServerName, body: &Bytes, events: &[&RawValue]) -> Vec<ForRoom> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        room_id: Cow<'a, str>,
        #[serde(borrow, default, rename = "type")]
        kind: Cow<'a, str>,
    }
    let mut rooms: Vec<ForRoom> = Vec::new();
    for item in events {
        let event = serde_json::from_str::<Event<'_>>(item.get()).ok();
        let event = event.and_then(|event| Some((OwnedRoomId::try_from(&*event.room_id).ok()?, event.kind)));
        let Some((room_id, kind)) = event else {
            counter!("hearth_federation_pdus_received_total", "outcome" => "malformed").increment(1);
            tracing::debug!(%origin, "an event without a room was dropped");
            continue;
        };
        let bytes = slice(body, item);
        let about_guests = kind == "m.room.guest_access";
        match rooms.iter_mut().find(|known| known.room_id == room_id) {
            Some(known) => {
                known.events.push(bytes);
                known.about_guests |= about_guests;
            }
            None => rooms.push(ForRoom { room_id, events: vec![bytes], about_guests }),
        }
    }
    rooms
}

/// Events of one room.
struct ForRoom {
    room_id: OwnedRoomId,
    events: Vec<EventBytes>,
    /// One of them may shut out guests.
    about_guests: bool,
}

/// What became of a transaction's events.
struct Results {
    /// By id.
    pdus: Map<String, Value>,
    /// The same would become of them another time. What an event rests on, or a key, may only not have been had: if the
    /// transaction comes again, because our answer was lost, that is asked for again.
    is_final: bool,
}

/// Takes the events; the answer has what became of each.
async fn receive(state: &Inbound, origin: &ServerName, rooms: Vec<ForRoom>) -> Result<Results, Error> {
    let received = stream::iter(rooms)
        .map(|room| async move { receive_in(state, origin, room).await })
        .buffer_unordered(ROOMS_AT_ONCE);
    let received: Vec<Vec<Received>> = received.collect().await;
    let mut results = Results { pdus: Map::new(), is_final: true };
    for Received { event_id, result } in received.into_iter().flatten() {
        results.is_final &= !matches!(&result, Err(ReceiveError::Incomplete(_) | ReceiveError::Signature(_)));
        let result = outcome(origin, result)?;
        if let Some(event_id) = event_id {
            results.pdus.insert(event_id.into(), result);
        }
    }
    Ok(results)
}

/// The events of one room. If taking them panics the other rooms' are taken all the same, and the server need not send
/// for ever what we cannot take.
async fn receive_in(state: &Inbound, origin: &ServerName, room: ForRoom) -> Vec<Received> {
    let ForRoom { room_id, events, about_guests } = room;
    let take = async {
        let received = state.rooms.receive(origin, &room_id, events).await;
        if about_guests && received.iter().any(|received| received.result.is_ok()) {
            state.rooms.remove_unwelcome_guests(&room_id).await;
        }
        received
    };
    AssertUnwindSafe(take).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(%origin, %room_id, "receiving events panicked");
        Vec::new()
    })
}

/// What the other server is told of an event; an error if the transaction is to be sent again. "If no error is present,
/// the PDU can be considered successfully handled", as one is that the rules refuse: what rests on it is refused by it, and
/// nobody need send it again.
fn outcome(origin: &ServerName, result: Result<(), ReceiveError>) -> Result<Value, Error> {
    let label = match &result {
        Ok(()) => "taken",
        Err(ReceiveError::NotInRoom) => "not_in_room",
        Err(ReceiveError::Denied(_)) => "denied",
        Err(ReceiveError::Malformed(_)) => "malformed",
        Err(ReceiveError::Signature(_)) => "signature",
        Err(ReceiveError::Rejected(_)) => "rejected",
        Err(ReceiveError::Incomplete(_)) => "incomplete",
        Err(ReceiveError::Broken(_)) => "broken",
        Err(ReceiveError::Unavailable(_)) => "unavailable",
    };
    counter!("hearth_federation_pdus_received_total", "outcome" => label).increment(1);
    match result {
        Ok(()) => Ok(json!({})),
        Err(ReceiveError::Rejected(reason)) => {
            tracing::debug!(%origin, %reason, "an event was rejected");
            Ok(json!({}))
        }
        Err(ReceiveError::Unavailable(cause)) => {
            tracing::debug!(%origin, "a transaction is to be sent again");
            Err(unavailable(&cause))
        }
        // It does not get better by coming again; and what is wrong here is nobody else's business.
        Err(ReceiveError::Broken(_)) => Ok(json!({ "error": "this server cannot take it" })),
        Err(error) => {
            tracing::debug!(%origin, label, %error, "an event was refused");
            Ok(json!({ "error": error.to_string().chars().take(REASON_MAX).collect::<String>() }))
        }
    }
}
