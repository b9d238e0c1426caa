//! Filling gaps of history with what other servers have.
//! [Backfilling](https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events).
//!
//! What comes is checked like all events, but for the current state, which has nothing to say about the past. It takes its
//! place just below the event that cites it, counting down, and changes nothing of the present.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use hearth_core::Event;
use hearth_ports::Table;
use hearth_store::{
    EventNumber, LoadError, Order, RoomNumber, StateVersion,
    tables::{EventFlags, GapRow, gap_key},
};
use quick_cache::sync::Cache;
use ruma::{OwnedEventId, OwnedServerName, RoomId, ServerName};
use tokio::time::timeout;

use super::{order::in_order, partial::PATIENCE};
use crate::{
    ReceiveError, SendError,
    receive::{Arriving, Place},
    rooms::Rooms,
};

mod place;

/// Events that are asked for at once.
const EVENTS_MAX: usize = 100;

/// Events of so many bytes go into the batch, the newest; the others are asked for again when somebody looks further.
const BYTES_MAX: usize = 600_000;

/// Servers that are asked for one gap.
const SERVERS_MAX: usize = 3;

/// Events before which the state is asked for. More branches than that are left for the next time.
const STATES_MAX: usize = 3;

/// Missing events that are asked for at once: servers look at so many. If there are more, they are asked for in turn.
const ASKED_MAX: usize = 50;

/// The same in bytes, as they are written in a request: many servers take no request line of more than 8 kB.
const ASKED_BYTES_MAX: usize = 6_000;

/// Events of a gap that are not searched for without end. Anybody in the room can cite what never was, and nobody has: while
/// there are more, those that were asked for in vain are forgotten, and no faster do new ones come than others are asked for.
const MISSING_MAX: usize = 100;

/// More are never kept, whether they were asked for or not.
const KEPT_MAX: usize = 300;

/// State and auth events that are asked for one by one. Of more, the whole state is asked for.
const SINGLE_MAX: usize = 20;

/// Events of a state that are looked up, and stored, at once.
const STATE_EVENTS_AT_ONCE: usize = 2_000;

/// How long what is fetched for one gap may take, from all servers together: a reader waits for it, and so do others who
/// read there.
pub(super) const FETCH_TIME: Duration = Duration::from_secs(30);

/// How long a gap is left alone that nobody could fill, in milliseconds.
const FAILED_MS: u64 = 60_000;

/// Gaps that are remembered for it.
const FAILED_MAX: usize = 1_000;

/// Gaps that nobody could fill lately, and until when they are left alone, in milliseconds since the Unix epoch.
pub(crate) struct FailedFills(Cache<(RoomNumber, Order), u64>);

impl FailedFills {
    pub(super) fn new() -> Self {
        Self(Cache::new(FAILED_MAX))
    }
}

/// What was fetched for a gap.
pub(super) struct Past {
    /// Oldest first; each behind its previous events, as far as they were fetched.
    pub(super) events: Vec<Arriving>,
}

/// Missing events that were asked for.
#[derive(Default)]
pub(super) struct Asked {
    /// All of them.
    ids: HashSet<OwnedEventId>,
    /// Those that none of the servers has, which all answered.
    nowhere: HashSet<OwnedEventId>,
}

/// Where in a gap events go.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// Just below its upper end: they lead up to those that are missing there.
    Top {
        /// The gap.
        gap: Order,
        /// What is missing there.
        missing: &'a [OwnedEventId],
        /// What of it was asked for.
        asked: &'a Asked,
    },
    /// Somewhere: one event whose neighbours are not known.
    Middle {
        /// The gap.
        gap: Order,
    },
}

impl Rooms {
    /// Fetches events into the gap of the timeline just below this place. The answer is how many there are now; 0: none
    /// could be had, or there is no such gap.
    pub async fn backfill(&self, room_id: &RoomId, gap: Order) -> Result<usize, SendError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(0) };
        if store.joined_from(room, &self.writer.server_name).await? == 0 {
            return Ok(0);
        }
        // The states of the past rest on members that may be only now coming; the reader would take a 0 for the beginning.
        if !self.wait_whole(room, PATIENCE).await? {
            return Ok(0);
        }
        let lock = self.joins.fills.of(room_id);
        let _turn = lock.lock().await;
        let now_ms = self.writer.clock.now_ms();
        if self.joins.failed_fills.0.get(&(room, gap)).is_some_and(|until_ms| now_ms < until_ms) {
            return Ok(0);
        }
        let Some(row) = store.get::<GapRow>(Table::Tl, &gap_key(room, gap)).await? else { return Ok(0) };
        let missing: Vec<OwnedEventId> =
            row.missing.into_iter().filter_map(|id| OwnedEventId::try_from(id).ok()).collect();
        let past = match timeout(FETCH_TIME, self.fetch_past(room, room_id, &missing)).await {
            Ok(past) => past?,
            Err(_) => {
                tracing::info!(%room_id, "history was not fetched in time");
                None
            }
        };
        let filled = match past {
            Some((past, asked)) => {
                self.store_past(room, Target::Top { gap, missing: &missing, asked: &asked }, &past).await?
            }
            None => 0,
        };
        if filled == 0 {
            self.joins.failed_fills.0.insert((room, gap), now_ms.saturating_add(FAILED_MS));
        }
        tracing::debug!(%room_id, filled, "history fetched");
        Ok(filled)
    }

    /// Asks one server after the other for some of the missing events, then for others.
    async fn fetch_past(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        missing: &[OwnedEventId],
    ) -> Result<Option<(Past, Asked)>, SendError> {
        let mut servers = self.others_in_room(room_id).await?;
        servers.truncate(SERVERS_MAX);
        let mut asked = Asked::default();
        let states_max = if missing.len() > MISSING_MAX { 1 } else { STATES_MAX };
        let mut left = missing;
        while !left.is_empty() && !servers.is_empty() {
            let (some, others) = left.split_at(asked_at_once(left));
            left = others;
            asked.ids.extend(some.iter().cloned());
            let mut silent: Vec<OwnedServerName> = Vec::new();
            for server in &servers {
                let given = match self.writer.peers.backfill(server, room_id, some, EVENTS_MAX).await {
                    Ok(given) => given,
                    Err(error) => {
                        tracing::debug!(%room_id, %server, %error, "no history from this server");
                        silent.push(server.clone());
                        continue;
                    }
                };
                let events = self.useful(room, room_id, missing, given).await?;
                if events.is_empty() {
                    continue;
                }
                self.fetch_auth(room, room_id, server, &events).await?;
                let past = self.with_states(room, room_id, server, events, states_max).await?;
                if !past.events.is_empty() {
                    return Ok(Some((past, asked)));
                }
            }
            if silent.is_empty() {
                asked.nowhere.extend(some.iter().cloned());
            }
            servers.retain(|server| !silent.contains(server));
        }
        Ok(None)
    }

    /// Of what a server gave, the events that lead up to the missing ones, truly signed and not here yet: oldest first,
    /// and if they are too many the newest of them.
    async fn useful(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        missing: &[OwnedEventId],
        mut given: Vec<bytes::Bytes>,
    ) -> Result<Vec<Event>, SendError> {
        let Some(identity) = self.writer.store.room_identity(room).await? else { return Ok(Vec::new()) };
        given.truncate(EVENTS_MAX);
        let signed = self.check_signed(identity.version, given).await;
        let events = signed.into_iter().flatten().map(|signed| signed.into_event());
        let mut by_id: HashMap<OwnedEventId, Event> = events
            .filter(|event| event.room_id() == room_id)
            .map(|event| (event.event_id().to_owned(), event))
            .collect();
        let ids: Vec<OwnedEventId> = by_id.keys().cloned().collect();
        let mut placed: HashMap<OwnedEventId, Event> = HashMap::new();
        let are_placed = self.are_placed(room, &ids).await?;
        for (id, is_placed) in ids.into_iter().zip(are_placed) {
            if is_placed && let Some(event) = by_id.remove(&id) {
                placed.insert(id, event);
            }
        }
        let mut open: VecDeque<OwnedEventId> = VecDeque::new();
        for id in missing {
            match placed.get(id) {
                // It has come by another way, and is not shown: what it follows is missing still.
                Some(event) => open.extend(event.prev_events().iter().cloned()),
                None => open.push_back(id.clone()),
            }
        }
        let mut wanted = Vec::new();
        while let Some(id) = open.pop_front() {
            if let Some(event) = by_id.remove(&id) {
                open.extend(event.prev_events().iter().cloned());
                wanted.push(event);
            }
        }
        let order = in_order(&wanted, Event::prev_events);
        let mut bytes = 0;
        let newest = order.into_iter().rev().take_while(|place| {
            bytes += wanted[*place].json().len();
            bytes <= BYTES_MAX
        });
        let mut kept: Vec<Event> = newest.map(|place| wanted[place].clone()).collect();
        kept.reverse();
        Ok(kept)
    }

    /// Which of these events are here and have their place in the room's graph.
    pub(super) async fn are_placed(&self, room: RoomNumber, ids: &[OwnedEventId]) -> Result<Vec<bool>, LoadError> {
        let store = &self.writer.store;
        let numbers = store.event_numbers(room, ids).await?;
        let stored: Vec<EventNumber> = numbers.iter().copied().flatten().collect();
        let events = store.events(room, &stored).await?;
        let placed: HashSet<EventNumber> = events
            .iter()
            .flatten()
            .filter(|stored| !stored.header.flags.has(EventFlags::OUTLIER))
            .filter(|stored| stored.header.state_after != StateVersion::UNKNOWN)
            .map(|stored| stored.number)
            .collect();
        Ok(numbers.iter().map(|number| number.is_some_and(|number| placed.contains(&number))).collect())
    }

    /// Stores what authorises the events and is neither here nor among them.
    pub(super) async fn fetch_auth(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        server: &ServerName,
        events: &[Event],
    ) -> Result<(), SendError> {
        let own: HashSet<&ruma::EventId> = events.iter().map(Event::event_id).collect();
        for event in events {
            let cited: Vec<OwnedEventId> =
                event.auth_events().iter().filter(|id| !own.contains(&***id)).cloned().collect();
            let numbers = self.writer.store.event_numbers(room, &cited).await?;
            if !numbers.contains(&None) {
                continue;
            }
            match self.writer.peers.event_auth(server, room_id, event.event_id()).await {
                Ok(chain) => self.store_outliers(room, room_id, server, chain).await?,
                Err(error) => tracing::debug!(%server, %error, "what authorises an old event was not told"),
            }
        }
        Ok(())
    }

    /// Where each event stands: behind its previous events, or at a state that the server names, of which it is asked for so
    /// many.
    pub(super) async fn with_states(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        server: &ServerName,
        events: Vec<Event>,
        states_max: usize,
    ) -> Result<Past, SendError> {
        let mut kept: HashSet<OwnedEventId> = HashSet::new();
        let mut past = Past { events: Vec::with_capacity(events.len()) };
        let mut asked = 0;
        for event in events {
            let others: Vec<OwnedEventId> =
                event.prev_events().iter().filter(|id| !kept.contains(*id)).cloned().collect();
            let is_whole = self.are_placed(room, &others).await?.into_iter().all(|is_placed| is_placed);
            let place = if is_whole {
                Place::AfterPrevs
            } else if asked < states_max {
                asked += 1;
                match self.fetch_state(room, room_id, server, &event).await? {
                    Some(state) => Place::AtState(Arc::new(vec![state])),
                    None => continue,
                }
            } else {
                continue;
            };
            kept.insert(event.event_id().to_owned());
            let origin = Some(server.to_owned());
            past.events.push(Arriving { event, place, origin, relay: false });
        }
        Ok(past)
    }

    /// The state before an event, all of it stored; `None`: it could not be had.
    async fn fetch_state(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        server: &ServerName,
        event: &Event,
    ) -> Result<Option<Vec<OwnedEventId>>, SendError> {
        let peers = &self.writer.peers;
        let ids = match peers.state_ids(server, room_id, event.event_id()).await {
            Ok(ids) => ids,
            Err(error) => {
                tracing::debug!(%server, %error, "the state before an old event was not told");
                return Ok(None);
            }
        };
        let unknown = self.unknown(room, ids.state.iter().chain(&ids.auth_chain)).await?;
        if unknown.len() <= SINGLE_MAX {
            let mut fetched = Vec::with_capacity(unknown.len());
            for id in &unknown {
                fetched.extend(peers.event(server, id).await.ok());
            }
            self.store_outliers(room, room_id, server, fetched).await?;
        } else if let Ok(whole) = peers.state(server, room_id, event.event_id()).await {
            let all = whole.state.into_iter().chain(whole.auth_chain).collect();
            self.store_outliers(room, room_id, server, all).await?;
        }
        // Half a state would be a wrong one.
        let is_whole = self.unknown(room, ids.state.iter()).await?.is_empty();
        Ok(is_whole.then_some(ids.state))
    }

    /// Those of these events that are not stored.
    async fn unknown(
        &self,
        room: RoomNumber,
        ids: impl Iterator<Item = &OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>, LoadError> {
        let ids: Vec<OwnedEventId> = ids.cloned().collect::<HashSet<_>>().into_iter().collect();
        let mut unknown = Vec::new();
        for some in ids.chunks(STATE_EVENTS_AT_ONCE) {
            let numbers = self.writer.store.event_numbers(room, some).await?;
            unknown.extend(some.iter().zip(numbers).filter(|(_, number)| number.is_none()).map(|(id, _)| id.clone()));
        }
        Ok(unknown)
    }

    /// Stores events because others rest on them, each behind those that authorise it.
    async fn store_outliers(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        server: &ServerName,
        given: Vec<bytes::Bytes>,
    ) -> Result<(), SendError> {
        let Some(identity) = self.writer.store.room_identity(room).await? else { return Ok(()) };
        let mut events = Vec::with_capacity(given.len());
        let mut given = given.into_iter().peekable();
        while given.peek().is_some() {
            let some = given.by_ref().take(STATE_EVENTS_AT_ONCE).collect();
            let signed = self.check_signed(identity.version, some).await;
            events.extend(signed.into_iter().flatten().map(|signed| signed.into_event()));
        }
        events.retain(|event| event.room_id() == room_id && event.is_state());
        let origin: OwnedServerName = server.to_owned();
        let arriving = in_order(&events, Event::auth_events).into_iter().map(|place| Arriving {
            event: events[place].clone(),
            place: Place::Outlier,
            origin: Some(origin.clone()),
            relay: false,
        });
        for outcome in self.writer.place_all(room, arriving.collect()).await {
            // One bad event spoils only itself.
            if let Err(ReceiveError::Unavailable(text)) = outcome {
                return Err(SendError::Unavailable(text));
            }
        }
        Ok(())
    }
}

/// Of so many events one may ask at once: the first, and those behind it that fit into a request line.
fn asked_at_once(ids: &[OwnedEventId]) -> usize {
    let mut bytes = 0;
    let fit = ids.iter().take(ASKED_MAX).take_while(|id| {
        // `&v=`, and what is no letter or digit written as three.
        let plain = id.as_str().bytes().filter(u8::is_ascii_alphanumeric).count();
        bytes += "&v=".len() + plain + 3 * (id.as_str().len() - plain);
        bytes <= ASKED_BYTES_MAX
    });
    fit.count().max(1)
}
