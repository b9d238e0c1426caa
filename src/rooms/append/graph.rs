//! The room's graph as a batch extends it: events, the states after them, extremities.

use std::collections::{HashMap, HashSet};

use hearth_core::Event;
use hearth_store::{
    Corrupt, EventNumber, LoadError, StateKeyNumber, StateVersion,
    tables::{EventFlags, EventHeader, Extremity},
};
use ruma::{EventId, OwnedEventId, OwnedServerName};

use super::{Group, NewPair, PlaceError, Placing, StateAfter, Verdict};
use crate::cache::{Entry, RoomCache};

/// Extremities that a room keeps at most: as many as an event may cite. Of more, those go first that say what others say, and
/// then those of the server that has most: who sends many branches pushes out their own.
/// [Event format](https://spec.matrix.org/v1.19/rooms/v1/#event-format-1).
const EXTREMITIES_MAX: usize = 20;

/// Events without effect that are followed back to those that have one. Longer chains of them leave extremities behind
/// that the next event of ours merges.
const WITHOUT_EFFECT_MAX: usize = 100;

/// Events whose numbers are read at once.
const IDS_AT_ONCE: usize = 2_000;

/// A stored event, or one that the batch stores.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) header: EventHeader,
    pub(crate) event: Event,
}

impl Known {
    pub(crate) fn is(&self, flags: EventFlags) -> bool {
        self.header.flags.has(flags)
    }

    /// Whether its place in the room's graph is known, and the state after it.
    pub(crate) fn is_placed(&self) -> bool {
        !self.is(EventFlags::OUTLIER) && self.header.state_after != StateVersion::UNKNOWN
    }

    /// Whether it has a place in the timeline, or gets it from this batch.
    pub(super) fn is_shown(&self) -> bool {
        self.header.within != 0
    }

    /// Whether no event of ours may cite it.
    fn is_without_effect(&self) -> bool {
        self.is(EventFlags::REJECTED) || self.is(EventFlags::SOFT_FAILED) || self.is(EventFlags::OUTLIER)
    }
}

impl Group<'_> {
    /// The number of an event; `None` if it is not stored.
    pub(crate) async fn number_of(&self, cache: &RoomCache, id: &EventId) -> Result<Option<EventNumber>, LoadError> {
        match self.by_id.get(id) {
            Some(number) => Ok(Some(*number)),
            None => self.writer.store.event_number(cache.number, id).await,
        }
    }

    /// The numbers of those of the events that are stored, in their order.
    pub(crate) async fn numbers_of(
        &self,
        cache: &RoomCache,
        ids: &[OwnedEventId],
    ) -> Result<Vec<EventNumber>, LoadError> {
        let mut numbers = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS_AT_ONCE) {
            let stored = self.writer.store.event_numbers(cache.number, ids).await?;
            let each = ids.iter().zip(stored).filter_map(|(id, stored)| self.by_id.get(id).copied().or(stored));
            numbers.extend(each);
        }
        Ok(numbers)
    }

    /// An event that has a number.
    pub(crate) async fn known(&self, cache: &RoomCache, number: EventNumber) -> Result<Known, LoadError> {
        if let Some(known) = self.events.get(&number) {
            return Ok(Known { header: known.header.clone(), event: known.event.clone() });
        }
        let stored = self.writer.store.event(cache.number, number).await?.ok_or_else(|| Corrupt {
            what: "event",
            reason: format!("room {:x} has no event {}", cache.number.0, number.0),
        })?;
        Ok(Known { header: stored.header.clone(), event: stored.event.clone() })
    }

    /// Whether this batch stores or rewrites the event.
    pub(crate) fn is_in_batch(&self, number: EventNumber) -> bool {
        self.events.contains_key(&number)
    }

    /// The events of this batch.
    pub(crate) fn new_events(&self) -> impl Iterator<Item = &Event> {
        self.events.values().map(|known| &known.event)
    }

    /// The number of a pair of type and state key, given now if it has none.
    pub(crate) async fn state_key(
        &mut self,
        cache: &mut RoomCache,
        kind: &str,
        state_key: &str,
    ) -> Result<StateKeyNumber, LoadError> {
        if let Some(number) = self.known_state_key(cache, kind, state_key).await? {
            return Ok(number);
        }
        cache.is_ahead = true;
        let number = cache.head.next_state_key;
        cache.head.next_state_key = number.next();
        self.put_pair(cache, number, kind, state_key);
        self.pairs.insert(number, NewPair { kind: kind.into(), state_key: state_key.into(), is_written: false });
        let row = super::current::unset(number);
        cache.set(kind, state_key, Entry { row: Some(row), in_force: None });
        Ok(number)
    }

    /// The number of a pair; `None` if no event ever set it.
    pub(crate) async fn known_state_key(
        &self,
        cache: &RoomCache,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyNumber>, LoadError> {
        match cache.known(kind, state_key) {
            Some(entry) => Ok(entry.row.map(|row| row.state_key)),
            None if cache.head_bytes.is_none() => Ok(None),
            None => self.writer.store.state_key_number(cache.number, kind, state_key).await,
        }
    }

    /// The event that a version of the state has for a pair.
    pub(crate) async fn state_event(
        &self,
        cache: &RoomCache,
        version: StateVersion,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Event>, LoadError> {
        let Some(pair) = self.known_state_key(cache, kind, state_key).await? else { return Ok(None) };
        match self.states.get(version, pair).await? {
            Some(number) => Ok(Some(self.known(cache, number).await?.event)),
            None => Ok(None),
        }
    }

    /// "If E is a state event, then S′(E) is S(E), except that its entry is replaced"; a rejected one leaves it as it is.
    pub(super) async fn state_after(
        &mut self,
        cache: &mut RoomCache,
        placing: &Placing,
        number: EventNumber,
    ) -> Result<StateAfter, LoadError> {
        let before = placing.state_before;
        let Some((kind, state_key)) = placing.event.state_pair().filter(|_| placing.verdict != Verdict::Rejected)
        else {
            return Ok(StateAfter { version: before, replaces: None, pair: None });
        };
        let pair = self.state_key(cache, kind, state_key).await?;
        let replaces = match cache.known(kind, state_key).filter(|_| before == cache.head.state) {
            Some(entry) => entry.in_force.as_ref().map(|in_force| in_force.number),
            None => self.states.get(before, pair).await?,
        };
        let (change, new) = ([(pair, Some(number))], cache.head.next_state);
        let version = match placing.number {
            None => self.states.apply(before, &change, new).await?,
            // Stored before: some state may have it already.
            Some(_) => self.states.apply_or_find(before, &change, new).await?,
        };
        if version == new {
            cache.head.next_state = new.next();
        }
        Ok(StateAfter { version, replaces, pair: Some(pair) })
    }

    /// The accepted event becomes an extremity in place of those that it follows. Returns the room's state now.
    ///
    /// One that something here follows already, and before which something is missing, changes nothing: what follows it
    /// stands on a state that another server has told, and must not take the place of extremities whose state we know by
    /// following one event after the other. If nothing is missing before it, we know its state in this way, and it stands
    /// beside what follows it.
    pub(super) async fn advance(
        &mut self,
        cache: &mut RoomCache,
        placing: &Placing,
        number: EventNumber,
        state_after: StateVersion,
    ) -> Result<StateVersion, PlaceError> {
        let is_told = !placing.missing.is_empty();
        if is_told && placing.origin.is_some() && self.is_followed(cache, placing.event.event_id()).await? {
            return Ok(cache.head.state);
        }
        let followed = self.followed(cache, placing).await?;
        let mut extremities = std::mem::take(&mut cache.head.extremities);
        extremities.retain(|extremity| !followed.contains(&extremity.event));
        let (event_id, depth) = (placing.event.event_id().to_string(), placing.event.depth());
        extremities.insert(0, Extremity { event: number, event_id, depth });
        while extremities.len() > EXTREMITIES_MAX {
            let superfluous = self.superfluous(cache, &extremities, placing, (number, state_after)).await?;
            extremities.retain(|extremity| extremity.event != superfluous);
        }
        // Stable: of equal depth the newest is first.
        extremities.sort_by_key(|extremity| std::cmp::Reverse(extremity.depth));
        if cache.version.has_chosen_event_ids() {
            cache.extremity_hashes.retain(|id, _| extremities.iter().any(|known| known.event_id == id.as_str()));
            cache.extremity_hashes.insert(placing.event.event_id().to_owned(), placing.event.reference_hash());
        }
        let mut versions = Vec::with_capacity(extremities.len());
        for extremity in &extremities {
            versions.push(match extremity.event == number {
                true => state_after,
                false => self.known(cache, extremity.event).await?.header.state_after,
            });
        }
        cache.head.extremities = extremities;
        self.resolve(cache, versions).await
    }

    /// The states that meet in the room's current one.
    pub(crate) async fn states_after_extremities(&self, cache: &RoomCache) -> Result<Vec<StateVersion>, LoadError> {
        let mut versions = Vec::with_capacity(cache.head.extremities.len() + 1);
        for extremity in &cache.head.extremities {
            versions.push(self.known(cache, extremity.event).await?.header.state_after);
        }
        Ok(versions)
    }

    /// The extremity that is missed least, never the new one: the oldest of those after which the state is the same as after
    /// another; else the oldest of the server that has most of them.
    async fn superfluous(
        &self,
        cache: &RoomCache,
        extremities: &[Extremity],
        placing: &Placing,
        (new, state_after): (EventNumber, StateVersion),
    ) -> Result<EventNumber, LoadError> {
        let mut known = Vec::with_capacity(extremities.len());
        for extremity in extremities {
            known.push(match extremity.event == new {
                true => (new, state_after, placing.event.sender().server_name().to_owned()),
                false => {
                    let known = self.known(cache, extremity.event).await?;
                    (extremity.event, known.header.state_after, known.event.sender().server_name().to_owned())
                }
            });
        }
        let (mut states, mut servers) = (HashMap::new(), HashMap::new());
        for (_, state, server) in &known {
            *states.entry(state).or_insert(0) += 1;
            *servers.entry(server).or_insert(0) += 1;
        }
        let rank = |(event, state, server): &(EventNumber, StateVersion, OwnedServerName)| {
            (std::cmp::Reverse(states[state] > 1), std::cmp::Reverse(servers[server]), *event)
        };
        let first = known.iter().filter(|(event, ..)| *event != new).min_by_key(|known| rank(known));
        Ok(first.map_or(new, |(event, ..)| *event))
    }

    /// The events that this one follows directly, or over events without effect alone.
    async fn followed(&self, cache: &RoomCache, placing: &Placing) -> Result<HashSet<EventNumber>, LoadError> {
        let mut followed = HashSet::new();
        let mut open = placing.prevs.clone();
        let mut steps = 0;
        while let Some(prev) = open.pop() {
            let is_extremity = cache.head.extremities.iter().any(|extremity| extremity.event == prev);
            if !followed.insert(prev) || is_extremity || steps == WITHOUT_EFFECT_MAX {
                continue;
            }
            let known = self.known(cache, prev).await?;
            if known.is_without_effect() {
                steps += 1;
                open.extend(known.header.prevs);
            }
        }
        Ok(followed)
    }
}
