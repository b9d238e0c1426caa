//! Format, hashes and signatures of events that come from elsewhere, many at once.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use hearth_core::{HashedEvent, PublicKey, PublicKeys, RawEvent, RoomVersion, SignedEvent};
use hearth_ports::{EventBytes, WantedKeys};
use hearth_store::RoomNumber;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::Semaphore;

use super::ReceiveError;
use crate::{rooms::Rooms, writer::Writer};

/// Events that are checked in one piece on the blocking pool: some 5 ms.
const CHUNK_EVENTS: usize = 64;

/// Keys of one server that are asked for at once. More are in use by none; they are asked for in vain.
const KEYS_OF_SERVER_MAX: usize = 64;

/// Work that others' events make: so much runs at once, the rest waits its turn.
pub(crate) struct Cpu(Arc<Semaphore>);

impl Cpu {
    /// One piece of work for each processor.
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(processors)))
    }

    /// Runs on the blocking pool. A caller that goes away leaves the work running. Work that panics would do so again.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReceiveError> {
        let permit = Arc::clone(&self.0).acquire_owned().await.expect("the semaphore is never closed");
        let task = hearth_ports::work(move || {
            let result = work();
            drop(permit);
            result
        });
        task.await.map_err(|error| match error.is_panic() {
            true => ReceiveError::Broken(error.to_string()),
            false => ReceiveError::Unavailable(error.to_string()),
        })
    }
}

type Checked<T> = Vec<Result<T, ReceiveError>>;

impl Rooms {
    /// Checks format, hash and signatures of events, in order, one result each. Keys are fetched once for each server.
    ///
    /// An event whose content hash is wrong comes out redacted. Nothing says yet that it is of the room in question, or
    /// allowed.
    pub(crate) async fn check_signed(&self, version: RoomVersion, events: Vec<EventBytes>) -> Checked<SignedEvent> {
        let parsed = self.writer.parse(version, events).await;
        self.writer.verify(parsed, None).await
    }
}

impl Writer {
    /// Check 1: the format.
    pub(crate) async fn parse(&self, version: RoomVersion, events: Vec<EventBytes>) -> Checked<RawEvent> {
        let events = events.into_iter().map(Ok).collect();
        self.each(events, move |bytes: EventBytes| Ok(RawEvent::parse(version, &bytes)?)).await
    }

    /// Checks 2 and 3: signatures and hashes, of what passed the first. `told`: the room, and the server that brought them
    /// unasked; for keys of servers that are not in the room it has a share of its own.
    pub(crate) async fn verify(
        &self,
        events: Checked<RawEvent>,
        told: Option<(RoomNumber, &ServerName)>,
    ) -> Checked<SignedEvent> {
        let hashed = self
            .each(events, |raw| {
                let hashed = raw.check_hash();
                let key_ids = hashed.key_ids();
                Ok((hashed, key_ids))
            })
            .await;
        let mut wanted: BTreeMap<OwnedServerName, WantedKeys> = BTreeMap::new();
        let now_ms = self.clock.now_ms();
        for (hashed, key_ids) in hashed.iter().flatten() {
            // A key that is valid now will do for an event that says to be of later: or it is not to be believed.
            let at_ms = hashed.unchecked().origin_server_ts().min(now_ms);
            for (server, ids) in key_ids {
                let keys = wanted.entry(server.clone()).or_default();
                keys.at_ms = keys.at_ms.max(at_ms);
                let more = KEYS_OF_SERVER_MAX.saturating_sub(keys.ids.len());
                keys.ids.extend(ids.iter().take(more).cloned());
            }
        }
        // Who signed with no key of a kind that we know need not be asked.
        wanted.retain(|_, keys| !keys.ids.is_empty());
        if let Some((room, teller)) = told {
            for (server, keys) in wanted.iter_mut().filter(|(server, _)| **server != *teller) {
                // If it is not known, the server counts as one that is not there: they can be asked all the same.
                let is_there = self.store.joined_from(room, server).await.is_ok_and(|joined| joined > 0);
                keys.asked_by = (!is_there).then(|| teller.to_owned());
            }
        }
        let keys = Arc::new(self.keys_of(wanted).await);
        self.each(hashed, move |(hashed, _): (HashedEvent, _)| Ok(hashed.verify(&keys)?)).await
    }

    async fn keys_of(&self, mut wanted: BTreeMap<OwnedServerName, WantedKeys>) -> PublicKeys {
        let ours = wanted.get_mut(&self.server_name).map(|keys| keys.ids.remove(self.signing_key.id()));
        if wanted.get(&self.server_name).is_some_and(|keys| keys.ids.is_empty()) {
            wanted.remove(&self.server_name);
        }
        let mut keys = if wanted.is_empty() { PublicKeys::default() } else { self.peers.server_keys(wanted).await };
        if ours == Some(true) {
            let key = PublicKey { bytes: self.signing_key.public_key(), valid_until_ms: u64::MAX };
            keys.insert(self.server_name.clone(), self.signing_key.id().to_owned(), key);
        }
        keys
    }

    /// Does the same with each, in pieces on the blocking pool. What failed before stays failed; one at which the work panics
    /// fails alone.
    async fn each<T: Send + 'static, R: Send + 'static>(
        &self,
        items: Checked<T>,
        work: impl Fn(T) -> Result<R, ReceiveError> + Clone + Send + 'static,
    ) -> Checked<R> {
        let mut items = items.into_iter().peekable();
        let mut pieces = Vec::new();
        while items.peek().is_some() {
            let piece: Checked<T> = items.by_ref().take(CHUNK_EVENTS).collect();
            let (count, work) = (piece.len(), work.clone());
            pieces.push(async move {
                let each = move |item: Result<T, ReceiveError>| {
                    let item = item?;
                    // The item is gone then, and nothing else is changed by the work.
                    let done = catch_unwind(AssertUnwindSafe(|| work(item)));
                    done.unwrap_or_else(|_| Err(ReceiveError::Broken("checking it panicked".to_owned())))
                };
                let done = self.cpu.run(move || piece.into_iter().map(each).collect::<Vec<_>>()).await;
                done.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect())
            });
        }
        let done = futures_util::future::join_all(pieces).await;
        done.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_tests::World;

    #[tokio::test]
    async fn one_that_panics_fails_alone() {
        let world = World::new().await;
        let items = (0..3).map(Ok).collect();
        let done = world.rooms.writer.each(items, |n: u32| Ok(6 / 1_u32.saturating_sub(n))).await;
        assert!(matches!(done[0], Ok(6)), "{done:?}");
        assert!(done[1..].iter().all(|done| matches!(done, Err(ReceiveError::Broken(_)))), "{done:?}");
    }
}
