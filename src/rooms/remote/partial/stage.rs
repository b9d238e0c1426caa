//! What comes of a room's state is stored as it comes, in no order: only which event rests on which is kept in memory.

use std::collections::HashMap;

use bytes::Bytes;
use hearth_ports::{EventBytes, KeyRange, Table};
use hearth_store::{
    EventNumber, RoomNumber, Write, id16,
    tables::{staged_key, staged_prefix},
};
use ruma::{OwnedEventId, ServerName};

use super::Job;
use crate::{
    SendError,
    receive::{Arriving, Outcome, Place},
    remote::send_error,
    rooms::Rooms,
};

/// Events of one answer. The largest public rooms have some 200,000; at 60 bytes of memory each.
const EVENTS_MAX: usize = 1_000_000;

/// Events that are looked at together.
const EVENTS_AT_ONCE: usize = 500;

/// A batch of so many bytes takes no more events; engines like batches of at most 1 MB.
const BATCH_BYTES: usize = 700_000;

/// Rows that are deleted at once.
const DELETED_AT_ONCE: usize = 1_000;

/// Progress is told after so many events.
const TOLD_EVERY: usize = 20_000;

/// An event id, short.
type Short = [u8; 16];

/// What has come.
#[derive(Default)]
pub(super) struct Staging {
    places: HashMap<Short, u32>,
    events: Vec<Staged>,
    /// The auth events of those that are staged, one after the other.
    auths: Vec<Short>,
    /// A user of the server that tells the state is joined in it.
    names_teller: bool,
}

/// An event that has come.
struct Staged {
    /// Where its auth events begin; they end where those of the next begin.
    auths: u32,
    /// Its number, if it was stored before: then it is not staged.
    number: Option<EventNumber>,
    /// A membership that is part of the state.
    is_member: bool,
}

impl Staging {
    /// The auth events that are staged too.
    fn auths_of(&self, place: u32) -> &[Short] {
        let end = self.events.get(place as usize + 1).map_or(self.auths.len(), |next| next.auths as usize);
        &self.auths[self.events[place as usize].auths as usize..end]
    }

    /// The places of those that are not stored, each behind its auth events. Where they go round in a circle, one comes too
    /// early, and will be refused.
    fn order(&self) -> Vec<u32> {
        let mut order = Vec::with_capacity(self.events.len());
        let mut is_met: Vec<bool> = self.events.iter().map(|staged| staged.number.is_some()).collect();
        let mut path: Vec<(u32, usize)> = Vec::new();
        for first in 0..self.events.len() {
            if std::mem::replace(&mut is_met[first], true) {
                continue;
            }
            path.push((u32::try_from(first).expect("there are at most EVENTS_MAX"), 0));
            while let Some((place, next)) = path.last_mut() {
                match self.auths_of(*place).get(*next) {
                    Some(id) => {
                        *next += 1;
                        if let Some(below) = self.places.get(id).copied().filter(|below| !is_met[*below as usize]) {
                            is_met[below as usize] = true;
                            path.push((below, 0));
                        }
                    }
                    None => {
                        order.push(*place);
                        path.pop();
                    }
                }
            }
        }
        order
    }
}

impl Rooms {
    /// Fetches the state before the join and stores it as it comes.
    pub(super) async fn stage(&self, job: &Job, server: &ServerName) -> Result<Staging, SendError> {
        self.clear_staged(job.room).await?;
        let pieces = self.writer.peers.state_in_pieces(server, &job.room_id, &job.join).await;
        let mut pieces = pieces.map_err(send_error)?;
        let mut staging = Staging::default();
        let mut write = Write::new(job.room.partition());
        while let Some(piece) = pieces.next().await.map_err(send_error)? {
            for some in piece.events.chunks(EVENTS_AT_ONCE) {
                self.stage_some(job, server, &mut staging, &mut write, some, piece.in_state).await?;
            }
        }
        if !staging.names_teller {
            return Err(SendError::Unreachable("the server's state has no members of its own".to_owned()));
        }
        self.writer.store.commit(write).await?;
        tracing::info!(room_id = %job.room_id, %server, events = staging.events.len(), "the state of a room has come");
        Ok(staging)
    }

    async fn stage_some(
        &self,
        job: &Job,
        server: &ServerName,
        staging: &mut Staging,
        write: &mut Write,
        events: &[EventBytes],
        in_state: bool,
    ) -> Result<(), SendError> {
        let parsed = self.writer.parse(job.version, events.to_vec()).await;
        let here = parsed.into_iter().zip(events).filter_map(|(raw, bytes)| Some((raw.ok()?, bytes)));
        let here: Vec<_> = here.filter(|(raw, _)| raw.room_id() == job.room_id).collect();
        let ids: Vec<OwnedEventId> = here.iter().map(|(raw, _)| raw.event_id().to_owned()).collect();
        let numbers = self.writer.store.event_numbers(job.room, &ids).await?;
        for ((raw, bytes), number) in here.into_iter().zip(numbers) {
            let event = raw.unchecked();
            let is_member = in_state && event.state_pair().is_some_and(|(kind, _)| kind == "m.room.member");
            staging.names_teller |= is_member
                && event.membership().is_some_and(|membership| membership.as_str() == "join")
                && event.sender().server_name() == server;
            let short = id16(raw.event_id().as_str());
            if let Some(place) = staging.places.get(&short) {
                staging.events[*place as usize].is_member |= is_member;
                continue;
            }
            if staging.events.len() == EVENTS_MAX {
                return Err(SendError::Unreachable("the state has too many events".to_owned()));
            }
            let place = u32::try_from(staging.events.len()).expect("there are at most EVENTS_MAX");
            let auths = u32::try_from(staging.auths.len())
                .map_err(|_| SendError::Unreachable("the state's events cite too many others".to_owned()))?;
            staging.places.insert(short, place);
            staging.events.push(Staged { auths, number, is_member });
            if number.is_none() {
                staging.auths.extend(event.auth_events().iter().map(|id| id16(id.as_str())));
                write.put_bytes(Table::Ev, staged_key(job.room, place), bytes.clone());
            }
            if write.size_bytes() >= BATCH_BYTES {
                let full = std::mem::replace(write, Write::new(job.room.partition()));
                self.writer.store.commit(full).await?;
            }
        }
        Ok(())
    }

    /// Checks what has come and stores it for others to rest on. Returns the memberships that are part of the state.
    pub(super) async fn store_staged(
        &self,
        job: &Job,
        server: &ServerName,
        mut staging: Staging,
    ) -> Result<Vec<EventNumber>, SendError> {
        let order = staging.order();
        (staging.places, staging.auths) = Default::default();
        let mut members: Vec<EventNumber> =
            staging.events.iter().filter(|staged| staged.is_member).filter_map(|staged| staged.number).collect();
        let mut done = 0;
        for places in order.chunks(EVENTS_AT_ONCE) {
            let keys: Vec<Bytes> = places.iter().map(|place| staged_key(job.room, *place)).collect();
            let rows = self.writer.store.engine().multi_get_in_passing(Table::Ev, &keys).await;
            let rows = rows.map_err(hearth_store::LoadError::from)?;
            let rows: Vec<(u32, Bytes)> =
                places.iter().copied().zip(rows).filter_map(|(at, row)| Some((at, row?))).collect();
            let bytes = rows.iter().map(|(_, bytes)| bytes.clone()).collect();
            let checked = self.check_signed(job.version, bytes).await;
            let mut arriving = Vec::with_capacity(checked.len());
            let mut is_member = Vec::with_capacity(checked.len());
            for ((place, _), signed) in rows.iter().zip(checked) {
                // One bad event spoils only itself, and what rests on it.
                let Some(event) = signed.ok().map(|signed| signed.into_event()).filter(|event| event.is_state()) else {
                    continue;
                };
                is_member.push(staging.events[*place as usize].is_member);
                let origin = Some(server.to_owned());
                arriving.push(Arriving { event, place: Place::Outlier, origin, relay: false });
            }
            let ids: Vec<OwnedEventId> = arriving.iter().map(|one| one.event.event_id().to_owned()).collect();
            let outcomes = self.writer.place_all(job.room, arriving).await;
            let numbers = self.writer.store.event_numbers(job.room, &ids).await?;
            for ((outcome, number), is_member) in outcomes.into_iter().zip(numbers).zip(is_member) {
                match outcome {
                    Ok(Outcome::Accepted) => members.extend(number.filter(|_| is_member)),
                    Ok(Outcome::SoftFailed | Outcome::Rejected(_)) => {}
                    Err(crate::ReceiveError::Unavailable(text)) => return Err(SendError::Unavailable(text)),
                    Err(_) => {}
                }
            }
            metrics::counter!("rooms_completed_events").increment(ids.len() as u64);
            if done / TOLD_EVERY != (done + places.len()) / TOLD_EVERY {
                tracing::info!(room_id = %job.room_id, done, of = order.len(), "events of a room's state are stored");
            }
            done += places.len();
        }
        self.clear_staged(job.room).await?;
        Ok(members)
    }

    /// Deletes what was stored as it came.
    pub(super) async fn clear_staged(&self, room: RoomNumber) -> Result<(), SendError> {
        self.delete_all(room, Table::Ev, staged_prefix(room)).await
    }

    /// Deletes all rows of a room that begin like this, some at a time.
    pub(super) async fn delete_all(&self, room: RoomNumber, table: Table, prefix: Bytes) -> Result<(), SendError> {
        let store = &self.writer.store;
        loop {
            let rows = store.scan_in_passing(table, KeyRange::prefix(prefix.clone()), DELETED_AT_ONCE).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let is_all = rows.len() < DELETED_AT_ONCE;
            let mut write = Write::new(room.partition());
            rows.into_iter().for_each(|row| write.delete(table, row.key));
            store.commit(write).await?;
            if is_all {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rests_on_others_comes_behind_them_whatever_came_first() {
        let id = |number: u32| id16(&number.to_string());
        let mut staging = Staging::default();
        // (event, what it cites); 9 never comes, 4 is stored, 5 and 6 cite each other.
        let given: [(u32, &[u32]); 6] = [(1, &[3, 9]), (2, &[1, 4]), (3, &[4]), (4, &[]), (5, &[6]), (6, &[5])];
        for (place, (event, auths)) in (0..).zip(given) {
            let number = (event == 4).then_some(EventNumber(7));
            staging.places.insert(id(event), place);
            let begin = u32::try_from(staging.auths.len()).unwrap();
            staging.events.push(Staged { auths: begin, number, is_member: false });
            staging.auths.extend(auths.iter().map(|auth| id(*auth)));
        }
        let order: Vec<u32> = staging.order().into_iter().map(|place| given[place as usize].0).collect();
        assert_eq!(order, [3, 1, 2, 6, 5]);
    }
}
