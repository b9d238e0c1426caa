//! Pages of history.
//! [Client-server API](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages).

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use bytes::Bytes;
use hearth_store::{EventNumber, Order, StoredEvent};
use hearth_view::{PageToken, PlaceToken, RoomEventFilter, event_json::push_string};
use ruma::{OwnedUserId, RoomId};

use super::{GapAhead, ReadError, Reader, Reads, room::RoomView};
use crate::gate::Shown;

/// Which way a page goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `b`: towards the room's creation.
    Backward,
    /// `f`: towards the present.
    Forward,
}

/// What to page through.
#[derive(Clone, Debug)]
pub struct MessagesQuery {
    /// Where the page begins; without it at the last event, or forwards at the first.
    pub from: Option<PlaceToken>,
    /// Where it ends at the latest.
    pub to: Option<PlaceToken>,
    /// Which way.
    pub direction: Direction,
    /// At most so many events, from 1 to 1,000.
    pub limit: usize,
    /// Only these events.
    pub filter: RoomEventFilter,
}

/// The longest page. Clients ask for 20 to 100.
pub(super) const LIMIT_MAX: usize = 1_000;

/// Timeline rows that one request looks at. A filter that matches little gets short pages, not a long wait.
const SCANNED_MAX: usize = 4_000;

/// A page: what is shown of it, oldest or newest first by direction, and where the next one begins.
pub(super) struct Page {
    pub(super) events: Vec<Shown>,
    pub(super) next: Option<PageToken>,
}

impl Reads {
    /// The answer of `/messages`, as JSON. `stop`: a gap below which a page backwards shows nothing yet, because nobody has
    /// been asked for what is missing there; the next page begins at it.
    pub async fn messages(
        &self,
        reader: &Reader,
        room_id: &RoomId,
        query: &MessagesQuery,
        stop: Option<GapAhead>,
    ) -> Result<Bytes, ReadError> {
        let mut view = self.open(reader, room_id).await?;
        let from = match &query.from {
            Some(token) => view.place(token)?,
            None if query.direction == Direction::Forward => Order::START,
            None => Order::live(self.store.live().positions().at(view.number.partition())),
        };
        let to = query.to.as_ref().map(|token| view.place(token)).transpose()?;
        // A page that begins at the gap goes on behind it: else it would lead nowhere.
        let stop = stop.map(|gap| step_before(gap.order));
        let stop = stop.filter(|stop| query.direction == Direction::Backward && *stop < from);
        let mut page = self.page(&mut view, from, to.max(stop), query).await?;
        if to < stop {
            page.next = page.next.or(stop.map(page_token));
        }

        let mut out = Vec::with_capacity(1_024 + 600 * page.events.len());
        out.extend_from_slice(b"{\"chunk\":");
        view.write_events(&mut out, &page.events).await?;
        out.extend_from_slice(b",\"start\":");
        push_string(&mut out, &page_token(from).to_string());
        if let Some(next) = page.next {
            out.extend_from_slice(b",\"end\":");
            push_string(&mut out, &next.to_string());
        }
        if query.filter.lazy_load_members {
            let members = self.senders(&view, &page.events).await?;
            out.extend_from_slice(b",\"state\":");
            view.write_state(&mut out, &members).await?;
        }
        out.push(b'}');
        Ok(out.into())
    }

    /// Reads on from a place until enough is found, the end is reached or too much was looked at.
    pub(super) async fn page(
        &self,
        view: &mut RoomView<'_>,
        from: Order,
        to: Option<Order>,
        query: &MessagesQuery,
    ) -> Result<Page, ReadError> {
        let backward = query.direction == Direction::Backward;
        let limit = query.limit.clamp(1, LIMIT_MAX);
        let (mut events, mut at, mut scanned) = (Vec::new(), from, 0);
        while scanned < SCANNED_MAX {
            let wanted = limit - events.len();
            let rows = self.rows(view, at, to, backward, wanted).await?;
            let Some((last, _)) = rows.last() else { break };
            at = if backward { step_before(*last) } else { *last };
            scanned += rows.len();
            events.extend(self.shown(view, &rows, backward, &query.filter).await?);
            if rows.len() < wanted || events.len() >= limit {
                break;
            }
        }
        // The end of history shows on the next page, which is empty: clients expect a token with every event.
        Ok(Page { events, next: (scanned > 0).then(|| page_token(at)) })
    }

    /// Timeline rows from a place on. One without an event is a change of the state only.
    async fn rows(
        &self,
        view: &RoomView<'_>,
        at: Order,
        to: Option<Order>,
        backward: bool,
        limit: usize,
    ) -> Result<Vec<(Order, Option<EventNumber>)>, ReadError> {
        let range = if backward {
            (to.map_or(Bound::Unbounded, Bound::Excluded), Bound::Included(at.min(view.until)))
        } else {
            (Bound::Excluded(at), Bound::Included(to.unwrap_or(Order::END).min(view.until)))
        };
        let is_empty = match range {
            (Bound::Excluded(low), Bound::Included(high)) => low >= high,
            _ => false,
        };
        if is_empty {
            return Ok(Vec::new());
        }
        let rows = self.store.timeline(view.number, range, limit, backward).await?;
        Ok(rows.into_iter().map(|(order, row)| (order, row.event)).collect())
    }

    /// The events of these rows that pass the gate and the filter, in the order of the rows.
    async fn shown(
        &self,
        view: &mut RoomView<'_>,
        rows: &[(Order, Option<EventNumber>)],
        backward: bool,
        filter: &RoomEventFilter,
    ) -> Result<Vec<Shown>, ReadError> {
        let rows = rows.iter().filter_map(|(order, number)| Some((*order, (*number)?)));
        let (orders, numbers): (Vec<Order>, Vec<EventNumber>) = rows.unzip();
        let stored = self.store.events_in_passing(view.number, &numbers).await?;
        let mut events: Vec<_> = orders.into_iter().zip(stored).collect();
        // The gate walks upwards, where one standing follows from the other.
        if backward {
            events.reverse();
        }
        let is_everything = filter.is_everything();
        let mut shown = view.gate.shown(events.into_iter(), |event| is_everything || filter.allows(event)).await?;
        if backward {
            shown.reverse();
        }
        Ok(shown)
    }

    /// The member events of those who sent these events, as of the newest of them.
    pub(super) async fn senders(
        &self,
        view: &RoomView<'_>,
        events: &[Shown],
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let newest = events.iter().max_by_key(|shown| shown.order);
        let Some(version) = newest.map(|shown| shown.event.header.state_after) else { return Ok(Vec::new()) };
        let senders: BTreeSet<OwnedUserId> = events.iter().map(|shown| shown.event.event.sender().to_owned()).collect();
        let mut members = Vec::with_capacity(senders.len());
        for sender in senders {
            members.extend(self.store.state_event(view.number, version, "m.room.member", sender.as_str()).await?);
        }
        Ok(members)
    }
}

/// The token of the place just behind this order.
pub(super) fn page_token(order: Order) -> PageToken {
    PageToken { position: order.position, within: order.within }
}

/// The place just before the event with this order.
pub(super) fn step_before(order: Order) -> Order {
    let PageToken { position, within } = PageToken::before(order.position, order.within);
    Order { position, within }
}
