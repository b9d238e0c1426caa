//! Events of others whose base, or whose signers' keys, could not be had: kept, and tried again, also through other servers.
//!
//! Who sent one does not send it again, and nobody else need ever cite it: the last word of a server in a room would be lost.

use std::{collections::HashSet, sync::Arc, time::Duration};

use hearth_core::{RawEvent, SignatureError};
use hearth_ports::{EventBytes, Table};
use hearth_store::{
    LoadError, RoomNumber, Write, encode,
    tables::{UnfinishedRow, unfinished_key},
};
use ruma::{OwnedServerName, RoomId, ServerName};
use tokio::time::{sleep, timeout};

use super::{ReceiveError, Received};
use crate::rooms::Rooms;

/// Events that are kept of one room. Of more, what comes later leads to those that were let go.
const KEPT_MAX: usize = 200;

/// Those of them that one server has brought: a transaction has as many.
const KEPT_OF_ONE_MAX: usize = 50;

/// They are tried again after this long; the pause doubles each time.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Events that are so old are given up, in milliseconds.
const PATIENCE_MS: u64 = 24 * 3_600_000;

impl Rooms {
    /// Goes on with the events that lacked something when the server stopped.
    pub(crate) async fn resume_unfinished(self: &Arc<Self>) -> Result<(), LoadError> {
        for room in self.writer.store.unfinished_rooms().await? {
            self.finish_later(room);
        }
        Ok(())
    }

    /// Keeps those of the events that lack something, and tries them again in the background. Nothing of servers that are not in
    /// the room.
    pub(super) async fn keep_unfinished(
        self: &Arc<Self>,
        origin: &ServerName,
        room_id: &RoomId,
        events: &[EventBytes],
        received: &[Received],
    ) -> Result<(), ReceiveError> {
        let store = &self.writer.store;
        let lacking = events.iter().zip(received).filter(|(_, received)| lacks_something(&received.result));
        let lacking: Vec<&EventBytes> = lacking.map(|(json, _)| json).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let Some(room) = store.room_number(room_id).await? else { return Ok(()) };
        let Some(identity) = store.room_identity(room).await? else { return Ok(()) };
        if store.joined_from(room, origin).await? == 0 {
            return Ok(());
        }
        // As they are stored: what came may be longer than an event can be.
        let parsed = lacking.into_iter().filter_map(|json| RawEvent::parse(identity.version, json).ok());
        // What follows nothing never gets a place.
        let parsed = parsed.filter(|raw| !raw.unchecked().prev_events().is_empty());
        let keyed = parsed.map(|raw| (unfinished_key(room, raw.event_id().as_str()), raw.unchecked().json().clone()));
        let kept = store.unfinished_events(room, KEPT_MAX).await?;
        let of_origin = kept.iter().filter(|(_, row)| row.origin == origin.as_str()).count();
        let free = KEPT_OF_ONE_MAX.saturating_sub(of_origin).min(KEPT_MAX - kept.len());
        let known: HashSet<_> = kept.into_iter().map(|(key, _)| key).collect();
        let new: Vec<_> = keyed.filter(|(key, _)| !known.contains(key)).collect();
        count("dropped", new.len().saturating_sub(free));
        count("kept", new.len().min(free));
        let is_any_kept = !new.is_empty() && free > 0;
        let since_ms = self.writer.clock.now_ms();
        // One by one: together they may be larger than a batch.
        for (key, json) in new.into_iter().take(free) {
            let row = UnfinishedRow { origin: origin.as_str().to_owned(), json: json.to_vec(), since_ms };
            let mut write = Write::new(room.partition());
            write.put_bytes(Table::Ev, key, encode(&row));
            store.commit(write).await?;
        }
        self.finish_later(room);
        if is_any_kept {
            self.unfinished.call(room);
        }
        Ok(())
    }

    /// Tries a room's unfinished events in the background until none is left.
    fn finish_later(self: &Arc<Self>, room: RoomNumber) {
        if !self.unfinished.begin(room) {
            return;
        }
        let mut called = self.unfinished.calls(room);
        let rooms = Arc::downgrade(self);
        tokio::spawn(async move {
            let (mut pause, mut attempt) = (PAUSE_MIN, 0);
            loop {
                // One that can never be finished makes those that come later wait no longer than the first.
                if timeout(pause, called.notified()).await.is_ok() {
                    pause = PAUSE_MIN;
                    sleep(pause).await;
                }
                let Some(this) = rooms.upgrade() else { return };
                (pause, attempt) = ((2 * pause).min(PAUSE_MAX), attempt + 1);
                match this.finish(room, attempt).await {
                    Ok(true) => {
                        this.unfinished.end(room);
                        // Who has kept one in this moment has found the task still there.
                        let left = this.writer.store.unfinished_events(room, 1).await;
                        if left.is_ok_and(|left| left.is_empty()) || !this.unfinished.begin(room) {
                            return;
                        }
                        called = this.unfinished.calls(room);
                        (pause, attempt) = (PAUSE_MIN, 0);
                    }
                    Ok(false) => {}
                    Err(error) => tracing::info!(room = room.0, %error, "unfinished events were not tried again"),
                }
            }
        });
    }

    /// Tries a room's unfinished events again, every second time through another server than the one that brought them.
    /// Whether none is left.
    pub(crate) async fn finish(self: &Arc<Self>, room: RoomNumber, attempt: usize) -> Result<bool, ReceiveError> {
        let store = &self.writer.store;
        let mut rows = store.unfinished_events(room, KEPT_MAX).await?;
        let Some(room_id) = store.room_id(room).await?.filter(|_| !rows.is_empty()) else { return Ok(true) };
        let servers = store.servers_in_room(room).await?.into_iter().map(|(server, _)| server);
        let servers: Vec<OwnedServerName> = servers.filter(|server| *server != self.writer.server_name).collect();
        let now_ms = self.writer.clock.now_ms();
        rows.sort_by(|(_, one), (_, two)| one.origin.cmp(&two.origin));
        let mut left = 0;
        for rows in rows.chunk_by(|(_, one), (_, two)| one.origin == two.origin) {
            let origin = OwnedServerName::try_from(rows[0].1.origin.as_str());
            let origin =
                origin.map_err(|error| ReceiveError::Unavailable(format!("a stored name does not read: {error}")))?;
            let others: Vec<&OwnedServerName> = servers.iter().filter(|server| **server != origin).collect();
            let ask = if attempt.is_multiple_of(2) { others.get(attempt / 2 % others.len().max(1)) } else { None };
            let events = rows.iter().map(|(_, row)| EventBytes::from(row.json.clone())).collect();
            let received = self.receive_through(ask.map_or(&*origin, |ask| ask), &origin, &room_id, events).await;
            let mut write = Write::new(room.partition());
            for ((key, row), received) in rows.iter().zip(received) {
                let is_ours = matches!(received.result, Err(ReceiveError::Unavailable(_) | ReceiveError::Broken(_)));
                let lacks = is_ours || lacks_something(&received.result);
                if lacks && now_ms.saturating_sub(row.since_ms) < PATIENCE_MS {
                    left += 1;
                    continue;
                }
                count(if lacks { "given_up" } else { "finished" }, 1);
                write.delete(Table::Ev, key.clone());
            }
            store.commit(write).await?;
        }
        Ok(left == 0)
    }
}

/// Whether an event may be taken once something else is here.
fn lacks_something(result: &Result<(), ReceiveError>) -> bool {
    matches!(result, Err(ReceiveError::Incomplete(_) | ReceiveError::Signature(SignatureError::Missing(_))))
}

fn count(what: &'static str, events: usize) {
    if events > 0 {
        metrics::counter!("rooms_unfinished_events", "what" => what).increment(events as u64);
    }
}
