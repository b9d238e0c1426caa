//! One room as the reader of a [`Look`] sees it.

use std::sync::Arc;

use hearth_store::{EventNumber, LoadError, Order, RoomNumber, StoredEvent, tables::TimelineRow};
use hearth_view::RoomEventFilter;
use ruma::OwnedRoomId;

use crate::{
    SyncError,
    gate::{Gate, Shown},
    look::Look,
};

/// See the module.
pub(crate) struct RoomView<'a> {
    pub(crate) look: &'a Look<'a>,
    pub(crate) room: RoomNumber,
    pub(crate) room_id: OwnedRoomId,
    pub(crate) gate: Gate<'a>,
}

impl<'a> RoomView<'a> {
    /// A view of this room, unless it is not known.
    pub(crate) async fn new(look: &'a Look<'a>, room: RoomNumber) -> Result<Option<Self>, LoadError> {
        let Some(room_id) = look.syncs.store.room_id(room).await? else { return Ok(None) };
        Ok(Some(Self { look, room, room_id, gate: Gate::new(look.eyes(), room).await? }))
    }

    /// What of these rows, newest first, the reader may see and wants to, in the same order.
    pub(crate) async fn sights(
        &mut self,
        rows: &[(Order, TimelineRow)],
        filter: &RoomEventFilter,
    ) -> Result<Vec<Shown>, SyncError> {
        let numbered: Vec<(Order, EventNumber)> =
            rows.iter().filter_map(|(order, row)| Some((*order, row.event?))).collect();
        let numbers: Vec<EventNumber> = numbered.iter().map(|(_, number)| *number).collect();
        let events = self.look.syncs.store.events(self.room, &numbers).await?;
        let upwards = numbered.into_iter().zip(events).rev().map(|((order, _), event)| (order, event));
        let is_everything = filter.is_everything();
        let mut shown = self.gate.shown(upwards, |event| is_everything || filter.allows(event)).await?;
        shown.reverse();
        Ok(shown)
    }

    /// Appends an event of the timeline.
    pub(crate) async fn write_timeline_event(&self, out: &mut Vec<u8>, shown: &Shown) -> Result<(), LoadError> {
        self.gate.write(out, &self.look.format, shown).await
    }

    /// Appends an event of the state.
    pub(crate) async fn write_state_event(&self, out: &mut Vec<u8>, event: &Arc<StoredEvent>) -> Result<(), LoadError> {
        self.gate.write_state(out, &self.look.format, event).await
    }
}
