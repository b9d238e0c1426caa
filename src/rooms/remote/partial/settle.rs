//! The members that were left out become part of the room: of the state before the join, of every state since, and of what
//! is current.
//!
//! Since the join the room was this server's alone to write, one event after the other: the states after it differ from
//! the one before by what these events set. They are made again on the whole state, and events and timeline rows get
//! them; tokens and places stay. Only memberships are taken over: everything else was told with the join.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use hearth_core::Event;
use hearth_ports::Table;
use hearth_store::{
    Corrupt, EventNote, EventNumber, LoadError, LogEntry, Order, StateBuilder, StateKeyNumber, StateVersion,
    StoredEvent, UserNumber, Write, encode,
    tables::{
        self, CurrentStateRow, EventFlags, Membership, PartialRow, TIMELINE_POSITION_OFFSET, TimelineRow, partial_key,
    },
};
use ruma::{OwnedServerName, OwnedUserId, UserId};

use super::Job;
use crate::{
    SendError,
    append::membership_of,
    cache::RoomCache,
    remote::load::{Loader, LocalMember, Target, current_key, current_row, member_of},
    rooms::Rooms,
    writer::Writer,
};

/// Members that one batch brings in: their rows are some 500 bytes each, and the tree's nodes.
const MEMBERS_AT_ONCE: usize = 1_000;

/// Users that are given their numbers together.
const NUMBERED_AT_ONCE: usize = 5_000;

/// Rows of the timeline, or of members, that are looked at together.
const ROWS_AT_ONCE: usize = 500;

/// A batch of so many bytes takes no more events; engines like batches of at most 1 MB.
const BATCH_BYTES: usize = 700_000;

/// What was brought in so far.
struct Progress {
    /// The state before the join.
    full: StateVersion,
    /// The memberships that it has.
    members: HashSet<StateKeyNumber>,
    local: Vec<LocalMember>,
}

impl Rooms {
    /// Makes these memberships part of the room.
    pub(super) async fn settle(&self, job: &Job, members: &[EventNumber]) -> Result<(), SendError> {
        let writer = &self.writer;
        let active = writer.active(job.room);
        let mut progress = Progress { full: job.row.state, members: HashSet::new(), local: Vec::new() };
        for some in members.chunks(NUMBERED_AT_ONCE) {
            self.number_users(job, some).await?;
        }
        for some in members.chunks(MEMBERS_AT_ONCE) {
            let events: Vec<Arc<StoredEvent>> =
                writer.store.events_of_bulk(job.room, some).await?.into_iter().flatten().collect();
            let targets = targets(writer, &events).await?;
            // Let go of after each batch: our own users write meanwhile.
            let mut slot = active.cache.lock().await;
            let mut loader = loader(writer, writer.load(&mut slot, job.room).await?, job, progress.full)?;
            *slot = None;
            loader.add_members(job.row.state, &targets, &mut progress).await?;
        }
        let mut slot = active.cache.lock().await;
        let mut loader = loader(writer, writer.load(&mut slot, job.room).await?, job, progress.full)?;
        *slot = None;
        loader.remove_unknown(job.row.state, &progress.members).await?;
        loader.follow_events(job.row.event).await?;
        loader.count_members().await?;
        loader.finish_partial(job, &progress.local).await
    }

    /// Gives the users of these events their numbers: one commit for all of a partition.
    async fn number_users(&self, job: &Job, members: &[EventNumber]) -> Result<(), LoadError> {
        let store = &self.writer.store;
        let mut users: Vec<OwnedUserId> = Vec::with_capacity(members.len());
        for some in members.chunks(MEMBERS_AT_ONCE) {
            let events = store.events_of_bulk(job.room, some).await?;
            users.extend(events.iter().flatten().filter_map(|stored| member_of(&stored.event)));
        }
        store.ensure_user_numbers(&users).await.map(drop)
    }
}

/// A loader that goes on where the room is.
fn loader<'a>(writer: &'a Writer, cache: &RoomCache, job: &Job, state: StateVersion) -> Result<Loader<'a>, SendError> {
    if !cache.head.partial {
        return Err(SendError::Conflict);
    }
    let (head, stored) = (cache.head.clone(), cache.head_bytes.clone());
    let (room, job) = (job.room, Some(job.bytes.clone()));
    Ok(Loader { writer, room, head, stored, job, is_new: false, state, local: Vec::new() })
}

/// Those of the events that set memberships, with their users' numbers; of several for one user the first.
async fn targets<'e>(writer: &Writer, events: &'e [Arc<StoredEvent>]) -> Result<Vec<Target<'e>>, LoadError> {
    let mut users: Vec<OwnedUserId> = Vec::with_capacity(events.len());
    let mut found: Vec<(&Event, EventNumber)> = Vec::with_capacity(events.len());
    let mut seen: HashSet<&str> = HashSet::with_capacity(events.len());
    for stored in events.iter().filter(|stored| !stored.header.flags.has(EventFlags::REJECTED)) {
        let Some(user) = member_of(&stored.event) else { continue };
        if stored.event.state_key().is_some_and(|state_key| seen.insert(state_key)) {
            users.push(user);
            found.push((&stored.event, stored.number));
        }
    }
    let numbers: Vec<UserNumber> = writer.store.ensure_user_numbers(&users).await?;
    let target = |((event, number), user)| Target { event, number, member: Some((user, membership_of(event))) };
    Ok(found.into_iter().zip(numbers).map(target).collect())
}

impl Loader<'_> {
    /// Adds memberships to the state before the join, and to what is current where nothing has changed it since.
    async fn add_members(
        &mut self,
        base: StateVersion,
        targets: &[Target<'_>],
        progress: &mut Progress,
    ) -> Result<(), SendError> {
        let store = &self.writer.store;
        let mut write = Write::new(self.room.partition());
        let at = write.position();
        let keys: Vec<_> = targets.iter().map(|target| current_key(self.room, target.event)).collect();
        let known = store.multi_get::<CurrentStateRow>(Table::Rm, &keys).await?;
        let pairs: Vec<StateKeyNumber> = known.iter().flatten().map(|row| row.state_key).collect();
        let changed: HashSet<StateKeyNumber> = self.changed(base, &pairs).await?;
        let mut changes = Vec::with_capacity(targets.len());
        for ((target, key), known) in targets.iter().zip(keys).zip(known) {
            let state_key = self.state_key(&mut write, target.event, known);
            if !progress.members.insert(state_key) {
                continue;
            }
            changes.push((state_key, Some(target.number)));
            let row = current_row(state_key, target.number, target.member);
            if changed.contains(&state_key) || (known == Some(row) && !self.is_local(target.event)) {
                continue;
            }
            write.put(Table::Rm, key, &row);
            if let Some((user, membership)) = target.member {
                self.put_member(&mut write, at, target, user, membership).await?;
            }
        }
        self.build(&mut write, &changes).await?;
        self.commit(write).await?;
        progress.full = self.state;
        progress.local.append(&mut self.local);
        Ok(())
    }

    /// Those of the pairs that our own events have set since the join.
    async fn changed(
        &self,
        base: StateVersion,
        pairs: &[StateKeyNumber],
    ) -> Result<HashSet<StateKeyNumber>, LoadError> {
        let store = &self.writer.store;
        let before = store.state_get_many(self.room, base, pairs).await?;
        let now = store.state_get_many(self.room, self.head.state, pairs).await?;
        let changed = pairs.iter().zip(before.iter().zip(&now)).filter(|(_, (before, now))| before != now);
        Ok(changed.map(|(pair, _)| *pair).collect())
    }

    /// Takes out memberships that the room does not have: those known from earlier, or left by an attempt that failed.
    async fn remove_unknown(&mut self, base: StateVersion, members: &HashSet<StateKeyNumber>) -> Result<(), SendError> {
        let store = &self.writer.store;
        let all = (StateKeyNumber::FIRST.0..self.head.next_state_key.0).map(StateKeyNumber);
        let others: Vec<StateKeyNumber> = all.filter(|pair| !members.contains(pair)).collect();
        for some in others.chunks(ROWS_AT_ONCE) {
            let changed = self.changed(base, some).await?;
            let rows = store.state_keys(self.room, some).await?;
            let mut write = Write::new(self.room.partition());
            let mut changes = Vec::new();
            for (pair, row) in some.iter().zip(rows) {
                let Some(row) = row.filter(|row| row.kind == "m.room.member") else { continue };
                changes.push((*pair, None));
                let key = tables::current_state_key(self.room, &row.kind, &row.state_key);
                let current: Option<CurrentStateRow> = store.get(Table::Rm, &key).await?;
                let Some(current) = current.filter(|row| row.event.is_some() && !changed.contains(pair)) else {
                    continue;
                };
                if let Some(user) = current.user {
                    write.delete(Table::Rm, tables::member_rooms_key(user, self.room));
                }
                write.put(Table::Rm, key, &CurrentStateRow { event: None, membership: None, ..current });
            }
            if !changes.is_empty() {
                self.build(&mut write, &changes).await?;
                self.commit(write).await?;
            }
        }
        Ok(())
    }

    /// Makes the states since the join again, on the whole state before it.
    async fn follow_events(&mut self, join: EventNumber) -> Result<(), SendError> {
        let store = &self.writer.store;
        let Some(first) = store.event(self.room, join).await? else {
            return Err(LoadError::from(Corrupt { what: "partial room", reason: "its join is gone".to_owned() }).into());
        };
        let mut from = Bound::Included(first.header.order());
        loop {
            let rows = store.timeline(self.room, (from, Bound::Unbounded), ROWS_AT_ONCE, false).await?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = Bound::Excluded(*last);
            let numbers: Vec<EventNumber> = rows.iter().filter_map(|(_, row)| row.event).collect();
            let mut events = store.events_in_passing(self.room, &numbers).await?.into_iter();
            let mut write = Write::new(self.room.partition());
            let mut states = StateBuilder::new(store, self.room);
            for (order, row) in &rows {
                if let Some(stored) = row.event.and_then(|_| events.next().flatten()) {
                    self.follow(&mut write, &mut states, &stored).await?;
                }
                let row = TimelineRow { state: self.state, ..*row };
                write.put_bytes(Table::Tl, tables::timeline_key(self.room, *order), encode(&row));
                if write.size_bytes() >= BATCH_BYTES {
                    let full = std::mem::replace(&mut write, Write::new(self.room.partition()));
                    let full = finished(std::mem::replace(&mut states, StateBuilder::new(store, self.room)), full);
                    self.commit(full).await?;
                }
            }
            self.commit(finished(states, write)).await?;
        }
    }

    /// One event: the state before it is the one that was reached.
    async fn follow(
        &mut self,
        write: &mut Write,
        states: &mut StateBuilder<'_>,
        stored: &StoredEvent,
    ) -> Result<(), LoadError> {
        let mut header = stored.header.clone();
        header.state_before = self.state;
        if let Some((kind, state_key)) = stored.event.state_pair() {
            let pair = self.writer.store.state_key_number(self.room, kind, state_key).await?;
            let pair = pair.ok_or_else(|| Corrupt { what: "event", reason: "its state key is gone".to_owned() })?;
            header.replaces = states.get(self.state, pair).await?;
            let new = self.head.next_state;
            self.state = states.apply(self.state, &[(pair, Some(stored.number))], new).await?;
            if self.state == new {
                self.head.next_state = new.next();
            }
        }
        header.state_after = self.state;
        write.rewrite_event(self.room, stored.number, &header, stored.event.json());
        Ok(())
    }

    /// Counts members, and the users of each server.
    async fn count_members(&mut self) -> Result<(), SendError> {
        let store = &self.writer.store;
        let before = store.servers_in_room(self.room).await?;
        let mut servers: BTreeMap<OwnedServerName, u32> = before.into_iter().map(|(server, _)| (server, 0)).collect();
        (self.head.joined, self.head.invited) = (0, 0);
        let mut behind: Option<String> = None;
        loop {
            let rows = store.current_members(self.room, behind.as_deref(), ROWS_AT_ONCE).await?;
            for (user, row) in rows.iter().filter(|(_, row)| row.event.is_some()) {
                match row.membership {
                    Some(Membership::Join) => {
                        self.head.joined += 1;
                        if let Ok(user) = <&UserId>::try_from(user.as_str()) {
                            *servers.entry(user.server_name().to_owned()).or_default() += 1;
                        }
                    }
                    Some(Membership::Invite) => self.head.invited += 1,
                    Some(Membership::Knock | Membership::Leave | Membership::Ban) | None => {}
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == ROWS_AT_ONCE => behind = Some(last.clone()),
                _ => break,
            }
        }
        let servers: Vec<(OwnedServerName, u32)> = servers.into_iter().collect();
        self.put_servers(&servers).await
    }

    /// The last batch: the room is whole.
    async fn finish_partial(mut self, job: &Job, local: &[LocalMember]) -> Result<(), SendError> {
        let mut write = Write::new(self.room.partition());
        local.iter().for_each(|local| self.put_local(&mut write, local));
        let at = write.position();
        let row = TimelineRow { event: None, state: self.state };
        let key = tables::timeline_key(self.room, Order { position: 0, within: u32::MAX });
        write.put_filled(Table::Tl, key, encode(&row), Some((TIMELINE_POSITION_OFFSET, at)), &[]);
        write.log(at, LogEntry::Event(EventNote { room: self.room, event: None, member: None }));
        (self.head.state, self.head.partial) = (self.state, false);
        let key = tables::head_key(self.room);
        write.require(Table::Rm, key.clone(), self.stored.clone());
        write.put_at(Table::Rm, key, &self.head, &[at, at]);
        write.require(Table::Rm, partial_key(self.room), self.job.clone());
        write.put(Table::Rm, partial_key(self.room), &PartialRow { is_settled: true, ..job.row.clone() });
        Ok(self.writer.store.commit(write).await.map(drop)?)
    }
}

fn finished(states: StateBuilder<'_>, mut write: Write) -> Write {
    states.finish(&mut write);
    write
}
