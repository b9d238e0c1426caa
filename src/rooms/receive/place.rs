//! Putting events of other servers into their room: authorised three times, as many as possible in one batch.
//! [Checks performed on receipt of a PDU](https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu).

use hearth_core::{Event, Reason, RoomVersion, SignedEvent, auth, catchup::Place};
use hearth_store::{
    CommitError, EventNumber, LoadError, RoomNumber, StateVersion,
    tables::{EventFlags, SenderTransaction},
};
use ruma::{EventId, OwnedEventId, OwnedServerName};

use super::ReceiveError;
use crate::{
    append::{Group, Known, PlaceError, Placing, Redacting, Verdict, member_in},
    cache::RoomCache,
    rooms::Rooms,
    writer::{ATTEMPTS_MAX, GROUP_BYTES, GROUP_MAX, Writer},
};

/// Events that others rest on and that are stored together: nobody waits for one of them.
const OUTLIERS_MAX: usize = 1_000;

/// A signed event on its way into its room. What it rests on is stored, or comes before it.
#[derive(Clone, Debug)]
pub(crate) struct Arriving {
    pub(crate) event: Event,
    pub(crate) place: Place,
    /// The server that we have it from; `None`: it was made here, and others have signed it since.
    pub(crate) origin: Option<OwnedServerName>,
    /// It is accepted through us: we send it on to the room's other servers.
    pub(crate) relay: bool,
}

impl Arriving {
    /// Whether the state before the event is known only by what another server than the sender's has told. That is no reason to
    /// refuse the event for good: who tells lies could silence anybody.
    pub(crate) fn is_told_by_another(&self) -> bool {
        let by = self.origin.as_deref();
        matches!(self.place, Place::AtState(_)) && by != Some(self.event.sender().server_name())
    }

    /// Whether the state before the event, where some of its previous events are here, need not be what it will be once
    /// all are: in rooms of version 1 what was told, resolved with what is known, may become another.
    fn is_at_guessed_state(&self, prevs: &[EventNumber]) -> bool {
        let is_told = matches!(self.place, Place::AtState(_));
        is_told && !prevs.is_empty() && self.event.version().resolves_to_older_state()
    }
}

/// What became of an event. It is stored, but for one that is rejected and was brought by a server that has no more to do with
/// the room than its sender's has.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It is part of the room, or stored for others to rest on.
    Accepted,
    /// The current state is against it.
    SoftFailed,
    /// The rules are against it.
    Rejected(Reason),
}

impl Rooms {
    /// Puts one signed event into a room that this server is in, behind previous events that are all here. `relay`: it
    /// is accepted through us, so that we send it on.
    pub(crate) async fn append_received(
        &self,
        room: RoomNumber,
        event: SignedEvent,
        origin: Option<OwnedServerName>,
        relay: bool,
    ) -> Result<Outcome, ReceiveError> {
        let arriving = Arriving { event: event.into_event(), place: Place::AfterPrevs, origin, relay };
        let outcome = self.writer.place_all(room, vec![arriving]).await.pop();
        outcome.unwrap_or_else(|| Err(ReceiveError::Unavailable("an event has no outcome".to_owned())))
    }
}

impl Writer {
    /// Puts events into a room, in order, one result each. One that cannot be put there spoils only itself.
    pub(crate) async fn place_all(
        &self,
        room: RoomNumber,
        mut events: Vec<Arriving>,
    ) -> Vec<Result<Outcome, ReceiveError>> {
        let mut outcomes: Vec<Option<Result<Outcome, ReceiveError>>> = Vec::new();
        outcomes.resize_with(events.len(), || None);
        // Numbers are commits of their own: the room need not wait for them.
        let placed = events.iter().filter(|arriving| !matches!(arriving.place, Place::Outlier));
        let users: Vec<_> = placed.filter_map(|arriving| member_in(&arriving.event)).collect();
        let mut failed = self.store.ensure_user_numbers(&users).await.err().map(ReceiveError::from);
        // Before the room stands still for these events.
        if let Err(error) = self.complete_policies(room, &mut events).await {
            failed = Some(error.into());
        }
        let active = self.active(room);
        let mut done = 0;
        while done < events.len() && failed.is_none() {
            // Let go of after each batch: others write into the room, too.
            let mut slot = active.cache.lock().await;
            match self.place_some(&mut slot, room, &events[done..], &mut outcomes[done..]).await {
                Ok(count) => done += count,
                Err(error) => failed = Some(error),
            }
        }
        let failed = failed.unwrap_or_else(|| ReceiveError::Unavailable("an event has no outcome".to_owned()));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(failed.clone()))).collect()
    }

    /// One batch. Returns how many of the events are dealt with.
    async fn place_some(
        &self,
        slot: &mut Option<RoomCache>,
        room: RoomNumber,
        events: &[Arriving],
        outcomes: &mut [Option<Result<Outcome, ReceiveError>>],
    ) -> Result<usize, ReceiveError> {
        let mut lost = 0;
        'again: loop {
            self.pause_after(lost).await;
            let loaded = self.load_known(slot, room).await?;
            let cache =
                loaded.ok_or_else(|| ReceiveError::Unavailable("there is no such room for writers".to_owned()))?;
            let mut group = Group::new(self, cache);
            let mut batch = Vec::with_capacity(events.len().min(GROUP_MAX));
            let mut count = 0;
            for (nth, arriving) in events.iter().enumerate() {
                let group_max = if matches!(arriving.place, Place::Outlier) { OUTLIERS_MAX } else { GROUP_MAX };
                if group.len() >= group_max || group.write.size_bytes() >= GROUP_BYTES {
                    break;
                }
                count = nth + 1;
                // It spoiled a batch: this is another.
                if outcomes[nth].is_some() {
                    continue;
                }
                match self.place_one(cache, &mut group, arriving).await {
                    Ok(outcome) => batch.push((nth, outcome)),
                    Err(error) => {
                        tracing::info!(event_id = %arriving.event.event_id(), %error, "event not put into its room");
                        outcomes[nth] = Some(Err(error.into()));
                        *slot = None;
                        continue 'again;
                    }
                }
            }
            if let Some(last) = group.last_event_id().map(ToOwned::to_owned) {
                metrics::histogram!("rooms_received_group").record(group.len() as f64);
                if let Err(error) = self.commit_group(cache, group).await {
                    *slot = None;
                    // A batch whose fate is unknown is all there or not at all: one of its events tells.
                    let in_doubt = matches!(error, CommitError::Unavailable(_));
                    if !in_doubt || !self.is_stored(room, &last).await {
                        lost += 1;
                        if !matches!(error, CommitError::Conflict) || lost == ATTEMPTS_MAX {
                            return Err(error.into());
                        }
                        continue;
                    }
                }
            }
            for (nth, outcome) in batch {
                outcomes[nth] = Some(outcome);
            }
            return Ok(count);
        }
    }

    /// Decides about an event and adds it to the batch. An error spoils the batch.
    async fn place_one(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        arriving: &Arriving,
    ) -> Result<Result<Outcome, ReceiveError>, PlaceError> {
        self.place_one_of(cache, group, arriving, (None, false)).await
    }

    /// The same, with what an event of ours has besides: the device and transaction id of its request, and whether it is a
    /// guest's membership.
    pub(crate) async fn place_one_of(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        arriving: &Arriving,
        (sent_by, guest): (Option<SenderTransaction>, bool),
    ) -> Result<Result<Outcome, ReceiveError>, PlaceError> {
        let event = &arriving.event;
        let number = group.number_of(cache, event.event_id()).await?;
        if let Some(number) = number {
            let known = group.known(cache, number).await?;
            if !known.is(EventFlags::OUTLIER) || matches!(arriving.place, Place::Outlier) {
                return Ok(Ok(outcome_of(&known)));
            }
        }
        let Some(cited) = self.cited(cache, group, event).await? else {
            return Ok(Err(ReceiveError::Incomplete("an auth event is missing")));
        };
        let (by_cited, auths) = (cited.check(event), cited.numbers);
        if matches!(arriving.place, Place::Outlier) {
            if by_cited.is_err() && number.is_none() && group.is_of_strangers(cache, arriving).await? {
                return Ok(Ok(by_cited.map_or_else(Outcome::Rejected, |()| Outcome::Accepted)));
            }
            let event = event.clone().with_rejected(by_cited.is_err());
            group.put_outlier(cache, event, auths, arriving.origin.as_ref());
            return Ok(Ok(by_cited.map_or_else(Outcome::Rejected, |()| Outcome::Accepted)));
        }
        let Some(Before { state, prevs, missing }) = self.before(cache, group, arriving).await? else {
            return Ok(Err(ReceiveError::Incomplete("a previous event is missing")));
        };
        let cited_allow = by_cited.is_ok();
        let outcome = match by_cited {
            Ok(()) => self.authorise(cache, group, arriving, state).await?,
            Err(reason) => Outcome::Rejected(reason),
        };
        if matches!(outcome, Outcome::Rejected(_)) && cited_allow {
            if arriving.is_told_by_another() {
                return Ok(Err(ReceiveError::Incomplete("another server tells a state that does not allow it")));
            }
            if arriving.is_at_guessed_state(&prevs) {
                return Ok(Err(ReceiveError::Incomplete("as far as its state is known that does not allow it")));
            }
        }
        let outcome = match outcome {
            Outcome::Accepted if !self.is_recommended(cache, event).await? => Outcome::SoftFailed,
            outcome => outcome,
        };
        let verdict = verdict_of(&outcome);
        // Nobody who is well cites it. If somebody who is in the room does, it is fetched from them, and kept.
        if verdict == Verdict::Rejected && number.is_none() && group.is_of_strangers(cache, arriving).await? {
            note(arriving, &outcome);
            return Ok(Ok(outcome));
        }
        let redacting = match verdict {
            Verdict::Accepted => group.redacting_of(cache, event, state).await?,
            Verdict::SoftFailed | Verdict::Rejected => Redacting::Nothing,
        };
        let placing = Placing {
            event: event.clone().with_rejected(verdict == Verdict::Rejected),
            verdict,
            number,
            auths,
            prevs,
            missing,
            state_before: state,
            redacting,
            sent_by,
            guest,
            origin: arriving.origin.clone(),
            relay: arriving.relay,
        };
        group.place(cache, placing).await?;
        note(arriving, &outcome);
        Ok(Ok(outcome))
    }

    /// The events that an event cites as authorising, and the create event; `None`: not all are stored.
    pub(crate) async fn cited(
        &self,
        cache: &mut RoomCache,
        group: &Group<'_>,
        event: &Event,
    ) -> Result<Option<Cited>, PlaceError> {
        let count = event.auth_events().len();
        let mut cited =
            Cited { numbers: Vec::with_capacity(count), events: Vec::with_capacity(count + 1), is_elsewhere: false };
        for id in event.auth_events() {
            match group.number_of(cache, id).await? {
                Some(number) => {
                    cited.numbers.push(number);
                    cited.events.push(group.known(cache, number).await?.event);
                }
                None if self.is_elsewhere(event.version(), id).await? => cited.is_elsewhere = true,
                None => return Ok(None),
            }
        }
        cited.events.extend(cache.state(&self.store, "m.room.create", "").await?);
        Ok(Some(cited))
    }

    /// Whether an event that this room has not is known to be of another. Ids that servers choose say nothing: two rooms
    /// may have the same.
    pub(crate) async fn is_elsewhere(&self, version: RoomVersion, id: &EventId) -> Result<bool, LoadError> {
        Ok(!version.has_chosen_event_ids() && !self.store.rooms_of_event(id).await?.is_empty())
    }

    /// The state before an event; `None`: it cannot be known.
    pub(crate) async fn before(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        arriving: &Arriving,
    ) -> Result<Option<Before>, PlaceError> {
        let (mut prevs, mut missing, mut states) = (Vec::new(), Vec::new(), Vec::new());
        for id in arriving.event.prev_events() {
            let known = match group.number_of(cache, id).await? {
                Some(number) => {
                    Some((number, group.known(cache, number).await?)).filter(|(_, known)| known.is_placed())
                }
                None => None,
            };
            match known {
                Some((number, known)) => {
                    prevs.push(number);
                    states.push(known.header.state_after);
                }
                None => missing.push(id.clone()),
            }
        }
        match &arriving.place {
            Place::AtState(told) => {
                // What is known here of the state before is not given up for what another server says.
                for ids in told.iter() {
                    let numbers = group.numbers_of(cache, ids).await?;
                    states.push(group.whole_state(cache, &numbers).await?);
                }
            }
            Place::AfterPrevs | Place::Outlier if !missing.is_empty() || prevs.is_empty() => return Ok(None),
            Place::AfterPrevs | Place::Outlier => {}
        }
        let extremities = &cache.head.extremities;
        let follows_all = missing.is_empty()
            && prevs.len() == extremities.len()
            && extremities.iter().all(|extremity| prevs.contains(&extremity.event));
        let state = match follows_all && matches!(arriving.place, Place::AfterPrevs) {
            true => cache.head.state,
            false => group.resolve(cache, states).await?,
        };
        Ok(Some(Before { state, prevs, missing }))
    }
}

impl Group<'_> {
    /// Whether neither the server that brings the event nor its sender's has anybody in the room: whoever likes could have us
    /// keep as much as they like.
    async fn is_of_strangers(&self, cache: &RoomCache, arriving: &Arriving) -> Result<bool, LoadError> {
        let Some(origin) = &arriving.origin else { return Ok(false) };
        Ok(self.joined_from(cache, origin).await? == 0
            && self.joined_from(cache, arriving.event.sender().server_name()).await? == 0)
    }
}

/// What an event cites as authorising.
pub(crate) struct Cited {
    /// Those of its auth events that are of this room.
    pub(crate) numbers: Vec<EventNumber>,
    /// The same, and the create event.
    events: Vec<Event>,
    /// Others are of another room.
    is_elsewhere: bool,
}

impl Cited {
    /// Check 4: the rules, by the events that an event cites.
    pub(crate) fn check(&self, event: &Event) -> Result<(), Reason> {
        if self.is_elsewhere {
            return Err(Reason::new("an auth event is of another room"));
        }
        let fetch = |id: &EventId| self.events.iter().find(|event| event.event_id() == id).cloned();
        auth::check_auth_events(event, fetch)?;
        auth::check_against_auth_events(event, fetch)
    }
}

/// What an event stands behind.
pub(crate) struct Before {
    pub(crate) state: StateVersion,
    pub(crate) prevs: Vec<EventNumber>,
    pub(crate) missing: Vec<OwnedEventId>,
}

fn verdict_of(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Accepted => Verdict::Accepted,
        Outcome::SoftFailed => Verdict::SoftFailed,
        Outcome::Rejected(_) => Verdict::Rejected,
    }
}

fn outcome_of(known: &Known) -> Outcome {
    if known.is(EventFlags::REJECTED) {
        return Outcome::Rejected(Reason::new("it was refused before"));
    }
    if known.is(EventFlags::SOFT_FAILED) { Outcome::SoftFailed } else { Outcome::Accepted }
}

/// A refused event is told of once.
fn note(arriving: &Arriving, outcome: &Outcome) {
    let event_id = arriving.event.event_id();
    let origin = arriving.origin.as_ref().map(|server| server.as_str()).unwrap_or_default();
    match outcome {
        Outcome::Accepted => metrics::counter!("rooms_received", "outcome" => "accepted").increment(1),
        Outcome::SoftFailed => {
            metrics::counter!("rooms_received", "outcome" => "soft_failed").increment(1);
            tracing::info!(%event_id, origin, "event soft-failed");
        }
        Outcome::Rejected(reason) => {
            metrics::counter!("rooms_received", "outcome" => "rejected").increment(1);
            tracing::info!(%event_id, origin, %reason, "event rejected");
        }
    }
}
