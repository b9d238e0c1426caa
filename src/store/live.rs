//! What is known in memory of the newest positions: who waits, and for whom there is something new.
//!
//! Commits are applied here in their order, before whoever asked for them is answered. A commit reaches the active users
//! of its room and nobody else; a user is active from [`Store::attach`] until some minutes after the last holder has
//! gone. Nothing here is needed for correctness but [`Live::positions`]: all else is in the rows.

mod notify;
mod user;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hearth_ports::{Committed, Heads, Key, KeyRange, Partition, Position, Table};
use parking_lot::Mutex;

pub use notify::Changed;
pub use user::UserLive;

use crate::{
    LoadError, LogEntry, Positions, RoomNumber, Store, UserNumber,
    codec::{decode, read_u64},
    log::{EventNote, MemberNote},
    tables::{
        Head, Membership, head_key,
        users::{AccountDataIndexRow, account_data_index_prefix},
    },
    write::PositionIndex,
};
use notify::Notify;
use user::Core;

/// A user whom nobody holds stays active for so long, in milliseconds: longer than a client pauses between two polls.
pub const IDLE_MS: u64 = 5 * 60 * 1_000;

/// So many active users are kept for nobody, at most; beyond it all idle ones go at the next sweep.
const IDLE_USERS_MAX: usize = 100_000;

/// So many changes of device lists are remembered: 24 bytes each. Older ones must be read.
const DEVICE_LISTS_MAX: usize = 50_000;

/// Rooms whose last receipt is looked up at once while a user becomes active.
const RECEIPTS_AT_ONCE: usize = 64;

/// Changes of account data that are looked at while a user becomes active, newest first. More than a user has.
const ACCOUNT_DATA_MAX: usize = 20_000;

/// A user whose device list changed, and the rooms whose members are told.
pub(crate) type Sharers = (UserNumber, Vec<RoomNumber>);

/// See the module.
pub struct Live {
    /// One for each counter.
    lanes: Box<[Lane]>,
    /// The active users of each room, by user. Where both are held, this comes before a user's rooms.
    rooms: [Mutex<HashMap<RoomNumber, Vec<Active>>>; Partition::COUNT],
    /// All active users. Never held together with another lock.
    users: [Mutex<HashMap<UserNumber, Attached>>; Partition::COUNT],
    device_lists: Mutex<DeviceLists>,
    /// Held by whoever reads the log for older changes of device lists: one reads for all.
    pub(crate) device_lists_turn: futures_util::lock::Mutex<()>,
    /// Whoever follows the log.
    log: Arc<Notify>,
    /// Whoever waits for a room's members.
    completed: Arc<Notify>,
}

struct Lane {
    /// Everything up to here is applied.
    position: AtomicU64,
    /// Held while commits are applied.
    applying: Mutex<Applying>,
}

#[derive(Default)]
struct Applying {
    /// Something was committed that was not applied: until the log was read, nothing else is.
    behind: bool,
    /// The last commit that was therefore not applied.
    skipped: Position,
}

/// A user in a room's list.
struct Active {
    core: Arc<Core>,
    /// Where the room was in the user's list when it was joined: it mostly is there still.
    place: u32,
}

struct Attached {
    /// Whoever else holds it keeps the user active.
    user: Arc<UserLive>,
    /// When a sweep first found that nobody does, in milliseconds since the Unix epoch.
    idle_since_ms: Option<u64>,
}

struct DeviceLists {
    /// Oldest first.
    changes: VecDeque<(Partition, Position, UserNumber)>,
    /// Changes after this are all here.
    from: Positions,
}

impl Live {
    pub(crate) fn new(heads: &Heads, single_counter: bool) -> Self {
        let lane = |position: &Position| Lane { position: AtomicU64::new(position.0), applying: Mutex::default() };
        let Heads(heads) = heads;
        let lanes = if single_counter {
            vec![lane(heads.iter().max().expect("there are partitions"))]
        } else {
            heads.iter().map(lane).collect()
        };
        let live = Self {
            lanes: lanes.into(),
            rooms: std::array::from_fn(|_| Mutex::default()),
            users: std::array::from_fn(|_| Mutex::default()),
            device_lists: Mutex::new(DeviceLists { changes: VecDeque::new(), from: Positions::START }),
            device_lists_turn: futures_util::lock::Mutex::new(()),
            log: Arc::default(),
            completed: Arc::default(),
        };
        live.device_lists.lock().from = live.positions();
        live
    }

    /// V: all up to here is readable and known here, and nothing will ever appear at or below it.
    pub fn positions(&self) -> Positions {
        match &*self.lanes {
            [lane] => Positions::all(lane.position()),
            lanes => Positions::from(&Heads(std::array::from_fn(|index| lanes[index].position()))),
        }
    }

    /// V in one partition.
    pub fn position(&self, partition: Partition) -> Position {
        self.lane(partition).position()
    }

    /// Resolves when the log has something new after this call, whatever it is: for readers of the whole log. Call it,
    /// read, then await it.
    pub fn log_changed(&self) -> Changed {
        Changed::new(self.log.clone())
    }

    /// Resolves when, after this call, the state of some room has changed without an event, as it does when a room gets the
    /// members that its join left out.
    pub(crate) fn room_completed(&self) -> Changed {
        Changed::new(self.completed.clone())
    }

    /// The active users who are joined to a room.
    pub fn active_users(&self, room: RoomNumber) -> Vec<UserNumber> {
        let rooms = self.rooms_of(room).lock();
        rooms.get(&room).map_or_else(Vec::new, |active| active.iter().map(|active| active.core.user).collect())
    }

    /// How many users are active.
    pub fn active_users_count(&self) -> usize {
        self.users.iter().map(|users| users.lock().len()).sum()
    }

    /// Whose device lists changed after these positions, each once; `None` if that is too long ago to be remembered.
    pub fn device_lists_since(&self, since: &Positions) -> Option<Vec<UserNumber>> {
        let lists = self.device_lists.lock();
        if !since.covers(&lists.from) {
            return None;
        }
        let newer = lists.changes.iter().filter(|(partition, position, _)| *position > since.at(*partition));
        let mut users: Vec<UserNumber> = newer.map(|(.., user)| *user).collect();
        users.sort_unstable();
        users.dedup();
        Some(users)
    }

    /// Remembers changes of device lists that were read from the log: all after `since`. Not if they are too many.
    pub(crate) fn extend_device_lists(&self, since: &Positions, changes: &[(Partition, Position, UserNumber)]) {
        let mut lists = self.device_lists.lock();
        let from = lists.from.clone();
        let older: Vec<_> =
            changes.iter().filter(|(partition, position, _)| *position <= from.at(*partition)).collect();
        if lists.changes.len() + older.len() <= DEVICE_LISTS_MAX {
            older.into_iter().rev().for_each(|change| lists.changes.push_front(*change));
            lists.from = crate::device_lists::lower(&from, since);
        }
    }

    /// Wakes the active users of a room: something changed that has no position.
    pub fn nudge_room(&self, room: RoomNumber) {
        let rooms = self.rooms_of(room).lock();
        let woken: Vec<_> = rooms.get(&room).into_iter().flatten().map(|active| active.core.clone()).collect();
        drop(rooms);
        woken.iter().for_each(|core| core.notify.notify());
    }

    /// Wakes a user, if active.
    pub fn nudge_user(&self, user: UserNumber) {
        if let Some(core) = self.core(user) {
            core.notify.notify();
        }
    }

    /// Wakes everybody: at shutdown.
    pub fn nudge_all(&self) {
        self.all_cores().iter().for_each(|core| core.notify.notify());
    }

    /// Lets go of users whom nobody has held for [`IDLE_MS`]. To be called about once a minute.
    pub fn sweep(&self, now_ms: u64) {
        let active = self.active_users_count();
        metrics::gauge!("hearth_live_users").set(active as f64);
        let crowded = active > IDLE_USERS_MAX;
        for users in &self.users {
            let mut gone = Vec::new();
            users.lock().retain(|_, attached| {
                // Under the lock nobody else can begin to hold it.
                if Arc::strong_count(&attached.user) > 1 {
                    attached.idle_since_ms = None;
                    return true;
                }
                let since = *attached.idle_since_ms.get_or_insert(now_ms);
                let stays = !crowded && now_ms.saturating_sub(since) < IDLE_MS;
                if !stays {
                    gone.push(attached.user.core.clone());
                }
                stays
            });
            gone.iter().for_each(|core| self.leave_rooms(core));
        }
    }

    fn leave_rooms(&self, core: &Arc<Core>) {
        let user = UserLive { core: core.clone() };
        for (room, _) in user.rooms() {
            let mut rooms = self.rooms_of(room).lock();
            let Some(active) = rooms.get_mut(&room) else { continue };
            // The user may be active again, with another core.
            active.retain(|active| !Arc::ptr_eq(&active.core, core));
            if active.is_empty() {
                rooms.remove(&room);
            }
        }
    }

    /// Applies a commit, unless something before it is missing: then the log must be read.
    pub(crate) fn apply_commit(
        &self,
        partition: Partition,
        committed: Committed,
        entries: &[(PositionIndex, LogEntry)],
        sharers: &[Sharers],
    ) {
        let lane = self.lane(partition);
        let mut applying = lane.applying.lock();
        let known = lane.position();
        if committed.last <= known {
            return;
        }
        if applying.behind || committed.prev > known {
            *applying = Applying { behind: true, skipped: committed.last.max(applying.skipped) };
            return;
        }
        let mut woken = Vec::new();
        for (index, entry) in entries {
            let position = Position(committed.first.0 + u64::from(index.0));
            self.apply(partition, position, entry, sharers, &mut woken);
        }
        lane.position.store(committed.last.0, Ordering::Release);
        drop(applying);
        wake(woken);
        if !entries.is_empty() {
            self.log.notify();
        }
        if entries.iter().any(|(_, entry)| completes_room(entry)) {
            self.completed.notify();
        }
    }

    /// Whether the log must be read before commits of a partition are known here again.
    pub(crate) fn is_behind(&self, partition: Partition) -> bool {
        self.lane(partition).applying.lock().behind
    }

    /// Applies what the log has after what is known, complete up to `up_to`, by rising position.
    pub(crate) fn apply_log(&self, partition: Partition, entries: &[(Partition, Position, LogEntry)], up_to: Position) {
        let lane = self.lane(partition);
        let mut applying = lane.applying.lock();
        let known = lane.position();
        let mut woken = Vec::new();
        for (partition, position, entry) in entries.iter().filter(|(_, position, _)| *position > known) {
            self.apply(*partition, *position, entry, &[], &mut woken);
        }
        lane.position.fetch_max(up_to.0, Ordering::Release);
        // What was skipped meanwhile must be read first.
        applying.behind = applying.skipped > lane.position();
        drop(applying);
        wake(woken);
        self.log.notify();
        if entries.iter().any(|(.., entry)| completes_room(entry)) {
            self.completed.notify();
        }
    }

    /// Whether one counter serves all partitions.
    pub(crate) fn single_counter(&self) -> bool {
        self.lanes.len() == 1
    }

    fn apply(
        &self,
        partition: Partition,
        position: Position,
        entry: &LogEntry,
        sharers: &[Sharers],
        woken: &mut Vec<Arc<Core>>,
    ) {
        match entry {
            LogEntry::Event(EventNote { room, member, .. }) => {
                self.raise_room(*room, position, woken);
                if let Some(member) = member {
                    self.apply_member(member, position, woken);
                }
            }
            LogEntry::Membership(member) => self.apply_member(member, position, woken),
            LogEntry::Receipt { room, private: false, .. } => self.raise_room(*room, position, woken),
            LogEntry::Receipt { room, user, private: true } => {
                if let Some(core) = self.core(*user) {
                    core.raise_room(*room, position, false);
                    woken.push(core);
                }
            }
            LogEntry::AccountData { user, room } => {
                if let Some(core) = self.core(*user) {
                    if let Some(room) = room {
                        core.raise_room(*room, position, true);
                    }
                    core.raise_own(position);
                    woken.push(core);
                }
            }
            LogEntry::ToDevice { user } | LogEntry::OwnKeys { user } => self.raise_own(*user, position, woken),
            // Who is to see it in their rooms is told there; who sends to other servers reads the log.
            LogEntry::Account { .. } | LogEntry::Queued { .. } => {}
            LogEntry::DeviceList { user } | LogEntry::Device { user, .. } | LogEntry::SigningKeys { user } => {
                self.raise_own(*user, position, woken);
                self.remember_device_list(partition, position, *user);
                let told = match sharers.iter().find(|(changed, _)| changed == user) {
                    Some((_, rooms)) => self.cores_of(rooms),
                    None => self.all_cores(),
                };
                for core in told {
                    core.raise(partition, position);
                    woken.push(core);
                }
            }
        }
    }

    fn raise_room(&self, room: RoomNumber, position: Position, woken: &mut Vec<Arc<Core>>) {
        let rooms = self.rooms_of(room).lock();
        for Active { core, place } in rooms.get(&room).into_iter().flatten() {
            core.raise_joined(room, *place, position);
            woken.push(core.clone());
        }
    }

    fn raise_own(&self, user: UserNumber, position: Position, woken: &mut Vec<Arc<Core>>) {
        if let Some(core) = self.core(user) {
            core.raise_own(position);
            woken.push(core);
        }
    }

    fn apply_member(&self, note: &MemberNote, position: Position, woken: &mut Vec<Arc<Core>>) {
        // Held until it is done: a sweep in between could let go of the user, who comes back with another core.
        if let Some(user) = self.user(note.user) {
            self.set_membership(&user.core, note.room, note.membership, position);
            woken.push(user.core.clone());
        }
    }

    /// Notes a membership and, accordingly, whether the room's commits reach the user.
    fn set_membership(&self, core: &Arc<Core>, room: RoomNumber, membership: Membership, position: Position) {
        let mut rooms = self.rooms_of(room).lock();
        let (place, joined) = core.set_membership(room, membership, position);
        let active = rooms.entry(room).or_default();
        let found = active.binary_search_by_key(&core.user, |active| active.core.user);
        match found {
            Ok(at) if joined => active[at] = Active { core: core.clone(), place },
            Ok(at) => drop(active.remove(at)),
            Err(at) if joined => active.insert(at, Active { core: core.clone(), place }),
            Err(_) => {}
        }
        if active.is_empty() {
            rooms.remove(&room);
        }
    }

    fn remember_device_list(&self, partition: Partition, position: Position, user: UserNumber) {
        let mut lists = self.device_lists.lock();
        if lists.changes.len() >= DEVICE_LISTS_MAX
            && let Some((partition, position, _)) = lists.changes.pop_front()
        {
            lists.from = lists.from.raised(partition, position);
        }
        lists.changes.push_back((partition, position, user));
    }

    fn cores_of(&self, rooms: &[RoomNumber]) -> Vec<Arc<Core>> {
        let mut cores = Vec::new();
        for room in rooms {
            let list = self.rooms_of(*room).lock();
            cores.extend(list.get(room).into_iter().flatten().map(|active| active.core.clone()));
        }
        cores
    }

    fn all_cores(&self) -> Vec<Arc<Core>> {
        let of = |users: &Mutex<HashMap<UserNumber, Attached>>| -> Vec<Arc<Core>> {
            users.lock().values().map(|attached| attached.user.core.clone()).collect()
        };
        self.users.iter().flat_map(of).collect()
    }

    fn core(&self, user: UserNumber) -> Option<Arc<Core>> {
        Some(self.user(user)?.core.clone())
    }

    fn user(&self, user: UserNumber) -> Option<Arc<UserLive>> {
        Some(self.users_of(user).lock().get(&user)?.user.clone())
    }

    fn lane(&self, partition: Partition) -> &Lane {
        self.lanes.get(usize::from(partition.index())).unwrap_or(&self.lanes[0])
    }

    fn rooms_of(&self, room: RoomNumber) -> &Mutex<HashMap<RoomNumber, Vec<Active>>> {
        &self.rooms[usize::from(room.partition().index())]
    }

    fn users_of(&self, user: UserNumber) -> &Mutex<HashMap<UserNumber, Attached>> {
        &self.users[usize::from(user.partition().index())]
    }
}

impl Lane {
    fn position(&self) -> Position {
        Position(self.position.load(Ordering::Acquire))
    }
}

/// Wakes each once. After V was raised: who is woken looks at V.
/// Whether a room's state changed without an event.
fn completes_room(entry: &LogEntry) -> bool {
    matches!(entry, LogEntry::Event(EventNote { event: None, .. }))
}

fn wake(mut woken: Vec<Arc<Core>>) {
    woken.sort_unstable_by_key(Arc::as_ptr);
    woken.dedup_by(|a, b| Arc::ptr_eq(a, b));
    woken.iter().for_each(|core| core.notify.notify());
}

impl Store {
    /// Makes a user active, who stays so while the answer is held: the newest positions of the user's rooms are read
    /// once and followed from then on. A user who is active already costs nothing.
    ///
    /// What happened before is told exactly of rooms; of the user's own things it is only told that there may be some.
    pub async fn attach(&self, user: UserNumber) -> Result<Arc<UserLive>, LoadError> {
        let attached = self.live.enter(user);
        if attached.core.is_loaded() {
            return Ok(attached);
        }
        // From here on commits reach the user. What is read now is older or already known; the later one stays.
        let core = &attached.core;
        let mut joined = Vec::new();
        for (room, row) in self.user_rooms(user).await? {
            if row.forgotten {
                continue;
            }
            self.live.set_membership(core, room, row.membership, Position(row.position));
            if row.membership == Membership::Join {
                joined.push(room);
            }
        }
        for (room, row) in self.outside_rooms(user).await? {
            self.live.set_membership(core, room, row.membership, Position(row.position));
        }
        let keys: Vec<Key> = joined.iter().map(|room| head_key(*room)).collect();
        for (room, head) in joined.iter().zip(self.multi_get::<Head>(Table::Rm, &keys).await?) {
            core.raise_room(*room, Position(head.map_or(0, |head| head.position)), false);
        }
        for rooms in joined.chunks(RECEIPTS_AT_ONCE) {
            let receipts = rooms.iter().map(|room| self.last_receipt(*room));
            for (room, last) in rooms.iter().zip(futures_util::future::try_join_all(receipts).await?) {
                core.raise_room(*room, Position(last), false);
            }
        }
        for (room, position) in self.room_account_data(user).await? {
            core.raise_room(room, position, true);
        }
        core.raise_own(self.live.position(user.partition()));
        core.set_loaded();
        Ok(attached)
    }
}

impl Store {
    /// The rooms in which a user has account data, and the positions of the changes.
    async fn room_account_data(&self, user: UserNumber) -> Result<Vec<(RoomNumber, Position)>, LoadError> {
        let range = KeyRange::prefix(account_data_index_prefix(user));
        let rows = self.scan_all(Table::Us, range, ACCOUNT_DATA_MAX, true).await?;
        let mut changes = Vec::new();
        for row in rows {
            let AccountDataIndexRow { room: Some(room), .. } = decode(&row.value)? else { continue };
            changes.push((room, Position(read_u64("account data index key", row.key.get(9..).unwrap_or_default())?)));
        }
        Ok(changes)
    }
}

impl Live {
    /// The user's place, made if there is none.
    fn enter(&self, user: UserNumber) -> Arc<UserLive> {
        let mut users = self.users_of(user).lock();
        let attached = users.entry(user).or_insert_with(|| {
            let core = Arc::new(Core::new(user, self.single_counter()));
            Attached { user: Arc::new(UserLive { core }), idle_since_ms: None }
        });
        attached.idle_since_ms = None;
        attached.user.clone()
    }
}

#[cfg(test)]
mod tests;
