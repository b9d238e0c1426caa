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
    present::Seen,
    room::RoomView,
};

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
        let view = self.open(reader, room_id).await.map_err(hide)?;
        let seen = self.seen_event(reader, &view, event_id).await?;
        let mut out = Vec::with_capacity(1_024);
        self.write_event(&mut out, reader, view.number, &EventFormat::CLIENT, &seen).await?;
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
        let view = self.open(reader, room_id).await?;
        let seen = self.seen_event(reader, &view, event_id).await?;
        let at = seen.order;
        let half =
            |limit, direction| MessagesQuery { from: None, to: None, direction, limit, filter: query.filter.clone() };
        let (before_max, after_max) = (query.limit.div_ceil(2), query.limit / 2);
        let before = half(before_max, Direction::Backward);
        let before = if before_max == 0 {
            Vec::new()
        } else {
            self.page(reader, &view, step_before(at), None, &before).await?.events
        };
        let after = half(after_max, Direction::Forward);
        let after = if after_max == 0 { Vec::new() } else { self.page(reader, &view, at, None, &after).await?.events };

        let first = before.last().unwrap_or(&seen).order;
        let last = after.last().unwrap_or(&seen);
        let state = self.context_state(&view, last.stored.header.state_after, &seen, &before, &after, query).await?;
        let form = EventFormat::CLIENT;
        let mut out = Vec::with_capacity(4_096);
        out.extend_from_slice(b"{\"event\":");
        self.write_event(&mut out, reader, view.number, &form, &seen).await?;
        out.extend_from_slice(b",\"events_before\":");
        self.write_events(&mut out, reader, view.number, &form, &before).await?;
        out.extend_from_slice(b",\"events_after\":");
        self.write_events(&mut out, reader, view.number, &form, &after).await?;
        out.extend_from_slice(b",\"start\":");
        push_string(&mut out, &page_token(step_before(first)).to_string());
        out.extend_from_slice(b",\"end\":");
        push_string(&mut out, &page_token(last.order).to_string());
        out.extend_from_slice(b",\"state\":");
        self.write_state(&mut out, &form, &state);
        out.push(b'}');
        Ok(out.into())
    }

    /// An event of a room that passes the gate. Events outside the timeline have no place to be judged at.
    async fn seen_event(&self, reader: &Reader, view: &RoomView, event_id: &EventId) -> Result<Seen, ReadError> {
        let stored = self.store.event_by_id(view.number, event_id).await?.filter(|stored| stored.accepted());
        let stored = stored.ok_or(ReadError::NotFound("event"))?;
        let order = stored.header.order();
        if order > view.until {
            return Err(ReadError::NotFound("event"));
        }
        let seen = self.look(reader, view, [(order, stored)]).await?.pop().flatten();
        seen.ok_or(ReadError::NotFound("event"))
    }

    /// The state at the end of what is shown; with lazy-loaded members, only of those who speak.
    async fn context_state(
        &self,
        view: &RoomView,
        version: StateVersion,
        seen: &Seen,
        before: &[Seen],
        after: &[Seen],
        query: &ContextQuery,
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let numbers: Vec<EventNumber> =
            self.store.state_all(view.number, version).await?.into_iter().map(|(_, event)| event).collect();
        let speakers: BTreeSet<&str> =
            before.iter().chain(after).chain([seen]).map(|seen| seen.stored.event.sender().as_str()).collect();
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
