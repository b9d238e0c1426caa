//! The steps of a destination: making transactions, sending them, and storing what must be known after a crash.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use hearth_ports::{Key, PeerError};
use hearth_store::{CommitError, EventNumber, LoadError, RoomNumber, StoredEvent, tables::QueuedRow};
use ruma::ServerName;
use tokio::time::{sleep, timeout};

use super::{
    Destination, Outbound,
    queue::{Compose, Step, Taken},
    rows,
    targets::in_parting,
    transaction::{PDUS_MAX, Parts, Transaction, is_sendable_pdu, refused_events, sendable_edu},
    unless_corrupt,
};

/// How long an answer is waited for at most. The way out has its own time-outs, which should be shorter; a server that
/// checks 50 events may well need a minute.
const SEND_TIMEOUT: Duration = Duration::from_secs(120);

/// Who has not answered after so long gets a row: the cursor of the log must not wait any longer.
const SLOW_AFTER: Duration = Duration::from_secs(10);

/// Events of which it is remembered that they cannot be sent, so that each is logged once.
const UNSENDABLE_MAX: usize = 1_000;

impl Outbound {
    /// Does what is to be done next about a destination. Whether there may be more.
    pub(super) async fn step(&self, destination: &Destination) -> bool {
        let read = self.read.lock().clone();
        let now_ms = self.parts.clock.now_ms();
        let step = destination.queue.lock().step(now_ms, &read);
        let done = match step {
            Step::Rest => return false,
            Step::FallBehind => self.fall_behind(destination).await.map_err(|error| error.to_string()),
            Step::Send(transaction) => return self.send(destination, &transaction).await,
            Step::Compose(compose) => self.compose(destination, compose).await.map_err(|error| error.to_string()),
            Step::Recover => {
                tracing::debug!(server = %destination.name, "the server has everything again");
                if let Err(error) = rows::put_destination(&self.parts.store, &destination.name, None, Vec::new()).await
                {
                    // It costs a repetition after the next start.
                    tracing::warn!(%error, "the row of a destination was not deleted");
                }
                Ok(())
            }
        };
        if let Err(error) = &done {
            tracing::warn!(server = %destination.name, %error, "a server is not sent to for now: the store is in trouble");
            destination.queue.lock().stumbled(self.parts.clock.now_ms());
        }
        done.is_ok()
    }

    /// Makes a transaction of what waits.
    async fn compose(&self, destination: &Destination, compose: Compose) -> Result<(), LoadError> {
        // Rows leave place for the rest.
        let (mut parts, mut taken) = (Parts::new(compose.size.half()), Taken::default());
        if compose.rows {
            taken.rows = self.add_rows(&destination.name, &mut parts).await?;
        }
        parts.resize(compose.size);
        match &compose.catch_up {
            Some(catch_up) if !parts.is_full_of_pdus() => {
                let missed = self.missed(&destination.name, catch_up, &mut parts).await?;
                taken.progress = Some(missed.progress);
                destination.queue.lock().push_missed_receipts(missed.receipts);
            }
            Some(_) | None => {}
        }
        for outgoing in &compose.events {
            if parts.is_full_of_pdus() {
                break;
            }
            let (room, event) = (outgoing.room, outgoing.event);
            let pdu = match outgoing.parting {
                true => self.parting_pdu(&destination.name, room, event).await?,
                false => self.pdu(room, event).await?,
            };
            if pdu.is_some_and(|pdu| !parts.push_pdu(pdu)) {
                break;
            }
            taken.events += 1;
        }
        let nothing = destination.queue.lock().composed(taken, parts, |parts| self.transaction(parts));
        if !nothing.is_empty() {
            // They name events that are no longer stored.
            rows::delete_queued(&self.parts.store, &destination.name, nothing).await.map_err(super::as_load_error)?;
        }
        Ok(())
    }

    /// Adds the oldest rows of a server. The answer is those that are then dealt with; what can never be sent is deleted at
    /// once, however long the rest waits.
    async fn add_rows(&self, server: &ServerName, parts: &mut Parts) -> Result<Vec<Key>, LoadError> {
        let (mut taken, mut unsendable) = (Vec::new(), Vec::new());
        for (key, row) in rows::queued(&self.parts.store, server, PDUS_MAX).await? {
            let has_place = match row {
                Err(error) => {
                    tracing::error!(%server, %error, "what is queued is damaged: dropped");
                    unsendable.push(key.clone());
                    true
                }
                Ok(QueuedRow::Edu { json }) => match sendable_edu(json) {
                    Ok(json) => parts.push_edu(json).is_ok(),
                    Err(error) => {
                        tracing::warn!(%server, %error, "what is queued cannot be sent: dropped");
                        unsendable.push(key.clone());
                        true
                    }
                },
                Ok(QueuedRow::Event { room, event }) => {
                    self.parting_pdu(server, room, event).await?.is_none_or(|pdu| parts.push_pdu(pdu))
                }
            };
            if !has_place {
                break;
            }
            taken.push(key);
        }
        if !unsendable.is_empty() {
            rows::delete_queued(&self.parts.store, server, unsendable).await.map_err(super::as_load_error)?;
        }
        Ok(taken)
    }

    fn transaction(&self, parts: Parts) -> Option<Transaction> {
        if parts.items() == 0 {
            return None;
        }
        let count = self.transactions.fetch_add(1, Ordering::Relaxed);
        let (pdus, edus) = parts.counts();
        metrics::counter!("hearth_federation_sent_pdus_total").increment(pdus as u64);
        metrics::counter!("hearth_federation_sent_edus_total").increment(edus as u64);
        Some(parts.into_transaction(&self.parts.server_name, self.parts.clock.now_ms(), count))
    }

    /// An event as other servers get it; `None`: it is no longer stored, is damaged, or cannot be sent.
    pub(super) async fn pdu(&self, room: RoomNumber, event: EventNumber) -> Result<Option<Bytes>, LoadError> {
        let stored = unless_corrupt(self.parts.store.event(room, event).await)?;
        Ok(stored.and_then(|stored| self.if_sendable(room, &stored, stored.event.json().clone())))
    }

    /// What goes out of an event, unless a transaction cannot hold it; which is logged once, not for each server.
    pub(super) fn if_sendable(&self, room: RoomNumber, stored: &StoredEvent, json: Bytes) -> Option<Bytes> {
        if is_sendable_pdu(stored.event.version(), &json) {
            return Some(json);
        }
        let mut known = self.unsendable.lock();
        if known.len() >= UNSENDABLE_MAX {
            known.clear();
        }
        if known.insert((room, stored.number)) {
            tracing::warn!(event_id = %stored.event.event_id(), "an event cannot be sent: it is no canonical JSON");
        }
        None
    }

    /// The same for a server that the event puts out.
    async fn parting_pdu(
        &self,
        server: &ServerName,
        room: RoomNumber,
        event: EventNumber,
    ) -> Result<Option<Bytes>, LoadError> {
        let stored = unless_corrupt(self.parts.store.event(room, event).await)?;
        Ok(stored.and_then(|stored| self.if_sendable(room, &stored, in_parting(&stored, server))))
    }

    /// Sends a transaction, for the first time or again.
    async fn send(&self, destination: &Destination, transaction: &Arc<Transaction>) -> bool {
        let answer = self.exchange(destination, transaction).await;
        let (result, error) = match answer {
            Ok(answer) => {
                self.log_refused(destination, &answer);
                ("delivered", None)
            }
            Err(error @ PeerError::Refused { .. }) => ("refused", Some(error)),
            Err(error) => ("failed", Some(error)),
        };
        metrics::counter!("hearth_federation_transactions_total", "result" => result).increment(1);
        let stored = match error {
            None => self.delivered(destination).await,
            Some(error) => self.failed(destination, &error).await,
        };
        if let Err(error) = stored {
            tracing::warn!(server = %destination.name, %error, "how a transaction went was not stored");
            destination.queue.lock().stumbled(self.parts.clock.now_ms());
            return false;
        }
        true
    }

    async fn exchange(&self, destination: &Destination, transaction: &Transaction) -> Result<Bytes, PeerError> {
        let sending = self.parts.transmit.send(&destination.name, &transaction.id, transaction.body.clone());
        let mut answer = pin!(timeout(SEND_TIMEOUT, sending));
        let mut slow = pin!(sleep(SLOW_AFTER));
        let mut is_slow = false;
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                () = &mut slow, if !is_slow => {
                    is_slow = true;
                    if destination.queue.lock().holds_log()
                        && let Err(error) = self.fall_behind(destination).await {
                        tracing::warn!(server = %destination.name, %error, "a server is slow, and that was not stored");
                    }
                }
            }
        };
        answer.unwrap_or_else(|_| Err(PeerError::Unreachable("no answer in time".to_owned())))
    }

    /// Once each, and never again: the other server will not change its mind.
    fn log_refused(&self, destination: &Destination, answer: &Bytes) {
        for (event_id, error) in refused_events(answer) {
            metrics::counter!("hearth_federation_refused_pdus_total").increment(1);
            tracing::info!(server = %destination.name, event_id, error, "another server refused an event");
        }
    }

    async fn delivered(&self, destination: &Destination) -> Result<(), CommitError> {
        let delivered = destination.queue.lock().delivered();
        if let Some(row) = &delivered.row {
            return rows::put_destination(&self.parts.store, &destination.name, Some(row), delivered.rows).await;
        }
        if !delivered.rows.is_empty() {
            return rows::delete_queued(&self.parts.store, &destination.name, delivered.rows).await;
        }
        Ok(())
    }

    async fn failed(&self, destination: &Destination, error: &PeerError) -> Result<(), CommitError> {
        let mut random = [0; 2];
        self.parts.entropy.fill(&mut random);
        let random = u16::from_be_bytes(random);
        let wished_until_ms = self.parts.transmit.asked_to_wait_until(&destination.name);
        let now_ms = self.parts.clock.now_ms();
        let gave_up = destination.queue.lock().failed(now_ms, error, wished_until_ms, random);
        if gave_up {
            tracing::error!(server = %destination.name, %error, "a server does not take what is for it: given up");
        }
        tracing::debug!(server = %destination.name, %error, "a transaction was not delivered");
        self.fall_behind(destination).await
    }

    /// Stores how far a destination is, so that the reader of the log need not wait for it.
    async fn fall_behind(&self, destination: &Destination) -> Result<(), CommitError> {
        let read = self.read.lock().clone();
        let falling = destination.queue.lock().falling(&read);
        rows::put_falling(&self.parts.store, &destination.name, &falling).await?;
        let given_up = destination.queue.lock().fell(&falling);
        if !given_up.is_empty() {
            rows::delete_queued(&self.parts.store, &destination.name, given_up).await?;
        }
        Ok(())
    }
}
