//! What a room's states say about an event: the one before it, the one that is in force.
//! [Checks performed on receipt of a PDU](https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu).

use std::collections::HashMap;

use hearth_core::{Event, Reason, auth, auth_types, catchup::Place};
use hearth_store::{EventNumber, StateVersion, tables::Membership};

use super::place::{Arriving, Outcome};
use crate::{
    append::{Group, PlaceError, membership_of},
    cache::RoomCache,
    writer::Writer,
};

/// State that says, besides bans, who may not do what.
const RESTRICTING: [&str; 3] = ["m.room.power_levels", "m.room.join_rules", "m.room.server_acl"];

/// Memberships that are looked at together.
const MEMBERS_AT_ONCE: usize = 500;

/// The pairs of state that decide on an event.
type Types = Vec<(String, String)>;

impl Writer {
    /// Check 5 alone, for an event of the past: the state before it.
    pub(crate) async fn allows(
        &self,
        cache: &RoomCache,
        group: &Group<'_>,
        event: &Event,
        before: StateVersion,
    ) -> Result<bool, PlaceError> {
        let Ok(types) = types_for(event) else { return Ok(false) };
        Ok(check_at(cache, group, (event, &types), before).await?.is_ok())
    }

    /// Checks 5 and 6: the state before the event, and the current one.
    pub(super) async fn authorise(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        arriving: &Arriving,
        before: StateVersion,
    ) -> Result<Outcome, PlaceError> {
        let event = &arriving.event;
        let types = match types_for(event) {
            Ok(types) => types,
            Err(reason) => return Ok(Outcome::Rejected(reason)),
        };
        let current = cache.head.state;
        if before != current
            && let Err(reason) = check_at(cache, group, (event, &types), before).await?
        {
            return Ok(Outcome::Rejected(reason));
        }
        for (kind, state_key) in &types {
            cache.entry(&self.store, kind, state_key).await?;
        }
        match auth::check_against(event, |kind, key| cache.known_event(kind, key)) {
            Ok(()) => return Ok(Outcome::Accepted),
            Err(reason) if before == current => return Ok(Outcome::Rejected(reason)),
            Err(_) => {}
        }
        let is_told = matches!(arriving.place, Place::AtState(_));
        match is_told && self.is_allowed_by_news(cache, group, (event, &types), before).await? {
            true => Ok(Outcome::Accepted),
            false => Ok(Outcome::SoftFailed),
        }
    }

    /// Check 6 for an event behind a gap, which our extremities' state is against: it need not know who came in
    /// meanwhile. It is asked what the current state will be once the event is among the extremities.
    ///
    /// "It is important that we prevent users from evading bans (or other power restrictions)": what is told of the state
    /// before the event may be made up of true events. So nobody is heard in this way who is banned as far as we know, and
    /// nothing that would lift a ban, or change who may do what, but for what our own current state allows as well. What is
    /// refused here may yet come into force by the word of somebody whom we know.
    async fn is_allowed_by_news(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        (event, types): (&Event, &Types),
        before: StateVersion,
    ) -> Result<bool, PlaceError> {
        if cache.membership(&self.store, event.sender()).await? == Some(Membership::Ban) {
            return Ok(false);
        }
        let mut versions = group.states_after_extremities(cache).await?;
        versions.push(before);
        let news = group.resolve(cache, versions).await?;
        Ok(check_at(cache, group, (event, types), news).await?.is_ok()
            && self.keeps_restrictions(cache, group, news).await?)
    }

    /// Whether what the current state forbids is, in this state, allowed only by who may allow it by the current state.
    async fn keeps_restrictions(
        &self,
        cache: &RoomCache,
        group: &Group<'_>,
        news: StateVersion,
    ) -> Result<bool, PlaceError> {
        let current = cache.head.state;
        for kind in RESTRICTING {
            let Some(pair) = group.known_state_key(cache, kind, "").await? else { continue };
            let (was, is) = (group.states.get(current, pair).await?, group.states.get(news, pair).await?);
            if was != is && !self.is_done_rightly(cache, group, is).await? {
                return Ok(false);
            }
        }
        let mut changes = group.states.difference(current, news).await?;
        changes.retain(|change| change.before.is_some());
        for changes in changes.chunks(MEMBERS_AT_ONCE) {
            let numbers: Vec<EventNumber> = changes.iter().filter_map(|change| change.before).collect();
            let events = group.events(cache, &numbers).await?;
            for (change, (_, event)) in changes.iter().zip(events) {
                let was_banned = event.kind() == "m.room.member" && membership_of(&event) == Membership::Ban;
                if was_banned && !self.is_done_rightly(cache, group, change.after).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether the current state allows what takes the place of something in it.
    async fn is_done_rightly(
        &self,
        cache: &RoomCache,
        group: &Group<'_>,
        event: Option<EventNumber>,
    ) -> Result<bool, PlaceError> {
        let Some(number) = event else { return Ok(false) };
        let event = group.known(cache, number).await?.event;
        self.allows(cache, group, &event, cache.head.state).await
    }
}

fn types_for(event: &Event) -> Result<Types, Reason> {
    let mut types = auth_types(event.version(), event.kind(), event.sender(), event.state_key(), event.content())?;
    types.push(("m.room.create".to_owned(), String::new()));
    Ok(types)
}

/// The rules, by one version of the state.
async fn check_at(
    cache: &RoomCache,
    group: &Group<'_>,
    (event, types): (&Event, &Types),
    at: StateVersion,
) -> Result<Result<(), Reason>, PlaceError> {
    let mut state = HashMap::new();
    for (kind, state_key) in types {
        let event = group.state_event(cache, at, kind, state_key).await?;
        state.extend(event.map(|event| ((kind.as_str(), state_key.as_str()), event)));
    }
    Ok(auth::check_against(event, |kind, key| state.get(&(kind, key)).cloned()))
}
