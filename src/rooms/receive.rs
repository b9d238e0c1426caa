//! Events of other servers: checked, completed with what they rest on, put into their rooms.
//! [Checks performed on receipt of a PDU](https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu).

use std::{collections::HashMap, sync::Arc};

use hearth_core::{FormatError, RawEvent, Reason, RoomVersion, SignatureError};
use hearth_ports::EventBytes;
use hearth_store::{CommitError, LoadError, RoomNumber};
use ruma::{OwnedEventId, RoomId, ServerName};

use crate::{append::PlaceError, rooms::Rooms};

mod acl;
mod authorise;
mod check;
mod fetch;
mod place;
mod unfinished;

pub(crate) use check::Cpu;
pub(crate) use fetch::Fetches;
pub(crate) use hearth_core::catchup::Place;
pub(crate) use place::{Arriving, Before, Outcome};

use fetch::Source;

/// What became of an event that another server sent.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its id; `None`: it has none that could be known.
    pub event_id: Option<OwnedEventId>,
    /// Whether it was taken, now or before. One that soft-fails was.
    pub result: Result<(), ReceiveError>,
}

/// Why an event of another server was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReceiveError {
    /// This server is not in the room: it takes no events of it.
    #[error("this server is not in the room")]
    NotInRoom,
    /// The server that brought it is denied by the room's access list, or the room is blocked here.
    #[error("{0}")]
    Denied(&'static str),
    /// Not an event of the room's version, or of another room. It was dropped.
    #[error("not an event of this room: {0}")]
    Malformed(#[from] FormatError),
    /// It is not signed by who has to. It was dropped.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The room's rules are against it: by the events that it cites, or by the state before it.
    #[error("rejected: {0}")]
    Rejected(Reason),
    /// What it rests on could not be had, within bounds. It is tried again later, and may be sent again.
    #[error("what it rests on could not be had: {0}")]
    Incomplete(&'static str),
    /// Our fault, and it will be so each time: what is stored of the room does not read, or the event makes us panic. The text
    /// is for the log.
    #[error("broken: {0}")]
    Broken(String),
    /// Our fault; the text is for the log. It may yet have happened.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<LoadError> for ReceiveError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Corrupt(corrupt) => Self::Broken(corrupt.to_string()),
            LoadError::Unavailable(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<PlaceError> for ReceiveError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Load(error) => error.into(),
            PlaceError::TooMuch(reason) => Self::Incomplete(reason),
        }
    }
}

impl From<CommitError> for ReceiveError {
    fn from(error: CommitError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Rooms {
    /// Takes events of one room out of a transaction: checks them, fetches what they rest on, puts them into the room.
    /// One result each, in order; one bad event spoils only itself. Dropping the future loses nothing that was taken.
    pub async fn receive(
        self: &Arc<Self>,
        origin: &ServerName,
        room_id: &RoomId,
        events: Vec<EventBytes>,
    ) -> Vec<Received> {
        let received = self.receive_through(origin, origin, room_id, events.clone()).await;
        let mut broken = received.iter().filter(|received| matches!(received.result, Err(ReceiveError::Broken(_))));
        if let Some(Received { event_id, result: Err(what) }) = broken.next() {
            tracing::error!(%origin, %room_id, ?event_id, %what, "an event of another server is lost");
        }
        if let Err(error) = self.keep_unfinished(origin, room_id, &events, &received).await {
            tracing::warn!(%origin, %room_id, %error, "events that are not complete were not kept");
        }
        received
    }

    /// The same; `ask` is asked for what the events rest on, and events that lack something are not kept.
    async fn receive_through(
        &self,
        ask: &ServerName,
        origin: &ServerName,
        room_id: &RoomId,
        events: Vec<EventBytes>,
    ) -> Vec<Received> {
        let place = match self.place_for(room_id).await {
            // Who took our join sends what happens next, maybe before we have the answer: it is not said again.
            Err(ReceiveError::NotInRoom) if self.wait_for_join(room_id).await => self.place_for(room_id).await,
            place => place,
        };
        let (room, version) = match place {
            Ok(place) => place,
            Err(ReceiveError::NotInRoom) => return self.receive_outside(origin, room_id, events).await,
            Err(error) => return refuse_all(events.len(), &error),
        };
        let parsed = self.writer.parse(version, events).await;
        let mut results: Vec<Received> = parsed.iter().map(|raw| parsed_as(raw, room_id)).collect();
        if let Err(error) = self.may_bring(origin, room_id, room).await {
            results.iter_mut().for_each(|received| received.result = Err(error.clone()));
            return results;
        }
        // As they are stored: what came may be longer than an event can be.
        let good = || {
            let good = parsed.iter().zip(&results).filter(|(_, received)| received.result.is_ok());
            good.filter_map(|(raw, _)| Some(raw.as_ref().ok()?.unchecked().json().clone())).collect()
        };
        match self.hold_back(origin, room, good).await {
            Ok(None) => {}
            Ok(Some(kept)) => return refuse_behind(results, kept),
            Err(error) => return refuse_all(results.len(), &error),
        }
        let source = Source { writer: &self.writer, room, room_id, version, origin: ask };
        let here = parsed.into_iter().zip(&results).filter(|(_, received)| received.result.is_ok());
        let new = match source.unknown(here.map(|(raw, _)| raw).collect()).await {
            Ok(new) => new,
            Err(error) => return refuse_all(results.len(), &error),
        };
        let failed = self.take_new(&source, new).await;
        for received in &mut results {
            let error = received.event_id.as_ref().and_then(|id| failed.get(id));
            if let (Ok(()), Some(error)) = (&received.result, error) {
                tracing::info!(event_id = ?received.event_id, %origin, %error, "event not taken");
                received.result = Err(error.clone());
            }
        }
        results
    }

    /// Checks the signatures of events and puts them into the room. Returns those that were not taken.
    async fn take_new(
        &self,
        source: &Source<'_>,
        new: Vec<(OwnedEventId, RawEvent)>,
    ) -> HashMap<OwnedEventId, ReceiveError> {
        let (ids, raws): (Vec<OwnedEventId>, Vec<_>) = new.into_iter().unzip();
        let mut failed: HashMap<OwnedEventId, ReceiveError> = HashMap::new();
        let mut signed = Vec::with_capacity(ids.len());
        let told = Some((source.room, source.origin));
        let checked = self.writer.verify(raws.into_iter().map(Ok).collect(), told).await;
        for (id, checked) in ids.iter().zip(checked) {
            match checked {
                Ok(event) => signed.push(event),
                Err(error) => drop(failed.insert(id.clone(), error)),
            }
        }
        match source.take(signed).await {
            Ok(outcomes) => failed.extend(outcomes.into_iter().filter_map(|(id, outcome)| {
                let error = match outcome {
                    Ok(Outcome::Accepted | Outcome::SoftFailed) => return None,
                    Ok(Outcome::Rejected(reason)) => ReceiveError::Rejected(reason),
                    Err(error) => error,
                };
                Some((id, error))
            })),
            Err(error) => failed.extend(ids.into_iter().map(|id| (id, error.clone()))),
        }
        failed
    }

    /// The number and version of a room that may take events.
    async fn place_for(&self, room_id: &RoomId) -> Result<(RoomNumber, RoomVersion), ReceiveError> {
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(ReceiveError::NotInRoom)?;
        let identity = store.room_identity(room).await?.ok_or(ReceiveError::NotInRoom)?;
        let is_loading = store.head(room).await?.is_none_or(|head| head.loading);
        if is_loading || store.joined_from(room, &self.writer.server_name).await? == 0 {
            return Err(ReceiveError::NotInRoom);
        }
        Ok((room, identity.version))
    }

    /// Whether this server takes events of the room, and from this server.
    async fn may_bring(&self, origin: &ServerName, room_id: &RoomId, room: RoomNumber) -> Result<(), ReceiveError> {
        let store = &self.writer.store;
        let head = store.head(room).await?.filter(|head| !head.loading && !head.purged);
        let head = head.ok_or(ReceiveError::NotInRoom)?;
        if store.joined_from(room, &self.writer.server_name).await? == 0 {
            return Err(ReceiveError::NotInRoom);
        }
        if head.blocked {
            return Err(ReceiveError::Denied("the room is blocked on this server"));
        }
        match self.is_allowed(room_id, origin).await? {
            true => Ok(()),
            false => Err(ReceiveError::Denied("the room's access list denies the server")),
        }
    }
}

/// What is known of an event once it was parsed.
fn parsed_as(raw: &Result<RawEvent, ReceiveError>, room_id: &RoomId) -> Received {
    match raw {
        Ok(raw) => {
            let is_here = raw.room_id() == room_id;
            let result = if is_here { Ok(()) } else { Err(ReceiveError::Malformed(FormatError::Field("room_id"))) };
            Received { event_id: Some(raw.event_id().to_owned()), result }
        }
        Err(error) => Received { event_id: None, result: Err(error.clone()) },
    }
}

/// Of the events that are good only the first are kept.
fn refuse_behind(mut results: Vec<Received>, kept: usize) -> Vec<Received> {
    let good = results.iter_mut().filter(|received| received.result.is_ok());
    for received in good.skip(kept) {
        received.result = Err(ReceiveError::Incomplete("too many events wait for the room's members"));
    }
    results
}

fn refuse_all(count: usize, error: &ReceiveError) -> Vec<Received> {
    (0..count).map(|_| Received { event_id: None, result: Err(error.clone()) }).collect()
}
