//! A single event, and what stands around it.
//! [Client-server API](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidcontexteventid).

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use hearth_store::{EventNumber, StateVersion, StoredEvent};
use hearth_view::{EventFormat, RoomEventFilter, event_json::push_string};
use ruma::{EventId, RoomId};

use super::{
    ReadError, Reader, Reads,
    messages::{Direction, MessagesQuery, page_token, step_before},
    room::RoomView,
};
use crate::gate::Shown;

/// What is asked around an event.
#[derive(Clone, Debug)]
pub struct ContextQuery {
    /// How many events in all, before and after it together.
    pub limit: usize,
    /// Only these events, and state of these.
    pub filter: RoomEventFilter,
}

impl Reads {
    /// The answer of `/event`, as JSON.
    pub async fn event(&self, reader: &Reader, room_id: &RoomId, event_id: &EventId) -> Result<Bytes, ReadError> {
        let mut view = self.open(reader, room_id).await.map_err(hide)?;
        let shown = self.shown_event(&mut view, event_id).await?;
        let mut out = Vec::with_capacity(1_024);
        view.gate.write(&mut out, &EventFormat::CLIENT, &shown).await?;
        Ok(out.into())
    }

    /// The answer of `/context`, as JSON.
    pub async fn context(
        &self,
        reader: &Reader,
        room_id: &RoomId,
        event_id: &EventId,
        query: &ContextQuery,
    ) -> Result<Bytes, ReadError> {
        let mut view = self.open(reader, room_id).await?;
        let shown = self.shown_event(&mut view, event_id).await?;
        let at = shown.order;
        let half =
            |limit, direction| MessagesQuery { from: None, to: None, direction, limit, filter: query.filter.clone() };
        let (before_max, after_max) = (query.limit.div_ceil(2), query.limit / 2);
        let before = half(before_max, Direction::Backward);
        let before = if before_max == 0 {
            Vec::new()
        } else {
            self.page(&mut view, step_before(at), None, &before).await?.events
        };
        let after = half(after_max, Direction::Forward);
        let after = if after_max == 0 { Vec::new() } else { self.page(&mut view, at, None, &after).await?.events };

        let first = before.last().unwrap_or(&shown).order;
        let last = after.last().unwrap_or(&shown);
        let state = self.context_state(&view, last.event.header.state_after, &shown, &before, &after, query).await?;
        let mut out = Vec::with_capacity(4_096);
        out.extend_from_slice(b"{\"event\":");
        view.gate.write(&mut out, &EventFormat::CLIENT, &shown).await?;
        out.extend_from_slice(b",\"events_before\":");
        view.write_events(&mut out, &before).await?;
        out.extend_from_slice(b",\"events_after\":");
        view.write_events(&mut out, &after).await?;
        out.extend_from_slice(b",\"start\":");
        push_string(&mut out, &page_token(step_before(first)).to_string());
        out.extend_from_slice(b",\"end\":");
        push_string(&mut out, &page_token(last.order).to_string());
        out.extend_from_slice(b",\"state\":");
        view.write_state(&mut out, &state).await?;
        out.push(b'}');
        Ok(out.into())
    }

    /// An event of a room that passes the gate. Events outside the timeline have no place to be judged at.
    async fn shown_event(&self, view: &mut RoomView<'_>, event_id: &EventId) -> Result<Shown, ReadError> {
        let stored = self.store.event_by_id(view.number, event_id).await?.filter(|stored| stored.accepted());
        let stored = stored.ok_or(ReadError::NotFound("event"))?;
        let order = stored.header.order();
        if order > view.until {
            return Err(ReadError::NotFound("event"));
        }
        let shown = view.gate.shown([(order, Some(stored))].into_iter(), |_| true).await?.pop();
        shown.ok_or(ReadError::NotFound("event"))
    }

    /// The state at the end of what is shown; with lazy-loaded members, only of those who speak.
    async fn context_state(
        &self,
        view: &RoomView<'_>,
        version: StateVersion,
        shown: &Shown,
        before: &[Shown],
        after: &[Shown],
        query: &ContextQuery,
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let numbers: Vec<EventNumber> =
            self.store.state_all(view.number, version).await?.into_iter().map(|(_, event)| event).collect();
        let speakers: BTreeSet<&str> =
            before.iter().chain(after).chain([shown]).map(|shown| shown.event.event.sender().as_str()).collect();
        let is_wanted = |stored: &Arc<StoredEvent>| {
            let event = &stored.event;
            let is_silent =
                event.kind() == "m.room.member" && !event.state_key().is_some_and(|key| speakers.contains(key));
            query.filter.allows(event) && !(query.filter.lazy_load_members && is_silent)
        };
        let events = self.store.events(view.number, &numbers).await?;
        Ok(events.into_iter().flatten().filter(is_wanted).collect())
    }
}

/// Where a single event is asked for, "not found" says the same and is what the specification has.
fn hide(error: ReadError) -> ReadError {
    match error {
        ReadError::Forbidden => ReadError::NotFound("event"),
        other => other,
    }
}
