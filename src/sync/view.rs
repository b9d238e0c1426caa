//! One reader's view of one room while an answer is made: looks up what the gate asks for, as seldom as it can.

use std::sync::Arc;

use hearth_core::redact;
use hearth_store::{
    EventNumber, LoadError, Order, RoomNumber, StateKeyNumber, StateVersion, StoredEvent, tables::TimelineRow,
};
use hearth_users::Fault;
use hearth_view::{
    Circumstances, Membership, RoomEventFilter, Sight, Standing, Trail, Unsigned,
    event_json::{age_ms, write_client_event},
    sight,
};
use ruma::OwnedRoomId;
use smallvec::SmallVec;

use crate::{SyncError, json, look::Look};

/// A room as the reader of a [`Look`] sees it.
pub(crate) struct RoomView<'a> {
    pub(crate) look: &'a Look<'a>,
    pub(crate) room: RoomNumber,
    pub(crate) room_id: OwnedRoomId,
    visibility_key: Option<StateKeyNumber>,
    pub(crate) own_key: Option<StateKeyNumber>,
    /// What was looked up. A timeline rarely touches more than two.
    standings: SmallVec<[(StateVersion, Standing); 4]>,
    /// The log position by which the reader last came to be joined; `u64::MAX` while joined.
    pub(crate) joined_until: u64,
    /// The state that the reader is given anyway: the present one of a room they are in.
    pub(crate) given: Option<StateVersion>,
}

/// An event that the reader may see.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) order: Order,
    pub(crate) event: Arc<StoredEvent>,
    /// Only its redacted form is for the reader.
    redacted: bool,
    /// The reader's membership after it.
    membership: Membership,
}

impl<'a> RoomView<'a> {
    /// A view of this room. Nothing is given, nothing was joined yet.
    pub(crate) async fn new(look: &'a Look<'a>, room: RoomNumber) -> Result<Option<Self>, LoadError> {
        let store = &look.syncs.store;
        let Some(room_id) = store.room_id(room).await? else { return Ok(None) };
        Ok(Some(Self {
            visibility_key: store.state_key_number(room, "m.room.history_visibility", "").await?,
            own_key: store.state_key_number(room, "m.room.member", look.reader.user_id.as_str()).await?,
            look,
            room,
            room_id,
            standings: SmallVec::new(),
            joined_until: 0,
            given: None,
        }))
    }

    /// The member event of the reader in a version of the state.
    pub(crate) async fn own_member(&self, version: StateVersion) -> Result<Option<Arc<StoredEvent>>, LoadError> {
        let store = &self.look.syncs.store;
        let Some(key) = self.own_key.filter(|_| version != StateVersion::UNKNOWN) else { return Ok(None) };
        match store.state_get(self.room, version, key).await? {
            Some(number) => store.event(self.room, number).await,
            None => Ok(None),
        }
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
        let mut shown = Vec::with_capacity(events.len());
        let mut trail = Trail::new();
        // Upwards, so that the standing after one event is that before the next.
        for ((order, _), event) in numbered.into_iter().zip(events).rev() {
            let Some(event) = event else { continue };
            let before = self.standing(&mut trail, event.header.state_before).await?;
            let wanted = filter.is_everything() || filter.allows(&event.event);
            if wanted && let Some(sight) = self.sight(order, &event, before).await? {
                shown.push(sight);
            }
            if event.accepted() {
                trail.step(&event.event, &self.look.reader.user_id, event.header.state_after);
            }
        }
        shown.reverse();
        Ok(shown)
    }

    async fn sight(
        &self,
        order: Order,
        event: &Arc<StoredEvent>,
        before: Option<Standing>,
    ) -> Result<Option<Shown>, SyncError> {
        let reader = &self.look.reader.user_id;
        let sender = event.event.sender();
        let mut at = Circumstances {
            before,
            accepted: event.accepted(),
            joined_later: order.position <= self.joined_until,
            in_given_state: false,
            sender_ignored: self.look.ignored.contains(sender),
            sender_erased: self.look.syncs.users.is_erased(sender).await?,
        };
        let mut seen = sight(reader, &event.event, &at);
        if seen == Sight::Hide && self.is_given(event).await? {
            at.in_given_state = true;
            seen = sight(reader, &event.event, &at);
        }
        let redacted = match seen {
            Sight::Hide => return Ok(None),
            Sight::Show => false,
            Sight::ShowRedacted => true,
        };
        let membership = before.map_or(Membership::Leave, |before| before.after(&event.event, reader).membership);
        Ok(Some(Shown { order, event: Arc::clone(event), redacted, membership }))
    }

    /// The reader's own member event, which they are given whatever the history's visibility. The gate has the last
    /// word: what is not accepted is not shown.
    pub(crate) fn show_own(&self, own: &Arc<StoredEvent>) -> Option<Shown> {
        let membership = Membership::of(Some(&own.event));
        let at = Circumstances {
            before: Some(Standing::NOTHING),
            accepted: own.accepted(),
            joined_later: false,
            in_given_state: true,
            sender_ignored: false,
            sender_erased: false,
        };
        let seen = sight(&self.look.reader.user_id, &own.event, &at) == Sight::Show;
        seen.then(|| Shown { order: own.header.order(), event: Arc::clone(own), redacted: false, membership })
    }

    /// Whether the event is part of the state that the reader is given.
    async fn is_given(&self, event: &StoredEvent) -> Result<bool, LoadError> {
        let (Some(given), Some((kind, state_key))) = (self.given, event.event.state_pair()) else { return Ok(false) };
        let store = &self.look.syncs.store;
        let Some(key) = store.state_key_number(self.room, kind, state_key).await? else { return Ok(false) };
        Ok(store.state_get(self.room, given, key).await? == Some(event.number))
    }

    /// The standing in a version of the state; `None` if that state is not known.
    async fn standing(
        &mut self,
        trail: &mut Trail<StateVersion>,
        version: StateVersion,
    ) -> Result<Option<Standing>, LoadError> {
        if version == StateVersion::UNKNOWN {
            return Ok(None);
        }
        if let Some(standing) = trail.at(version) {
            return Ok(Some(standing));
        }
        let known = self.standings.iter().find(|(known, _)| *known == version).map(|(_, standing)| *standing);
        let standing = match known {
            Some(standing) => standing,
            None => {
                let standing = self.load_standing(version).await?;
                self.standings.push((version, standing));
                standing
            }
        };
        trail.set(version, standing);
        Ok(Some(standing))
    }

    async fn load_standing(&self, version: StateVersion) -> Result<Standing, LoadError> {
        let store = &self.look.syncs.store;
        let keys: SmallVec<[StateKeyNumber; 2]> = self.visibility_key.into_iter().chain(self.own_key).collect();
        let numbers = store.state_get_many(self.room, version, &keys).await?;
        let present: SmallVec<[EventNumber; 2]> = numbers.iter().copied().flatten().collect();
        let events = store.events(self.room, &present).await?;
        let find = |kind: &str| events.iter().flatten().map(|event| &event.event).find(|event| event.kind() == kind);
        Ok(Standing::of(find("m.room.history_visibility"), find("m.room.member")))
    }

    /// Appends an event of the timeline.
    pub(crate) async fn write_timeline_event(&self, out: &mut Vec<u8>, shown: &Shown) -> Result<(), SyncError> {
        let Shown { event, membership, .. } = shown;
        let header = &event.header;
        let own = event.event.sender() == self.look.reader.user_id;
        let sent_by =
            header.sent_by.as_ref().filter(|sent_by| own && sent_by.device == self.look.reader.device_id.as_str());
        let replaced = match header.replaces {
            Some(number) => self.look.syncs.store.event(self.room, number).await?,
            None => None,
        };
        // Who was in the room at the event was given its state, so also what the event replaced there.
        let may_see_replaced = *membership == Membership::Join;
        let previous = replaced.as_ref().filter(|_| may_see_replaced && !shown.redacted);
        let redaction = self.redaction(event).await?;
        let unsigned = Unsigned {
            age_ms: Some(age_ms(&event.event, self.look.now_ms)),
            transaction_id: sent_by.map(|sent_by| sent_by.transaction.as_str()),
            membership: Some(*membership),
            redacted_because: redaction.as_deref(),
            prev_content: previous.map(|previous| previous.event.content_json()),
            prev_sender: previous.map(|previous| previous.event.sender().as_str()),
            replaces_state: replaced.as_ref().map(|replaced| replaced.event.event_id().as_str()),
            relations: None,
        };
        json::comma(out);
        if shown.redacted {
            let event = redact(&event.event);
            let client_json = hearth_core::format::client_json(&event, false);
            self.look.format.write(out, &event, &client_json, &unsigned);
        } else {
            self.look.format.write(out, &event.event, event.client_json_in_room(), &unsigned);
        }
        Ok(())
    }

    /// Appends an event of the state.
    pub(crate) async fn write_state_event(&self, out: &mut Vec<u8>, event: &StoredEvent) -> Result<(), Fault> {
        let redaction = self.redaction(event).await?;
        let unsigned = Unsigned {
            age_ms: Some(age_ms(&event.event, self.look.now_ms)),
            redacted_because: redaction.as_deref(),
            ..Unsigned::default()
        };
        json::comma(out);
        self.look.format.write(out, &event.event, event.client_json_in_room(), &unsigned);
        Ok(())
    }

    /// The redaction that took effect on an event, as clients see it.
    async fn redaction(&self, event: &StoredEvent) -> Result<Option<Vec<u8>>, LoadError> {
        let Some(number) = event.header.redacted_by else { return Ok(None) };
        let Some(redaction) = self.look.syncs.store.event(self.room, number).await? else { return Ok(None) };
        let unsigned = Unsigned { age_ms: Some(age_ms(&redaction.event, self.look.now_ms)), ..Unsigned::default() };
        let mut out = Vec::with_capacity(redaction.client_json_in_room().len() + 32);
        write_client_event(&mut out, redaction.client_json_in_room(), &unsigned);
        Ok(Some(out))
    }
}
