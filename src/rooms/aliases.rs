//! Aliases of rooms. [Room aliases](https://spec.matrix.org/v1.19/client-server-api/#room-aliases).
//!
//! An alias has a row of its own, in its own partition, which alone says where it points. The room keeps a list of
//! aliases that may point to it, written before, so that a crash between the two leaves a list to look through, not a
//! wrong alias. An alias is claimed before its room is created; until the room exists the claim counts as absent.

use bytes::Bytes;
use hearth_ports::{AliasTarget, KeyRange, PeerError, Table};
use hearth_store::{
    CommitError, LoadError, RoomNumber, UserNumber, Write, decode,
    tables::{AliasRow, Membership, alias_key, alias_partition, room_alias_key},
};
use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId};
use serde_json::{Map, Value};

use crate::{SendError, request::Intent, rooms::Rooms, state::StateIntent, writer::Writer};

/// How long a claim without its room keeps others away, in milliseconds: creating a room takes far less.
const CLAIM_MS: u64 = 60_000;

/// Aliases that a room may have; an upgrade moves them one by one.
const LISTED_MAX: usize = 1_000;

/// Servers that are told with an alias of ours.
const TOLD_SERVERS_MAX: usize = 20;

/// Servers that another server may name with an alias; a join asks fewer.
const ALIAS_SERVERS_MAX: usize = 50;

/// Why an alias was not found, made, moved or deleted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AliasError {
    /// It points somewhere already (`M_UNKNOWN`, 409 on the directory; `M_ROOM_IN_USE` when creating a room).
    #[error("this alias is taken")]
    Taken,
    /// There is no such alias, or no such room.
    #[error("not found")]
    NotFound,
    /// The user may not do this; tell them why.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The alias is of another server, or too long.
    #[error("{0}")]
    Invalid(&'static str),
    /// The alias is of another server, which did not tell where it points.
    #[error(transparent)]
    Peer(PeerError),
    /// Our fault, or others were faster; the text is for the log.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<LoadError> for AliasError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<CommitError> for AliasError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => Self::Taken,
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl Writer {
    /// An alias whose room exists, and its row's bytes.
    pub(crate) async fn live_alias(&self, alias: &RoomAliasId) -> Result<Option<(AliasRow, Bytes)>, LoadError> {
        let Some(bytes) = self.store.get_bytes(Table::Ix, &alias_key(alias.as_str())).await? else { return Ok(None) };
        let row: AliasRow = decode(&bytes)?;
        let exists = self.store.head(row.room).await?.is_some();
        Ok(exists.then_some((row, bytes)))
    }

    /// Makes an alias point to a room that need not exist yet.
    pub(crate) async fn claim_alias(
        &self,
        alias: &RoomAliasId,
        room: RoomNumber,
        room_id: &RoomId,
        creator: UserNumber,
    ) -> Result<(), AliasError> {
        if alias.server_name() != self.server_name {
            return Err(AliasError::Invalid("this server only makes aliases of its own name"));
        }
        let key = alias_key(alias.as_str());
        let now_ms = self.clock.now_ms();
        let known = self.store.get_bytes(Table::Ix, &key).await?;
        if let Some(bytes) = &known {
            let row: AliasRow = decode(bytes).map_err(LoadError::from)?;
            let is_fresh = now_ms < row.created_ts_ms.saturating_add(CLAIM_MS);
            if is_fresh || self.store.head(row.room).await?.is_some() {
                return Err(AliasError::Taken);
            }
        }
        self.list_alias(alias, room).await?;
        let row = AliasRow { room_id: room_id.to_string(), room, creator, created_ts_ms: now_ms };
        let mut write = Write::new(alias_partition(alias.as_str()));
        write.require(Table::Ix, key.clone(), known);
        write.put(Table::Ix, key, &row);
        self.store.commit(write).await?;
        // Somebody who deleted the alias meanwhile may have tidied the list after us.
        if self.store.get_bytes(Table::Rm, &room_alias_key(room, alias.as_str())).await?.is_none() {
            self.list_alias(alias, room).await?;
        }
        Ok(())
    }

    /// Lets go of an alias, if it still is as it was read.
    pub(crate) async fn drop_alias(&self, alias: &RoomAliasId, bytes: Bytes) -> Result<(), AliasError> {
        let row: AliasRow = decode(&bytes).map_err(LoadError::from)?;
        let mut write = Write::new(alias_partition(alias.as_str()));
        write.require(Table::Ix, alias_key(alias.as_str()), Some(bytes));
        write.delete(Table::Ix, alias_key(alias.as_str()));
        match self.store.commit(write).await {
            Err(CommitError::Conflict) => return Err(AliasError::NotFound),
            result => result.map(drop)?,
        }
        let mut write = Write::new(row.room.partition());
        write.delete(Table::Rm, room_alias_key(row.room, alias.as_str()));
        if let Err(error) = self.store.commit(write).await {
            tracing::info!(%error, "a deleted alias stays in its room's list");
        }
        Ok(())
    }

    /// Notes in the room's list that this alias may point to it.
    async fn list_alias(&self, alias: &RoomAliasId, room: RoomNumber) -> Result<(), AliasError> {
        let mut write = Write::new(room.partition());
        write.put_bytes(Table::Rm, room_alias_key(room, alias.as_str()), Bytes::new());
        self.store.commit(write).await?;
        Ok(())
    }

    /// Lets all aliases of a room point to another one.
    pub(crate) async fn move_aliases(&self, from: RoomNumber, to: &RoomId) -> Result<(), AliasError> {
        let new = self.store.room_number(to).await?.ok_or(AliasError::NotFound)?;
        for (alias, row, bytes) in self.aliases_of(from).await? {
            self.list_alias(&alias, new).await?;
            let row = AliasRow { room_id: to.to_string(), room: new, ..row };
            let mut write = Write::new(alias_partition(alias.as_str()));
            write.require(Table::Ix, alias_key(alias.as_str()), Some(bytes));
            write.put(Table::Ix, alias_key(alias.as_str()), &row);
            match self.store.commit(write).await {
                // Somebody else deleted or moved it.
                Ok(_) | Err(CommitError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The aliases that point to a room, with their rows' bytes.
    pub(crate) async fn aliases_of(
        &self,
        room: RoomNumber,
    ) -> Result<Vec<(OwnedRoomAliasId, AliasRow, Bytes)>, LoadError> {
        let prefix = room_alias_key(room, "");
        let listed = self.store.scan_all(Table::Rm, KeyRange::prefix(prefix.clone()), LISTED_MAX, false).await?;
        let mut aliases = Vec::with_capacity(listed.len());
        for entry in listed {
            let alias = std::str::from_utf8(entry.key.get(prefix.len()..).unwrap_or_default());
            let Some(alias) = alias.ok().and_then(|alias| OwnedRoomAliasId::try_from(alias).ok()) else { continue };
            let Some(bytes) = self.store.get_bytes(Table::Ix, &alias_key(alias.as_str())).await? else { continue };
            let row: AliasRow = decode(&bytes)?;
            if row.room == room {
                aliases.push((alias, row, bytes));
            }
        }
        Ok(aliases)
    }
}

impl Rooms {
    /// The room that an alias of this server points to.
    pub async fn resolve_alias(&self, alias: &RoomAliasId) -> Result<OwnedRoomId, AliasError> {
        let found = self.writer.live_alias(alias).await?;
        let (row, _) = found.ok_or(AliasError::NotFound)?;
        OwnedRoomId::try_from(row.room_id).map_err(|error| AliasError::Unavailable(error.to_string()))
    }

    /// The room that an alias of any server points to, and servers that may help to get into it.
    pub async fn find_alias(&self, alias: &RoomAliasId) -> Result<AliasTarget, AliasError> {
        if alias.server_name() == self.writer.server_name {
            let room_id = self.resolve_alias(alias).await?;
            let servers = self.servers_to_join(&room_id, TOLD_SERVERS_MAX).await;
            let servers = servers.map_err(|error| AliasError::Unavailable(error.to_string()))?;
            return Ok(AliasTarget { room_id, servers });
        }
        let mut found = self.writer.peers.alias(alias).await.map_err(|error| match error {
            PeerError::Refused { status: 404, .. } => AliasError::NotFound,
            other => AliasError::Peer(other),
        })?;
        found.servers.truncate(ALIAS_SERVERS_MAX);
        Ok(found)
    }

    /// Makes an alias. The user must be in the room.
    pub async fn create_alias(
        &self,
        user: &UserId,
        is_admin: bool,
        alias: &RoomAliasId,
        room_id: &RoomId,
    ) -> Result<(), AliasError> {
        if !self.settings.users_create_aliases && !is_admin {
            return Err(AliasError::Forbidden("only administrators make aliases on this server"));
        }
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(AliasError::NotFound)?;
        let number = store.user_number(user).await?.ok_or(AliasError::Forbidden("you are not in this room"))?;
        let membership = store.membership(number, room).await?;
        if !is_admin && membership.is_none_or(|row| row.membership != Membership::Join) {
            return Err(AliasError::Forbidden("you are not in this room"));
        }
        if self.writer.aliases_of(room).await?.len() >= LISTED_MAX {
            return Err(AliasError::Forbidden("this room has too many aliases"));
        }
        self.writer.claim_alias(alias, room, room_id, number).await
    }

    /// Deletes an alias: its creator may, and who may set the room's canonical alias, and administrators. Where the
    /// room's canonical alias event names it and the user may change that event, it is taken out there too.
    pub async fn delete_alias(&self, user: &UserId, is_admin: bool, alias: &RoomAliasId) -> Result<(), AliasError> {
        if alias.server_name() != self.writer.server_name {
            return Err(AliasError::Invalid("this server only deletes aliases of its own name"));
        }
        let (row, bytes) = self.writer.live_alias(alias).await?.ok_or(AliasError::NotFound)?;
        let number = self.writer.store.user_number(user).await?;
        let is_creator = number == Some(row.creator);
        let may_set = self.may_set_state(row.room, user, "m.room.canonical_alias").await?;
        if !is_creator && !is_admin && !may_set {
            return Err(AliasError::Forbidden("you may not delete this alias"));
        }
        self.writer.drop_alias(alias, bytes).await?;
        if may_set && let Err(error) = self.remove_from_canonical(row.room, user, alias).await {
            // The alias is gone; a canonical alias that leads nowhere is only ugly.
            tracing::info!(%error, "a deleted alias stays in the room's canonical alias");
        }
        Ok(())
    }

    /// The aliases of a room, for its members and, where anybody may read its history, for all.
    pub async fn aliases(&self, user: &UserId, room_id: &RoomId) -> Result<Vec<OwnedRoomAliasId>, AliasError> {
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(AliasError::Forbidden("you are not in this room"))?;
        let membership = match store.user_number(user).await? {
            Some(number) => store.membership(number, room).await?,
            None => None,
        };
        let is_member = membership.is_some_and(|row| row.membership == Membership::Join);
        if !is_member && !self.is_world_readable(room).await? {
            return Err(AliasError::Forbidden("you are not in this room"));
        }
        Ok(self.writer.aliases_of(room).await?.into_iter().map(|(alias, _, _)| alias).collect())
    }

    /// Whether the user is in the room with the level for this kind of state.
    pub(crate) async fn may_set_state(&self, room: RoomNumber, user: &UserId, kind: &str) -> Result<bool, AliasError> {
        let active = self.writer.active(room);
        let mut cache = active.cache.lock().await;
        let may = async {
            let cache = self.writer.load(&mut cache, room).await?;
            if cache.membership(&self.writer.store, user).await? != Some(Membership::Join) {
                return Ok(false);
            }
            Ok(cache.power_levels(&self.writer.store).await?.can_send(user, kind, true))
        };
        may.await.map_err(|error: SendError| match error {
            SendError::UnknownRoom => AliasError::NotFound,
            other => AliasError::Unavailable(other.to_string()),
        })
    }

    /// Takes an alias out of the room's canonical alias event.
    async fn remove_from_canonical(
        &self,
        room: RoomNumber,
        user: &UserId,
        alias: &RoomAliasId,
    ) -> Result<(), SendError> {
        let event = self.writer.store.current_state_event(room, "m.room.canonical_alias", "").await?;
        let Some(event) = event else { return Ok(()) };
        let mut content: Map<String, Value> = event.event.content_as().unwrap_or_default();
        let had = content.len();
        let mut changed = false;
        if content.get("alias").and_then(Value::as_str) == Some(alias.as_str()) {
            content.remove("alias");
            changed = content.len() != had;
        }
        if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
            let count = others.len();
            others.retain(|other| other.as_str() != Some(alias.as_str()));
            changed |= others.len() != count;
            if others.is_empty() {
                content.remove("alt_aliases");
            }
        }
        if !changed {
            return Ok(());
        }
        self.set_canonical(room, user.to_owned(), &content).await
    }

    pub(crate) async fn set_canonical(
        &self,
        room: RoomNumber,
        sender: OwnedUserId,
        content: &Map<String, Value>,
    ) -> Result<(), SendError> {
        let intent = StateIntent {
            sender,
            kind: "m.room.canonical_alias".to_owned(),
            state_key: String::new(),
            content: serde_json::value::to_raw_value(content).expect("a map of values is JSON"),
            ts_ms: None,
        };
        self.submit(room, Intent::State(intent), None).await.map(drop)
    }
}
