//! Gaps: events that are cited but not here, and what becomes of them when they come.

use std::collections::HashSet;

use hearth_ports::Table;
use hearth_store::{
    EventNumber, LoadError, Order, PositionIndex,
    tables::{self, BackwardRow, GapRow, HeldRow},
};
use ruma::{EventId, OwnedEventId};

use super::{Group, Placing};
use crate::cache::RoomCache;

/// Hidden events behind which it is looked for what is missing. What lies behind more of them is asked for by its id, if at
/// all.
const HIDDEN_MAX: usize = 100;

/// Events that may be missing in one gap when it is noted: five events may cite so many, and a row has place for 300 of the
/// longest ids.
const MISSING_MAX: usize = 100;

impl Group<'_> {
    /// Whether an event here follows this one, although this one is only now coming.
    pub(super) async fn is_followed(&self, cache: &mut RoomCache, id: &EventId) -> Result<bool, LoadError> {
        Ok(self.missing.iter().any(|missing| missing == id) || self.backward(cache, id).await?.is_some())
    }

    /// Notes what the event cites and is not here, and that it is here itself. `position`: its place in the timeline.
    pub(super) async fn put_gaps(
        &mut self,
        cache: &mut RoomCache,
        number: EventNumber,
        placing: &Placing,
        position: Option<PositionIndex>,
    ) -> Result<(), LoadError> {
        if placing.origin.is_some() {
            let id = placing.event.event_id();
            if let Some(row) = self.backward(cache, id).await? {
                self.close_gap(cache, id, row.cited_by).await?;
                // Whoever walks back from there comes to it.
                self.cite_old(cache, row.cited_by, number).await?;
            }
        }
        let Some(position) = position else { return Ok(()) };
        self.put_gap(cache, (number, position), &placing.prevs, placing.missing.clone()).await
    }

    /// Notes what is not here in front of an event that was hidden, and has got a place in the timeline now.
    pub(super) async fn put_gap_of_shown(
        &mut self,
        cache: &mut RoomCache,
        number: EventNumber,
        position: PositionIndex,
    ) -> Result<(), LoadError> {
        let known = self.known(cache, number).await?;
        let mut missing = Vec::new();
        for id in known.event.prev_events() {
            if self.placed(cache, id).await?.is_none() {
                missing.push(id.clone());
            }
        }
        self.put_gap(cache, (number, position), &known.header.prevs, missing).await
    }

    /// There is a gap in front of an event if what it cites is missing. A hidden event has no place in the timeline at which
    /// a gap could be noted: what is missing in front of it is missing in front of the first that is shown behind it.
    async fn put_gap(
        &mut self,
        cache: &mut RoomCache,
        (number, position): (EventNumber, PositionIndex),
        prevs: &[EventNumber],
        mut missing: Vec<OwnedEventId>,
    ) -> Result<(), LoadError> {
        missing.extend(self.missing_before_hidden(cache, prevs).await?);
        let mut missing = self.missing_nowhere_else(cache, &missing).await?;
        missing.truncate(MISSING_MAX);
        if !missing.is_empty() {
            tables::put_gap(&mut self.write, cache.number, number, position, &missing);
            self.missing.extend(missing);
            cache.awaiting(&self.writer.store).await?.events = true;
        }
        Ok(())
    }

    /// What is cited and not here before those of these events that nobody is shown.
    async fn missing_before_hidden(
        &self,
        cache: &RoomCache,
        prevs: &[EventNumber],
    ) -> Result<Vec<OwnedEventId>, LoadError> {
        let (mut open, mut seen, mut missing) = (prevs.to_vec(), HashSet::new(), Vec::new());
        while let Some(number) = open.pop() {
            if seen.len() == HIDDEN_MAX || !seen.insert(number) {
                continue;
            }
            let known = self.known(cache, number).await?;
            if known.is_shown() {
                continue;
            }
            for id in known.event.prev_events() {
                match self.placed(cache, id).await? {
                    Some(prev) => open.push(prev),
                    None => missing.push(id.clone()),
                }
            }
        }
        Ok(missing)
    }

    /// The number of an event whose place in the graph is known.
    async fn placed(&self, cache: &RoomCache, id: &EventId) -> Result<Option<EventNumber>, LoadError> {
        let Some(number) = self.number_of(cache, id).await? else { return Ok(None) };
        Ok(self.known(cache, number).await?.is_placed().then_some(number))
    }

    /// Those of the events that are in no gap yet, each once. An event that several cite is missing in one gap: when it
    /// comes, that one is found and closed.
    pub(super) async fn missing_nowhere_else(
        &self,
        cache: &mut RoomCache,
        ids: &[OwnedEventId],
    ) -> Result<Vec<OwnedEventId>, LoadError> {
        let mut missing = Vec::new();
        for id in ids {
            if !missing.contains(id) && !self.is_followed(cache, id).await? {
                missing.push(id.clone());
            }
        }
        Ok(missing)
    }

    /// An event for which there is a gap is here.
    pub(super) async fn close_gap(
        &mut self,
        cache: &RoomCache,
        id: &EventId,
        cited_by: EventNumber,
    ) -> Result<(), LoadError> {
        self.write.delete(Table::Tl, tables::backward_key(cache.number, id.as_str()));
        let order = self.known(cache, cited_by).await?.header.order();
        let missing = match self.gaps.get(&order) {
            Some(missing) => missing.clone(),
            None => {
                let row: Option<GapRow> =
                    self.writer.store.get(Table::Tl, &tables::gap_key(cache.number, order)).await?;
                row.map(|row| row.missing).unwrap_or_default()
            }
        };
        self.gaps.insert(order, missing.into_iter().filter(|missing| missing != id.as_str()).collect());
        Ok(())
    }

    pub(super) async fn backward(&self, cache: &mut RoomCache, id: &EventId) -> Result<Option<BackwardRow>, LoadError> {
        if !cache.awaiting(&self.writer.store).await?.events {
            return Ok(None);
        }
        self.writer.store.get(Table::Tl, &tables::backward_key(cache.number, id.as_str())).await
    }

    /// Writes what of gaps and of waiting redactions has changed.
    pub(super) fn put_waiting(&mut self, cache: &RoomCache) {
        for (order, missing) in std::mem::take(&mut self.gaps) {
            let key = tables::gap_key(cache.number, order);
            match missing.is_empty() {
                true => self.write.delete(Table::Tl, key),
                false => self.write.put(Table::Tl, key, &GapRow { missing }),
            }
        }
        for (target, redactions) in std::mem::take(&mut self.held) {
            let key = tables::held_key(cache.number, &target);
            match redactions.is_empty() {
                true => self.write.delete(Table::Tl, key),
                false => self.write.put(Table::Tl, key, &HeldRow { redactions }),
            }
        }
    }
}

/// Where there are gaps that this batch makes smaller, and what remains missing there.
pub(super) type Gaps = std::collections::BTreeMap<Order, Vec<String>>;
