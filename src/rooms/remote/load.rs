//! Putting a room that we join into the store: far more rows than a batch holds, seen by readers only with the last one.
//!
//! The first batch writes a head marked as loading; each piece requires the head and moves its next numbers; the last
//! holds the join itself and clears the mark. What a crash leaves is taken up again by the next join. A room that this
//! server was in before keeps its numbers and its history, and what the other server had not heard of: see [`branch`].

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use hearth_core::Event;
use hearth_ports::Table;
use hearth_store::{
    CommitError, EventNote, EventNumber, LoadError, LogEntry, MemberNote, Order, PositionIndex, RoomNumber,
    StateKeyNumber, StateVersion, UserNumber, Write, encode,
    tables::{
        self, CurrentStateRow, EventFlags, EventHeader, Extremity, Head, Membership, MembershipRow, PartialRow,
        TIMELINE_POSITION_OFFSET, TimelineRow,
    },
};
use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, RoomId, ServerName};

use super::answer::{Given, GivenState};
use crate::{SendError, writer::Writer};

mod branch;
mod state;

/// A batch of so many bytes takes no more events; engines like batches of at most 1 MB.
const BATCH_BYTES: usize = 900_000;

/// Servers that are asked for the members of a room that was joined without them.
const ASKED_SERVERS_MAX: usize = 20;

/// Events that are looked up at once.
const EVENTS_AT_ONCE: usize = 1_000;

/// A member event of ours that another server has taken, and what its rows need besides.
pub(super) struct Join<'a> {
    pub(super) event: &'a Event,
    /// A guest account.
    pub(super) guest: bool,
    /// The server through which we came in: it tells the others.
    pub(super) through: &'a ServerName,
    /// The servers in the room, if its state was told without the members: these are fetched later.
    pub(super) servers: Option<&'a [OwnedServerName]>,
}

/// A pair of the state that is to be.
pub(super) struct Target<'a> {
    pub(super) event: &'a Event,
    pub(super) number: EventNumber,
    pub(super) member: Option<(UserNumber, Membership)>,
}

/// A local user's membership row: it and the log entry that tells of it are of the last batch.
pub(super) struct LocalMember {
    user: UserNumber,
    row: MembershipRow,
    /// They are joined and were not before.
    came_in: bool,
}

/// A load under way.
pub(super) struct Loader<'a> {
    pub(super) writer: &'a Writer,
    pub(super) room: RoomNumber,
    pub(super) head: Head,
    /// The head as it is stored; `None` before the first batch.
    pub(super) stored: Option<Bytes>,
    /// The job row as it is stored, if members are brought in that were left out before: it must not change meanwhile.
    pub(super) job: Option<Bytes>,
    /// Nothing of the room was stored before: there is nothing to look up.
    pub(super) is_new: bool,
    /// The state that is built.
    pub(super) state: StateVersion,
    pub(super) local: Vec<LocalMember>,
}

impl Writer {
    /// Stores a room's state and the join into it.
    pub(super) async fn load_room(
        &self,
        room_id: &RoomId,
        given: &GivenState,
        join: &Join<'_>,
    ) -> Result<RoomNumber, SendError> {
        let started_ms = self.clock.now_ms();
        let mut loader = Loader::begin(self, room_id, given, join.servers.is_some()).await?;
        let branch = loader.own_branch(given, join).await?;
        let numbers = loader.store_events(given).await?;
        let targets = loader.targets(given, &numbers).await?;
        loader.store_state(&targets).await?;
        loader.store_servers(&targets, join).await?;
        let (room, joined) = (loader.room, targets.iter().filter(|target| is_joined(target)).count());
        let is_branched = !branch.is_empty();
        loader.finish(given, (&numbers, branch), &targets, join).await?;
        // Whatever was known of the room before is of the past.
        *self.active(room).cache.lock().await = None;
        if is_branched && let Err(error) = self.meet(room).await {
            // We are in. The next event does it.
            tracing::warn!(%room_id, %error, "the branches of a joined room were not brought together");
        }
        let took_ms = self.clock.now_ms().saturating_sub(started_ms);
        tracing::info!(%room_id, events = given.events.len(), joined, took_ms, "room loaded");
        metrics::histogram!("rooms_loaded_events").record(given.events.len() as f64);
        Ok(room)
    }
}

impl<'a> Loader<'a> {
    /// Marks the room as loading.
    async fn begin(
        writer: &'a Writer,
        room_id: &RoomId,
        given: &GivenState,
        is_partial: bool,
    ) -> Result<Self, SendError> {
        let store = &writer.store;
        let room = store.assign_room_number(room_id).await?;
        let known = store.head_bytes(room).await?;
        let is_new = known.is_none();
        let (stored, mut head) = match known {
            Some((bytes, head)) => (Some(bytes), head),
            None => (None, Head::new(given.create.clone())),
        };
        if head.purged || head.blocked {
            return Err(SendError::forbidden("the room is blocked on this server"));
        }
        if head.create != given.create {
            return Err(SendError::Unreachable("the other server's room is another one than ours".to_owned()));
        }
        (head.loading, head.partial) = (true, is_partial);
        let mut write = Write::new(room.partition());
        if store.room_number(room_id).await?.is_none() {
            write.name_room(room, room_id);
        }
        let state = if is_new { StateVersion::EMPTY } else { head.state };
        let mut loader = Self { writer, room, head, stored, job: None, is_new, state, local: Vec::new() };
        loader.commit(write).await?;
        Ok(loader)
    }

    /// Commits a piece with the head as it then is.
    pub(super) async fn commit(&mut self, mut write: Write) -> Result<(), SendError> {
        let at = write.position();
        self.commit_at(write, at).await
    }

    pub(super) async fn commit_at(&mut self, mut write: Write, at: PositionIndex) -> Result<(), SendError> {
        let key = tables::head_key(self.room);
        write.require(Table::Rm, key.clone(), self.stored.clone());
        if let Some(job) = &self.job {
            // The timeline ends where it did.
            write.require(Table::Rm, tables::partial_key(self.room), Some(job.clone()));
            write.put(Table::Rm, key, &self.head);
        } else {
            write.put_at(Table::Rm, key, &self.head, &[at]);
        }
        let committed = self.writer.store.commit(write).await.map_err(|error| match error {
            // Somebody else loads the room, or goes on with what we began.
            CommitError::Conflict => SendError::Conflict,
            other => SendError::Unavailable(other.to_string()),
        })?;
        let mut bytes = BytesMut::from(&encode(&self.head)[..]);
        if self.job.is_none() {
            let position = committed.first.0 + u64::from(at.0);
            bytes[1..9].copy_from_slice(&position.to_be_bytes());
        }
        self.stored = Some(bytes.freeze());
        Ok(())
    }

    /// Stores all events that are not there yet, each behind those that authorise it. Returns their numbers, `None` for
    /// those that were refused, now or before.
    async fn store_events(&mut self, given: &GivenState) -> Result<Vec<Option<EventNumber>>, SendError> {
        // Of every event, refused or not: others cite it.
        let mut all: Vec<EventNumber> = Vec::with_capacity(given.events.len());
        let mut usable = Vec::with_capacity(given.events.len());
        let mut write = Write::new(self.room.partition());
        for some in given.events.chunks(EVENTS_AT_ONCE) {
            let known = self.known_events(some).await?;
            for (given, known) in some.iter().zip(known) {
                let (number, is_refused) = match known {
                    Some(known) => known,
                    None => {
                        let number = self.head.next_event;
                        self.head.next_event = number.next();
                        self.put_outlier(&mut write, number, given, &all);
                        (number, given.event.rejected())
                    }
                };
                all.push(number);
                usable.push((!is_refused).then_some(number));
                if write.size_bytes() >= BATCH_BYTES {
                    let full = std::mem::replace(&mut write, Write::new(self.room.partition()));
                    self.commit(full).await?;
                }
            }
            tracing::debug!(room = self.room.0, stored = all.len(), of = given.events.len(), "events of a joined room");
        }
        self.commit(write).await?;
        Ok(usable)
    }

    /// Which of these events are stored already, and whether they were refused.
    async fn known_events(&self, given: &[Given]) -> Result<Vec<Option<(EventNumber, bool)>>, LoadError> {
        if self.is_new {
            return Ok(vec![None; given.len()]);
        }
        let store = &self.writer.store;
        let ids: Vec<_> = given.iter().map(|given| given.event.event_id().to_owned()).collect();
        let numbers = store.event_numbers(self.room, &ids).await?;
        let stored: Vec<EventNumber> = numbers.iter().copied().flatten().collect();
        let events = store.events(self.room, &stored).await?;
        let refused: HashMap<EventNumber, bool> = events
            .iter()
            .flatten()
            .map(|stored| (stored.number, stored.header.flags.has(EventFlags::REJECTED)))
            .collect();
        let known = |number: EventNumber| Some((number, *refused.get(&number)?));
        Ok(numbers.into_iter().map(|number| number.and_then(known)).collect())
    }

    fn put_outlier(&self, write: &mut Write, number: EventNumber, given: &Given, numbers: &[EventNumber]) {
        let event = &given.event;
        let auths: Vec<EventNumber> = given.auths.iter().map(|place| numbers[*place]).collect();
        let flags = if event.rejected() { EventFlags::REJECTED } else { EventFlags::default() };
        let header = EventHeader {
            flags: flags.with(EventFlags::OUTLIER),
            ..header_of(event, auths.clone(), self.writer.clock.now_ms())
        };
        tables::put_event(write, self.room, number, &header, event.json(), None);
        if event.is_state() {
            write.auth_edges(self.room, number, &auths);
        }
    }

    /// The last batch: the join, and the room is there.
    async fn finish(
        mut self,
        given: &GivenState,
        (numbers, branch): (&[Option<EventNumber>], Vec<Extremity>),
        targets: &[Target<'_>],
        join: &Join<'_>,
    ) -> Result<(), SendError> {
        let event = join.event;
        let user = self.writer.store.ensure_user_number(event.sender()).await?;
        let mut write = Write::new(self.room.partition());
        for local in std::mem::take(&mut self.local).iter().filter(|local| local.user != user) {
            self.put_local(&mut write, local);
        }
        let at = write.position();
        let number = self.head.next_event;
        self.head.next_event = number.next();
        let state_before = self.state;
        let known: Option<CurrentStateRow> = self.writer.store.get(Table::Rm, &current_key(self.room, event)).await?;
        let state_key = self.state_key(&mut write, event, known);
        self.build(&mut write, &[(state_key, Some(number))]).await?;
        let auths = auths_of(event, given, numbers);
        let (prevs, missing) = self.prevs(event).await?;
        let header = EventHeader {
            within: u32::MAX,
            state_before,
            state_after: self.state,
            prevs,
            replaces: targets.iter().find(|t| t.event.state_pair() == event.state_pair()).map(|own| own.number),
            origin: Some(join.through.to_string()),
            ..header_of(event, auths, self.writer.clock.now_ms())
        };
        tables::put_event(&mut write, self.room, number, &header, event.json(), Some(at));
        write.auth_edges(self.room, number, &header.auths);
        if !missing.is_empty() {
            tables::put_gap(&mut write, self.room, number, at, &missing);
        }
        let row = current_row(state_key, number, Some((user, Membership::Join)));
        write.put(Table::Rm, current_key(self.room, event), &row);
        self.put_join(&mut write, at, number, user, join.guest);
        self.put_job(&mut write, join, number, state_before);
        self.complete_head(targets, event, (number, branch));
        self.commit_at(write, at).await
    }

    /// What is left to do when the room is there: its members are to be fetched, or, where a job of an earlier join may
    /// have left something, that is to be cleared away.
    fn put_job(&self, write: &mut Write, join: &Join<'_>, number: EventNumber, state: StateVersion) {
        if self.is_new && join.servers.is_none() {
            return;
        }
        let others = join.servers.unwrap_or_default().iter().filter(|server| *server != join.through);
        let servers = std::iter::once(join.through).chain(others.map(|server| &**server));
        let row = PartialRow {
            join: join.event.event_id().to_string(),
            event: number,
            state,
            servers: servers.take(ASKED_SERVERS_MAX).map(ToString::to_string).collect(),
            since_ms: self.writer.clock.now_ms(),
            is_settled: join.servers.is_none(),
        };
        write.put(Table::Rm, tables::partial_key(self.room), &row);
    }

    /// The events that the join follows and that have a place here, and those that have not: history begins behind them.
    async fn prevs(&self, join: &Event) -> Result<(Vec<EventNumber>, Vec<OwnedEventId>), LoadError> {
        let (mut prevs, mut missing) = (Vec::new(), Vec::new());
        for id in join.prev_events() {
            let stored = self.writer.store.event_by_id(self.room, id).await?;
            match stored.filter(|stored| !stored.header.flags.has(EventFlags::OUTLIER)) {
                Some(stored) => prevs.push(stored.number),
                None => missing.push(id.clone()),
            }
        }
        Ok((prevs, missing))
    }

    /// The join's place in the timeline, the membership, and the log entry of both.
    fn put_join(&self, write: &mut Write, at: PositionIndex, number: EventNumber, user: UserNumber, guest: bool) {
        let row = TimelineRow { event: Some(number), state: self.state };
        let key = tables::timeline_key(self.room, Order { position: 0, within: u32::MAX });
        write.put_filled(Table::Tl, key, encode(&row), Some((TIMELINE_POSITION_OFFSET, at)), &[]);
        let membership = Membership::Join;
        let row = MembershipRow { position: 0, joined_position: 0, membership, event: number, forgotten: false, guest };
        write.put_at(Table::Rm, tables::member_rooms_key(user, self.room), &row, &[at, at]);
        write.delete(Table::Rm, tables::outside_key(user, self.room));
        let member = MemberNote { room: self.room, user, membership };
        write.log(at, LogEntry::Event(EventNote { room: self.room, event: Some(number), member: Some(member) }));
    }

    pub(super) fn put_local(&self, write: &mut Write, local: &LocalMember) {
        let at = write.position();
        let positions: &[PositionIndex] = if local.came_in { &[at, at] } else { &[at] };
        write.put_at(Table::Rm, tables::member_rooms_key(local.user, self.room), &local.row, positions);
        let note = MemberNote { room: self.room, user: local.user, membership: local.row.membership };
        write.log(at, LogEntry::Membership(note));
    }

    fn complete_head(&mut self, targets: &[Target<'_>], join: &Event, (number, branch): (EventNumber, Vec<Extremity>)) {
        let others = targets.iter().filter(|target| target.event.state_pair() != join.state_pair());
        let (mut joined, mut invited) = (1, 0);
        for (_, membership) in others.filter_map(|target| target.member) {
            joined += u32::from(membership == Membership::Join);
            invited += u32::from(membership == Membership::Invite);
        }
        self.head.state = self.state;
        self.head.joined = joined;
        self.head.invited = invited;
        let join = Extremity { event: number, event_id: join.event_id().to_string(), depth: join.depth() };
        self.head.extremities = std::iter::once(join).chain(branch).collect();
        self.head.extremities.sort_by_key(|extremity| std::cmp::Reverse(extremity.depth));
        self.head.loading = false;
    }
}

/// The header of an event whose place is not known.
fn header_of(event: &Event, auths: Vec<EventNumber>, now_ms: u64) -> EventHeader {
    EventHeader {
        position: 0,
        within: 0,
        flags: EventFlags::default(),
        event_id: event.event_id().to_string(),
        received_ts_ms: now_ms,
        state_before: StateVersion::UNKNOWN,
        state_after: StateVersion::UNKNOWN,
        prevs: Vec::new(),
        auths,
        replaces: None,
        redacted_by: None,
        redacts: None,
        sent_by: None,
        origin: None,
        relay: false,
    }
}

/// The numbers of an event's auth events.
fn auths_of(event: &Event, given: &GivenState, numbers: &[Option<EventNumber>]) -> Vec<EventNumber> {
    let events = given.events.iter().zip(numbers);
    let cited = events.filter(|(given, _)| event.auth_events().iter().any(|id| *id == given.event.event_id()));
    cited.filter_map(|(_, number)| *number).collect()
}

pub(super) fn current_key(room: RoomNumber, event: &Event) -> Bytes {
    let (kind, state_key) = event.state_pair().unwrap_or_default();
    tables::current_state_key(room, kind, state_key)
}

pub(super) fn current_row(
    state_key: StateKeyNumber,
    number: EventNumber,
    member: Option<(UserNumber, Membership)>,
) -> CurrentStateRow {
    let (user, membership) = member.unzip();
    CurrentStateRow { state_key, event: Some(number), membership, user }
}

/// Whose membership the event sets.
pub(super) fn member_of(event: &Event) -> Option<OwnedUserId> {
    let (kind, user) = event.state_pair()?;
    if kind == "m.room.member" { OwnedUserId::try_from(user).ok() } else { None }
}

fn is_joined(target: &Target<'_>) -> bool {
    matches!(target.member, Some((_, Membership::Join)))
}
