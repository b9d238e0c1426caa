//! History that is filled in: events with a place in the timeline's past, without effect on the present.

use hearth_ports::Table;
use hearth_store::{
    EventNumber, LoadError, Order, encode,
    tables::{self, BackwardRow, GapRow, TimelineRow},
};
use ruma::{EventId, OwnedEventId};

use super::{Group, PlaceError, Placing, Redacting, Verdict, take_number};
use crate::cache::RoomCache;

impl Group<'_> {
    /// Adds an event of the past, at this place of the timeline if it is accepted. The current state and the extremities
    /// stay as they are, and nobody is told. `filled`: the gap that is filled and will be moved. An error spoils batch and
    /// cache.
    pub(crate) async fn place_old(
        &mut self,
        cache: &mut RoomCache,
        placing: Placing,
        order: Order,
        filled: Option<Order>,
    ) -> Result<EventNumber, PlaceError> {
        let number = take_number(cache, &placing);
        let after = self.state_after(cache, &placing, number).await?;
        let is_accepted = placing.verdict == Verdict::Accepted;
        let is_shown = is_accepted && !matches!(placing.redacting, Redacting::Held(_));
        let mut header = self.header(&placing, &after, is_shown);
        if is_shown {
            (header.position, header.within) = (order.position, order.within);
            let row = TimelineRow { event: Some(number), state: after.version };
            self.write.put_bytes(Table::Tl, tables::timeline_key(cache.number, order), encode(&row));
        }
        self.put(cache, number, &header, &placing, None);
        if is_accepted {
            self.close_other_gap(cache, (number, placing.event.event_id()), filled).await?;
            // Who fills a gap sees to what is missing in front of what was fetched.
            drop(self.redact(cache, number, &placing).await?);
        }
        Ok(number)
    }

    /// Closes the gap in which an event of the past is missing, where that is another than the one that is being filled,
    /// which is moved: an event may be fetched for one and be missing in another, where it was cited meanwhile.
    async fn close_other_gap(
        &mut self,
        cache: &mut RoomCache,
        (number, id): (EventNumber, &EventId),
        filled: Option<Order>,
    ) -> Result<(), LoadError> {
        let Some(row) = self.backward(cache, id).await? else { return Ok(()) };
        let order = self.known(cache, row.cited_by).await?.header.order();
        if filled != Some(order) {
            self.close_gap(cache, id, row.cited_by).await?;
            self.cite_old(cache, row.cited_by, number).await?;
        }
        Ok(())
    }

    /// The event that cites one of the past now has it among its previous events.
    pub(crate) async fn cite_old(
        &mut self,
        cache: &RoomCache,
        citing: EventNumber,
        cited: EventNumber,
    ) -> Result<(), LoadError> {
        let known = self.known(cache, citing).await?;
        let mut header = known.header;
        if !header.prevs.contains(&cited) {
            header.prevs.push(cited);
            self.rewrite(cache, citing, header, known.event);
        }
        Ok(())
    }

    /// The gap at one place of the timeline is from now on at another, further down, in front of this event: these events
    /// are missing there. Without any it is closed.
    pub(crate) async fn move_gap(
        &mut self,
        cache: &mut RoomCache,
        from: Order,
        to: (Order, EventNumber),
        missing: &[OwnedEventId],
    ) -> Result<(), LoadError> {
        let room = cache.number;
        let row: Option<GapRow> = self.writer.store.get(Table::Tl, &tables::gap_key(room, from)).await?;
        let was_missing = row.map(|row| row.missing).unwrap_or_default();
        let (moved, new): (Vec<_>, Vec<_>) =
            missing.iter().cloned().partition(|id| was_missing.iter().any(|was| was == id));
        let mut missing = self.missing_nowhere_else(cache, &new).await?;
        missing.extend(moved);
        for event_id in was_missing {
            self.write.delete(Table::Tl, tables::backward_key(room, &event_id));
        }
        self.write.delete(Table::Tl, tables::gap_key(room, from));
        self.put_gap_of(cache, to.0, to.1, &missing).await
    }

    /// There is a gap below this place, in front of this event: these events are missing there, if any.
    pub(crate) async fn put_old_gap(
        &mut self,
        cache: &mut RoomCache,
        order: Order,
        cited_by: EventNumber,
        missing: &[OwnedEventId],
    ) -> Result<(), LoadError> {
        let missing = self.missing_nowhere_else(cache, missing).await?;
        self.put_gap_of(cache, order, cited_by, &missing).await
    }

    async fn put_gap_of(
        &mut self,
        cache: &mut RoomCache,
        order: Order,
        cited_by: EventNumber,
        missing: &[OwnedEventId],
    ) -> Result<(), LoadError> {
        if missing.is_empty() {
            return Ok(());
        }
        let room = cache.number;
        let row = GapRow { missing: missing.iter().map(|id| id.as_str().to_owned()).collect() };
        self.write.put(Table::Tl, tables::gap_key(room, order), &row);
        for event_id in missing {
            let row = BackwardRow { event_id: event_id.as_str().to_owned(), cited_by };
            self.write.put(Table::Tl, tables::backward_key(room, event_id.as_str()), &row);
        }
        cache.awaiting(&self.writer.store).await?.events = true;
        Ok(())
    }
}
