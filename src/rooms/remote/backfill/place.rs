//! Putting what was fetched into a gap.

use std::collections::{BTreeSet, HashMap};

use hearth_ports::Table;
use hearth_store::{
    CommitError, EventNumber, LoadError, Order, RoomNumber, StateVersion,
    tables::{BackwardRow, backward_key},
};
use ruma::OwnedEventId;

use super::{Asked, KEPT_MAX, MISSING_MAX, Past, Target};
use crate::{
    SendError,
    append::{Group, PlaceError, Placing, Redacting, Verdict, member_in},
    cache::RoomCache,
    receive::{Arriving, Before},
    rooms::Rooms,
};

/// How often a batch is tried again that lost a race.
const ATTEMPTS_MAX: usize = 4;

impl Rooms {
    /// Puts what was fetched into a gap, in one batch.
    pub(in crate::remote) async fn store_past(
        &self,
        room: RoomNumber,
        into: Target<'_>,
        past: &Past,
    ) -> Result<usize, SendError> {
        let writer = &self.writer;
        let users: Vec<_> = past.events.iter().filter_map(|arriving| member_in(&arriving.event)).collect();
        writer.store.ensure_user_numbers(&users).await?;
        let active = writer.active(room);
        for _ in 0..ATTEMPTS_MAX {
            let mut slot = active.cache.lock().await;
            let cache = writer.load(&mut slot, room).await?;
            let mut group = Group::new(writer, cache);
            let placed = match into {
                Target::Top { gap, missing, asked } => {
                    self.place_past(cache, &mut group, (gap, missing, asked), past).await
                }
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
        (gap, missing, asked): (Order, &[OwnedEventId], &Asked),
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
            let Some((number, is_shown)) = self.place_old(cache, group, arriving, (order, Some(gap))).await? else {
                continue;
            };
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
        let cited: BTreeSet<&OwnedEventId> = cited.flat_map(|arriving| arriving.event.prev_events()).collect();
        let new = cited.into_iter().filter(|id| !missing.contains(id));
        let candidates: Vec<OwnedEventId> =
            new.chain(missing).filter(|id| !placed.contains_key(*id)).cloned().collect();
        let are_placed = self.are_placed(cache.number, &candidates).await?;
        let still = candidates.into_iter().zip(are_placed).filter(|(_, is)| !is).map(|(id, _)| id);
        let still = still_missing(still.collect(), asked);
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
        let Some((number, _)) = self.place_old(cache, group, arriving, (order, None)).await? else { return Ok(0) };
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

    /// Decides about an event of the past and adds it to the batch, at a place of the gap that is filled and then moved, if
    /// one is; `None`: it cannot be decided. Returns its number, and whether it is shown.
    async fn place_old(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        arriving: &Arriving,
        (order, filled): (Order, Option<Order>),
    ) -> Result<Option<(EventNumber, bool)>, PlaceError> {
        let (writer, event) = (&self.writer, &arriving.event);
        let number = group.number_of(cache, event.event_id()).await?;
        if let Some(number) = number
            && group.known(cache, number).await?.is_placed()
        {
            // It came by another way meanwhile.
            return Ok(None);
        }
        let Some(cited) = writer.cited(cache, group, event).await? else { return Ok(None) };
        let before = match event.is_create() && event.prev_events().is_empty() {
            true => Some(Before { state: StateVersion::EMPTY, prevs: Vec::new(), missing: Vec::new() }),
            false => writer.before(cache, group, arriving).await?,
        };
        let Some(before) = before else { return Ok(None) };
        let cited_allow = cited.check(event).is_ok();
        let is_allowed = cited_allow && writer.allows(cache, group, event, before.state).await?;
        if cited_allow && !is_allowed && arriving.is_told_by_another() {
            return Ok(None);
        }
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
            auths: cited.numbers,
            prevs: before.prevs,
            missing: before.missing,
            state_before: before.state,
            redacting,
            sent_by: None,
            guest: false,
            origin: arriving.origin.clone(),
            relay: false,
        };
        let number = group.place_old(cache, placing, order, filled).await?;
        Ok(Some((number, is_shown)))
    }
}

/// What to search for the next time, in this order: what was not asked for yet, then what was in vain, as much of it as may
/// stay.
fn still_missing(missing: Vec<OwnedEventId>, asked: &Asked) -> Vec<OwnedEventId> {
    let (in_vain, mut still): (Vec<_>, Vec<_>) = missing.into_iter().partition(|id| asked.ids.contains(id));
    let room = MISSING_MAX.saturating_sub(still.len());
    still.extend(in_vain.into_iter().filter(|id| !asked.nowhere.contains(id)).take(room));
    still.truncate(KEPT_MAX);
    still
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn ids(name: &str, count: usize) -> Vec<OwnedEventId> {
        (0..count).map(|nth| OwnedEventId::try_from(format!("${name}{nth}")).unwrap()).collect()
    }

    #[test]
    fn what_was_not_asked_for_is_never_forgotten_for_what_was() {
        let (new, asked_ids, nowhere) = (ids("new", 60), ids("asked", 80), ids("nowhere", 30));
        let asked = Asked {
            ids: asked_ids.iter().chain(&nowhere).cloned().collect(),
            nowhere: nowhere.iter().cloned().collect::<HashSet<_>>(),
        };
        let all: Vec<OwnedEventId> = nowhere.iter().chain(&asked_ids).chain(&new).cloned().collect();
        let still = still_missing(all, &asked);
        assert_eq!((&still[..60], &still[60..]), (&new[..], &asked_ids[..40]));
        let many = ids("new", 120);
        assert_eq!(still_missing(many.iter().chain(&asked_ids).cloned().collect(), &asked), many);
        assert_eq!(still_missing(ids("new", 1_000), &asked).len(), KEPT_MAX);
    }
}
