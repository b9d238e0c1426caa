//! Events of others that wait until the room has its members: what may be is decided by these.

use std::sync::Arc;

use hearth_ports::{EventBytes, Table};
use hearth_store::{
    CommitError, RoomNumber, Write, encode,
    tables::{WAITING_POSITION_OFFSET, WaitingRow, head_key, waiting_key, waiting_prefix},
};
use ruma::{OwnedServerName, ServerName};

use super::Job;
use crate::{ReceiveError, SendError, cache::RoomCache, rooms::Rooms, writer::ATTEMPTS_MAX};

/// Events that wait for one room. Of more, what comes later leads to those that were let go.
const WAITING_MAX: usize = 5_000;

/// Those of them that servers have brought of which it is not known that they are in the room: some may have come in since.
const STRANGERS_WAITING_MAX: usize = 500;

/// How many events wait for a room's members.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    all: usize,
    /// Brought by strangers since the server was started.
    of_strangers: usize,
}

/// Events that are taken at once: as many as a transaction has.
const TAKEN_AT_ONCE: usize = 50;

impl Rooms {
    /// Keeps events for later, if the room's members are being fetched. The answer is how many of them, from the first on, are
    /// kept; `None`: the members are not being fetched, nothing was kept.
    pub(crate) async fn hold_back(
        &self,
        origin: &ServerName,
        room: RoomNumber,
        events: impl FnOnce() -> Vec<EventBytes>,
    ) -> Result<Option<usize>, ReceiveError> {
        if !self.is_partial(room).await? {
            return Ok(None);
        }
        let events = events();
        // While this is held, nobody says that the room is complete and takes what has waited so far.
        let active = self.writer.active(room);
        let mut slot = active.cache.lock().await;
        let mut lost = 0;
        loop {
            let cache = self.writer.load_known(&mut slot, room).await?.ok_or(ReceiveError::NotInRoom)?;
            if !cache.head.partial {
                return Ok(None);
            }
            if let Some(kept) = self.keep_waiting(cache, origin, &events).await? {
                return Ok(Some(kept));
            }
            // A room that is not in use is forgotten, and what was held then is not what others hold: somebody has said it.
            *slot = None;
            lost += 1;
            if lost == ATTEMPTS_MAX {
                return Err(ReceiveError::Unavailable("too much happens in the room".to_owned()));
            }
            self.writer.pause_after(lost).await;
        }
    }

    /// Keeps as many of the events as may be, and says how many; `None`: the room is not what is known of it any more.
    async fn keep_waiting(
        &self,
        cache: &RoomCache,
        origin: &ServerName,
        events: &[EventBytes],
    ) -> Result<Option<usize>, ReceiveError> {
        let room = cache.number;
        let store = &self.writer.store;
        let waiting = self.joins.partial.waiting.lock().get(&room).copied();
        let mut waiting = match waiting {
            Some(waiting) => waiting,
            None => Waiting { all: store.count_waiting_events(room).await?, of_strangers: 0 },
        };
        let is_stranger = store.joined_from(room, origin).await? == 0;
        let mut free = WAITING_MAX.saturating_sub(waiting.all);
        if is_stranger {
            free = free.min(STRANGERS_WAITING_MAX.saturating_sub(waiting.of_strangers));
        }
        let kept = events.len().min(free);
        if kept < events.len() {
            metrics::counter!("rooms_waiting_dropped").increment((events.len() - kept) as u64);
        }
        let mut write = Write::new(room.partition());
        write.require(Table::Rm, head_key(room), cache.head_bytes.clone());
        for json in &events[..kept] {
            let at = write.position();
            let row = WaitingRow { origin: origin.as_str().to_owned(), json: json.to_vec() };
            let in_key = Some((WAITING_POSITION_OFFSET, at));
            write.put_filled(Table::Ev, waiting_key(room, 0), encode(&row), in_key, &[]);
        }
        match store.commit(write).await {
            Err(CommitError::Conflict) => return Ok(None),
            committed => drop(committed?),
        }
        waiting.all += kept;
        waiting.of_strangers += if is_stranger { kept } else { 0 };
        self.joins.partial.waiting.lock().insert(room, waiting);
        Ok(Some(kept))
    }

    /// Takes the events that have waited, as they came.
    pub(super) async fn take_waiting(self: &Arc<Self>, job: &Job) -> Result<(), SendError> {
        let store = &self.writer.store;
        loop {
            let rows = store.waiting_events(job.room, TAKEN_AT_ONCE).await?;
            let Some((_, first)) = rows.first() else { break };
            let Ok(origin) = OwnedServerName::try_from(first.origin.as_str()) else {
                return Err(SendError::Unavailable("the origin of a waiting event does not read".to_owned()));
            };
            let same = rows.iter().take_while(|(_, row)| row.origin == first.origin).count();
            let events = rows[..same].iter().map(|(_, row)| EventBytes::from(row.json.clone())).collect();
            for received in self.receive(&origin, &job.room_id, events).await {
                if let Err(ReceiveError::Unavailable(text)) = received.result {
                    return Err(SendError::Unavailable(text));
                }
            }
            let mut write = Write::new(job.room.partition());
            rows.into_iter().take(same).for_each(|(key, _)| write.delete(Table::Ev, key));
            store.commit(write).await?;
        }
        self.joins.partial.waiting.lock().remove(&job.room);
        Ok(())
    }

    pub(super) async fn clear_waiting(&self, room: RoomNumber) -> Result<(), SendError> {
        self.joins.partial.waiting.lock().remove(&room);
        self.delete_all(room, Table::Ev, waiting_prefix(room)).await
    }
}
