//! What is known in memory of an active user.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use hearth_ports::{Partition, Position};
use parking_lot::RwLock;

use super::notify::{Changed, Notify};
use crate::{Positions, RoomNumber, UserNumber, tables::Membership};

/// An active user: somebody who waits for news, or did so not long ago. The user stays active while this is held.
#[derive(Debug)]
pub struct UserLive {
    pub(super) core: Arc<Core>,
}

impl UserLive {
    /// Who it is.
    pub fn user(&self) -> UserNumber {
        self.core.user
    }

    /// Whether anything may have happened after these positions that this user is told about. `false` is certain, and
    /// costs the same for any number of rooms.
    pub fn news_since(&self, since: &Positions) -> bool {
        self.core.newest.above(since)
    }

    /// The rooms with something new after these positions: in the timeline, a receipt, the user's own membership or
    /// room account data. Rooms that the user left are there until `since` has passed the leaving.
    pub fn rooms_since(&self, since: &Positions) -> Vec<RoomNumber> {
        let rooms = self.core.rooms.read();
        let slots = rooms.iter();
        if let Some(Position(since)) = since.single() {
            return slots.filter(|slot| slot.last() > since || slot.own() > since).map(|slot| slot.room).collect();
        }
        let since = since.to_array();
        let at = |partition: Partition| since[usize::from(partition.index())].0;
        let own = at(self.core.user.partition());
        slots.filter(|slot| slot.last() > at(slot.room.partition()) || slot.own() > own).map(|slot| slot.room).collect()
    }

    /// Whether something may have happened after these positions to the user alone: account data (of rooms too),
    /// to-device messages, devices. The rows by position say what.
    pub fn own_since(&self, since: &Positions) -> bool {
        self.core.own.load(Ordering::Acquire) > since.at(self.core.user.partition()).0
    }

    /// The rooms that the user is or was in, by number. Those forgotten before the user became active are not among them.
    pub fn rooms(&self) -> Vec<(RoomNumber, Membership)> {
        self.core.rooms.read().iter().map(|slot| (slot.room, slot.membership)).collect()
    }

    /// The user's membership of a room, as far as was heard: the later of what the room says and what was told from outside.
    pub fn membership(&self, room: RoomNumber) -> Option<Membership> {
        find(&self.core.rooms.read(), room).map(|slot| slot.membership)
    }

    /// Resolves at the next change or nudge after this call: call it, look, then await it.
    pub fn changed(&self) -> Changed {
        Changed::new(self.core.notify.clone())
    }
}

/// What commits reach of an active user.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) user: UserNumber,
    newest: Newest,
    /// The last position of the user's own partition that concerns the user alone.
    own: AtomicU64,
    /// By room. Guards which rooms there are; positions rise under the read lock.
    rooms: RwLock<Vec<Slot>>,
    pub(super) notify: Arc<Notify>,
    loaded: AtomicBool,
}

#[derive(Debug)]
struct Slot {
    room: RoomNumber,
    /// In the room's partition.
    last: AtomicU64,
    /// Room account data, in the user's partition.
    own: AtomicU64,
    membership: Membership,
    member_position: u64,
}

impl Slot {
    fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    fn own(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }
}

impl Core {
    pub(super) fn new(user: UserNumber, single_counter: bool) -> Self {
        Self {
            user,
            newest: Newest::new(single_counter),
            own: AtomicU64::new(0),
            rooms: RwLock::default(),
            notify: Arc::default(),
            loaded: AtomicBool::new(false),
        }
    }

    /// Whether what happened before the user became active is known.
    pub(super) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    pub(super) fn set_loaded(&self) {
        self.rooms.write().shrink_to_fit();
        self.loaded.store(true, Ordering::Release);
    }

    pub(super) fn raise(&self, partition: Partition, position: Position) {
        self.newest.raise(partition, position);
    }

    pub(super) fn raise_own(&self, position: Position) {
        self.own.fetch_max(position.0, Ordering::AcqRel);
        self.newest.raise(self.user.partition(), position);
    }

    /// Something is new in a room that is, or was once, at this place of the list.
    pub(super) fn raise_joined(&self, room: RoomNumber, place: u32, position: Position) {
        let rooms = self.rooms.read();
        if let Some(slot) = rooms.get(place as usize).filter(|slot| slot.room == room).or_else(|| find(&rooms, room)) {
            slot.last.fetch_max(position.0, Ordering::Relaxed);
        }
        drop(rooms);
        self.newest.raise(room.partition(), position);
    }

    /// Something is new in a room, or in the user's account data of it, if the room is known.
    pub(super) fn raise_room(&self, room: RoomNumber, position: Position, own: bool) {
        let rooms = self.rooms.read();
        if let Some(slot) = find(&rooms, room) {
            let place = if own { &slot.own } else { &slot.last };
            place.fetch_max(position.0, Ordering::Relaxed);
        }
        drop(rooms);
        self.newest.raise(if own { self.user.partition() } else { room.partition() }, position);
    }

    /// Notes a membership unless a later one is known. Returns the room's place, and whether the user is joined.
    pub(super) fn set_membership(&self, room: RoomNumber, to: Membership, position: Position) -> (u32, bool) {
        let mut rooms = self.rooms.write();
        let place = rooms.binary_search_by_key(&room, |slot| slot.room).unwrap_or_else(|place| {
            let (last, own) = (AtomicU64::new(0), AtomicU64::new(0));
            rooms.insert(place, Slot { room, last, own, membership: to, member_position: position.0 });
            place
        });
        let slot = &mut rooms[place];
        slot.last.fetch_max(position.0, Ordering::Relaxed);
        if position.0 >= slot.member_position {
            (slot.membership, slot.member_position) = (to, position.0);
        }
        let joined = slot.membership == Membership::Join;
        drop(rooms);
        self.newest.raise(room.partition(), position);
        (u32::try_from(place).expect("users are in fewer than 2^32 rooms"), joined)
    }
}

fn find(rooms: &[Slot], room: RoomNumber) -> Option<&Slot> {
    rooms.get(rooms.binary_search_by_key(&room, |slot| slot.room).ok()?)
}

/// The last positions of all that a user is told about.
#[derive(Debug)]
enum Newest {
    /// One counter serves all partitions.
    One(AtomicU64),
    /// By partition.
    Each(Box<[AtomicU64; Partition::COUNT]>),
}

impl Newest {
    fn new(single_counter: bool) -> Self {
        if single_counter {
            Self::One(AtomicU64::new(0))
        } else {
            Self::Each(Box::new(std::array::from_fn(|_| AtomicU64::new(0))))
        }
    }

    fn raise(&self, partition: Partition, position: Position) {
        let place = match self {
            Self::One(one) => one,
            Self::Each(each) => &each[usize::from(partition.index())],
        };
        place.fetch_max(position.0, Ordering::AcqRel);
    }

    fn above(&self, since: &Positions) -> bool {
        match (self, since.single()) {
            (Self::One(one), Some(since)) => one.load(Ordering::Acquire) > since.0,
            // Which partition it was is not known: the lowest decides.
            (Self::One(one), None) => since.to_array().iter().any(|since| one.load(Ordering::Acquire) > since.0),
            (Self::Each(each), _) => {
                each.iter().zip(since.to_array()).any(|(newest, since)| newest.load(Ordering::Acquire) > since.0)
            }
        }
    }
}
