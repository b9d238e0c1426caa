//! Rooms that were joined without their members: usable at once, completed in the background.
//! [`omit_members`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid),
//! decision 5.
//!
//! The join leaves a job row. Its task asks the room's servers for the state before the join, stores what comes as it comes
//! ([`stage`]), puts it in order and into the room ([`settle`]), and then takes the events of others that have waited
//! ([`waiting`]). Until then the room is this server's own events on a state that lacks memberships; what needs these
//! waits. Each step may be broken off and begun again.

mod settle;
mod stage;
mod waiting;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_core::RoomVersion;
use hearth_ports::Table;
use hearth_store::{
    LoadError, RoomNumber, Write, decode,
    tables::{Membership, PartialRow, partial_key},
};
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, ServerName};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{SendError, driven::Driven, member::MemberIntent, rooms::Rooms};

use waiting::Waiting;

/// Rooms that are completed at once: what they hold in memory is some 40 MB for 100,000 members.
const COMPLETED_AT_ONCE: usize = 2;

/// After a round in which no server could help the next one begins so much later; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// How long a request waits that needs a room's members: less than clients and proxies wait for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

/// What is kept in memory of rooms whose members are being fetched.
pub(crate) struct Partial {
    /// Those that have a task.
    driven: Driven,
    turns: Semaphore,
    /// How many events of others wait.
    waiting: Mutex<HashMap<RoomNumber, Waiting>>,
}

impl Partial {
    pub(super) fn new() -> Self {
        Self {
            driven: Driven::new("rooms_partial"),
            turns: Semaphore::new(COMPLETED_AT_ONCE),
            waiting: Mutex::default(),
        }
    }
}

/// A room whose members are to be fetched.
struct Job {
    room: RoomNumber,
    room_id: OwnedRoomId,
    version: RoomVersion,
    /// The join by which we came in.
    join: OwnedEventId,
    row: PartialRow,
    /// The row as it is stored.
    bytes: Bytes,
}

impl Rooms {
    /// Goes on with what was being fetched when the server stopped: rooms' members, and what events of others rest on.
    pub async fn resume(self: &Arc<Self>) -> Result<(), LoadError> {
        self.resume_unfinished().await?;
        for (room, _) in self.writer.store.partial_rooms().await? {
            self.complete_later(room);
        }
        Ok(())
    }

    /// Fetches a room's members in the background, if they are missing.
    pub(super) fn complete_later(self: &Arc<Self>, room: RoomNumber) {
        if !self.joins.partial.driven.begin(room) {
            return;
        }
        let rooms = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pause = PAUSE_MIN;
            loop {
                let Some(this) = rooms.upgrade() else { return };
                match this.complete(room).await {
                    Ok(()) => {
                        this.joins.partial.driven.end(room);
                        // Who has joined anew in this moment has found the task still there.
                        let is_left = this.job(room).await.is_ok_and(|job| job.is_none());
                        if is_left || !this.joins.partial.driven.begin(room) {
                            return;
                        }
                        pause = PAUSE_MIN;
                    }
                    Err(error) => {
                        tracing::info!(room = room.0, %error, "the members of a room are still missing");
                        drop(this);
                        sleep(pause).await;
                        pause = (2 * pause).min(PAUSE_MAX);
                    }
                }
            }
        });
    }

    /// Does what is left to do for a room.
    async fn complete(self: &Arc<Self>, room: RoomNumber) -> Result<(), SendError> {
        let Some(job) = self.job(room).await? else { return Ok(()) };
        if self.writer.store.joined_from(room, &self.writer.server_name).await? == 0 {
            // Nobody of ours is in it any longer: nobody would tell us.
            return self.clear(&job).await;
        }
        if !job.row.is_settled {
            let turn = self.joins.partial.turns.acquire().await;
            let _turn = turn.map_err(|error| SendError::Unavailable(error.to_string()))?;
            self.fetch_members(&job).await?;
        }
        self.take_waiting(&job).await?;
        // The row has changed since.
        match self.job(room).await? {
            Some(job) if job.row.is_settled => self.clear(&job).await,
            _ => Ok(()),
        }
    }

    /// Asks one server after the other.
    async fn fetch_members(&self, job: &Job) -> Result<(), SendError> {
        let mut last = SendError::UnknownRoom;
        for server in job.servers(&self.writer.server_name) {
            let started_ms = self.writer.clock.now_ms();
            match self.fetch_through(job, &server).await {
                Ok(members) => {
                    let now_ms = self.writer.clock.now_ms();
                    let (took_ms, since_ms) =
                        (now_ms.saturating_sub(started_ms), now_ms.saturating_sub(job.row.since_ms));
                    let room_id = &job.room_id;
                    tracing::info!(%room_id, %server, members, took_ms, since_ms, "the room has its members");
                    metrics::histogram!("rooms_completed_seconds").record(since_ms as f64 / 1_000.0);
                    return Ok(());
                }
                // Ours, not the server's.
                Err(error @ SendError::Unavailable(_)) => return Err(error),
                Err(error) => {
                    tracing::info!(room_id = %job.room_id, %server, %error, "members not fetched from this server");
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Returns how many members there are.
    async fn fetch_through(&self, job: &Job, server: &ServerName) -> Result<usize, SendError> {
        let staging = self.stage(job, server).await?;
        let members = self.store_staged(job, server, staging).await?;
        self.settle(job, &members).await?;
        Ok(members.len())
    }

    /// The job of a room; `None`: there is nothing to do.
    async fn job(&self, room: RoomNumber) -> Result<Option<Job>, SendError> {
        let store = &self.writer.store;
        let Some(bytes) = store.get_bytes(Table::Rm, &partial_key(room)).await? else { return Ok(None) };
        let row: PartialRow = decode(&bytes).map_err(LoadError::from)?;
        let identity = store.room_identity(room).await?.ok_or(SendError::UnknownRoom)?;
        let join = OwnedEventId::try_from(row.join.as_str());
        let join = join.map_err(|error| SendError::Unavailable(format!("a stored event id does not read: {error}")))?;
        Ok(Some(Job { room, room_id: identity.room_id.clone(), version: identity.version, join, row, bytes }))
    }

    /// Nothing is left to do.
    async fn clear(&self, job: &Job) -> Result<(), SendError> {
        self.clear_staged(job.room).await?;
        self.clear_waiting(job.room).await?;
        let mut write = Write::new(job.room.partition());
        write.require(Table::Rm, partial_key(job.room), Some(job.bytes.clone()));
        write.delete(Table::Rm, partial_key(job.room));
        Ok(self.writer.store.commit(write).await.map(drop)?)
    }

    /// Whether the members of the room are being fetched.
    pub(crate) async fn is_partial(&self, room: RoomNumber) -> Result<bool, LoadError> {
        Ok(self.writer.store.head(room).await?.is_some_and(|head| head.partial))
    }

    /// Waits until the room has its members, or so long.
    pub(crate) async fn wait_whole(&self, room: RoomNumber, patience: Duration) -> Result<bool, LoadError> {
        match timeout(patience, self.writer.store.until_whole(room)).await {
            Ok(is_whole) => is_whole,
            Err(_) => Ok(false),
        }
    }

    /// Waits for what a change of membership rests on. Members of ours are known, so that they may leave or change how
    /// they are shown at any time.
    pub(crate) async fn wait_for_members(&self, room: RoomNumber, intent: &MemberIntent) -> Result<(), SendError> {
        if !self.is_partial(room).await? {
            return Ok(());
        }
        if intent.sender == intent.target
            && let Some(user) = self.writer.store.user_number(&intent.sender).await?
            && self.writer.store.membership(user, room).await?.is_some_and(|row| row.membership == Membership::Join)
        {
            return Ok(());
        }
        if self.wait_whole(room, PATIENCE).await? { Ok(()) } else { Err(SendError::Busy) }
    }
}

impl Job {
    fn servers(&self, own: &ServerName) -> Vec<OwnedServerName> {
        let names = self.row.servers.iter().filter_map(|name| OwnedServerName::try_from(name.as_str()).ok());
        names.filter(|server| server != own).collect()
    }
}
