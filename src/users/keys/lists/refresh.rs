//! Asking another server for all devices of a user: at once where somebody waits for it, else in the background, again and
//! again until it answers.
//! [`GET /user/devices/{userId}`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1userdevicesuserid)

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hearth_ports::{BoxFuture, KeyRange, Page, PeerError, Peers};
use hearth_store::{
    Table, UserNumber, Write,
    tables::users::{
        IDENTITY_KEYS_BYTES_MAX, RemoteDeviceRow, RemoteListRow, refresh_key, refresh_of_key, refreshes_prefix,
        remote_device_key, remote_list_key,
    },
};
use ruma::{OwnedDeviceId, OwnedServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{DEVICES_MAX, Due, LIST_BYTES_MAX, ListMemory, device_row, size_bytes, tell};
use crate::{Fault, Users, fault::committed};

/// So often a list is asked for again because an update came meanwhile.
const ASKED_AGAIN_MAX: usize = 3;

/// How lists are asked for in the background.
const BACKGROUND: Patience = Patience { timeout_ms: 30_000, is_waited_for: false };

/// Servers that are asked at once in the background, each for one list at a time.
const SERVERS_AT_ONCE: usize = 32;

/// After so long a server gives way to those that wait, however many lists it is still to be asked for.
const TURN: Duration = Duration::from_secs(60);

/// After a failure it is tried again after so long, and after each further one twice as long.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// At most so long.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(6 * 60 * 60);

/// Rows of lists to be asked for that are read at once at the start.
const PAGE: usize = 1_000;

/// How a server is asked for a list.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// How long it has, in milliseconds.
    pub(super) timeout_ms: u64,
    /// A client waits: the server is asked also if it was not reached lately.
    pub(super) is_waited_for: bool,
}

impl ListMemory {
    /// The lists that are due now at servers but these, by server: so many servers, who has waited longest first.
    fn due_by_server(
        &self,
        busy: &BTreeSet<OwnedServerName>,
        servers_max: usize,
    ) -> Vec<(OwnedServerName, Vec<UserNumber>)> {
        let now = Instant::now();
        let due = self.due.lock();
        let mut servers: BTreeMap<&OwnedServerName, (Instant, Vec<UserNumber>)> = BTreeMap::new();
        for (user, due) in due.iter().filter(|(_, due)| due.at <= now && !busy.contains(&due.server)) {
            let (first, users) = servers.entry(&due.server).or_insert((due.at, Vec::new()));
            *first = due.at.min(*first);
            users.push(*user);
        }
        let mut servers: Vec<_> = servers.into_iter().collect();
        servers.sort_by_key(|(_, (first, _))| *first);
        servers.truncate(servers_max);
        servers.into_iter().map(|(server, (_, users))| (server.clone(), users)).collect()
    }

    /// A list that is due is so from then on.
    fn put_off(&self, user: UserNumber, until: Instant) {
        self.due.lock().entry(user).and_modify(|due| due.at = due.at.max(until));
    }

    /// When a list of a server but these is due.
    fn next_due(&self, busy: &BTreeSet<OwnedServerName>) -> Option<Instant> {
        self.due.lock().values().filter(|due| !busy.contains(&due.server)).map(|due| due.at).min()
    }
}

/// A list that is being asked for.
struct Flight<'a> {
    lists: &'a ListMemory,
    user: UserNumber,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Flight<'_> {
    /// Also of those who waited no longer.
    fn drop(&mut self) {
        let mut flights = self.lists.flights.lock();
        // Ours and the map's: nobody else waits.
        if Arc::strong_count(&self.turn) <= 2 {
            flights.remove(&self.user);
        }
    }
}

/// Why a list was not brought up to date.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefreshError {
    /// The server was not reached.
    #[error("{0}")]
    Unreachable(String),
    /// It did not say what was asked.
    #[error("{0}")]
    Refused(String),
    /// It is too large to be kept: it is asked for whenever somebody wants it.
    #[error("the list is too large to be kept")]
    TooLarge,
    /// Nobody here shares a room with the user.
    #[error("nobody shares a room with the user")]
    NotShared,
    /// Ours.
    #[error("{0}")]
    Fault(Fault),
}

impl RefreshError {
    /// Asking again will hardly help: clients have to ask the server themselves.
    fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::TooLarge)
    }
}

impl<E: Into<Fault>> From<E> for RefreshError {
    fn from(error: E) -> Self {
        Self::Fault(error.into())
    }
}

#[derive(Deserialize)]
struct Answer {
    user_id: String,
    stream_id: i64,
    devices: Vec<Device>,
    master_key: Option<Box<RawValue>>,
    self_signing_key: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Device {
    device_id: OwnedDeviceId,
    keys: Option<Box<RawValue>>,
    device_display_name: Option<String>,
}

impl Users {
    /// Keeps the lists of other servers' users up to date, for as long as the service lives: what an earlier process left
    /// stale, then what becomes so. For the server to start.
    pub fn keep_lists_fresh(self: &Arc<Self>, peers: Arc<dyn Peers>) {
        let users = Arc::downgrade(self);
        tokio::spawn(async move {
            if let Some(users) = users.upgrade()
                && let Err(fault) = users.load_due_lists().await
            {
                tracing::error!(%fault, "which device lists are stale was not read");
            }
            Self::refresh_due_lists(users, &*peers).await;
        });
    }

    /// Asks each server for one list after the other; none waits for another server.
    async fn refresh_due_lists(users: Weak<Self>, peers: &dyn Peers) {
        let mut asked: FuturesUnordered<BoxFuture<'_, OwnedServerName>> = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        loop {
            let Some(this) = users.upgrade() else { return };
            for (server, due) in this.lists.due_by_server(&busy, SERVERS_AT_ONCE.saturating_sub(busy.len())) {
                busy.insert(server.clone());
                let this = Arc::clone(&this);
                asked.push(Box::pin(async move {
                    this.refresh_of_server(peers, due).await;
                    server
                }));
            }
            let next = if busy.len() < SERVERS_AT_ONCE { this.lists.next_due(&busy) } else { None };
            let wait_until = next.unwrap_or_else(|| Instant::now() + RETRY_AFTER).min(Instant::now() + RETRY_AFTER);
            // Whoever waits must not keep the service.
            let woken = Arc::clone(&this.lists);
            drop(this);
            tokio::select! {
                Some(server) = asked.next() => drop(busy.remove(&server)),
                () = woken.woken.notified() => {}
                () = tokio::time::sleep_until(wait_until) => {}
            }
        }
    }

    async fn load_due_lists(&self) -> Result<(), Fault> {
        let mut range = KeyRange::prefix(refreshes_prefix());
        loop {
            let page = self.store.scan_bytes(Table::Mi, range.clone(), Page::first(PAGE)).await?;
            let Some(last) = page.last() else { return Ok(()) };
            range.from = [&last.key[..], &[0]].concat().into();
            for user in page.iter().filter_map(|row| refresh_of_key(&row.key)) {
                if let Some(user_id) = self.store.user_id(user).await? {
                    self.lists.want(user, &user_id);
                }
            }
        }
    }

    /// Asks a server for its lists, as many as it gives in its turn.
    async fn refresh_of_server(&self, peers: &dyn Peers, users: Vec<UserNumber>) {
        let end = Instant::now() + TURN;
        for user in users {
            if Instant::now() >= end {
                // Behind those of servers that have waited for longer.
                self.lists.put_off(user, end);
                continue;
            }
            let user_id = match self.store.user_id(user).await {
                Ok(Some(user_id)) => user_id,
                Ok(None) => {
                    self.lists.due.lock().remove(&user);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "a device list is not asked for now");
                    self.lists.put_off(user, Instant::now() + RETRY_AFTER);
                    continue;
                }
            };
            // An update that comes from now on puts it back.
            let due = self.lists.due.lock().remove(&user);
            let (failures, told) = due.map_or((0, false), |due| (due.failures, due.told));
            let result = self.refresh_list(peers, &user_id, user, BACKGROUND).await;
            if let Err(error) = result
                && !matches!(error, RefreshError::NotShared)
            {
                tracing::debug!(%user_id, %error, "a device list was not brought up to date");
                let told = told || error.is_final() && self.tell_of_change(user).await;
                let pause = RETRY_AFTER.saturating_mul(1 << failures.min(16)).min(RETRY_AFTER_MAX);
                let server = user_id.server_name().to_owned();
                let later = Due { at: Instant::now() + pause, server, failures: failures.saturating_add(1), told };
                self.lists.due.lock().entry(user).or_insert(later);
            }
        }
    }

    /// Those who share a room with a user hear that the user's list changed, which is not known here. Says whether that
    /// was done.
    async fn tell_of_change(&self, user: UserNumber) -> bool {
        let mut write = Write::new(user.partition());
        tell(&mut write, user);
        let told = self.store.commit(write).await;
        told.inspect_err(|error| tracing::warn!(%error, "a change of a device list is told later")).is_ok()
    }

    /// Asks for a list unless it is fresh, or has become so while another asked for it. Those who share a room with the
    /// user then hear of it.
    pub(super) async fn refresh_list(
        &self,
        peers: &dyn Peers,
        user_id: &UserId,
        user: UserNumber,
        patience: Patience,
    ) -> Result<(), RefreshError> {
        let turn = Arc::clone(self.lists.flights.lock().entry(user).or_default());
        let flight = Flight { lists: &self.lists, user, turn };
        let _turn = flight.turn.lock().await;
        self.refresh_in_turn(peers, user_id, user, patience).await
    }

    async fn refresh_in_turn(
        &self,
        peers: &dyn Peers,
        user_id: &UserId,
        user: UserNumber,
        Patience { timeout_ms, is_waited_for }: Patience,
    ) -> Result<(), RefreshError> {
        for _ in 0..ASKED_AGAIN_MAX {
            let before = self.load_remote_list(user).await?;
            if before.bytes.is_some() && !before.row.stale {
                return Ok(());
            }
            if !self.is_shared(user).await? {
                // Nobody wants it any more; who changed it meanwhile knows better.
                self.delete_remote_list(user, before.bytes).await?;
                return Err(RefreshError::NotShared);
            }
            let body = peers.user_devices(user_id, timeout_ms, is_waited_for).await;
            let answer: Answer = serde_json::from_slice(&body.map_err(refused)?)
                .map_err(|error| RefreshError::Refused(format!("its answer: {error}")))?;
            if answer.user_id != user_id.as_str() {
                return Err(RefreshError::Refused("its answer is about another user".to_owned()));
            }
            let mut write = Write::new(user.partition());
            for (key, _) in self.load_remote_devices(user).await? {
                write.delete(Table::Fd, key);
            }
            let row = put_list(&mut write, user, answer)?;
            // An update that came meanwhile has changed it.
            write.require(Table::Fd, remote_list_key(user), before.bytes);
            write.put(Table::Fd, remote_list_key(user), &row);
            write.delete(Table::Mi, refresh_key(user));
            tell(&mut write, user);
            if committed(self.store.commit(write).await)? {
                return Ok(());
            }
        }
        Err(RefreshError::Fault(Fault::contended()))
    }
}

fn refused(error: PeerError) -> RefreshError {
    match error {
        PeerError::Unreachable(_) | PeerError::BackingOff { .. } | PeerError::Denied => {
            RefreshError::Unreachable(error.to_string())
        }
        PeerError::Refused { .. } | PeerError::Malformed(_) => RefreshError::Refused(error.to_string()),
    }
}

/// Adds the devices of an answer to a batch; the answer is the list's row.
fn put_list(write: &mut Write, user: UserNumber, answer: Answer) -> Result<RemoteListRow, RefreshError> {
    let mut row = RemoteListRow { stream_id: answer.stream_id, ..RemoteListRow::default() };
    if answer.devices.len() > DEVICES_MAX {
        return Err(RefreshError::TooLarge);
    }
    for device in answer.devices {
        let Device { device_id, keys, device_display_name } = device;
        let kept: Option<RemoteDeviceRow> = device_row(&device_id, keys.as_deref(), device_display_name);
        let kept = kept.ok_or(RefreshError::TooLarge)?;
        row.devices += 1;
        row.bytes = row.bytes.saturating_add(size_bytes(&kept));
        write.put(Table::Fd, remote_device_key(user, device_id.as_str()), &kept);
    }
    if row.bytes as usize > LIST_BYTES_MAX {
        return Err(RefreshError::TooLarge);
    }
    for (place, key) in [(&mut row.master, answer.master_key), (&mut row.self_signing, answer.self_signing_key)] {
        let Some(key) = key.filter(|key| key.get().starts_with('{')) else { continue };
        if key.get().len() > IDENTITY_KEYS_BYTES_MAX {
            return Err(RefreshError::TooLarge);
        }
        *place = Some(key.get().to_owned());
    }
    Ok(row)
}
