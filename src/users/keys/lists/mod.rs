//! Devices of other servers' users, kept as long as somebody of ours shares a room with them.
//! [Device Management](https://spec.matrix.org/v1.19/server-server-api/#device-management).
//!
//! A list is filled by asking the user's server for all of it (`refresh.rs`), then follows the updates that the server
//! sends: each names the one before it. When one is missing the list is stale, which a row says that survives restarts,
//! until it was asked for anew. Of a list that cannot be had, or kept, only the change is told: who then asks for it gets
//! what the server answers. It goes with the last shared room, for from then on nobody tells us of changes.

mod cached;
mod refresh;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use hearth_store::{
    LogEntry, Position, RoomNumber, Table, UserNumber, Write,
    tables::{
        Membership,
        users::{
            IDENTITY_KEYS_BYTES_MAX, RemoteDeviceRow, RemoteListRow, refresh_key, remote_device_key, remote_list_key,
        },
    },
};
use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, UserId};
use serde_json::value::RawValue;
use tokio::{sync::Notify, time::Instant};

use crate::{
    Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// Devices of a remote user that are kept. Of users with more every question goes to their server.
const DEVICES_MAX: usize = 500;

/// What they may take together, in bytes: with its frame a list fits into one batch.
const LIST_BYTES_MAX: usize = 500_000;

/// The longest name of a device that is kept, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// The longest id of a device that is kept, in bytes.
const DEVICE_ID_BYTES_MAX: usize = 255;

/// An update of a remote user's devices. The caller has found that it comes from the user's server.
#[derive(Debug)]
pub struct DeviceUpdate {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// Names the update.
    pub stream_id: i64,
    /// The updates that it follows.
    pub prev_id: Vec<i64>,
    /// The device is gone.
    pub deleted: bool,
    /// Its identity keys, an object.
    pub keys: Option<Box<RawValue>>,
    /// Its name.
    pub display_name: Option<String>,
}

/// New cross-signing keys of a remote user; what is absent stays as it is.
#[derive(Debug)]
pub struct SigningKeysUpdate {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The master key.
    pub master_key: Option<Box<RawValue>>,
    /// The self-signing key.
    pub self_signing_key: Option<Box<RawValue>>,
}

/// What is kept in memory of remote lists.
pub(crate) struct ListMemory {
    /// Lists that are to be asked for anew, and when. Their rows say the same, but for those that nobody needs urgently.
    due: Mutex<HashMap<UserNumber, Due>>,
    /// There is one more.
    woken: Notify,
    /// Lists that are being asked for: whoever wants the same waits for it.
    flights: Mutex<HashMap<UserNumber, Arc<tokio::sync::Mutex<()>>>>,
}

/// When a list is asked for.
#[derive(Clone, Debug)]
struct Due {
    at: Instant,
    server: OwnedServerName,
    failures: u32,
    /// Those who share a room with the user have heard that the list changed, although it cannot be kept.
    told: bool,
}

impl ListMemory {
    pub(crate) fn new() -> Self {
        Self { due: Mutex::default(), woken: Notify::new(), flights: Mutex::default() }
    }

    /// A list is to be asked for anew, at once.
    fn want(&self, user: UserNumber, user_id: &UserId) {
        let server = || user_id.server_name().to_owned();
        let mut due = self.due.lock();
        let due =
            due.entry(user).or_insert_with(|| Due { at: Instant::now(), server: server(), failures: 0, told: false });
        // Who tells of a change can be asked, and the change is another one.
        (due.at, due.told) = (Instant::now(), false);
        self.woken.notify_one();
    }
}

/// A list and its row as it was read.
struct List {
    row: RemoteListRow,
    bytes: Option<Bytes>,
}

impl Users {
    /// Takes an update of another server's user; `false`: nobody here shares a room with the user. What does not follow what
    /// is known makes the list stale, and it is asked for in the background.
    pub async fn take_device_update(&self, update: DeviceUpdate) -> Result<bool, Fault> {
        let Some(user) = self.store.user_number(&update.user_id).await? else { return Ok(false) };
        if !self.is_shared(user).await? {
            return Ok(false);
        }
        for _ in 0..COMMIT_ATTEMPTS {
            let list = self.load_remote_list(user).await?;
            let known = list.bytes.is_some() && !list.row.stale;
            if known && list.row.stream_id == update.stream_id {
                // It was in the list that we asked for, or comes again.
                return Ok(true);
            }
            let follows = known && update.prev_id.contains(&list.row.stream_id);
            let applied = if follows { self.applied(user, &list, &update).await? } else { None };
            let is_applied = applied.is_some();
            let write = applied.unwrap_or_else(|| outdated(user, list));
            if committed(self.store.commit(write).await)? {
                if !is_applied {
                    self.lists.want(user, &update.user_id);
                }
                return Ok(true);
            }
        }
        Err(Fault::contended())
    }

    /// Takes cross-signing keys of another server's user; `false`: nobody here shares a room with the user.
    pub async fn take_signing_keys(&self, update: SigningKeysUpdate) -> Result<bool, Fault> {
        let Some(user) = self.store.user_number(&update.user_id).await? else { return Ok(false) };
        if !self.is_shared(user).await? {
            return Ok(false);
        }
        for _ in 0..COMMIT_ATTEMPTS {
            let mut list = self.load_remote_list(user).await?;
            let is_known = list.bytes.is_some() && !list.row.stale;
            let fits = |key: &Option<Box<RawValue>>| {
                key.as_ref().is_none_or(|key| key.get().len() <= IDENTITY_KEYS_BYTES_MAX && key.get().starts_with('{'))
            };
            let is_applied = is_known && fits(&update.master_key) && fits(&update.self_signing_key);
            let write = if is_applied {
                let text = |key: &Option<Box<RawValue>>| key.as_ref().map(|key| key.get().to_owned());
                list.row.master = text(&update.master_key).or(list.row.master);
                list.row.self_signing = text(&update.self_signing_key).or(list.row.self_signing);
                let mut write = Write::new(user.partition());
                write.require(Table::Fd, remote_list_key(user), list.bytes);
                write.put(Table::Fd, remote_list_key(user), &list.row);
                tell(&mut write, user);
                write
            } else {
                outdated(user, list)
            };
            if committed(self.store.commit(write).await)? {
                if !is_applied {
                    self.lists.want(user, &update.user_id);
                }
                return Ok(true);
            }
        }
        Err(Fault::contended())
    }

    /// A room is no longer shared with a remote user since a position. If no other was shared at that time and is still,
    /// what is known of the user's devices is forgotten.
    pub async fn forget_remote_list(&self, user: UserNumber, room: RoomNumber, since: Position) -> Result<(), Fault> {
        for _ in 0..COMMIT_ATTEMPTS {
            let list = self.load_remote_list(user).await?;
            if list.bytes.is_none() || self.is_shared_but(user, Some((room, since))).await? {
                return Ok(());
            }
            if self.delete_remote_list(user, list.bytes).await? {
                self.lists.due.lock().remove(&user);
                return Ok(());
            }
        }
        Err(Fault::contended())
    }

    /// Whether a remote user is in a room that somebody of ours is in.
    pub(crate) async fn is_shared(&self, user: UserNumber) -> Result<bool, Fault> {
        self.is_shared_but(user, None).await
    }

    /// The same; with a room and position: in another room, and since before the position without a break.
    async fn is_shared_but(&self, user: UserNumber, but: Option<(RoomNumber, Position)>) -> Result<bool, Fault> {
        for (room, row) in self.store.user_rooms(user).await? {
            let counts = but.is_none_or(|(gone, since)| room != gone && row.joined_position < since.0);
            if row.membership == Membership::Join
                && counts
                && self.store.joined_from(room, &self.settings.server_name).await? > 0
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The batch that brings a list up to date by an update that follows it; `None`: the list would be too large.
    async fn applied(&self, user: UserNumber, list: &List, update: &DeviceUpdate) -> Result<Option<Write>, Fault> {
        // No key could hold it, also not of what is deleted.
        if update.device_id.as_str().len() > DEVICE_ID_BYTES_MAX {
            return Ok(None);
        }
        let key = remote_device_key(user, update.device_id.as_str());
        let old: Option<RemoteDeviceRow> = self.store.get(Table::Fd, &key).await?;
        let mut row = RemoteListRow { stream_id: update.stream_id, ..list.row.clone() };
        if let Some(old) = &old {
            row.devices = row.devices.saturating_sub(1);
            row.bytes = row.bytes.saturating_sub(size_bytes(old));
        }
        let mut write = Write::new(user.partition());
        if update.deleted {
            write.delete(Table::Fd, key);
        } else {
            let Some(device) = device_row(&update.device_id, update.keys.as_deref(), update.display_name.clone())
            else {
                return Ok(None);
            };
            row.devices += 1;
            row.bytes += size_bytes(&device);
            write.put(Table::Fd, key, &device);
        }
        if row.devices as usize > DEVICES_MAX || row.bytes as usize > LIST_BYTES_MAX {
            return Ok(None);
        }
        write.require(Table::Fd, remote_list_key(user), list.bytes.clone());
        write.put(Table::Fd, remote_list_key(user), &row);
        tell(&mut write, user);
        Ok(Some(write))
    }

    /// Deletes a list with its devices, if its row is still this one, and says so.
    async fn delete_remote_list(&self, user: UserNumber, row: Option<Bytes>) -> Result<bool, Fault> {
        let mut write = Write::new(user.partition());
        write.require(Table::Fd, remote_list_key(user), row);
        write.delete(Table::Fd, remote_list_key(user));
        write.delete(Table::Mi, refresh_key(user));
        for (key, _) in self.load_remote_devices(user).await? {
            write.delete(Table::Fd, key);
        }
        committed(self.store.commit(write).await)
    }

    async fn load_remote_list(&self, user: UserNumber) -> Result<List, Fault> {
        let bytes = self.store.get_bytes(Table::Fd, &remote_list_key(user)).await?;
        let row = bytes.as_deref().map(hearth_store::decode).transpose()?;
        Ok(List { row: row.unwrap_or_default(), bytes })
    }
}

/// The batch that says that updates of a list are missing.
fn outdated(user: UserNumber, list: List) -> Write {
    let row = RemoteListRow { stale: true, missed: list.row.missed.wrapping_add(1), ..list.row };
    let mut write = Write::new(user.partition());
    write.require(Table::Fd, remote_list_key(user), list.bytes);
    write.put(Table::Fd, remote_list_key(user), &row);
    write.put_bytes(Table::Mi, refresh_key(user), Vec::new());
    write
}

/// Those who share a room with the user hear that the list changed.
fn tell(write: &mut Write, user: UserNumber) {
    let at = write.position();
    write.log(at, LogEntry::DeviceList { user });
}

/// A device as it is kept; `None`: it is too large, or its keys are no object.
fn device_row(
    device_id: &ruma::DeviceId,
    keys: Option<&RawValue>,
    display_name: Option<String>,
) -> Option<RemoteDeviceRow> {
    let keys = keys.map(RawValue::get).filter(|keys| *keys != "null");
    let fits = keys.is_none_or(|keys| keys.len() <= IDENTITY_KEYS_BYTES_MAX && keys.starts_with('{'));
    let display_name = display_name.filter(|name| name.len() <= NAME_BYTES_MAX);
    let row = RemoteDeviceRow { keys: keys.map(str::to_owned), display_name };
    (fits && device_id.as_str().len() <= DEVICE_ID_BYTES_MAX).then_some(row)
}

/// About what a device takes, in bytes.
fn size_bytes(device: &RemoteDeviceRow) -> u32 {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    u32::try_from(text(&device.keys) + text(&device.display_name) + 100).unwrap_or(u32::MAX)
}
