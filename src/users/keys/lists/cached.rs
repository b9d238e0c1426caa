//! Answering from what is kept of remote users' devices.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use hearth_ports::{BoxFuture, Key, KeyRange, Peers};
use hearth_store::{
    Table, UserNumber,
    tables::users::{RemoteDeviceRow, RemoteListRow, remote_devices_prefix},
};
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId};
use serde_json::{Map, Value, value::RawValue};
use tokio::time::Instant;

use super::{
    DEVICES_MAX,
    refresh::{Patience, RefreshError},
};
use crate::{
    Fault, Users,
    keys::{KeyQuery, WantedDevices, query::stored, raw, remote},
};

/// Lists of one server that are asked for one by one, to be kept, where a client waits for them. The others are asked for
/// in one request, and kept when they are next wanted.
const REFRESHED_PER_SERVER: usize = 16;

/// Lists that are asked for at once for one request.
const REFRESHED_AT_ONCE: usize = 64;

/// What is kept that goes into one answer, in bytes: those who do not fit are asked for at their servers.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Of the time that servers have, one part in so many is for lists that are then kept. Who does not answer by then, or
/// fails over one list, is asked in the rest of it for all that is missing in one request.
const REFRESHING_PART: u64 = 2;

/// Whose list was asked for, and what came of it.
type Asked = (OwnedUserId, UserNumber, Result<(), RefreshError>);

impl Users {
    /// Identity keys of other servers' users: from what is kept, else from their servers, which have `timeout_ms` to
    /// answer, in milliseconds.
    pub(in crate::keys) async fn query_remote_keys(
        &self,
        peers: &dyn Peers,
        wanted: WantedDevices,
        timeout_ms: u64,
    ) -> Result<KeyQuery, Fault> {
        let mut query = KeyQuery::default();
        let mut bytes_left = ANSWER_BYTES_MAX;
        let begun = Instant::now();
        let mut missing = self.answer_kept(&mut query, &mut bytes_left, wanted).await?;
        let users = self.refresh_wanted(peers, &missing, timeout_ms / REFRESHING_PART).await?;
        let again: WantedDevices = users.iter().filter_map(|user_id| missing.remove_entry(user_id)).collect();
        missing.extend(self.answer_kept(&mut query, &mut bytes_left, again).await?);
        if !missing.is_empty() {
            let gone_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let asked = remote::query(peers, missing, timeout_ms.saturating_sub(gone_ms)).await;
            query.device_keys.extend(asked.device_keys);
            query.master_keys.extend(asked.master_keys);
            query.self_signing_keys.extend(asked.self_signing_keys);
            query.failures.extend(asked.failures);
        }
        Ok(query)
    }

    /// Adds what is kept and fresh to an answer; the rest is given back.
    async fn answer_kept(
        &self,
        query: &mut KeyQuery,
        bytes_left: &mut usize,
        wanted: WantedDevices,
    ) -> Result<WantedDevices, Fault> {
        let mut missing = WantedDevices::new();
        for (user_id, devices) in wanted {
            let list = match self.store.user_number(&user_id).await? {
                Some(user) => Some((user, self.load_remote_list(user).await?)),
                None => None,
            };
            let fresh = list.filter(|(_, list)| list.bytes.is_some() && !list.row.stale);
            let fresh = fresh.filter(|(_, list)| list.row.bytes as usize <= *bytes_left);
            let Some((user, list)) = fresh else {
                missing.insert(user_id, devices);
                continue;
            };
            *bytes_left -= list.row.bytes as usize;
            self.add_kept(query, user, &user_id, list.row, &devices).await?;
        }
        Ok(missing)
    }

    async fn add_kept(
        &self,
        query: &mut KeyQuery,
        user: UserNumber,
        user_id: &OwnedUserId,
        list: RemoteListRow,
        wanted: &[OwnedDeviceId],
    ) -> Result<(), Fault> {
        let mut devices = BTreeMap::new();
        for (key, row) in self.load_remote_devices(user).await? {
            let device_id = std::str::from_utf8(key.get(9..).unwrap_or_default());
            let device_id = device_id.map_err(|_| Fault::Broken("a remote device's key is no text".to_owned()))?;
            let is_wanted = wanted.is_empty() || wanted.iter().any(|wanted| wanted.as_str() == device_id);
            if is_wanted && let Some(keys) = shown(user_id, device_id, row) {
                devices.insert(device_id.to_owned(), keys);
            }
        }
        query.device_keys.insert(user_id.clone(), devices);
        for (to, key) in [(&mut query.master_keys, list.master), (&mut query.self_signing_keys, list.self_signing)] {
            let Some(key) = key else { continue };
            let key = stored(key)?;
            if remote::is_about(&key, user_id, None) {
                to.insert(user_id.clone(), key);
            }
        }
        Ok(())
    }

    /// Asks for the lists of users who share a room with ours, as many as can be asked for one by one. The answer is whose
    /// are kept now; those that do not come in time, in milliseconds, come later.
    async fn refresh_wanted(
        &self,
        peers: &dyn Peers,
        wanted: &WantedDevices,
        timeout_ms: u64,
    ) -> Result<Vec<OwnedUserId>, Fault> {
        let patience = Patience { timeout_ms, is_waited_for: true };
        let mut asked: Vec<BoxFuture<'_, Asked>> = Vec::new();
        let mut open = BTreeMap::new();
        let mut by_server: BTreeMap<OwnedServerName, usize> = BTreeMap::new();
        for user_id in wanted.keys() {
            let count = by_server.entry(user_id.server_name().to_owned()).or_default();
            let Some(user) = self.store.user_number(user_id).await? else { continue };
            if *count < REFRESHED_PER_SERVER && self.is_shared(user).await? {
                *count += 1;
                open.insert(user, user_id);
                asked.push(Box::pin(async move {
                    (user_id.clone(), user, self.refresh_list(peers, user_id, user, patience).await)
                }));
            }
        }
        let mut refreshed = Vec::new();
        let mut asked = stream::iter(asked).buffer_unordered(REFRESHED_AT_ONCE);
        let over = tokio::time::sleep(Duration::from_millis(timeout_ms));
        tokio::pin!(over);
        loop {
            let next = tokio::select! {
                next = asked.next() => next,
                () = &mut over => break,
            };
            let Some((user_id, user, result)) = next else { break };
            open.remove(&user);
            match result {
                Ok(()) => refreshed.push(user_id),
                Err(error) => tracing::debug!(%user_id, %error, "a device list was not brought up to date"),
            }
        }
        open.into_iter().for_each(|(user, user_id)| self.lists.want(user, user_id));
        Ok(refreshed)
    }

    /// All devices that are kept of a remote user, by their keys.
    pub(super) async fn load_remote_devices(&self, user: UserNumber) -> Result<Vec<(Key, RemoteDeviceRow)>, Fault> {
        let range = KeyRange::prefix(remote_devices_prefix(user));
        let rows = self.store.scan_all(Table::Fd, range, DEVICES_MAX, false).await?;
        rows.into_iter().map(|row| Ok((row.key, hearth_store::decode(&row.value)?))).collect()
    }
}

/// A device's keys as clients get them, with its name; `None`: there are none, or they say that they are another's.
fn shown(user_id: &OwnedUserId, device_id: &str, row: RemoteDeviceRow) -> Option<Box<RawValue>> {
    let keys = RawValue::from_string(row.keys?).ok()?;
    if !remote::is_about(&keys, user_id, Some(device_id)) {
        return None;
    }
    let mut keys: Map<String, Value> = serde_json::from_str(keys.get()).ok()?;
    let mut unsigned = Map::new();
    if let Some(name) = row.display_name {
        unsigned.insert("device_display_name".to_owned(), name.into());
    }
    keys.insert("unsigned".to_owned(), unsigned.into());
    Some(raw(&keys))
}
