//! From stored events to what one reader is shown of them.

use std::sync::Arc;

use hearth_core::{format, redact};
use hearth_store::{EventNumber, Order, RoomNumber, StateVersion, StoredEvent};
use hearth_view::{
    Circumstances, EventFormat, Membership, Sight, Standing, Trail, Unsigned, Visibility, event_json::age_ms, sight,
};
use ruma::UserId;

use super::{ReadError, Reader, Reads, room::RoomView};

/// An event that passed the gate.
pub(super) struct Seen {
    pub(super) order: Order,
    pub(super) stored: Arc<StoredEvent>,
    /// Only what a redaction leaves is shown.
    is_redacted: bool,
    /// The reader's membership at the event.
    membership: Membership,
    /// The reader may see the state that it took the place of.
    sees_replaced: bool,
}

impl Reads {
    /// Looks at events of a room in the order of its timeline, oldest first, and keeps what the reader may see.
    pub(super) async fn look(
        &self,
        reader: &Reader,
        view: &RoomView,
        events: impl IntoIterator<Item = (Order, Arc<StoredEvent>)>,
    ) -> Result<Vec<Option<Seen>>, ReadError> {
        let mut trail = Trail::new();
        let mut seen = Vec::new();
        for (order, stored) in events {
            seen.push(self.look_at(reader, view, &mut trail, order, stored).await?);
        }
        Ok(seen)
    }

    async fn look_at(
        &self,
        reader: &Reader,
        view: &RoomView,
        trail: &mut Trail<StateVersion>,
        order: Order,
        stored: Arc<StoredEvent>,
    ) -> Result<Option<Seen>, ReadError> {
        let event = &stored.event;
        let version = stored.header.state_before;
        let before = match trail.at(version) {
            Some(standing) => Some(standing),
            None if version == StateVersion::UNKNOWN => None,
            None => Some(self.standing(view.number, version, &reader.user_id).await?),
        };
        let circumstances = Circumstances {
            before,
            accepted: stored.accepted(),
            joined_later: view.joined_after(order),
            in_given_state: false,
            sender_ignored: view.ignored.contains(event.sender()),
            sender_erased: self.users.is_erased(event.sender()).await?,
        };
        let verdict = sight(&reader.user_id, event, &circumstances);
        let Some(before) = before else { return Ok(None) };
        trail.set(version, before);
        trail.step(event, &reader.user_id, stored.header.state_after);
        if verdict == Sight::Hide {
            return Ok(None);
        }
        let own_member_event = event.state_pair() == Some(("m.room.member", reader.user_id.as_str()));
        let sees_replaced = own_member_event
            || before.membership == Membership::Join
            || matches!(before.visibility, Visibility::WorldReadable | Visibility::Shared);
        let membership = before.after(event, &reader.user_id).membership;
        Ok(Some(Seen { order, stored, is_redacted: verdict == Sight::ShowRedacted, membership, sees_replaced }))
    }

    /// A reader's standing in a version of a room's state.
    async fn standing(&self, room: RoomNumber, version: StateVersion, user: &UserId) -> Result<Standing, ReadError> {
        let visibility = self.store.state_event(room, version, "m.room.history_visibility", "").await?;
        let member = self.store.state_event(room, version, "m.room.member", user.as_str()).await?;
        Ok(Standing::of(visibility.as_ref().map(|stored| &stored.event), member.as_ref().map(|stored| &stored.event)))
    }

    /// Appends a JSON array of events.
    pub(super) async fn write_events<'a>(
        &self,
        out: &mut Vec<u8>,
        reader: &Reader,
        room: RoomNumber,
        form: &EventFormat,
        events: impl IntoIterator<Item = &'a Seen>,
    ) -> Result<(), ReadError> {
        out.push(b'[');
        let begin = out.len();
        for seen in events {
            if out.len() > begin {
                out.push(b',');
            }
            self.write_event(out, reader, room, form, seen).await?;
        }
        out.push(b']');
        Ok(())
    }

    /// Appends one event, with what is this reader's own.
    pub(super) async fn write_event(
        &self,
        out: &mut Vec<u8>,
        reader: &Reader,
        room: RoomNumber,
        form: &EventFormat,
        seen: &Seen,
    ) -> Result<(), ReadError> {
        let (stored, header) = (&seen.stored, &seen.stored.header);
        let redaction = self.beside(room, header.redacted_by).await?;
        let replaced = self.beside(room, header.replaces).await?;
        let shown = replaced.as_ref().filter(|_| seen.sees_replaced && !seen.is_redacted);
        let own = stored.event.sender() == reader.user_id;
        let sent_by = header
            .sent_by
            .as_ref()
            .filter(|by| own && reader.device_id.as_ref().is_some_and(|device| device.as_str() == by.device));
        let unsigned = Unsigned {
            age_ms: Some(age_ms(&stored.event, self.clock.now_ms())),
            transaction_id: sent_by.map(|by| by.transaction.as_str()),
            membership: Some(seen.membership),
            redacted_because: redaction.as_ref().map(|redaction| &redaction.client_json()[..]),
            prev_content: shown.map(|replaced| replaced.event.content_json()),
            prev_sender: shown.map(|replaced| replaced.event.sender().as_str()),
            replaces_state: replaced.as_ref().map(|replaced| replaced.event.event_id().as_str()),
            relations: None,
        };
        if seen.is_redacted {
            let event = redact(&stored.event);
            form.write(out, &event, &format::client_json(&event, true), &unsigned);
        } else {
            form.write(out, &stored.event, stored.client_json(), &unsigned);
        }
        Ok(())
    }

    async fn beside(
        &self,
        room: RoomNumber,
        number: Option<EventNumber>,
    ) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        match number {
            Some(number) => Ok(self.store.event(room, number).await?),
            None => Ok(None),
        }
    }

    /// Appends a JSON array of state events, which whoever may see the state may see: no gate, nothing of the reader's
    /// but the age.
    pub(super) fn write_state(&self, out: &mut Vec<u8>, form: &EventFormat, events: &[Arc<StoredEvent>]) {
        out.push(b'[');
        for (nth, stored) in events.iter().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            self.write_state_event(out, form, stored);
        }
        out.push(b']');
    }

    /// Appends one state event, as [`Self::write_state`] does.
    pub(super) fn write_state_event(&self, out: &mut Vec<u8>, form: &EventFormat, stored: &StoredEvent) {
        let age_ms = Some(age_ms(&stored.event, self.clock.now_ms()));
        form.write(out, &stored.event, stored.client_json(), &Unsigned { age_ms, ..Unsigned::default() });
    }
}
