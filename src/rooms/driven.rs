//! Rooms for which a task in the background is at work: one task each.

use std::{collections::HashMap, sync::Arc};

use hearth_store::RoomNumber;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The rooms that have a task of one kind.
pub(crate) struct Driven {
    /// The gauge of how many there are.
    gauge: &'static str,
    /// By each its task may be called.
    rooms: Mutex<HashMap<RoomNumber, Arc<Notify>>>,
}

impl Driven {
    pub(crate) fn new(gauge: &'static str) -> Self {
        Self { gauge, rooms: Mutex::default() }
    }

    /// `false`: the room has a task already.
    pub(crate) fn begin(&self, room: RoomNumber) -> bool {
        let mut rooms = self.rooms.lock();
        let before = rooms.len();
        rooms.entry(room).or_default();
        metrics::gauge!(self.gauge).set(rooms.len() as f64);
        rooms.len() > before
    }

    /// Told when the room's task is called.
    pub(crate) fn calls(&self, room: RoomNumber) -> Arc<Notify> {
        Arc::clone(self.rooms.lock().entry(room).or_default())
    }

    /// There is news for the room's task, if it has one.
    pub(crate) fn call(&self, room: RoomNumber) {
        if let Some(called) = self.rooms.lock().get(&room) {
            called.notify_one();
        }
    }

    pub(crate) fn end(&self, room: RoomNumber) {
        let mut rooms = self.rooms.lock();
        rooms.remove(&room);
        metrics::gauge!(self.gauge).set(rooms.len() as f64);
    }
}
