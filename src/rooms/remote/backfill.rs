//! Filling gaps of history with what other servers have.
//! [Backfilling](https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events).
//!
//! What comes is checked like all events, but for the current state, which has nothing to say about the past. It takes its
//! place just below the event that cites it, counting down, and changes nothing of the present.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use hearth_core::Event;
use hearth_ports::Table;
use hearth_store::{
    CommitError, EventNumber, LoadError, Order, RoomNumber, StateVersion,
    tables::{BackwardRow, EventFlags, GapRow, backward_key, gap_key},
};
use quick_cache::sync::Cache;
use ruma::{OwnedEventId, OwnedServerName, RoomId, ServerName};

use super::order::in_order;
use crate::{
    ReceiveError, SendError,
    append::{Group, PlaceError, Placing, Redacting, Verdict, member_in},
    cache::RoomCache,
    receive::{Arriving, Before, Place, check_cited},
    rooms::Rooms,
};

/// Events that are asked for at once.
const EVENTS_MAX: usize = 100;

/// Events of so many bytes go into the batch, the newest; the others are asked for again when somebody looks further.
const BYTES_MAX: usize = 600_000;

/// Servers that are asked for one gap.
const SERVERS_MAX: usize = 3;

/// Events before which the state is asked for. More branches than that are left for the next time.
const STATES_MAX: usize = 3;

/// State and auth events that are asked for one by one. Of more, the whole state is asked for.
const SINGLE_MAX: usize = 20;

/// Events of a state that are looked up, and stored, at once.
const STATE_EVENTS_AT_ONCE: usize = 2_000;

/// How long a gap is left alone that nobody could fill, in milliseconds.
const FAILED_MS: u64 = 60_000;

/// Gaps that are remembered for it.
const FAILED_MAX: usize = 1_000;

/// How often a batch is tried again that lost a race.
const ATTEMPTS_MAX: usize = 4;

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

/// Where in a gap events go.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// Just below its upper end: they lead up to those that are missing there.
    Top {
        /// The gap.
        gap: Order,
        /// What is missing there.
        missing: &'a [OwnedEventId],
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
        let lock = self.joins.fills.of(room_id);
        let _turn = lock.lock().await;
        let now_ms = self.writer.clock.now_ms();
        if self.joins.failed_fills.0.get(&(room, gap)).is_some_and(|until_ms| now_ms < until_ms) {
            return Ok(0);
        }
        let Some(row) = store.get::<GapRow>(Table::Tl, &gap_key(room, gap)).await? else { return Ok(0) };
        let missing: Vec<OwnedEventId> =
            row.missing.into_iter().filter_map(|id| OwnedEventId::try_from(id).ok()).collect();
        let filled = match self.fetch_past(room, room_id, &missing).await? {
            Some(past) => self.store_past(room, Target::Top { gap, missing: &missing }, &past).await?,
            None => 0,
        };
        if filled == 0 {
            self.joins.failed_fills.0.insert((room, gap), now_ms.saturating_add(FAILED_MS));
        }
        tracing::debug!(%room_id, filled, "history fetched");
        Ok(filled)
    }

    /// Asks one server after the other.
    async fn fetch_past(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        missing: &[OwnedEventId],
    ) -> Result<Option<Past>, SendError> {
        let servers = self.others_in_room(room_id).await?;
        for server in servers.iter().take(SERVERS_MAX) {
            let given = match self.writer.peers.backfill(server, room_id, missing, EVENTS_MAX).await {
                Ok(given) => given,
                Err(error) => {
                    tracing::debug!(%room_id, %server, %error, "no history from this server");
                    continue;
                }
            };
            let events = self.useful(room, room_id, missing, given).await?;
            if events.is_empty() {
                continue;
            }
            self.fetch_auth(room, room_id, server, &events).await?;
            let past = self.with_states(room, room_id, server, events).await?;
            if !past.events.is_empty() {
                return Ok(Some(past));
            }
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
        for (id, is_placed) in ids.iter().zip(self.are_placed(room, &ids).await?) {
            if is_placed {
                by_id.remove(id);
            }
        }
        let mut open: VecDeque<OwnedEventId> = missing.iter().cloned().collect();
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

    /// Where each event stands: behind its previous events, or at a state that the server names.
    pub(super) async fn with_states(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        server: &ServerName,
        events: Vec<Event>,
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
            } else if asked < STATES_MAX {
                asked += 1;
                match self.fetch_state(room, room_id, server, &event).await? {
                    Some(state) => Place::AtState(Arc::new(state)),
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

    /// Puts what was fetched into a gap, in one batch.
    pub(super) async fn store_past(&self, room: RoomNumber, into: Target<'_>, past: &Past) -> Result<usize, SendError> {
        let writer = &self.writer;
        let users: Vec<_> = past.events.iter().filter_map(|arriving| member_in(&arriving.event)).collect();
        writer.store.ensure_user_numbers(&users).await?;
        let active = writer.active(room);
        for _ in 0..ATTEMPTS_MAX {
            let mut slot = active.cache.lock().await;
            let cache = writer.load(&mut slot, room).await?;
            let mut group = Group::new(writer, cache);
            let placed = match into {
                Target::Top { gap, missing } => self.place_past(cache, &mut group, (gap, missing), past).await,
                Target::Middle { gap } => self.place_apart(cache, &mut group, gap, past).await,
            };
            let filled = match placed {
                Ok(filled) => filled,
                Err(error) => {
                    *slot = None;
                    return Err(error.into());
                }
            };
            if filled == 0 {
                *slot = None;
                return Ok(0);
            }
            match writer.commit_group(cache, group).await {
                Ok(()) => return Ok(filled),
                Err(error) => {
                    *slot = None;
                    if !matches!(error, CommitError::Conflict) {
                        return Err(error.into());
                    }
                }
            }
        }
        Err(SendError::Conflict)
    }

    async fn place_past(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        (gap, missing): (Order, &[OwnedEventId]),
        past: &Past,
    ) -> Result<usize, PlaceError> {
        let store = &self.writer.store;
        // Only so many places are free: something may stand in the middle of the gap already.
        let free = usize::try_from(gap.within - self.floor(cache.number, gap).await? - 1).unwrap_or(usize::MAX);
        let newest = &past.events[past.events.len().saturating_sub(free)..];
        let lowest = gap.within - u32::try_from(newest.len()).expect("no more than fit below the gap");
        let mut placed: HashMap<OwnedEventId, EventNumber> = HashMap::new();
        let mut oldest = None;
        for (arriving, within) in newest.iter().zip(lowest..) {
            let order = Order { position: gap.position, within };
            let Some((number, is_shown)) = self.place_old(cache, group, arriving, order).await? else { continue };
            if is_shown && oldest.is_none() {
                oldest = Some((order, number));
            }
            placed.insert(arriving.event.event_id().to_owned(), number);
        }
        let mut cited_by = None;
        for id in missing {
            let row: Option<BackwardRow> = store.get(Table::Tl, &backward_key(cache.number, id.as_str())).await?;
            let Some(citing) = row.map(|row| row.cited_by) else { continue };
            cited_by = cited_by.or(Some(citing));
            if let Some(number) = placed.get(id) {
                group.cite_old(cache, citing, *number).await?;
            }
        }
        let cited = past.events.iter().filter(|arriving| placed.contains_key(arriving.event.event_id()));
        let cited = cited.flat_map(|arriving| arriving.event.prev_events());
        let candidates: HashSet<&OwnedEventId> =
            missing.iter().chain(cited).filter(|id| !placed.contains_key(*id)).collect();
        let candidates: Vec<OwnedEventId> = candidates.into_iter().cloned().collect();
        let are_placed = self.are_placed(cache.number, &candidates).await?;
        let mut still: Vec<OwnedEventId> =
            candidates.into_iter().zip(are_placed).filter(|(_, is)| !is).map(|(id, _)| id).collect();
        still.sort_unstable();
        // Where nothing of what came is shown, the gap stays where it was, in front of who cites it.
        let to = oldest.or_else(|| Some((gap, cited_by?)));
        if let Some(to) = to.filter(|_| !placed.is_empty()) {
            group.move_gap(cache, gap, to, &still).await?;
        }
        Ok(placed.len())
    }

    /// Puts events into the middle of a gap: it is then two.
    async fn place_apart(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        gap: Order,
        past: &Past,
    ) -> Result<usize, PlaceError> {
        let floor = self.floor(cache.number, gap).await?;
        let within = floor + (gap.within - floor) / 2;
        let Some(arriving) = past.events.first().filter(|_| within > floor && within < gap.within) else {
            return Ok(0);
        };
        let order = Order { position: gap.position, within };
        let Some((number, _)) = self.place_old(cache, group, arriving, order).await? else { return Ok(0) };
        let prevs = arriving.event.prev_events();
        let are_placed = self.are_placed(cache.number, prevs).await?;
        let missing: Vec<OwnedEventId> =
            prevs.iter().zip(are_placed).filter(|(_, is)| !is).map(|(id, _)| id.clone()).collect();
        group.put_old_gap(cache, order, number, &missing).await?;
        Ok(1)
    }

    /// The highest place below a gap that is taken, of those that have the gap's position; 0 if none is, which is never
    /// given out.
    async fn floor(&self, room: RoomNumber, gap: Order) -> Result<u32, LoadError> {
        let from = Order { position: gap.position, within: 0 };
        let rows = self.writer.store.timeline(room, from..gap, 1, true).await?;
        Ok(rows.first().map_or(0, |(order, _)| order.within))
    }

    /// Decides about an event of the past and adds it to the batch; `None`: it cannot be decided. Returns its number, and
    /// whether it is shown.
    async fn place_old(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        arriving: &Arriving,
        order: Order,
    ) -> Result<Option<(EventNumber, bool)>, PlaceError> {
        let (writer, event) = (&self.writer, &arriving.event);
        let number = group.number_of(cache, event.event_id()).await?;
        if let Some(number) = number
            && group.known(cache, number).await?.is_placed()
        {
            // It came by another way meanwhile.
            return Ok(None);
        }
        let Some((auths, cited)) = writer.cited(cache, group, event).await? else { return Ok(None) };
        let before = match event.is_create() && event.prev_events().is_empty() {
            true => Some(Before { state: StateVersion::EMPTY, prevs: Vec::new(), missing: Vec::new() }),
            false => writer.before(cache, group, arriving).await?,
        };
        let Some(before) = before else { return Ok(None) };
        let is_allowed = check_cited(event, &cited).is_ok() && writer.allows(cache, group, event, before.state).await?;
        let verdict = if is_allowed { Verdict::Accepted } else { Verdict::Rejected };
        let redacting = match verdict {
            Verdict::Accepted => group.redacting_of(cache, event, before.state).await?,
            Verdict::SoftFailed | Verdict::Rejected => Redacting::Nothing,
        };
        let is_shown = is_allowed && !matches!(redacting, Redacting::Held(_));
        let placing = Placing {
            event: event.clone().with_rejected(!is_allowed),
            verdict,
            number,
            auths,
            prevs: before.prevs,
            missing: before.missing,
            state_before: before.state,
            redacting,
            sent_by: None,
            guest: false,
            origin: arriving.origin.clone(),
            relay: false,
        };
        let number = group.place_old(cache, placing, order).await?;
        Ok(Some((number, is_shown)))
    }
}
