//! Rooms for which a task in the background is at work: one task each.

use std::collections::HashSet;

use hearth_store::RoomNumber;
use parking_lot::Mutex;

/// The rooms that have a task of one kind.
pub(crate) struct Driven {
    /// The gauge of how many there are.
    gauge: &'static str,
    rooms: Mutex<HashSet<RoomNumber>>,
}

impl Driven {
    pub(crate) fn new(gauge: &'static str) -> Self {
        Self { gauge, rooms: Mutex::default() }
    }

    /// `false`: the room has a task already.
    pub(crate) fn begin(&self, room: RoomNumber) -> bool {
        let mut rooms = self.rooms.lock();
        let is_new = rooms.insert(room);
        metrics::gauge!(self.gauge).set(rooms.len() as f64);
        is_new
    }

    pub(crate) fn end(&self, room: RoomNumber) {
        let mut rooms = self.rooms.lock();
        rooms.remove(&room);
        metrics::gauge!(self.gauge).set(rooms.len() as f64);
    }
}
