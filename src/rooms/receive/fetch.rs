//! The driver of [`hearth_core::catchup`]: asks the store and the other server until all is placed or given up.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hearth_core::{
    INTEGER_MAX, RawEvent, RoomVersion, SignedEvent,
    catchup::{Catchup, Prev, Step, Stored},
};
use hearth_ports::{EventBytes, MissingEvents, PeerError};
use hearth_store::{LoadError, RoomNumber, tables::EventFlags};
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedServerName, RoomId, ServerName};
use tokio::{
    sync::{OwnedMutexGuard, Semaphore},
    time::{Instant, timeout_at},
};

use super::{ReceiveError, place::Arriving, place::Outcome};
use crate::writer::Writer;

/// What is waited for everything that must be fetched for one transaction. Senders give a transaction up after a minute.
const FETCH_TIME: Duration = Duration::from_secs(30);

/// Events of a state that are fetched one by one; if more are missing, or not all come so, the whole state is.
const ONE_BY_ONE_MAX: usize = 200;

/// Events of which so many are fetched at once.
const AT_ONCE: usize = 8;

/// States that are completed at once, each of up to some 100 MB of memory.
const STATES_AT_ONCE: usize = 4;

/// Events of an auth chain that are looked at. Those of large old rooms have some thousands.
const CHAIN_MAX: usize = 20_000;

/// Who is fetching what.
pub(crate) struct Fetches {
    /// Each server has events completed for one transaction at a time, so that a slow one holds up nobody else.
    origins: Mutex<HashMap<OwnedServerName, Arc<tokio::sync::Mutex<()>>>>,
    states: Semaphore,
}

impl Fetches {
    pub(crate) fn new() -> Self {
        Self { origins: Mutex::default(), states: Semaphore::new(STATES_AT_ONCE) }
    }

    async fn turn_of(&self, origin: &ServerName) -> OwnedMutexGuard<()> {
        let turn = {
            let mut origins = self.origins.lock();
            // Whose lock nobody else holds is not waiting.
            origins.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(origins.entry(origin.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

/// Where events come from, and which room they are for.
pub(super) struct Source<'a> {
    pub(super) writer: &'a Writer,
    pub(super) room: RoomNumber,
    pub(super) room_id: &'a RoomId,
    pub(super) version: RoomVersion,
    pub(super) origin: &'a ServerName,
}

/// What became of events, by id.
pub(super) type Outcomes = HashMap<OwnedEventId, Result<Outcome, ReceiveError>>;

impl Source<'_> {
    /// Puts events into the room, with what they rest on.
    pub(super) async fn take(&self, events: Vec<SignedEvent>) -> Result<Outcomes, ReceiveError> {
        let mut outcomes = Outcomes::new();
        let mut catchup = Catchup::new(self.version);
        catchup.add(events);
        let deadline = Instant::now() + FETCH_TIME;
        let mut turn = None;
        loop {
            let step = catchup.poll();
            let is_asking = !matches!(step, Step::LookUp { .. } | Step::Place(_) | Step::Done);
            if is_asking && turn.is_none() {
                turn = timeout_at(deadline, self.writer.fetches.turn_of(self.origin)).await.ok();
            }
            match step {
                Step::LookUp { ids, exact } => catchup.looked_up(self.look_up(ids, exact).await?),
                Step::Place(plan) => {
                    let ids: Vec<OwnedEventId> =
                        plan.iter().map(|planned| planned.event.event().event_id().to_owned()).collect();
                    let arriving = plan.into_iter().map(|planned| Arriving {
                        event: planned.event.into_event(),
                        place: planned.place,
                        origin: Some(self.origin.to_owned()),
                        relay: false,
                    });
                    let placed = self.writer.place_all(self.room, arriving.collect()).await;
                    outcomes.extend(ids.into_iter().zip(placed));
                }
                Step::FetchMissing { latest, limit } => {
                    let answer = self.in_time(deadline, self.fetch_missing(latest, limit)).await;
                    catchup.missing(answer.unwrap_or_default());
                }
                Step::FetchAuth { of, missing } => {
                    let peers = &self.writer.peers;
                    let answer = self.in_time(deadline, peers.event_auth(self.origin, self.room_id, &of)).await;
                    let events = match answer {
                        Some(chain) => self.checked_chain(chain).await?,
                        None => self.in_time(deadline, self.fetch_events(&of, missing)).await.unwrap_or_default().0,
                    };
                    catchup.rest(events);
                }
                Step::FetchState(at) => {
                    let peers = &self.writer.peers;
                    let answer = self.in_time(deadline, peers.state_ids(self.origin, self.room_id, &at)).await;
                    catchup.state(&at, answer.map(|ids| (ids.state, ids.auth_chain)));
                }
                Step::FetchPrevs { at, prevs } => {
                    let answer = self.in_time(deadline, self.fetch_prevs(prevs)).await;
                    catchup.prevs(&at, answer);
                }
                Step::FetchEvents { at, ids } => {
                    let answer = self.in_time(deadline, self.fetch_events(&at, ids)).await;
                    let (events, is_answered) = answer.unwrap_or_default();
                    catchup.rest(events);
                    if !is_answered {
                        // Holes that are nobody's doing would stay in the state for good.
                        catchup.state(&at, None);
                    }
                }
                Step::Done => break,
            }
        }
        drop(turn);
        for (id, reason) in catchup.failed() {
            outcomes.entry(id.to_owned()).or_insert(Err(ReceiveError::Incomplete(reason)));
        }
        Ok(outcomes)
    }

    /// Those of the events that have no place here yet, each once.
    pub(super) async fn unknown(
        &self,
        parsed: Vec<Result<RawEvent, ReceiveError>>,
    ) -> Result<Vec<(OwnedEventId, RawEvent)>, ReceiveError> {
        let ids: Vec<OwnedEventId> = parsed.iter().flatten().map(|raw| raw.event_id().to_owned()).collect();
        let stored = self.look_up(ids, true).await?;
        let mut seen = HashSet::new();
        let new = parsed.into_iter().flatten().zip(stored).filter(|(_, (id, stored))| {
            // Those that are stored without a place may be given one now.
            *stored != Stored::Placed && seen.insert(id.clone())
        });
        Ok(new.map(|(raw, (id, _))| (id, raw)).collect())
    }

    /// An answer of the other server, if it comes in time and is one.
    async fn in_time<T>(&self, deadline: Instant, asked: impl Future<Output = Result<T, PeerError>>) -> Option<T> {
        let (server, room_id) = (self.origin, self.room_id);
        match timeout_at(deadline, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::info!(%server, %room_id, %error, "what events rest on was not fetched");
                None
            }
            Err(_) => {
                tracing::info!(%server, %room_id, "what events rest on was not fetched in time");
                None
            }
        }
    }

    async fn look_up(&self, ids: Vec<OwnedEventId>, exact: bool) -> Result<Vec<(OwnedEventId, Stored)>, ReceiveError> {
        let numbers = self.writer.store.event_numbers(self.room, &ids).await?;
        let mut found = Vec::with_capacity(ids.len());
        for (id, number) in ids.into_iter().zip(numbers) {
            let stored = match number {
                // Nobody need be asked for it: what cites it is rejected.
                None if self.writer.is_elsewhere(self.version, &id).await? => Stored::Outlier,
                None => Stored::Absent,
                Some(_) if !exact => Stored::Outlier,
                Some(number) => match self.writer.store.event(self.room, number).await? {
                    Some(stored) if is_placed(&stored) => Stored::Placed,
                    Some(_) => Stored::Outlier,
                    None => Stored::Absent,
                },
            };
            found.push((id, stored));
        }
        Ok(found)
    }

    /// Events between what is known and these.
    async fn fetch_missing(&self, latest: Vec<OwnedEventId>, limit: usize) -> Result<Vec<SignedEvent>, PeerError> {
        let head = self.writer.store.head(self.room).await.map_err(ours)?;
        let extremities = head.into_iter().flat_map(|head| head.extremities);
        let earliest = extremities.filter_map(|extremity| extremity.event_id.try_into().ok()).collect();
        let min_depth = self.first_depth().await.map_err(ours)?;
        let wanted = MissingEvents { earliest, latest, limit, min_depth };
        let mut events = self.writer.peers.missing_events(self.origin, self.room_id, wanted).await?;
        events.truncate(limit);
        self.checked(events, None).await.map_err(unchecked)
    }

    /// The depth of the event before which the room's history is not here. What came before it is not news: it is fetched
    /// when somebody reads it. In old versions a depth may be more than JSON between servers can say.
    async fn first_depth(&self) -> Result<u64, LoadError> {
        let (store, room) = (&self.writer.store, self.room);
        let gaps = store.gaps(room, .., 1, false).await?;
        let Some((order, _)) = gaps.first() else { return Ok(0) };
        let rows = store.timeline(room, *order..=*order, 1, false).await?;
        let Some(number) = rows.first().and_then(|(_, row)| row.event) else { return Ok(0) };
        Ok(store.event(room, number).await?.map_or(0, |stored| stored.event.depth().min(INTEGER_MAX)))
    }

    /// Events, and the state before each.
    async fn fetch_prevs(&self, ids: Vec<OwnedEventId>) -> Result<Vec<Prev>, PeerError> {
        let peers = &self.writer.peers;
        let mut prevs = Vec::with_capacity(ids.len());
        for id in ids {
            let state = peers.state_ids(self.origin, self.room_id, &id).await?;
            let event = peers.event(self.origin, &id).await?;
            let wanted = HashSet::from([id]);
            let checked = self.checked(vec![event], Some(&wanted)).await;
            let checked = checked.map_err(unchecked)?;
            let event = checked.into_iter().next();
            let event = event.ok_or_else(|| PeerError::Malformed("not the event that was asked for".to_owned()))?;
            prevs.push(Prev { event, state: state.state, auth_chain: state.auth_chain });
        }
        Ok(prevs)
    }

    /// Events of the state before an event, and whether the other server has said all that it had to say.
    async fn fetch_events(
        &self,
        at: &OwnedEventId,
        ids: Vec<OwnedEventId>,
    ) -> Result<(Vec<SignedEvent>, bool), PeerError> {
        let peers = &self.writer.peers;
        let mut wanted: HashSet<OwnedEventId> = ids.iter().cloned().collect();
        let mut good = Vec::new();
        if ids.len() <= ONE_BY_ONE_MAX {
            let fetch = async |id: OwnedEventId| peers.event(self.origin, &id).await.ok();
            let each: Vec<_> = ids.into_iter().map(fetch).collect();
            let each = stream::iter(each).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
            good = self.checked(each, Some(&wanted)).await.map_err(unchecked)?;
        }
        // What came may be anything.
        for event in &good {
            wanted.remove(event.event().event_id());
        }
        if !wanted.is_empty() {
            let _permit = self.writer.fetches.states.acquire().await.expect("the semaphore is never closed");
            // Also for a server that was put out: of the room's events it is given no single one any more, but that state.
            match peers.state(self.origin, self.room_id, at).await {
                Ok(state) => {
                    let all: Vec<EventBytes> = state.state.into_iter().chain(state.auth_chain).collect();
                    good.extend(self.checked(all, Some(&wanted)).await.map_err(unchecked)?);
                }
                Err(error) => {
                    tracing::info!(server = %self.origin, %error, "not all of a state was fetched");
                    return Ok((good, !matches!(error, PeerError::Unreachable(_) | PeerError::BackingOff { .. })));
                }
            }
        }
        Ok((good, true))
    }

    /// Events of an auth chain that are not stored, checked.
    async fn checked_chain(&self, mut events: Vec<EventBytes>) -> Result<Vec<SignedEvent>, ReceiveError> {
        events.truncate(CHAIN_MAX);
        self.checked(events, None).await
    }

    /// Those of the events that are of this room, not stored, wanted, and truly signed.
    async fn checked(
        &self,
        events: Vec<EventBytes>,
        wanted: Option<&HashSet<OwnedEventId>>,
    ) -> Result<Vec<SignedEvent>, ReceiveError> {
        let mut parsed = self.writer.parse(self.version, events).await;
        parsed.retain(|raw| {
            raw.as_ref().is_ok_and(|raw| {
                raw.room_id() == self.room_id && wanted.is_none_or(|wanted| wanted.contains(raw.event_id()))
            })
        });
        let new = self.unknown(parsed).await?;
        let told = Some((self.room, self.origin));
        let checked = self.writer.verify(new.into_iter().map(|(_, raw)| Ok(raw)).collect(), told).await;
        Ok(checked.into_iter().flatten().collect())
    }
}

fn is_placed(stored: &hearth_store::StoredEvent) -> bool {
    !stored.header.flags.has(EventFlags::OUTLIER) && stored.header.state_after != hearth_store::StateVersion::UNKNOWN
}

/// What came could not be checked.
fn unchecked(error: ReceiveError) -> PeerError {
    PeerError::Unreachable(error.to_string())
}

/// Our own trouble while we ask somebody else.
fn ours(error: LoadError) -> PeerError {
    PeerError::Unreachable(error.to_string())
}
