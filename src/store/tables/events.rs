//! Events and timelines: `Ev` rows `E room event`, `Ix` rows `e id16 room`, `Tl` rows `T room order` (timeline),
//! `G room order` (gaps), `B room id16` (backward extremities) and `N room id16` (redactions that wait).

use bytes::Bytes;
use hearth_ports::{Key, Table};
use ruma::OwnedEventId;
use serde::{Deserialize, Serialize};

use crate::{EventNumber, Order, PositionIndex, RoomNumber, StateVersion, Write, encode, id16, key, row};

/// What became of an event here. Bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFlags(pub u8);

impl EventFlags {
    /// It failed a check against its auth events or the state before it; it has no effect.
    pub const REJECTED: Self = Self(1);
    /// It failed the check against the current state; it is never shown and never cited.
    pub const SOFT_FAILED: Self = Self(2);
    /// It is stored because others cite it; its place in the room is not known.
    pub const OUTLIER: Self = Self(4);
    /// A redaction of it has taken effect; the stored JSON is the redacted form.
    pub const REDACTED: Self = Self(8);
    /// A redaction that is part of the room's graph, but has not taken effect: its target is not here, or not its
    /// sender's to redact. Nobody is shown it.
    pub const HELD: Self = Self(16);

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the bits of `other` set as well.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without the bits of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The device and transaction id by which a local client sent an event: told back to that device only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderTransaction {
    /// The device's id.
    pub device: String,
    /// The client's transaction id.
    pub transaction: String,
}

/// What is known of a stored event beside its JSON. On disk the JSON follows it in the same row.
///
/// `position` is the live event's log position (0 for outliers), filled at commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventHeader {
    /// The `position` of its [`Order`].
    #[serde(skip)]
    pub position: u64,
    /// The `within` of its [`Order`].
    pub within: u32,
    /// Verdicts.
    pub flags: EventFlags,
    /// The event's id: deriving it costs a hash.
    pub event_id: String,
    /// When this server stored it, in milliseconds since the Unix epoch.
    pub received_ts_ms: u64,
    /// The state just before it.
    pub state_before: StateVersion,
    /// The state just after it.
    pub state_after: StateVersion,
    /// The events it cites as previous, as far as they are stored here.
    pub prevs: Vec<EventNumber>,
    /// Its auth events.
    pub auths: Vec<EventNumber>,
    /// The state event that it took the place of, for `prev_content` and `replaces_state`.
    pub replaces: Option<EventNumber>,
    /// The redaction that took effect on it.
    pub redacted_by: Option<EventNumber>,
    /// For a redaction: the event that it redacts, where it took effect.
    pub redacts: Option<EventNumber>,
    /// Who sent it, if it was a device of this server.
    pub sent_by: Option<SenderTransaction>,
    /// The server that we had it from; `None`: it was made here.
    pub origin: Option<String>,
    /// It was accepted through us, from a server that is not its room's: we send it on to the others.
    pub relay: bool,
}

row!(EventHeader, "event header", version 2, positions position);

impl EventHeader {
    /// Its place in the timeline.
    pub const fn order(&self) -> Order {
        Order { position: self.position, within: self.within }
    }
}

/// An event in its room's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineRow {
    /// The event; `None` where the current state changed without one.
    pub event: Option<EventNumber>,
    /// The room's current state after it.
    pub state: StateVersion,
}

row!(TimelineRow, "timeline row", version 1);

/// `Ev`: the event itself.
pub fn event_key(room: RoomNumber, event: EventNumber) -> Key {
    key(b'E').room(room).event(event).build()
}

/// `Ix`: from an event id to its number; the value is the number as 4 bytes.
pub fn event_index_key(event_id: &str, room: RoomNumber) -> Key {
    key(b'e').raw(&id16(event_id)).room(room).build()
}

/// `Tl`: the timeline. For a live event the position at offset [`TIMELINE_POSITION_OFFSET`] is filled at commit.
pub fn timeline_key(room: RoomNumber, order: Order) -> Key {
    key(b'T').room(room).order(order).build()
}

/// Where the position stands in [`timeline_key`].
pub const TIMELINE_POSITION_OFFSET: u16 = 9;

/// The bytes of an `Ev` row: the header, then the event's JSON as it is stored.
pub fn encode_event(header: &EventHeader, json: &[u8]) -> Bytes {
    let mut bytes = Vec::from(encode(header));
    bytes.extend_from_slice(json);
    bytes.into()
}

/// Stores an event: its `Ev` row and its `Ix` row. `position` is that of a live event; others have theirs, or 0 for
/// outliers, in the header. The timeline row is the caller's.
pub fn put_event(
    write: &mut Write,
    room: RoomNumber,
    number: EventNumber,
    header: &EventHeader,
    json: &[u8],
    position: Option<PositionIndex>,
) {
    let value = encode_event(header, json);
    write.put_filled(Table::Ev, event_key(room, number), value, None, position.as_slice());
    write.put_bytes(Table::Ix, event_index_key(&header.event_id, room), number.0.to_be_bytes().to_vec());
}

/// A gap in the timeline, just in front of a live event: what lies there has not been fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRow {
    /// Events that the live event cites and that are not here: where to fetch from.
    pub missing: Vec<String>,
}

row!(GapRow, "gap", version 1);

/// An event that is cited but not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackwardRow {
    /// Its id.
    pub event_id: String,
    /// An event in front of which there is a gap because this one is missing.
    pub cited_by: EventNumber,
}

row!(BackwardRow, "backward extremity", version 1);

/// Redactions that wait for their target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRow {
    /// In the order in which they came.
    pub redactions: Vec<EventNumber>,
}

row!(HeldRow, "held redactions", version 1);

/// `Tl`: the gap in front of the live event at this place. The position stands at [`TIMELINE_POSITION_OFFSET`].
pub fn gap_key(room: RoomNumber, order: Order) -> Key {
    key(b'G').room(room).order(order).build()
}

/// `Tl`: an event that is cited but not here.
pub fn backward_key(room: RoomNumber, event_id: &str) -> Key {
    key(b'B').room(room).raw(&id16(event_id)).build()
}

/// The prefix of all [`backward_key`]s of a room.
pub fn backward_prefix(room: RoomNumber) -> Key {
    key(b'B').room(room).build()
}

/// `Tl`: the redactions that wait for an event of this id.
pub fn held_key(room: RoomNumber, target: &str) -> Key {
    key(b'N').room(room).raw(&id16(target)).build()
}

/// The prefix of all [`held_key`]s of a room.
pub fn held_prefix(room: RoomNumber) -> Key {
    key(b'N').room(room).build()
}

/// Says that there is a gap in front of the live event that gets this position: these events, which it cites, are not
/// here.
pub fn put_gap(write: &mut Write, room: RoomNumber, event: EventNumber, at: PositionIndex, missing: &[OwnedEventId]) {
    let row = GapRow { missing: missing.iter().map(|id| id.as_str().to_owned()).collect() };
    let key = gap_key(room, Order { position: 0, within: u32::MAX });
    write.put_filled(Table::Tl, key, encode(&row), Some((TIMELINE_POSITION_OFFSET, at)), &[]);
    for event_id in missing {
        let row = BackwardRow { event_id: event_id.as_str().to_owned(), cited_by: event };
        write.put(Table::Tl, backward_key(room, event_id.as_str()), &row);
    }
}
