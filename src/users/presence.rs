//! Presence: who is there. Only memory knows; it can be switched off. (Module "Presence".)

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_store::{
    RoomNumber, UserNumber,
    tables::{Membership, MembershipRow},
};
use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use tokio::time::Instant;

use crate::{Fault, Users};

/// Without activity for so long an online user is unavailable.
const IDLE_AFTER: Duration = Duration::from_secs(5 * 60);

/// A user who does nothing for so long is not "currently active".
const ACTIVE_FOR: Duration = Duration::from_secs(60);

/// A user without a running sync for so long is offline.
const OFFLINE_AFTER: Duration = Duration::from_secs(30);

/// How long somebody who is offline is remembered, so that others are told so.
const REMEMBER: Duration = Duration::from_secs(24 * 60 * 60);

/// How often timeouts are looked at.
const TICK: Duration = Duration::from_secs(1);

/// How often sessions of interactive authentication and claims on registration tokens are swept: they live a quarter of an
/// hour.
const SWEEP_EVERY: Duration = Duration::from_secs(10 * 60);

/// Users who are remembered before nobody of another server is added, at some 300 bytes each.
const REMEMBERED_MAX: usize = 100_000;

/// The longest status message, in bytes.
pub(crate) const STATUS_BYTES_MAX: usize = 1_024;

/// Whether somebody is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceState {
    /// `online`
    Online,
    /// `unavailable`
    Unavailable,
    /// `offline`
    Offline,
}

impl PresenceState {
    /// The name in the specification.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Unavailable => "unavailable",
            Self::Offline => "offline",
        }
    }

    /// The state of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Online, Self::Unavailable, Self::Offline].into_iter().find(|state| state.name() == name)
    }
}

/// A user's presence as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether they are there.
    pub state: PresenceState,
    /// What they say about it.
    pub status_msg: Option<String>,
    /// How long ago they last did something, in milliseconds; `None` if that is not known.
    pub last_active_ago_ms: Option<u64>,
    /// They do something now.
    pub currently_active: bool,
}

/// A presence that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceUpdate {
    /// The number of the change.
    pub serial: u64,
    /// Whose.
    pub user_id: OwnedUserId,
    /// Their number.
    pub user: UserNumber,
    /// What it now is.
    pub presence: Presence,
}

/// Everybody who was there lately.
pub(crate) struct PresenceBoard(Mutex<Board>);

/// The lock guards both maps and the order of serials, and is held for map operations only.
#[derive(Default)]
struct Board {
    entries: HashMap<OwnedUserId, Entry>,
    by_serial: BTreeMap<u64, OwnedUserId>,
}

struct Entry {
    user: UserNumber,
    serial: u64,
    state: PresenceState,
    status_msg: Option<String>,
    /// When they last did something; being seen for the first time is something.
    active: Instant,
    currently_active: bool,
    /// Syncs that are running now.
    syncing: u32,
    /// When the last sign came, a sync's end or a request.
    seen: Instant,
    /// Of another server's user: how long what their server said is believed.
    told_until: Option<Instant>,
}

/// What another server says of a user of its own.
pub(crate) struct Told {
    pub(crate) state: PresenceState,
    pub(crate) status_msg: Option<String>,
    /// How long ago they did something.
    pub(crate) active_ago: Duration,
    pub(crate) currently_active: bool,
    /// How long this is believed.
    pub(crate) until: Instant,
}

impl PresenceBoard {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }
}

/// Held while a sync runs: its user is not offline.
pub struct Syncing {
    users: Weak<Users>,
    user_id: OwnedUserId,
}

impl Drop for Syncing {
    fn drop(&mut self) {
        if let Some(users) = self.users.upgrade()
            && let Some(entry) = users.presence.0.lock().entries.get_mut(&self.user_id)
        {
            entry.syncing = entry.syncing.saturating_sub(1);
            entry.seen = Instant::now();
        }
    }
}

impl Entry {
    fn shown(&self, now: Instant) -> Presence {
        let ago = now.duration_since(self.active).as_millis();
        Presence {
            state: self.state,
            status_msg: self.status_msg.clone(),
            last_active_ago_ms: Some(u64::try_from(ago).unwrap_or(u64::MAX)),
            currently_active: self.currently_active,
        }
    }

    /// What others are told of, to see whether it changed.
    fn visible(&self) -> (PresenceState, Option<String>, bool) {
        (self.state, self.status_msg.clone(), self.currently_active)
    }

    fn touch(&mut self, now: Instant) {
        self.active = now;
        self.currently_active = self.state == PresenceState::Online;
    }

    fn tell(&mut self, told: Told, now: Instant) {
        self.state = told.state;
        self.status_msg = told.status_msg;
        self.active = now.checked_sub(told.active_ago).unwrap_or(self.active);
        self.currently_active = told.currently_active;
        self.seen = now;
        self.told_until = Some(told.until);
    }

    /// What time does.
    fn age(&mut self, now: Instant) {
        if let Some(until) = self.told_until {
            // All else their own server says.
            if now >= until {
                (self.state, self.currently_active) = (PresenceState::Offline, false);
            }
            return;
        }
        let idle = now.duration_since(self.active);
        if self.syncing == 0 && now.duration_since(self.seen) >= OFFLINE_AFTER {
            self.state = PresenceState::Offline;
        } else if self.state == PresenceState::Online && idle >= IDLE_AFTER {
            self.state = PresenceState::Unavailable;
        }
        if self.state != PresenceState::Online || idle >= ACTIVE_FOR {
            self.currently_active = false;
        }
    }
}

impl Users {
    /// Sets a user's own presence. Nothing happens where presence is switched off.
    pub async fn set_presence(
        &self,
        user_id: &UserId,
        state: PresenceState,
        status_msg: Option<String>,
    ) -> Result<(), Fault> {
        let status_msg = status_msg.map(|message| message.chars().take(STATUS_BYTES_MAX / 4).collect());
        self.change_presence(user_id, |entry, now| {
            entry.state = state;
            entry.status_msg.clone_from(&status_msg);
            entry.seen = now;
            if state != PresenceState::Offline {
                entry.touch(now);
            }
        })
        .await
    }

    /// A sync of this user runs until the guard is dropped, and wishes to be seen in this state; `offline` changes
    /// nothing.
    pub async fn syncing(self: &Arc<Self>, user_id: &UserId, wish: PresenceState) -> Result<Option<Syncing>, Fault> {
        if !self.settings.presence || wish == PresenceState::Offline {
            return Ok(None);
        }
        self.change_presence(user_id, |entry, now| {
            if wish == PresenceState::Unavailable {
                entry.state = wish;
            } else if entry.state == PresenceState::Offline
                || entry.state == PresenceState::Unavailable && !idles(entry, now)
            {
                entry.state = wish;
                entry.touch(now);
            }
            entry.syncing += 1;
            entry.seen = now;
        })
        .await?;
        Ok(Some(Syncing { users: Arc::downgrade(self), user_id: user_id.to_owned() }))
    }

    /// A user did something that only people do: sent, typed, read. What they did is done whether or not others learn of
    /// it, so there is no error.
    pub async fn active(&self, user_id: &UserId) {
        let told = self.change_presence(user_id, |entry, now| {
            if entry.state == PresenceState::Unavailable {
                entry.state = PresenceState::Online;
            }
            entry.touch(now);
        });
        if let Err(fault) = told.await {
            tracing::warn!(%fault, "an active user was not shown as such");
        }
    }

    /// A user's presence; offline where nothing is known.
    pub fn presence(&self, user_id: &UserId) -> Presence {
        let board = self.presence.0.lock();
        let unknown = Presence {
            state: PresenceState::Offline,
            status_msg: None,
            last_active_ago_ms: None,
            currently_active: false,
        };
        board.entries.get(user_id).map_or(unknown, |entry| entry.shown(Instant::now()))
    }

    /// Presences that changed after `serial`, by rising serial. Whether the reader may see them, being in a room with
    /// them, is for the caller to ask.
    pub fn presence_since(&self, serial: u64) -> Vec<PresenceUpdate> {
        let board = self.presence.0.lock();
        let now = Instant::now();
        let changed = board.by_serial.range(serial.saturating_add(1)..);
        let update = |(serial, user_id): (&u64, &OwnedUserId)| {
            let entry = board.entries.get(user_id)?;
            Some(PresenceUpdate {
                serial: *serial,
                user_id: user_id.clone(),
                user: entry.user,
                presence: entry.shown(now),
            })
        };
        changed.filter_map(update).collect()
    }

    /// Whether two users are joined to a common room, or are the same.
    pub async fn share_room(&self, one: &UserId, other: &UserId) -> Result<bool, Fault> {
        Ok(one == other || !self.mutual_numbers(one, other).await?.is_empty())
    }

    /// The rooms to which two users are joined.
    pub async fn mutual_rooms(&self, one: &UserId, other: &UserId) -> Result<Vec<OwnedRoomId>, Fault> {
        let mut rooms = Vec::new();
        for room in self.mutual_numbers(one, other).await? {
            rooms.extend(self.store.room_id(room).await?);
        }
        Ok(rooms)
    }

    async fn mutual_numbers(&self, one: &UserId, other: &UserId) -> Result<Vec<RoomNumber>, Fault> {
        let (Some(one), Some(other)) = (self.store.user_number(one).await?, self.store.user_number(other).await?)
        else {
            return Ok(Vec::new());
        };
        let joined = |rooms: Vec<(RoomNumber, MembershipRow)>| {
            rooms.into_iter().filter(|(_, row)| row.membership == Membership::Join).map(|(room, _)| room)
        };
        let rooms: HashSet<_> = joined(self.store.user_rooms(one).await?).collect();
        Ok(joined(self.store.user_rooms(other).await?).filter(|room| rooms.contains(room)).collect())
    }

    async fn change_presence(
        &self,
        user_id: &UserId,
        change: impl FnOnce(&mut Entry, Instant) + Send,
    ) -> Result<(), Fault> {
        if !self.settings.presence {
            return Ok(());
        }
        let Some(user) = self.store.user_number(user_id).await? else { return Ok(()) };
        if self.change_entry(user_id, user, change) {
            self.nudge_sharers(user).await?;
        }
        Ok(())
    }

    /// Whether another server's user may be remembered.
    pub(crate) fn has_room_for_presence(&self, user_id: &UserId) -> bool {
        let board = self.presence.0.lock();
        board.entries.len() < REMEMBERED_MAX || board.entries.contains_key(user_id)
    }

    /// Takes note of what another server says of a user of its own.
    pub(crate) async fn tell_of(&self, user_id: &UserId, user: UserNumber, told: Told) -> Result<(), Fault> {
        if self.change_entry(user_id, user, |entry, now| entry.tell(told, now)) {
            self.nudge_sharers(user).await?;
        }
        Ok(())
    }

    /// Changes an entry; says whether others see a difference.
    fn change_entry(&self, user_id: &UserId, user: UserNumber, change: impl FnOnce(&mut Entry, Instant)) -> bool {
        let now = Instant::now();
        let mut board = self.presence.0.lock();
        let board = &mut *board;
        let entry = board.entries.entry(user_id.to_owned()).or_insert_with(|| Entry {
            user,
            serial: 0,
            state: PresenceState::Offline,
            status_msg: None,
            active: now,
            currently_active: false,
            syncing: 0,
            seen: now,
            told_until: None,
        });
        let before = entry.visible();
        change(entry, now);
        if before == entry.visible() {
            return false;
        }
        board.by_serial.remove(&entry.serial);
        entry.serial = self.serials.next();
        board.by_serial.insert(entry.serial, user_id.to_owned());
        true
    }

    /// Wakes those who share a room with a user.
    async fn nudge_sharers(&self, user: UserNumber) -> Result<(), Fault> {
        for (room, row) in self.store.user_rooms(user).await? {
            if row.membership == Membership::Join {
                self.store.live().nudge_room(room);
            }
        }
        self.store.live().nudge_user(user);
        Ok(())
    }

    /// Lets time pass for everybody; gives those whose presence changed by it.
    fn age_presences(&self, now: Instant) -> Vec<UserNumber> {
        let mut board = self.presence.0.lock();
        let Board { entries, by_serial } = &mut *board;
        let mut changed = Vec::new();
        entries.retain(|user_id, entry| {
            let before = (entry.state, entry.currently_active);
            entry.age(now);
            if before != (entry.state, entry.currently_active) {
                by_serial.remove(&entry.serial);
                entry.serial = self.serials.next();
                by_serial.insert(entry.serial, user_id.clone());
                changed.push(entry.user);
            }
            let forgotten = entry.state == PresenceState::Offline && now.duration_since(entry.seen) >= REMEMBER;
            if forgotten {
                by_serial.remove(&entry.serial);
            }
            !forgotten
        });
        changed
    }

    /// Ends typing and presence when their time is over, for as long as the service lives.
    pub(crate) async fn keep_time(users: Weak<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut swept = Instant::now();
        loop {
            let now = ticks.tick().await;
            let Some(users) = users.upgrade() else { return };
            users.expire_typing(now);
            for user in users.age_presences(now) {
                if let Err(fault) = users.nudge_sharers(user).await {
                    tracing::warn!(%fault, "a change of presence woke nobody");
                }
            }
            if now.duration_since(swept) >= SWEEP_EVERY {
                swept = now;
                if let Err(fault) = users.sweep_interactive().await {
                    tracing::warn!(%fault, "old authentication sessions were not swept");
                }
                if let Err(fault) = users.clear_ended_devices().await {
                    tracing::warn!(%fault, "messages to ended devices were not deleted");
                }
                if let Err(fault) = users.settle_claims(None).await {
                    tracing::warn!(%fault, "old claims on registration tokens were not settled");
                }
            }
        }
    }
}

fn idles(entry: &Entry, now: Instant) -> bool {
    now.duration_since(entry.active) >= IDLE_AFTER
}
