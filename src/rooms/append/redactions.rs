//! Redactions: they take effect once they and their targets are here and valid, and are shown to nobody before.
//! [Handling redactions](https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions).

use hearth_core::{Event, PowerLevels, redact};
use hearth_ports::Table;
use hearth_store::{
    EventNote, EventNumber, LoadError, LogEntry, PositionIndex, StateVersion,
    tables::{self, EventFlags, EventHeader, HeldRow, TimelineRow},
};
use ruma::OwnedEventId;

use super::{Group, InBatch, Known, Placing};
use crate::cache::RoomCache;

/// Redactions that wait for one event. Of more the later ones never take effect.
const HELD_MAX: usize = 100;

/// What a redaction does. Other events redact nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redacting {
    /// Nothing; it is shown.
    Nothing,
    /// It takes effect on this event.
    Event(EventNumber),
    /// Nothing, and it is not shown: its target is not here, or (`None`) not its sender's to redact.
    Held(Option<OwnedEventId>),
}

impl Redacting {
    pub(super) fn target(&self) -> Option<EventNumber> {
        match self {
            Self::Event(target) => Some(*target),
            Self::Nothing | Self::Held(_) => None,
        }
    }
}

impl Group<'_> {
    /// Whether a redaction of this batch already took effect on the event.
    pub(crate) fn has_redacted(&self, event: EventNumber) -> bool {
        self.events.get(&event).is_some_and(|known| known.header.flags.has(EventFlags::REDACTED))
    }

    /// What an event of another server redacts, if it is accepted.
    pub(crate) async fn redacting_of(
        &self,
        cache: &RoomCache,
        event: &Event,
        state_before: StateVersion,
    ) -> Result<Redacting, LoadError> {
        if event.kind() != "m.room.redaction" {
            return Ok(Redacting::Nothing);
        }
        let Some(id) = event.redacts() else { return Ok(Redacting::Held(None)) };
        let Some(number) = self.number_of(cache, id).await? else { return Ok(Redacting::Held(Some(id.to_owned()))) };
        let target = self.known(cache, number).await?;
        if !target.is_placed() || target.is(EventFlags::REJECTED) {
            return Ok(Redacting::Held(Some(id.to_owned())));
        }
        if !self.may_redact(cache, (event, state_before), &target.event).await? {
            return Ok(Redacting::Held(None));
        }
        let is_done = target.is(EventFlags::REDACTED) || target.event.is_create();
        Ok(if is_done { Redacting::Nothing } else { Redacting::Event(number) })
    }

    /// Lets the event redact what it redacts, and be redacted by what waits for it. Returns the redactions that have waited
    /// and are shown now, and where.
    pub(super) async fn redact(
        &mut self,
        cache: &mut RoomCache,
        number: EventNumber,
        placing: &Placing,
    ) -> Result<Vec<(EventNumber, PositionIndex)>, LoadError> {
        if let Redacting::Event(target) = &placing.redacting {
            self.redact_target(cache, number, *target).await?;
        }
        // For an event of ours nothing can have waited: we have just named it.
        if placing.origin.is_none() {
            return Ok(Vec::new());
        }
        if let Redacting::Held(Some(target)) = &placing.redacting {
            let mut held = self.held_for(cache, target.as_str()).await?;
            if held.len() < HELD_MAX {
                held.push(number);
                self.held.insert(target.to_string(), held);
                cache.awaiting(&self.writer.store).await?.redactions = true;
            }
        }
        self.release_held(cache, number, &placing.event).await
    }

    async fn redact_target(
        &mut self,
        cache: &mut RoomCache,
        redaction: EventNumber,
        number: EventNumber,
    ) -> Result<(), LoadError> {
        let target = self.known(cache, number).await?;
        if target.is(EventFlags::REDACTED) {
            return Ok(());
        }
        let redacted = redact(&target.event);
        let header = EventHeader {
            flags: target.header.flags.with(EventFlags::REDACTED),
            redacted_by: Some(redaction),
            ..target.header
        };
        cache.replace_redacted(&redacted);
        self.rewrite(cache, number, header, redacted);
        Ok(())
    }

    /// The redactions that waited for this event take effect, if they may.
    async fn release_held(
        &mut self,
        cache: &mut RoomCache,
        target: EventNumber,
        event: &Event,
    ) -> Result<Vec<(EventNumber, PositionIndex)>, LoadError> {
        let held = self.held_for(cache, event.event_id().as_str()).await?;
        let mut shown = Vec::new();
        if held.is_empty() {
            return Ok(shown);
        }
        self.held.insert(event.event_id().to_string(), Vec::new());
        for redaction in held {
            let known = self.known(cache, redaction).await?;
            if !self.may_redact(cache, (&known.event, known.header.state_before), event).await? || event.is_create() {
                continue;
            }
            self.redact_target(cache, redaction, target).await?;
            shown.push((redaction, self.show_redaction(cache, redaction, known, target)));
        }
        Ok(shown)
    }

    /// A redaction that has waited gets its place in the timeline.
    fn show_redaction(
        &mut self,
        cache: &RoomCache,
        number: EventNumber,
        known: Known,
        target: EventNumber,
    ) -> PositionIndex {
        let position = self.write.position();
        let flags = known.header.flags.without(EventFlags::HELD);
        let header = EventHeader { flags, within: u32::MAX, redacts: Some(target), ..known.header };
        self.write.place_event(cache.number, number, &header, known.event.json(), Some(position));
        self.events.insert(number, InBatch { header, event: known.event, position: Some(position) });
        self.put_timeline(cache, TimelineRow { event: Some(number), state: cache.head.state }, position);
        let note = EventNote { room: cache.number, event: Some(number), member: None };
        self.write.log(position, LogEntry::Event(note));
        self.last = Some(position);
        position
    }

    /// Stores an event in another form, at the place that it has.
    pub(super) fn rewrite(&mut self, cache: &RoomCache, number: EventNumber, header: EventHeader, event: Event) {
        let position = self.events.get(&number).and_then(|known| known.position);
        match position {
            Some(_) => self.write.place_event(cache.number, number, &header, event.json(), position),
            None => self.write.rewrite_event(cache.number, number, &header, event.json()),
        }
        self.events.insert(number, InBatch { header, event, position });
    }

    /// "The server applies the redaction if the power level of the redaction event's sender is greater than or equal to
    /// the redact level, or the domain of the redaction event's sender matches that of the original event's sender." In
    /// room versions 1 and 2 the authorisation rules have said so.
    async fn may_redact(
        &self,
        cache: &RoomCache,
        (redaction, state_before): (&Event, StateVersion),
        target: &Event,
    ) -> Result<bool, LoadError> {
        if cache.version.rules().authorization.special_case_room_redaction
            || redaction.sender().server_name() == target.sender().server_name()
        {
            return Ok(true);
        }
        let Some(create) = self.state_event(cache, state_before, "m.room.create", "").await? else { return Ok(false) };
        let levels = self.state_event(cache, state_before, "m.room.power_levels", "").await?;
        Ok(PowerLevels::of(&create, levels.as_ref(), cache.version).can_redact(redaction.sender()))
    }

    async fn held_for(&self, cache: &mut RoomCache, target: &str) -> Result<Vec<EventNumber>, LoadError> {
        if let Some(held) = self.held.get(target) {
            return Ok(held.clone());
        }
        if !cache.awaiting(&self.writer.store).await?.redactions {
            return Ok(Vec::new());
        }
        let row: Option<HeldRow> = self.writer.store.get(Table::Tl, &tables::held_key(cache.number, target)).await?;
        Ok(row.map(|row| row.redactions).unwrap_or_default())
    }
}
