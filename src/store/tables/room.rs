//! Rooms: `Rm` rows `h room` (head), `k room type state_key` (current state), `i room user type thread` (receipts) and
//! `I room position` (receipts by time), `St` rows `K room state_key`.

use bytes::Bytes;
use hearth_ports::{Key, Table};
use serde::{Deserialize, Serialize};

use crate::{
    EventNumber, LogEntry, PositionIndex, RoomNumber, StateKeyNumber, StateVersion, UserNumber, Write, key, row,
};

/// An event that no other event cites yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extremity {
    /// The event.
    pub event: EventNumber,
    /// Its id.
    pub event_id: String,
    /// Its depth.
    pub depth: u64,
}

/// What never changes about a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// The room version, as the specification writes it.
    pub version: String,
    /// `m.federate`: whether other servers may take part.
    pub federate: bool,
    /// The room's type, as in `m.space`.
    pub room_type: Option<String>,
}

/// The head of a room: what a writer must know, and what every write of an event requires unchanged. At most 500 bytes
/// but for many extremities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The log position of the last change of the timeline, filled at commit.
    #[serde(skip)]
    pub position: u64,
    /// From the create event.
    pub create: Create,
    /// The current state.
    pub state: StateVersion,
    /// At most 20.
    pub extremities: Vec<Extremity>,
    /// The number that the next stored event gets.
    pub next_event: EventNumber,
    /// The number that the next new state key gets.
    pub next_state_key: StateKeyNumber,
    /// The number that the next state version gets.
    pub next_state: StateVersion,
    /// Users whose membership is `join`, `invite`, `knock`.
    pub joined: u32,
    /// Invited users.
    pub invited: u32,
    /// A bulk load is under way: for readers the room does not exist yet.
    pub loading: bool,
    /// The room was purged; its numbers are never used again.
    pub purged: bool,
    /// An administrator blocked it: nobody joins, nobody sends.
    pub blocked: bool,
    /// The room was joined without its members, which are being fetched: the state lacks memberships, and of other servers
    /// only is known that they are in the room.
    pub partial: bool,
    /// The log position at which the members were all there; 0: they were from the start, or are not yet. Filled at commit.
    #[serde(skip)]
    pub completed: u64,
}

impl Head {
    /// The head of a room without events: nobody in it, no state, every number at its first value.
    pub fn new(create: Create) -> Self {
        Self {
            position: 0,
            create,
            state: StateVersion::EMPTY,
            extremities: Vec::new(),
            next_event: EventNumber::FIRST,
            next_state_key: StateKeyNumber::FIRST,
            next_state: StateVersion::FIRST,
            joined: 0,
            invited: 0,
            loading: false,
            purged: false,
            blocked: false,
            partial: false,
            completed: 0,
        }
    }
}

row!(Head, "room head", version 2, positions position, completed);

/// The current state's entry for one state key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentStateRow {
    /// The pair's number.
    pub state_key: StateKeyNumber,
    /// The event in force; `None` if the pair was set once and no longer is.
    pub event: Option<EventNumber>,
    /// For `m.room.member`: the membership.
    pub membership: Option<crate::tables::Membership>,
    /// For `m.room.member`: the user's number.
    pub user: Option<UserNumber>,
}

row!(CurrentStateRow, "current state", version 1);

/// What a state key's number stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateKeyRow {
    /// The event type.
    pub kind: String,
    /// The state key.
    pub state_key: String,
}

row!(StateKeyRow, "state key", version 1);

/// A user's receipt in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRow {
    /// The log position at which it was set, filled at commit.
    #[serde(skip)]
    pub position: u64,
    /// The event it names, which may not be stored here yet.
    pub event_id: String,
    /// Its number, if it is stored.
    pub event: Option<EventNumber>,
    /// When it was set, in milliseconds since the Unix epoch.
    pub ts_ms: u64,
    /// The user id.
    pub user_id: String,
}

row!(ReceiptRow, "receipt", version 1, positions position);

/// Which receipt was set at a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptPlaceRow {
    /// Whose.
    pub user: UserNumber,
    /// `m.read.private`.
    pub private: bool,
    /// As in [`receipt_key`].
    pub thread: String,
}

row!(ReceiptPlaceRow, "receipt place", version 1);

/// `Rm`: the head.
pub fn head_key(room: RoomNumber) -> Key {
    key(b'h').room(room).build()
}

/// The prefix of all [`head_key`]s: what follows it is the room's number.
pub fn heads_prefix() -> Key {
    key(b'h').build()
}

/// `Rm`: the current state; all of a room's rows of one type have the prefix `k room type 0xFF`.
pub fn current_state_key(room: RoomNumber, kind: &str, state_key: &str) -> Key {
    key(b'k').room(room).text(kind).raw(state_key.as_bytes()).build()
}

/// `St`: what a number stands for.
pub fn state_key_key(room: RoomNumber, state_key: StateKeyNumber) -> Key {
    key(b'K').room(room).state_key(state_key).build()
}

/// The prefix of a room's current state of one type: what follows it in a key is the state key.
pub fn current_state_prefix(room: RoomNumber, kind: &str) -> Key {
    key(b'k').room(room).text(kind).build()
}

/// `Rm`: receipts. `thread` is empty for an unthreaded receipt, `main`, or a thread root's event id.
/// [`put_receipt`] writes them.
pub fn receipt_key(room: RoomNumber, user: UserNumber, private: bool, thread: &str) -> Key {
    key(b'i').room(room).user(user).u8(u8::from(private)).raw(thread.as_bytes()).build()
}

/// The prefix of all receipts of a user in a room.
pub fn receipt_prefix(room: RoomNumber, user: UserNumber) -> Key {
    key(b'i').room(room).user(user).build()
}

/// `Rm`: a room's receipts by the position at which they were set, filled at commit at offset 9.
pub fn receipt_place_key(room: RoomNumber, position: u64) -> Key {
    key(b'I').room(room).u64(position).build()
}

/// The prefix of all [`receipt_place_key`]s of a room.
pub fn receipt_place_prefix(room: RoomNumber) -> Key {
    key(b'I').room(room).build()
}

/// Where the position stands in [`receipt_place_key`].
const RECEIPT_PLACE_OFFSET: u16 = 9;

/// Sets a receipt: requires the row that it takes the place of (`None`: there is none), keeps the list by position true
/// and tells the log. The write is of the room's partition.
pub fn put_receipt(
    write: &mut Write,
    room: RoomNumber,
    place: &ReceiptPlaceRow,
    row: &ReceiptRow,
    replaced: Option<(Bytes, &ReceiptRow)>,
) -> PositionIndex {
    let key = receipt_key(room, place.user, place.private, &place.thread);
    if let Some((_, old)) = &replaced {
        write.delete(Table::Rm, receipt_place_key(room, old.position));
    }
    write.require(Table::Rm, key.clone(), replaced.map(|(bytes, _)| bytes));
    let at = write.position();
    write.put_at(Table::Rm, key, row, &[at]);
    let place_key = receipt_place_key(room, 0);
    write.put_filled(Table::Rm, place_key, crate::encode(place), Some((RECEIPT_PLACE_OFFSET, at)), &[]);
    write.log(at, LogEntry::Receipt { room, user: place.user, private: place.private });
    at
}
