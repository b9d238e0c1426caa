//! Who is typing where. Only memory knows; it ends by itself.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use hearth_store::RoomNumber;
use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::{sync::broadcast, time::Instant};

use crate::Users;

/// The longest that somebody counts as typing without saying so again.
const TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// How long a room in which nobody types any more is remembered, so that clients are told so.
const REMEMBER: Duration = Duration::from_secs(60 * 60);

/// People typing in one room who are shown; more are not worth knowing.
const TYPISTS_MAX: usize = 200;

/// Changes that wait for whoever follows them; who is slower misses some.
const CHANGES_MAX: usize = 1_024;

/// A user of this server says that they type, says so again, or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypingChange {
    /// Where.
    pub room: RoomNumber,
    /// Who.
    pub user_id: OwnedUserId,
    /// Whether they type.
    pub typing: bool,
}

/// Who is typing in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typing {
    /// The number of the last change.
    pub serial: u64,
    /// Who, sorted.
    pub users: Vec<OwnedUserId>,
}

/// All rooms in which somebody types or typed lately.
pub(crate) struct TypingBoard {
    /// The lock guards the map and the order of its serials, and is held for map operations only.
    rooms: Mutex<HashMap<RoomNumber, RoomTyping>>,
    /// What our own users say, for federation.
    changes: broadcast::Sender<TypingChange>,
}

struct RoomTyping {
    serial: u64,
    users: BTreeMap<OwnedUserId, Instant>,
    changed: Instant,
}

impl TypingBoard {
    pub(crate) fn new() -> Self {
        Self { rooms: Mutex::default(), changes: broadcast::Sender::new(CHANGES_MAX) }
    }
}

impl Users {
    /// What our own users say about their typing from now on.
    pub fn typing_changes(&self) -> broadcast::Receiver<TypingChange> {
        self.typing.changes.subscribe()
    }

    fn tell_typing(&self, room: RoomNumber, user_id: &UserId, typing: bool) {
        if self.is_local(user_id) {
            // Nobody may be following.
            drop(self.typing.changes.send(TypingChange { room, user_id: user_id.to_owned(), typing }));
        }
    }

    /// Says that somebody types in a room for so long, or with `None` not any more.
    pub fn set_typing(&self, room: RoomNumber, user_id: &UserId, timeout: Option<Duration>) {
        let now = Instant::now();
        let changed = {
            let mut rooms = self.typing.rooms.lock();
            let entry =
                rooms.entry(room).or_insert_with(|| RoomTyping { serial: 0, users: BTreeMap::new(), changed: now });
            let changed = match timeout {
                Some(timeout) if entry.users.contains_key(user_id) || entry.users.len() < TYPISTS_MAX => {
                    entry.users.insert(user_id.to_owned(), now + timeout.min(TIMEOUT_MAX)).is_none()
                }
                Some(_) => false,
                None => entry.users.remove(user_id).is_some(),
            };
            if changed {
                entry.serial = self.serials.next();
                entry.changed = now;
            } else if entry.serial == 0 {
                rooms.remove(&room);
            }
            changed
        };
        if changed || timeout.is_some() {
            self.tell_typing(room, user_id, timeout.is_some());
        }
        if changed {
            self.store.live().nudge_room(room);
        }
    }

    /// Who types in a room, if that changed after `serial`; perhaps nobody any longer. A reader who has seen no serial yet
    /// asks with 0.
    pub fn typing_since(&self, room: RoomNumber, serial: u64) -> Option<Typing> {
        let rooms = self.typing.rooms.lock();
        let entry = rooms.get(&room).filter(|entry| entry.serial > serial)?;
        Some(Typing { serial: entry.serial, users: entry.users.keys().cloned().collect() })
    }

    /// Ends what has timed out.
    pub(crate) fn expire_typing(&self, now: Instant) {
        let (mut changed, mut ended) = (Vec::new(), Vec::new());
        self.typing.rooms.lock().retain(|room, entry| {
            let over = entry.users.extract_if(.., |_, end| *end <= now);
            let before = ended.len();
            ended.extend(over.map(|(user_id, _)| (*room, user_id)));
            if ended.len() > before {
                entry.serial = self.serials.next();
                entry.changed = now;
                changed.push(*room);
            }
            !entry.users.is_empty() || now.duration_since(entry.changed) < REMEMBER
        });
        ended.iter().for_each(|(room, user_id)| self.tell_typing(*room, user_id, false));
        changed.into_iter().for_each(|room| self.store.live().nudge_room(room));
    }
}
