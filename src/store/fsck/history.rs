//! Gaps in timelines, and redactions that wait.

use hearth_ports::{Key, KeyRange, Table, Unavailable};

use super::{Pages, loaded, read, room::RoomCheck};
use crate::{
    EventNumber, Order, key,
    tables::{
        BackwardRow, EventFlags, GapRow, HeldRow, TimelineRow, backward_key, backward_prefix, held_key, held_prefix,
        timeline_key,
    },
};

impl RoomCheck<'_> {
    /// Each gap is in front of an event of the timeline, and what is missing in it leads to an event that cites it.
    pub(super) async fn check_gaps(&mut self) -> Result<(), Unavailable> {
        let mut pages = Pages::new(Table::Tl, KeyRange::prefix(key(b'G').room(self.room).build()));
        while let Some(page) = pages.next(self.store).await? {
            self.rows += page.len() as u64;
            for row in page {
                let Some(order) = row.key.get(9..).and_then(Order::from_bytes) else {
                    self.problem("the key of a gap does not read");
                    continue;
                };
                match read::<GapRow>(&row.value) {
                    Ok(gap) => self.check_gap(order, gap).await?,
                    Err(problem) => self.problem(problem),
                }
            }
        }
        self.check_backward().await
    }

    async fn check_gap(&mut self, order: Order, gap: GapRow) -> Result<(), Unavailable> {
        let timeline = self.store.engine().get(Table::Tl, &timeline_key(self.room, order)).await?;
        let timeline = timeline.and_then(|row| read::<TimelineRow>(&row).ok());
        if timeline.is_none_or(|row| row.event.is_none()) {
            self.problem(format!("the gap at position {} is in front of no event", order.position));
        }
        if gap.missing.is_empty() {
            self.problem(format!("nothing is missing in the gap at position {}", order.position));
        }
        let keys: Vec<Key> = gap.missing.iter().map(|id| backward_key(self.room, id)).collect();
        let rows = self.store.engine().multi_get(Table::Tl, &keys).await?;
        for (id, _) in gap.missing.iter().zip(rows).filter(|(_, row)| row.is_none()) {
            self.problem(format!("{id} is missing in a gap, but not among what is missing"));
        }
        Ok(())
    }

    async fn check_backward(&mut self) -> Result<(), Unavailable> {
        let mut pages = Pages::new(Table::Tl, KeyRange::prefix(backward_prefix(self.room)));
        while let Some(page) = pages.next(self.store).await? {
            self.rows += page.len() as u64;
            for row in page {
                let found = match read::<BackwardRow>(&row.value) {
                    Ok(found) if backward_key(self.room, &found.event_id) == row.key => found,
                    Ok(found) => {
                        self.problem(format!("{} is missing under a wrong key", found.event_id));
                        continue;
                    }
                    Err(problem) => {
                        self.problem(problem);
                        continue;
                    }
                };
                let id = &found.event_id;
                self.check_stored(found.cited_by, format_args!("{id} is missing and cited by"));
                let Ok(parsed) = <&ruma::EventId>::try_from(id.as_str()) else {
                    self.problem(format!("{id} is missing, but no id"));
                    continue;
                };
                let stored = loaded(self.store.event_by_id(self.room, parsed).await)?.ok().flatten();
                if stored.is_some_and(|stored| stored.accepted()) {
                    self.problem(format!("{id} is said to be missing"));
                }
            }
        }
        Ok(())
    }

    /// Redactions that wait are stored, wait, and name what they wait for.
    pub(super) async fn check_held(&mut self) -> Result<(), Unavailable> {
        let mut pages = Pages::new(Table::Tl, KeyRange::prefix(held_prefix(self.room)));
        while let Some(page) = pages.next(self.store).await? {
            self.rows += page.len() as u64;
            for row in page {
                match read::<HeldRow>(&row.value) {
                    Ok(held) => self.check_redactions(&row.key, &held.redactions).await?,
                    Err(problem) => self.problem(problem),
                }
            }
        }
        Ok(())
    }

    async fn check_redactions(&mut self, key: &Key, redactions: &[EventNumber]) -> Result<(), Unavailable> {
        for (number, stored) in
            redactions.iter().zip(loaded(self.store.events(self.room, redactions).await)?.unwrap_or_default())
        {
            let is_held = stored.is_some_and(|stored| {
                let flags = stored.header.flags;
                let target = stored.event.redacts().map(|target| held_key(self.room, target.as_str()));
                // A redaction that was redacted itself no longer says what it redacts, in versions before 11.
                let is_silent = target.is_none() && flags.has(EventFlags::REDACTED);
                flags.has(EventFlags::HELD) && (is_silent || target.as_ref() == Some(key))
            });
            if !is_held {
                self.problem(format!("event {} is said to wait for its target", number.0));
            }
        }
        Ok(())
    }
}
