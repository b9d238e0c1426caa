//! Who is told of our users' devices, and whose devices elsewhere we stop knowing of.
//! [Device Management](https://spec.matrix.org/v1.19/server-server-api/#device-management).
//!
//! Each change goes to every server that shares a room with the user, as a row that stays until it has arrived. Its id is its
//! position in the log, and it names the change before it: a server to which one of them did not go, because it shared no
//! room then, sees the gap and asks for the list. After a crash a change may be told twice, under the same id.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use hearth_store::{
    Corrupt, LoadError, MemberNote, Position, RoomNumber, StoredEvent, Unavailable, UserNumber,
    tables::{Membership, MembershipRow},
};
use hearth_users::{Fault, keys::ToldDevice};
use ruma::{OwnedServerName, OwnedUserId, UserId};
use serde_json::{Value, json, value::to_raw_value};

use super::{Outbound, QueueError};

/// Servers for which a change is stored at the same time, so that they become durable together.
const SERVERS_AT_ONCE: usize = 128;

/// Members of a room that are looked at when a new server comes into it. Of the others it has no list that could be out of
/// date, having dropped it with the last shared room; this is a reminder.
const MEMBERS_MAX: usize = 1_000;

/// Members that are looked at together when we have left a room.
const LEFT_AT_ONCE: usize = 500;

impl Outbound {
    /// Tells of a device that changed.
    pub(super) async fn tell_device(
        self: &Arc<Self>,
        user: UserNumber,
        device_id: &str,
        at: Position,
    ) -> Result<(), LoadError> {
        let Some(user_id) = self.local_user(user).await? else { return Ok(()) };
        let users = &self.parts.users;
        let before = users.told_devices(user).await.map_err(as_load_error)?;
        if before >= at.0 {
            return Ok(());
        }
        let servers = self.servers_of(user, None).await?;
        if !servers.is_empty() {
            let previous: Vec<u64> = Some(before).filter(|before| *before > 0).into_iter().collect();
            let content = self.device_content(&user_id, user, device_id, at.0, &previous).await?;
            self.queue_for_all(servers, "m.device_list_update", &content).await?;
        }
        users.set_told_devices(user, at.0).await.map_err(as_load_error)
    }

    /// Tells of cross-signing keys that changed.
    pub(super) async fn tell_signing_keys(self: &Arc<Self>, user: UserNumber) -> Result<(), LoadError> {
        let Some(user_id) = self.local_user(user).await? else { return Ok(()) };
        let list = self.parts.users.device_list(&user_id).await.map_err(as_load_error)?;
        let Some(list) = list else { return Ok(()) };
        let mut content = json!({ "user_id": user_id });
        for (name, key) in [("master_key", list.master_key), ("self_signing_key", list.self_signing_key)] {
            if let Some(key) = key {
                content[name] = json!(key);
            }
        }
        let servers = self.servers_of(user, None).await?;
        self.queue_for_all(servers, "m.signing_key_update", &content).await
    }

    /// Somebody came into a room or left it: servers that now share a room with a user of ours are told of their devices,
    /// and what we know of users with whom nobody of ours shares one any more is forgotten.
    pub(super) async fn follow_lists(
        self: &Arc<Self>,
        note: &MemberNote,
        at: Position,
        event: Option<&StoredEvent>,
    ) -> Result<(), LoadError> {
        let MemberNote { room, user, membership } = *note;
        let Some(user_id) = self.parts.store.user_id(user).await? else { return Ok(()) };
        let is_ours = self.parts.users.is_local(&user_id);
        match membership {
            Membership::Join => {
                let row = self.parts.store.membership(user, room).await?;
                // Changes of a profile are joins, too.
                if row.is_none_or(|row| row.joined_position != at.0) {
                    return Ok(());
                }
                match is_ours {
                    true => self.tell_new_servers(room, user, &user_id).await,
                    false => self.tell_new_server(room, &user_id, event).await,
                }
            }
            Membership::Leave | Membership::Ban if is_ours => self.forget_left(room, at, event).await,
            Membership::Leave | Membership::Ban => self.forget_list(user, room, at).await,
            Membership::Invite | Membership::Knock => Ok(()),
        }
    }

    /// A user of ours has joined a room: servers in it with which they shared none learn that there is a list.
    async fn tell_new_servers(
        self: &Arc<Self>,
        room: RoomNumber,
        user: UserNumber,
        user_id: &UserId,
    ) -> Result<(), LoadError> {
        let there: BTreeSet<OwnedServerName> = self.servers_now(room).await?.into_iter().collect();
        if there.is_empty() {
            return Ok(());
        }
        let known = self.servers_of(user, Some(room)).await?;
        let new: BTreeSet<_> = there.difference(&known).cloned().collect();
        self.announce(new, user, user_id).await
    }

    /// A user of another server has joined a room: if it is new there, it learns of our users in the room.
    async fn tell_new_server(
        self: &Arc<Self>,
        room: RoomNumber,
        newcomer: &UserId,
        join: Option<&StoredEvent>,
    ) -> Result<(), LoadError> {
        let (store, server) = (&self.parts.store, newcomer.server_name());
        let is_new = match join {
            Some(join) => self.targets.comes_with(room, join, server).await?,
            None => store.joined_from(room, server).await? <= 1,
        };
        if !is_new || store.joined_from(room, &self.parts.server_name).await? == 0 {
            return Ok(());
        }
        let shared: HashSet<RoomNumber> = store.rooms_of_server(server).await?.into_iter().collect();
        for (member, row) in store.current_members(room, None, MEMBERS_MAX).await? {
            let Ok(member) = OwnedUserId::try_from(member) else { continue };
            if row.membership != Some(Membership::Join) || !self.parts.users.is_local(&member) {
                continue;
            }
            let Some(user) = store.user_number(&member).await? else { continue };
            let others = store.user_rooms(user).await?;
            let knows = |(other, row): &(RoomNumber, MembershipRow)| {
                *other != room && row.membership == Membership::Join && shared.contains(other)
            };
            if !others.iter().any(knows) {
                self.announce(BTreeSet::from([server.to_owned()]), user, &member).await?;
            }
        }
        Ok(())
    }

    /// Tells servers that a user has devices with keys: an update that follows nothing makes them ask for all.
    async fn announce(
        self: &Arc<Self>,
        servers: BTreeSet<OwnedServerName>,
        user: UserNumber,
        user_id: &UserId,
    ) -> Result<(), LoadError> {
        if servers.is_empty() {
            return Ok(());
        }
        let users = &self.parts.users;
        let Some(device_id) = users.some_device_with_keys(user).await.map_err(as_load_error)? else { return Ok(()) };
        let told = users.told_devices(user).await.map_err(as_load_error)?;
        let content = self.device_content(user_id, user, &device_id, told, &[]).await?;
        self.queue_for_all(servers, "m.device_list_update", &content).await
    }

    /// [`m.device_list_update`](https://spec.matrix.org/v1.19/server-server-api/#definition-mdevice_list_update)
    async fn device_content(
        &self,
        user_id: &UserId,
        user: UserNumber,
        device_id: &str,
        stream_id: u64,
        previous: &[u64],
    ) -> Result<Value, LoadError> {
        let mut content =
            json!({ "user_id": user_id, "device_id": device_id, "stream_id": stream_id, "prev_id": previous });
        match self.parts.users.told_device(user, device_id).await.map_err(as_load_error)? {
            ToldDevice::There(Some(keys)) => content["keys"] = json!(keys),
            ToldDevice::There(None) => {}
            ToldDevice::Gone => content["deleted"] = true.into(),
        }
        Ok(content)
    }

    async fn queue_for_all(
        self: &Arc<Self>,
        servers: BTreeSet<OwnedServerName>,
        kind: &str,
        content: &Value,
    ) -> Result<(), LoadError> {
        let edu = to_raw_value(&json!({ "edu_type": kind, "content": content })).expect("a value is JSON");
        let queued = stream::iter(servers).map(|server| {
            let edu = &edu;
            async move { self.queue_edu(&server, edu).await }
        });
        let results: Vec<Result<(), QueueError>> = queued.buffer_unordered(SERVERS_AT_ONCE).collect().await;
        for result in results {
            match result {
                Ok(()) => {}
                Err(QueueError::TooLarge(bytes)) => tracing::warn!(kind, bytes, "a change of devices is too large"),
                Err(QueueError::Unavailable(error)) => return Err(super::as_load_error(error)),
            }
        }
        Ok(())
    }

    /// A user of ours left a room. If it was the last of ours, we hear no more of the others' devices.
    async fn forget_left(&self, room: RoomNumber, at: Position, leave: Option<&StoredEvent>) -> Result<(), LoadError> {
        let (store, own) = (&self.parts.store, &self.parts.server_name);
        // Who came back meanwhile did not keep the others from leaving us out.
        if store.joined_from(room, own).await? > 0
            && match leave {
                Some(leave) => self.targets.is_there_after(room, leave, own).await?,
                None => true,
            }
        {
            return Ok(());
        }
        let mut behind: Option<String> = None;
        loop {
            let members = store.current_members(room, behind.as_deref(), LEFT_AT_ONCE).await?;
            let Some((last, _)) = members.last() else { return Ok(()) };
            behind = Some(last.clone());
            for (member, row) in members {
                let Ok(member) = OwnedUserId::try_from(member) else { continue };
                if row.membership == Some(Membership::Join)
                    && !self.parts.users.is_local(&member)
                    && let Some(user) = store.user_number(&member).await?
                {
                    self.forget_list(user, room, at).await?;
                }
            }
        }
    }

    async fn forget_list(&self, user: UserNumber, room: RoomNumber, at: Position) -> Result<(), LoadError> {
        self.parts.users.forget_remote_list(user, room, at).await.map_err(as_load_error)
    }

    async fn local_user(&self, user: UserNumber) -> Result<Option<OwnedUserId>, LoadError> {
        let user_id = self.parts.store.user_id(user).await?;
        Ok(user_id.filter(|user_id| self.parts.users.is_local(user_id)))
    }

    /// The other servers in the rooms of a user, but for one room.
    async fn servers_of(
        &self,
        user: UserNumber,
        but: Option<RoomNumber>,
    ) -> Result<BTreeSet<OwnedServerName>, LoadError> {
        let mut servers = BTreeSet::new();
        for (room, row) in self.parts.store.user_rooms(user).await? {
            if row.membership == Membership::Join && but != Some(room) {
                servers.extend(self.servers_now(room).await?);
            }
        }
        Ok(servers)
    }
}

/// What a service says of the store.
fn as_load_error(fault: Fault) -> LoadError {
    match fault {
        Fault::Unavailable(reason) => Unavailable(reason).into(),
        Fault::Broken(reason) => Corrupt { what: "what is known of a user", reason }.into(),
    }
}
