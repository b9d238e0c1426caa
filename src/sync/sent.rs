//! Which members a device was told of, so that lazily loaded ones are not repeated.
//!
//! "The server MAY assume that clients will remember membership events they have already been sent."
//! [Lazy-loading room members](https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members). It is a memory
//! and no more: what it lost is sent again, which is allowed. What was sent in an answer counts once the client returns
//! with that answer's token: the answer may never have arrived.

use hearth_store::{EventNumber, RoomNumber, StateKeyNumber};
use quick_cache::sync::Cache;

/// Entries kept, of some 70 bytes each: a few thousand devices with the rooms they are looking at.
const ENTRIES_MAX: usize = 100_000;

/// The devices' memories.
pub(crate) struct SentMembers(Cache<Key, Sent>);

/// Whose memory, of which room and member.
type Key = (DeviceKey, RoomNumber, StateKeyNumber);

/// Names a device: a hash of the user's id and the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DeviceKey(pub(crate) u64);

#[derive(Clone, Copy)]
struct Sent {
    event: EventNumber,
    /// The position, in the room's partition, of the answer's token.
    at: u64,
}

impl SentMembers {
    pub(crate) fn new() -> Self {
        Self(Cache::new(ENTRIES_MAX))
    }

    /// Whether this member event reached the device, whose token now stands at `since` in the room's partition.
    pub(crate) fn has(
        &self,
        device: DeviceKey,
        room: RoomNumber,
        member: StateKeyNumber,
        event: EventNumber,
        since: u64,
    ) -> bool {
        self.0.get(&(device, room, member)).is_some_and(|sent| sent.event == event && sent.at <= since)
    }

    /// This member event stands in the answer whose token is at `at` in the room's partition.
    pub(crate) fn add(&self, device: DeviceKey, room: RoomNumber, member: StateKeyNumber, event: EventNumber, at: u64) {
        self.0.insert((device, room, member), Sent { event, at });
    }
}
