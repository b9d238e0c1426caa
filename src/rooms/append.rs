//! From an accepted event to rows: one batch holds all that a group of requests adds to a room.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use hearth_core::{Event, redact};
use hearth_ports::Table;
use hearth_store::{
    Committed, EventNote, EventNumber, LoadError, LogEntry, MemberNote, Order, PositionIndex, Row as _, StateBuilder,
    Store, UserNumber, Write, encode,
    tables::{
        self, CurrentStateRow, EventFlags, EventHeader, Extremity, Head, Membership, MembershipRow, SenderTransaction,
        StateKeyRow, TIMELINE_POSITION_OFFSET, TimelineRow,
    },
};
use ruma::{EventId, OwnedEventId, OwnedServerName, UserId, events::room::member::MembershipState};

use crate::cache::{Entry, InForce, RoomCache};

/// Extremities that an event of ours cites at most, deepest first; the others stay extremities.
pub(crate) const PREV_EVENTS_MAX: usize = 10;

/// An event that the rules allow, and what its rows need besides.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) event: Event,
    /// The numbers of its auth events.
    pub(crate) auths: Vec<EventNumber>,
    /// The device and transaction id of the request.
    pub(crate) sent_by: Option<SenderTransaction>,
    /// For a member event: whose it is, and whether it is a guest account.
    pub(crate) member: Option<Member>,
    /// For a redaction: the event that it takes effect on.
    pub(crate) redacts: Option<EventNumber>,
    /// The server that we had it from; `None`: it was made here.
    pub(crate) origin: Option<OwnedServerName>,
    /// It was accepted through us: we send it on to the room's other servers, although its sender is not ours.
    pub(crate) relay: bool,
}

impl Accepted {
    /// An event made here, with nothing besides.
    pub(crate) fn own(event: Event, auths: Vec<EventNumber>) -> Self {
        Self { event, auths, sent_by: None, member: None, redacts: None, origin: None, relay: false }
    }
}

/// The user of a member event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) user: UserNumber,
    pub(crate) guest: bool,
}

/// The batch of a group of requests, while it grows.
pub(crate) struct Group<'a> {
    store: &'a Store,
    pub(crate) write: Write,
    states: StateBuilder<'a>,
    /// Membership rows of this batch: the engine's copy is behind. With the position that joined them, if it is ours.
    members: HashMap<UserNumber, (MembershipRow, Option<PositionIndex>)>,
    /// How many users of a server are joined, where this batch changes it.
    servers: HashMap<OwnedServerName, u32>,
    /// Events that this batch redacts: the engine still has their old form.
    redacted: Vec<EventNumber>,
    last: Option<(PositionIndex, OwnedEventId)>,
    now_ms: u64,
}

impl<'a> Group<'a> {
    pub(crate) fn new(store: &'a Store, cache: &RoomCache, now_ms: u64) -> Self {
        Self {
            store,
            write: Write::new(cache.number.partition()),
            states: StateBuilder::new(store, cache.number),
            members: HashMap::new(),
            servers: HashMap::new(),
            redacted: Vec::new(),
            last: None,
            now_ms,
        }
    }

    /// The event that was added last.
    pub(crate) fn last_event_id(&self) -> Option<&EventId> {
        self.last.as_ref().map(|(_, event_id)| &**event_id)
    }

    /// Whether a redaction of this batch already took effect on the event.
    pub(crate) fn has_redacted(&self, event: EventNumber) -> bool {
        self.redacted.contains(&event)
    }

    /// Adds an event: its rows to the batch, its effect to the cache. An error spoils both: neither may be used again.
    pub(crate) async fn append(&mut self, cache: &mut RoomCache, accepted: Accepted) -> Result<EventNumber, LoadError> {
        let redaction = self.load_target(cache, &accepted).await?;
        let joining = self.load_member(cache, &accepted).await?;
        let number = cache.head.next_event;
        let state_before = cache.head.state;
        let state = self.set_state(cache, &accepted, number).await?;

        let position = self.write.position();
        self.last = Some((position, accepted.event.event_id().to_owned()));
        cache.head.next_event = number.next();
        let header = header(cache, &accepted, state_before, state.replaces, self.now_ms);
        let json = accepted.event.json();
        tables::put_event(&mut self.write, cache.number, number, &header, json, Some(position));
        let row = TimelineRow { event: Some(number), state: cache.head.state };
        let key = tables::timeline_key(cache.number, Order { position: 0, within: u32::MAX });
        self.write.put_filled(Table::Tl, key, encode(&row), Some((TIMELINE_POSITION_OFFSET, position)), &[]);
        if accepted.event.is_state() {
            self.write.auth_edges(cache.number, number, &accepted.auths);
        }
        let member = joining.map(|joining| self.put_member(cache, &accepted, number, position, joining));
        self.write.log(position, LogEntry::Event(EventNote { room: cache.number, event: Some(number), member }));
        if let Some((target, row)) = redaction {
            self.put_redacted(cache, number, target, row);
        }
        advance(&mut cache.head, number, &accepted.event);
        if cache.version.has_chosen_event_ids() {
            cache
                .extremity_hashes
                .retain(|id, _| cache.head.extremities.iter().any(|known| known.event_id == id.as_str()));
            cache.extremity_hashes.insert(accepted.event.event_id().to_owned(), accepted.event.reference_hash());
        }
        Ok(number)
    }

    /// Completes the batch: the head and what it requires. Returns the head's bytes as far as they are known.
    pub(crate) fn finish(mut self, cache: &RoomCache) -> (Write, Finished) {
        let key = tables::head_key(cache.number);
        self.write.require(Table::Rm, key.clone(), cache.head_bytes.clone());
        let (last, _) = self.last.expect("only a batch with an event is finished");
        self.write.put_at(Table::Rm, key, &cache.head, &[last]);
        self.states.finish(&mut self.write);
        for (server, joined) in self.servers {
            tables::put_room_server(&mut self.write, cache.number, &server, joined);
        }
        (self.write, Finished { head: encode(&cache.head), last })
    }

    async fn load_target(
        &self,
        cache: &RoomCache,
        accepted: &Accepted,
    ) -> Result<Option<(EventNumber, Target)>, LoadError> {
        let Some(target) = accepted.redacts.filter(|target| !self.has_redacted(*target)) else { return Ok(None) };
        let Some(stored) = self.store.event(cache.number, target).await? else { return Ok(None) };
        let is_redacted = stored.header.flags.has(EventFlags::REDACTED);
        let target_row = Target { header: stored.header.clone(), event: stored.event.clone() };
        Ok((!is_redacted).then_some((target, target_row)))
    }

    /// The redaction takes effect: the stored event is from now on its redacted form.
    fn put_redacted(&mut self, cache: &mut RoomCache, redaction: EventNumber, number: EventNumber, target: Target) {
        let redacted = redact(&target.event);
        let header = EventHeader {
            flags: target.header.flags.with(EventFlags::REDACTED),
            redacted_by: Some(redaction),
            ..target.header
        };
        self.write.rewrite_event(cache.number, number, &header, redacted.json());
        cache.replace_redacted(&redacted);
        self.redacted.push(number);
    }

    /// The membership row that a member event replaces.
    async fn load_member(&self, cache: &RoomCache, accepted: &Accepted) -> Result<Option<Joining>, LoadError> {
        let Some(member) = accepted.member else { return Ok(None) };
        let known = match self.members.get(&member.user) {
            Some((row, joined)) => Some((*row, *joined)),
            None if cache.head_bytes.is_none() => None,
            None => self.store.membership(member.user, cache.number).await?.map(|row| (row, None)),
        };
        Ok(Some(Joining { member, before: known }))
    }

    /// Writes the membership row of a member event.
    fn put_member(
        &mut self,
        cache: &RoomCache,
        accepted: &Accepted,
        number: EventNumber,
        position: PositionIndex,
        joining: Joining,
    ) -> MemberNote {
        let Joining { member, before } = joining;
        let membership = membership_of(&accepted.event);
        let was_joined = before.is_some_and(|(row, _)| row.membership == Membership::Join);
        let joined_now = membership == Membership::Join && !was_joined;
        let left = matches!(membership, Membership::Leave | Membership::Ban);
        let row = MembershipRow {
            position: 0,
            joined_position: before.map_or(0, |(row, _)| row.joined_position),
            membership,
            event: number,
            // What happens to a forgotten room without its former member stays forgotten.
            forgotten: left && before.is_some_and(|(row, _)| row.forgotten),
            guest: if joined_now { member.guest } else { before.is_some_and(|(row, _)| row.guest) },
        };
        let joined = if joined_now { Some(position) } else { before.and_then(|(_, joined)| joined) };
        let positions: &[PositionIndex] = match &joined {
            Some(joined) => &[position, *joined],
            None => &[position],
        };
        self.write.put_at(Table::Rm, tables::member_rooms_key(member.user, cache.number), &row, positions);
        self.members.insert(member.user, (row, joined));
        MemberNote { room: cache.number, user: member.user, membership }
    }

    /// Puts a state event into the state tree, the current state and the cache; other events leave the state as it is.
    async fn set_state(
        &mut self,
        cache: &mut RoomCache,
        accepted: &Accepted,
        number: EventNumber,
    ) -> Result<StateChange, LoadError> {
        let Some((kind, state_key)) = accepted.event.state_pair() else { return Ok(StateChange { replaces: None }) };
        let before = cache.entry(self.store, kind, state_key).await?.clone();
        let state_key_number = before.row.map_or(cache.head.next_state_key, |row| row.state_key);
        let version = cache.head.next_state;
        let change = [(state_key_number, Some(number))];
        let version = self.states.apply(cache.head.state, &change, version).await?;

        if before.row.is_none() {
            let row = StateKeyRow { kind: kind.to_owned(), state_key: state_key.to_owned() };
            self.write.put(Table::St, tables::state_key_key(cache.number, state_key_number), &row);
            cache.head.next_state_key = state_key_number.next();
        }
        cache.head.state = version;
        cache.head.next_state = cache.head.next_state.max(version.next());
        let membership = accepted.member.map(|_| membership_of(&accepted.event));
        let row = CurrentStateRow {
            state_key: state_key_number,
            event: Some(number),
            membership,
            user: accepted.member.map(|member| member.user),
        };
        self.write.put(Table::Rm, tables::current_state_key(cache.number, kind, state_key), &row);
        if let Some(membership) = membership {
            let was = before.in_force.as_ref().and(before.row).and_then(|row| row.membership);
            count_member(&mut cache.head, was, membership);
            self.count_server(cache, state_key, was, membership).await?;
        }
        let in_force = Some(InForce { number, event: accepted.event.clone() });
        cache.set(kind, state_key, Entry { row: Some(row), in_force });
        Ok(StateChange { replaces: before.in_force.map(|in_force| in_force.number) })
    }
}

impl Group<'_> {
    /// Keeps the number of users of a server who are joined.
    async fn count_server(
        &mut self,
        cache: &RoomCache,
        user: &str,
        was: Option<Membership>,
        is: Membership,
    ) -> Result<(), LoadError> {
        let (was, is) = (was == Some(Membership::Join), is == Membership::Join);
        if was == is {
            return Ok(());
        }
        // The rules let only user ids be members.
        let Ok(user) = <&UserId>::try_from(user) else { return Ok(()) };
        let server = user.server_name();
        let before = match self.servers.get(server) {
            Some(joined) => *joined,
            None if cache.head_bytes.is_none() => 0,
            None => self.store.joined_from(cache.number, server).await?,
        };
        let joined = if is { before + 1 } else { before.saturating_sub(1) };
        self.servers.insert(server.to_owned(), joined);
        Ok(())
    }
}

/// What is known of a batch when it is handed to the engine.
pub(crate) struct Finished {
    head: Bytes,
    last: PositionIndex,
}

impl Finished {
    /// The head's bytes as the engine has written them.
    pub(crate) fn head_bytes(&self, committed: &Committed) -> Bytes {
        debug_assert_eq!(Head::POSITIONS, 1, "the head's only position stands behind its version byte");
        let position = committed.first.0 + u64::from(self.last.0);
        let mut bytes = BytesMut::from(&self.head[..]);
        bytes[1..9].copy_from_slice(&position.to_be_bytes());
        bytes.freeze()
    }
}

struct StateChange {
    replaces: Option<EventNumber>,
}

struct Target {
    header: EventHeader,
    event: Event,
}

struct Joining {
    member: Member,
    before: Option<(MembershipRow, Option<PositionIndex>)>,
}

fn header(
    cache: &RoomCache,
    accepted: &Accepted,
    state_before: hearth_store::StateVersion,
    replaces: Option<EventNumber>,
    now_ms: u64,
) -> EventHeader {
    EventHeader {
        position: 0,
        within: u32::MAX,
        flags: EventFlags::default(),
        event_id: accepted.event.event_id().to_string(),
        received_ts_ms: now_ms,
        state_before,
        state_after: cache.head.state,
        prevs: cited(&cache.head).map(|extremity| extremity.event).collect(),
        auths: accepted.auths.clone(),
        replaces,
        redacted_by: None,
        redacts: accepted.redacts,
        sent_by: accepted.sent_by.clone(),
        origin: accepted.origin.as_ref().map(|server| server.as_str().to_owned()),
        relay: accepted.relay,
    }
}

/// The extremities that an event of ours cites. They are kept deepest first.
pub(crate) fn cited(head: &Head) -> impl Iterator<Item = &Extremity> {
    head.extremities.iter().take(PREV_EVENTS_MAX)
}

/// The event cites the first extremities, and is one itself.
fn advance(head: &mut Head, number: EventNumber, event: &Event) {
    let cited_count = head.extremities.len().min(PREV_EVENTS_MAX);
    head.extremities.drain(..cited_count);
    let own = Extremity { event: number, event_id: event.event_id().to_string(), depth: event.depth() };
    head.extremities.insert(0, own);
}

fn count_member(head: &mut Head, was: Option<Membership>, is: Membership) {
    match was {
        Some(Membership::Join) => head.joined = head.joined.saturating_sub(1),
        Some(Membership::Invite) => head.invited = head.invited.saturating_sub(1),
        Some(Membership::Knock | Membership::Leave | Membership::Ban) | None => {}
    }
    match is {
        Membership::Join => head.joined += 1,
        Membership::Invite => head.invited += 1,
        Membership::Knock | Membership::Leave | Membership::Ban => {}
    }
}

/// The membership that an accepted member event sets. The rules let no other in.
pub(crate) fn membership_of(event: &Event) -> Membership {
    match event.membership() {
        Some(MembershipState::Join) => Membership::Join,
        Some(MembershipState::Invite) => Membership::Invite,
        Some(MembershipState::Knock) => Membership::Knock,
        Some(MembershipState::Ban) => Membership::Ban,
        _ => Membership::Leave,
    }
}
