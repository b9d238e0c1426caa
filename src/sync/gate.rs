//! One reader before the history of one room: loads what the gate of [`hearth_view`] asks for, as seldom as it can, and
//! writes what passes. Sync and reads on request both go through here.

use std::sync::Arc;

use hearth_core::{Event, format, redact};
use hearth_store::{EventNumber, LoadError, Order, RoomNumber, StateKeyNumber, StateVersion, Store, StoredEvent};
use hearth_users::{Fault, Ignored, Users};
use hearth_view::{
    Circumstances, EventFormat, Membership, Sight, Standing, Trail, Unsigned, event_json::age_ms, sight,
};
use ruma::{DeviceId, UserId};
use smallvec::SmallVec;

use crate::json;

/// Who reads, and when: the same for all rooms of an answer.
#[derive(Clone)]
pub(crate) struct Eyes<'a> {
    pub(crate) store: &'a Store,
    pub(crate) users: &'a Users,
    pub(crate) user_id: &'a UserId,
    /// It alone is told the transaction ids of what it sent.
    pub(crate) device_id: Option<&'a DeviceId>,
    pub(crate) ignored: Ignored,
    pub(crate) now_ms: u64,
}

/// See the module.
pub(crate) struct Gate<'a> {
    eyes: Eyes<'a>,
    room: RoomNumber,
    visibility_key: Option<StateKeyNumber>,
    own_key: Option<StateKeyNumber>,
    /// What was looked up. A timeline rarely touches more than two.
    standings: SmallVec<[(StateVersion, Standing); 4]>,
    /// The log position by which the reader last came to be joined; `u64::MAX` while joined, 0 for never.
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
    /// The state event that it took the place of.
    replaced: Option<Replaced>,
}

#[derive(Clone, Debug)]
struct Replaced {
    event: Arc<StoredEvent>,
    /// The reader may see it too.
    seen: bool,
}

impl<'a> Gate<'a> {
    /// Before this room. Nothing is given, nothing was joined yet.
    pub(crate) async fn new(eyes: Eyes<'a>, room: RoomNumber) -> Result<Self, LoadError> {
        Ok(Self {
            visibility_key: eyes.store.state_key_number(room, "m.room.history_visibility", "").await?,
            own_key: eyes.store.state_key_number(room, "m.room.member", eyes.user_id.as_str()).await?,
            eyes,
            room,
            standings: SmallVec::new(),
            joined_until: 0,
            given: None,
        })
    }

    /// The member event of the reader in a version of the state.
    pub(crate) async fn own_member(&self, version: StateVersion) -> Result<Option<Arc<StoredEvent>>, LoadError> {
        let store = self.eyes.store;
        let Some(key) = self.own_key.filter(|_| version != StateVersion::UNKNOWN) else { return Ok(None) };
        match store.state_get(self.room, version, key).await? {
            Some(number) => store.event(self.room, number).await,
            None => Ok(None),
        }
    }

    /// What of these events, oldest first, the reader may see and wants to, in the same order.
    pub(crate) async fn shown(
        &mut self,
        events: impl ExactSizeIterator<Item = (Order, Option<Arc<StoredEvent>>)>,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Vec<Shown>, Fault> {
        let mut shown = Vec::with_capacity(events.len());
        let mut trail = Trail::new();
        // Upwards, so that the standing after one event is that before the next.
        for (order, event) in events {
            let Some(event) = event else { continue };
            let before = self.standing(&mut trail, event.header.state_before).await?;
            let (is_accepted, after) = (event.accepted(), event.header.state_after);
            if is_accepted {
                trail.step(&event.event, self.eyes.user_id, after);
            }
            if wanted(&event.event) {
                shown.extend(self.show(order, event, before).await?);
            }
        }
        Ok(shown)
    }

    async fn show(
        &mut self,
        order: Order,
        event: Arc<StoredEvent>,
        before: Option<Standing>,
    ) -> Result<Option<Shown>, Fault> {
        let redacted = match self.sight(order, &event, before).await? {
            Sight::Hide => return Ok(None),
            Sight::Show => false,
            Sight::ShowRedacted => true,
        };
        let before = before.unwrap_or(Standing::NOTHING);
        let membership = before.after(&event.event, self.eyes.user_id).membership;
        let replaced = match event.header.replaces {
            Some(number) => self.replaced(number, before).await?,
            None => None,
        };
        Ok(Some(Shown { order, event, redacted, membership, replaced }))
    }

    async fn sight(&self, order: Order, event: &StoredEvent, before: Option<Standing>) -> Result<Sight, Fault> {
        let Eyes { users, user_id, ignored, .. } = &self.eyes;
        let sender = event.event.sender();
        let mut at = Circumstances {
            before,
            accepted: event.accepted(),
            // What was filled in below an event has its position.
            joined_later: order.position <= self.joined_until,
            in_given_state: false,
            sender_ignored: ignored.contains(sender),
            sender_erased: false,
        };
        let mut seen = sight(user_id, &event.event, &at);
        if seen == Sight::Hide && self.is_given(event).await? {
            at.in_given_state = true;
            seen = sight(user_id, &event.event, &at);
        }
        // Those who were there keep what they saw, so that the question is not worth its price for them.
        let was_there = before.is_some_and(|before| before.membership == Membership::Join);
        if seen == Sight::Show && !was_there && users.is_erased(sender).await? {
            at.sender_erased = true;
            seen = sight(user_id, &event.event, &at);
        }
        Ok(seen)
    }

    /// Whether the event is part of the state that the reader is given.
    async fn is_given(&self, event: &StoredEvent) -> Result<bool, LoadError> {
        let (Some(given), Some((kind, state_key))) = (self.given, event.event.state_pair()) else { return Ok(false) };
        let store = self.eyes.store;
        let Some(key) = store.state_key_number(self.room, kind, state_key).await? else { return Ok(false) };
        Ok(store.state_get(self.room, given, key).await? == Some(event.number))
    }

    /// What an event took the place of. Who was in the room just before was given its state, so may see what the event
    /// replaced there; for others that one must pass the gate too.
    async fn replaced(&mut self, number: EventNumber, before: Standing) -> Result<Option<Replaced>, Fault> {
        let Some(event) = self.eyes.store.event(self.room, number).await? else { return Ok(None) };
        let mut seen = before.membership == Membership::Join;
        if !seen {
            let before = self.standing(&mut Trail::new(), event.header.state_before).await?;
            seen = self.sight(event.header.order(), &event, before).await? == Sight::Show;
        }
        Ok(Some(Replaced { event, seen }))
    }

    /// The reader's own member event, which they are given whatever the history's visibility. The gate has the last
    /// word: what is not accepted is not shown.
    pub(crate) async fn show_own(&self, own: &Arc<StoredEvent>) -> Result<Option<Shown>, LoadError> {
        let membership = Membership::of(Some(&own.event));
        let at = Circumstances {
            before: Some(Standing::NOTHING),
            accepted: own.accepted(),
            joined_later: false,
            in_given_state: true,
            sender_ignored: false,
            sender_erased: false,
        };
        if sight(self.eyes.user_id, &own.event, &at) != Sight::Show {
            return Ok(None);
        }
        let replaced = match own.header.replaces {
            Some(number) => self.eyes.store.event(self.room, number).await?,
            None => None,
        };
        // Nothing is known of the state that this one stood in.
        let replaced = replaced.map(|event| Replaced { event, seen: false });
        Ok(Some(Shown { order: own.header.order(), event: Arc::clone(own), redacted: false, membership, replaced }))
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
        let store = self.eyes.store;
        let keys: SmallVec<[StateKeyNumber; 2]> = self.visibility_key.into_iter().chain(self.own_key).collect();
        let numbers = store.state_get_many(self.room, version, &keys).await?;
        let present: SmallVec<[EventNumber; 2]> = numbers.iter().copied().flatten().collect();
        let events = store.events(self.room, &present).await?;
        let find = |kind: &str| events.iter().flatten().map(|event| &event.event).find(|event| event.kind() == kind);
        Ok(Standing::of(find("m.room.history_visibility"), find("m.room.member")))
    }

    /// Appends an event as the reader may see it: a further one of an array, or a named value.
    pub(crate) async fn write(&self, out: &mut Vec<u8>, form: &EventFormat, shown: &Shown) -> Result<(), LoadError> {
        let Shown { event, membership, redacted, replaced, .. } = shown;
        let header = &event.header;
        let Eyes { user_id, device_id, now_ms, .. } = &self.eyes;
        let sent_by = header.sent_by.as_ref().filter(|sent_by| {
            device_id.is_some_and(|device| device.as_str() == sent_by.device) && event.event.sender() == *user_id
        });
        let previous = replaced.as_ref().filter(|replaced| replaced.seen && !redacted).map(|replaced| &replaced.event);
        let redaction = self.redaction(event, form).await?;
        let unsigned = Unsigned {
            age_ms: Some(age_ms(&event.event, *now_ms)),
            transaction_id: sent_by.map(|sent_by| sent_by.transaction.as_str()),
            membership: Some(*membership),
            redacted_because: redaction.as_ref().map(|(json, _)| &json[..]),
            redacted_by: redaction.as_ref().map(|(_, redaction)| redaction.event.event_id().as_str()),
            prev_content: previous.map(|previous| previous.event.content_json()),
            prev_sender: previous.map(|previous| previous.event.sender().as_str()),
            replaces_state: replaced.as_ref().map(|replaced| replaced.event.event.event_id().as_str()),
            relations: None,
        };
        json::comma(out);
        if *redacted {
            let event = redact(&event.event);
            form.write(out, &event, &format::client_json(&event, false), &unsigned);
        } else {
            form.write(out, &event.event, event.client_json(), &unsigned);
        }
        Ok(())
    }

    /// The same for an event of a state that the reader may see: no gate, and nothing of the reader's own.
    pub(crate) async fn write_state(
        &self,
        out: &mut Vec<u8>,
        form: &EventFormat,
        event: &StoredEvent,
    ) -> Result<(), LoadError> {
        let redaction = self.redaction(event, form).await?;
        let unsigned = Unsigned {
            age_ms: Some(age_ms(&event.event, self.eyes.now_ms)),
            redacted_because: redaction.as_ref().map(|(json, _)| &json[..]),
            redacted_by: redaction.as_ref().map(|(_, redaction)| redaction.event.event_id().as_str()),
            ..Unsigned::default()
        };
        json::comma(out);
        form.write(out, &event.event, event.client_json(), &unsigned);
        Ok(())
    }

    /// The redaction that took effect on an event, as clients see it, whichever fields are asked for.
    async fn redaction(
        &self,
        event: &StoredEvent,
        form: &EventFormat,
    ) -> Result<Option<(Vec<u8>, Arc<StoredEvent>)>, LoadError> {
        let Some(number) = event.header.redacted_by else { return Ok(None) };
        let Some(redaction) = self.eyes.store.event(self.room, number).await? else { return Ok(None) };
        let age_ms = Some(age_ms(&redaction.event, self.eyes.now_ms));
        let form = EventFormat { names_room: form.names_room, ..EventFormat::default() };
        let mut out = Vec::with_capacity(redaction.client_json().len() + 64);
        form.write(&mut out, &redaction.event, redaction.client_json(), &Unsigned { age_ms, ..Unsigned::default() });
        Ok(Some((out, redaction)))
    }
}
