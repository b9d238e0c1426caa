//! What a reader may read of a room at all, before any single event is looked at.

use std::sync::Arc;

use hearth_store::{
    EventNumber, Order, RoomNumber, StateVersion, StoredEvent,
    tables::{Head, Membership, MembershipRow},
};
use hearth_users::Ignored;
use hearth_view::{EventFormat, PageToken, PlaceToken, Visibility};
use ruma::RoomId;

use super::{ReadError, Reader, Reads};
use crate::gate::{Eyes, Gate, Shown};

/// Member events that are followed back from the present one to where the reader was last joined. A member whose
/// events since then are more (bans and unbans, invites declined) is treated as never having been there.
const MEMBER_EVENTS_MAX: usize = 64;

/// A room, as far as one reader may look.
pub(super) struct RoomView<'a> {
    pub(super) number: RoomNumber,
    pub(super) membership: Option<MembershipRow>,
    /// Nothing behind this place is shown.
    pub(super) until: Order,
    /// The state that the reader sees as the room's: the present one, or the one left behind.
    pub(super) state: StateVersion,
    /// All events go through it.
    pub(super) gate: Gate<'a>,
}

impl RoomView<'_> {
    /// Whether the reader is joined now.
    pub(super) fn is_joined(&self) -> bool {
        self.membership.is_some_and(|row| row.membership == Membership::Join)
    }

    /// The place that a token names in this room.
    pub(super) fn place(&self, token: &PlaceToken) -> Result<Order, ReadError> {
        match token {
            PlaceToken::Page(PageToken { position, within }) => Ok(Order { position: *position, within: *within }),
            PlaceToken::Sync(token) => {
                let positions: hearth_store::Positions = token.positions.parse().map_err(|_| ReadError::BadToken)?;
                Ok(Order::live(positions.at(self.number.partition())))
            }
        }
    }

    /// Appends a JSON array of events.
    pub(super) async fn write_events(
        &self,
        out: &mut Vec<u8>,
        events: impl IntoIterator<Item = &Shown>,
    ) -> Result<(), ReadError> {
        out.push(b'[');
        for shown in events {
            self.gate.write(out, &EventFormat::CLIENT, shown).await?;
        }
        out.push(b']');
        Ok(())
    }

    /// Appends a JSON array of state events, which whoever may see the state may see.
    pub(super) async fn write_state(&self, out: &mut Vec<u8>, events: &[Arc<StoredEvent>]) -> Result<(), ReadError> {
        out.push(b'[');
        for stored in events {
            self.gate.write_state(out, &EventFormat::CLIENT, stored).await?;
        }
        out.push(b']');
        Ok(())
    }
}

impl Reads {
    /// Opens a room for a reader; [`ReadError::Forbidden`] where there is nothing for them.
    pub(super) async fn open<'a>(&'a self, reader: &'a Reader, room_id: &RoomId) -> Result<RoomView<'a>, ReadError> {
        let number = self.store.room_number(room_id).await?.ok_or(ReadError::Forbidden)?;
        let head = self.store.head(number).await?.filter(|head| !head.loading && !head.purged);
        let head = head.ok_or(ReadError::Forbidden)?;
        let user = self.store.user_number(&reader.user_id).await?;
        let membership = match user {
            Some(user) => self.store.membership(user, number).await?,
            None => None,
        };
        let ignored = match user {
            Some(user) => self.users.ignored(user).await?,
            None => Ignored::default(),
        };
        let (until, state) = self.extent(number, &head, membership).await?;
        let eyes = Eyes {
            store: &self.store,
            users: &self.users,
            user_id: &reader.user_id,
            device_id: reader.device_id.as_deref(),
            ignored,
            now_ms: self.clock.now_ms(),
        };
        let mut gate = Gate::new(eyes, number).await?;
        gate.joined_until = match membership {
            Some(row) if row.membership == Membership::Join => u64::MAX,
            // Up to the departure they were shown also what branches said that had not heard of them.
            Some(_) if until != Order::END => until.position,
            Some(row) => row.joined_position,
            None => 0,
        };
        Ok(RoomView { number, membership, until, state, gate })
    }

    /// How far the reader's view reaches, and the state at its end.
    async fn extent(
        &self,
        room: RoomNumber,
        head: &Head,
        membership: Option<MembershipRow>,
    ) -> Result<(Order, StateVersion), ReadError> {
        let present = (Order::END, head.state);
        if membership.is_some_and(|row| row.membership == Membership::Join) {
            return Ok(present);
        }
        let visibility = self.store.state_event(room, head.state, "m.room.history_visibility", "").await?;
        if Visibility::of(visibility.as_ref().map(|stored| &stored.event)) == Visibility::WorldReadable {
            return Ok(present);
        }
        let left = match membership.filter(|row| !row.forgotten && row.joined_position > 0) {
            Some(row) => self.end_of_join(room, row.event).await?,
            None => None,
        };
        left.ok_or(ReadError::Forbidden)
    }

    /// Where the last join before this member event ended: the place of the event that ended it and the state after.
    async fn end_of_join(
        &self,
        room: RoomNumber,
        member_event: EventNumber,
    ) -> Result<Option<(Order, StateVersion)>, ReadError> {
        let mut next = Some(member_event);
        let mut ended = None;
        for _ in 0..MEMBER_EVENTS_MAX {
            // What won where branches met may never have heard of the stay that it ended.
            let Some(number) = next else { return Ok(ended) };
            let Some(stored) = self.store.event(room, number).await? else { return Ok(None) };
            if hearth_view::Membership::of(Some(&stored.event)) == hearth_view::Membership::Join {
                return Ok(ended);
            }
            ended = Some((stored.header.order(), stored.header.state_after));
            next = stored.header.replaces;
        }
        Ok(None)
    }
}
