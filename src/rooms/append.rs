//! From a decided event to rows: one batch holds all that a group of events adds to a room.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use hearth_core::Event;
use hearth_ports::Table;
use hearth_store::{
    Committed, EventNote, EventNumber, LoadError, LogEntry, NewEdges, Order, PositionIndex, Row as _, StateBuilder,
    StateKeyNumber, StateVersion, UserNumber, Write, encode,
    tables::{
        self, EventFlags, EventHeader, Extremity, Head, Membership, MembershipRow, SenderTransaction,
        TIMELINE_POSITION_OFFSET, TimelineRow,
    },
};
use ruma::{EventId, OwnedEventId, OwnedServerName, events::room::member::MembershipState};

use crate::{cache::RoomCache, writer::Writer};

mod current;
mod gaps;
mod graph;
mod old;
mod redactions;
mod whole;

pub(crate) use current::member_in;
pub(crate) use graph::Known;
pub(crate) use redactions::Redacting;

/// An event of ours that the rules allow, and what its rows need besides.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) event: Event,
    /// The numbers of its auth events.
    pub(crate) auths: Vec<EventNumber>,
    /// The device and transaction id of the request.
    pub(crate) sent_by: Option<SenderTransaction>,
    /// A member event of a guest account.
    pub(crate) guest: bool,
    /// For a redaction: the event that it takes effect on.
    pub(crate) redacts: Option<EventNumber>,
}

impl Accepted {
    /// An event with nothing besides.
    pub(crate) fn own(event: Event, auths: Vec<EventNumber>) -> Self {
        Self { event, auths, sent_by: None, guest: false, redacts: None }
    }
}

/// What was decided about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is part of the room.
    Accepted,
    /// The current state is against it: it takes part in resolution, but nobody is shown it, and no event of ours cites
    /// it. [Soft failure](https://spec.matrix.org/v1.19/server-server-api/#soft-failure).
    SoftFailed,
    /// The events that it cites, or the state before it, are against it: it has no effect.
    Rejected,
}

/// An event, what was decided about it, and its place in the room's graph.
#[derive(Debug)]
pub(crate) struct Placing {
    /// The event; [`Event::rejected`] is as the verdict has it.
    pub(crate) event: Event,
    pub(crate) verdict: Verdict,
    /// Its number, if it was stored before because others cite it.
    pub(crate) number: Option<EventNumber>,
    /// Its auth events, all of them stored.
    pub(crate) auths: Vec<EventNumber>,
    /// The events it cites as previous, as far as they are stored.
    pub(crate) prevs: Vec<EventNumber>,
    /// Those that are not.
    pub(crate) missing: Vec<OwnedEventId>,
    pub(crate) state_before: StateVersion,
    pub(crate) redacting: Redacting,
    /// The device and transaction id of the request, if it is of ours.
    pub(crate) sent_by: Option<SenderTransaction>,
    /// A member event of a guest account.
    pub(crate) guest: bool,
    /// The server that we had it from; `None`: it was made here.
    pub(crate) origin: Option<OwnedServerName>,
    /// It was accepted through us: we send it on to the room's other servers, although its sender is not ours.
    pub(crate) relay: bool,
}

/// Why an event cannot be put into its room.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// Our fault.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It would cost more than any event may.
    #[error("{0}")]
    TooMuch(&'static str),
}

/// The batch of a group of events, while it grows.
pub(crate) struct Group<'a> {
    pub(crate) writer: &'a Writer,
    pub(crate) write: Write,
    pub(crate) states: StateBuilder<'a>,
    /// Events that this batch stores or rewrites: the engine's copies are behind.
    events: BTreeMap<EventNumber, InBatch>,
    by_id: HashMap<OwnedEventId, EventNumber>,
    /// The auth events of those state events among them that are new.
    pub(crate) edges: NewEdges,
    /// Versions of the state from this one on are of this batch.
    pub(crate) first_new_state: StateVersion,
    /// What states were resolved into.
    pub(crate) resolved: HashMap<Vec<StateVersion>, StateVersion>,
    /// Pairs of state that have their numbers from this batch; whether their current state was written too.
    pairs: HashMap<StateKeyNumber, NewPair>,
    /// Membership rows of this batch: the engine's copy is behind. With the position that joined them, if it is ours.
    members: HashMap<UserNumber, (MembershipRow, Option<PositionIndex>)>,
    /// How many users of a server are joined, where this batch changes it.
    servers: HashMap<OwnedServerName, u32>,
    /// Redactions that wait for an event of this id, where this batch changes it.
    held: HashMap<String, Vec<EventNumber>>,
    gaps: gaps::Gaps,
    /// Events that the batch's events cite and that are not here.
    missing: Vec<OwnedEventId>,
    /// The position of the timeline's last change.
    last: Option<PositionIndex>,
    last_event_id: Option<OwnedEventId>,
    now_ms: u64,
}

/// An event as the batch stores it.
struct InBatch {
    header: EventHeader,
    event: Event,
    /// Of its place in the timeline, if it gets it from this batch.
    position: Option<PositionIndex>,
}

struct NewPair {
    kind: Box<str>,
    state_key: Box<str>,
    is_written: bool,
}

impl<'a> Group<'a> {
    pub(crate) fn new(writer: &'a Writer, cache: &RoomCache) -> Self {
        Self {
            writer,
            write: Write::new(cache.number.partition()),
            states: StateBuilder::new(&writer.store, cache.number),
            events: BTreeMap::new(),
            by_id: HashMap::new(),
            edges: NewEdges::new(),
            first_new_state: cache.head.next_state,
            resolved: HashMap::new(),
            pairs: HashMap::new(),
            members: HashMap::new(),
            servers: HashMap::new(),
            held: HashMap::new(),
            gaps: gaps::Gaps::new(),
            missing: Vec::new(),
            last: None,
            last_event_id: None,
            now_ms: writer.clock.now_ms(),
        }
    }

    /// The event that was added last.
    pub(crate) fn last_event_id(&self) -> Option<&EventId> {
        self.last_event_id.as_deref()
    }

    /// How many events the batch stores.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Adds an event of ours at the room's head: its rows to the batch, its effect to the cache. An error spoils both:
    /// neither may be used again.
    pub(crate) async fn append(
        &mut self,
        cache: &mut RoomCache,
        accepted: Accepted,
    ) -> Result<EventNumber, PlaceError> {
        let placing = Placing {
            event: accepted.event,
            verdict: Verdict::Accepted,
            number: None,
            auths: accepted.auths,
            prevs: cache.head.extremities.iter().map(|extremity| extremity.event).collect(),
            missing: Vec::new(),
            state_before: cache.head.state,
            redacting: accepted.redacts.map_or(Redacting::Nothing, Redacting::Event),
            sent_by: accepted.sent_by,
            guest: accepted.guest,
            origin: None,
            relay: false,
        };
        self.place(cache, placing).await
    }

    /// Adds an event at its place in the room's graph. An error spoils batch and cache.
    pub(crate) async fn place(&mut self, cache: &mut RoomCache, placing: Placing) -> Result<EventNumber, PlaceError> {
        let number = take_number(cache, &placing);
        let after = self.state_after(cache, &placing, number).await?;
        let is_accepted = placing.verdict == Verdict::Accepted;
        let is_shown = is_accepted && !matches!(placing.redacting, Redacting::Held(_));
        let header = self.header(&placing, &after, is_shown);
        // Resolving the states that now meet may ask for it.
        self.note(number, &header, &placing, None);
        let current = match is_accepted {
            true => self.advance(cache, &placing, number, after.version).await?,
            false => cache.head.state,
        };
        let is_news = is_shown || current != cache.head.state;
        let position = is_news.then(|| self.write.position());
        self.put(cache, number, &header, &placing, position.filter(|_| is_shown));
        if let Some(position) = position {
            let row = TimelineRow { event: is_shown.then_some(number), state: current };
            self.put_timeline(cache, row, position);
            let own = after.pair.filter(|_| after.version == current && placing.state_before == cache.head.state);
            let member = self.set_current(cache, current, own, Some((number, &placing)), position).await?;
            self.write.log(position, LogEntry::Event(EventNote { room: cache.number, event: row.event, member }));
            self.last = Some(position);
        }
        if is_accepted {
            self.put_gaps(cache, number, &placing, position.filter(|_| is_shown)).await?;
            for (redaction, position) in self.redact(cache, number, &placing).await? {
                self.put_gap_of_shown(cache, redaction, position).await?;
            }
        }
        Ok(number)
    }

    /// Makes the room's current state what its extremities resolve into, without an event that would be the occasion.
    /// Whether it changes. An error spoils batch and cache.
    pub(crate) async fn meet(&mut self, cache: &mut RoomCache) -> Result<bool, PlaceError> {
        let versions = self.states_after_extremities(cache).await?;
        let current = self.resolve(cache, versions).await?;
        if current == cache.head.state {
            return Ok(false);
        }
        let position = self.write.position();
        self.put_timeline(cache, TimelineRow { event: None, state: current }, position);
        let member = self.set_current(cache, current, None, None, position).await?;
        self.write.log(position, LogEntry::Event(EventNote { room: cache.number, event: None, member }));
        self.last = Some(position);
        Ok(true)
    }

    /// Stores an event because others cite it: its place in the room's graph is not known. Its auth events must be
    /// stored; it must not be.
    pub(crate) fn put_outlier(
        &mut self,
        cache: &mut RoomCache,
        event: Event,
        auths: Vec<EventNumber>,
        origin: Option<&OwnedServerName>,
    ) -> EventNumber {
        cache.is_ahead = true;
        let number = cache.head.next_event;
        cache.head.next_event = number.next();
        let placing = Placing {
            verdict: if event.rejected() { Verdict::Rejected } else { Verdict::Accepted },
            event,
            number: None,
            auths,
            prevs: Vec::new(),
            missing: Vec::new(),
            state_before: StateVersion::UNKNOWN,
            redacting: Redacting::Nothing,
            sent_by: None,
            guest: false,
            origin: origin.cloned(),
            relay: false,
        };
        let after = StateAfter { version: StateVersion::UNKNOWN, replaces: None, pair: None };
        let mut header = self.header(&placing, &after, false);
        header.flags = header.flags.with(EventFlags::OUTLIER);
        self.put(cache, number, &header, &placing, None);
        number
    }

    /// Completes the batch: the head and what it requires. Returns the head's bytes as far as they are known.
    pub(crate) fn finish(mut self, cache: &RoomCache) -> (Write, Finished) {
        self.put_waiting(cache);
        self.put_unset_pairs(cache);
        for (server, joined) in &self.servers {
            tables::put_room_server(&mut self.write, cache.number, server, *joined);
        }
        let key = tables::head_key(cache.number);
        self.write.require(Table::Rm, key.clone(), cache.head_bytes.clone());
        let last = self.last;
        match &last {
            Some(last) => self.write.put_at(Table::Rm, key, &cache.head, &[*last]),
            // The timeline ends where it did.
            None => self.write.put(Table::Rm, key, &cache.head),
        }
        self.states.finish(&mut self.write);
        for (number, InBatch { header, event, position }) in std::mem::take(&mut self.events) {
            if let Some(position) = position {
                self.write.keep_event(cache.number, number, header, event, position);
            }
        }
        (self.write, Finished { head: encode(&cache.head), last, resolved: self.resolved })
    }

    fn header(&self, placing: &Placing, after: &StateAfter, is_shown: bool) -> EventHeader {
        let flags = match placing.verdict {
            Verdict::Rejected => EventFlags::REJECTED,
            Verdict::SoftFailed => EventFlags::SOFT_FAILED,
            Verdict::Accepted if matches!(placing.redacting, Redacting::Held(_)) => EventFlags::HELD,
            Verdict::Accepted => EventFlags::default(),
        };
        EventHeader {
            position: 0,
            within: if is_shown { u32::MAX } else { 0 },
            flags,
            event_id: placing.event.event_id().to_string(),
            received_ts_ms: self.now_ms,
            state_before: placing.state_before,
            state_after: after.version,
            prevs: placing.prevs.clone(),
            auths: placing.auths.clone(),
            replaces: after.replaces,
            redacted_by: None,
            redacts: placing.redacting.target(),
            sent_by: placing.sent_by.clone(),
            origin: placing.origin.as_ref().map(|server| server.as_str().to_owned()),
            relay: placing.relay,
        }
    }

    /// Stores the event, or gives it its place if it is stored.
    fn put(
        &mut self,
        cache: &RoomCache,
        number: EventNumber,
        header: &EventHeader,
        placing: &Placing,
        position: Option<PositionIndex>,
    ) {
        let json = placing.event.json();
        if placing.number.is_some() {
            self.write.place_event(cache.number, number, header, json, position);
        } else {
            tables::put_event(&mut self.write, cache.number, number, header, json, position);
            if placing.event.is_state() {
                self.write.auth_edges(cache.number, number, &placing.auths);
            }
        }
        self.last_event_id = Some(placing.event.event_id().to_owned());
        self.note(number, header, placing, position);
    }

    /// Makes the event known to what follows in this batch.
    fn note(&mut self, number: EventNumber, header: &EventHeader, placing: &Placing, position: Option<PositionIndex>) {
        let event = placing.event.clone();
        if placing.number.is_none() && event.is_state() {
            self.edges.insert(number, placing.auths.clone());
        }
        self.by_id.insert(event.event_id().to_owned(), number);
        self.events.insert(number, InBatch { header: header.clone(), event, position });
    }

    fn put_timeline(&mut self, cache: &RoomCache, row: TimelineRow, position: PositionIndex) {
        let key = tables::timeline_key(cache.number, Order { position: 0, within: u32::MAX });
        self.write.put_filled(Table::Tl, key, encode(&row), Some((TIMELINE_POSITION_OFFSET, position)), &[]);
    }
}

/// The number of an event, its own if it has one.
fn take_number(cache: &mut RoomCache, placing: &Placing) -> EventNumber {
    cache.is_ahead = true;
    placing.number.unwrap_or_else(|| {
        let next = cache.head.next_event;
        cache.head.next_event = next.next();
        next
    })
}

/// The state after an event.
struct StateAfter {
    version: StateVersion,
    /// The event that it took the place of.
    replaces: Option<EventNumber>,
    /// The pair that it sets, if it does.
    pair: Option<StateKeyNumber>,
}

/// What is known of a batch when it is handed to the engine.
pub(crate) struct Finished {
    head: Bytes,
    last: Option<PositionIndex>,
    /// What states were resolved into: once it is committed, it is so for ever.
    pub(crate) resolved: HashMap<Vec<StateVersion>, StateVersion>,
}

impl Finished {
    /// The head's bytes as the engine has written them, and the position of the timeline's last change, if there is one.
    pub(crate) fn head_bytes(&self, committed: &Committed) -> (Bytes, Option<u64>) {
        const { assert!(Head::POSITIONS > 0, "the head's first position stands behind its version byte") };
        let Some(last) = self.last else { return (self.head.clone(), None) };
        let position = committed.first.0 + u64::from(last.0);
        let mut bytes = BytesMut::from(&self.head[..]);
        bytes[1..9].copy_from_slice(&position.to_be_bytes());
        (bytes.freeze(), Some(position))
    }
}

/// The extremities that an event of ours cites: all, so that the state before it is the room's. They are kept deepest
/// first.
pub(crate) fn cited(head: &Head) -> impl Iterator<Item = &Extremity> {
    head.extremities.iter()
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
