//! What is told of one room.

use std::sync::Arc;

use hearth_store::{
    LoadError, Order, StateVersion, StoredEvent,
    tables::{MembershipRow, TimelineRow},
};
use hearth_users::AccountData;
use hearth_view::{
    Membership, PageToken,
    delta::{Passage, Section, section},
};
use ruma::RoomId;

use crate::{
    SyncError, account, json,
    look::{Known, Look, Met, Sections},
    outside, receipts,
    state::{self, Span},
    stripped,
    summary::Summary,
    syncs::{StateForm, Syncs},
    timeline::{LIMIT_DEFAULT, LIMIT_MAX, Tape, Timeline},
    view::RoomView,
};

/// Leaves and bans in a row that are followed back to the departure that they began with.
const DEPARTURES_MAX: usize = 100;

/// Appends the room to its section, if there is something to tell of it.
pub(crate) async fn write(
    look: &Look<'_>,
    sections: &mut Sections,
    met: &mut Met,
    known: &Known<'_>,
) -> Result<(), SyncError> {
    let Some(view) = RoomView::new(look, known.room).await? else { return Ok(()) };
    if !look.filter.room.allows_room(view.room_id.as_str()) {
        return Ok(());
    }
    if let Some(row) = outside::load(look, known.room).await? {
        return outside::write(look, sections, known.room, &view.room_id, &row).await;
    }
    let mut visit = match Visit::begin(view, known.row).await? {
        Begun::Nothing => return Ok(()),
        Begun::Erased { view, upto, state } => {
            met.sharing.add_left(&view, state).await?;
            write_erased(&mut sections.leave, &view.room_id, upto);
            return Ok(());
        }
        Begun::Visit(visit) => visit,
    };
    let account_data = known.account_data;
    match section(&look.wish, &visit.passage) {
        None => Ok(()),
        Some(Section::Join { newly }) => visit.write_joined(&mut sections.join, met, newly, account_data).await,
        Some(Section::Leave { was_joined, newly }) => {
            if was_joined {
                met.sharing.add_left(&visit.view, visit.state_before).await?;
            }
            visit.write_left(&mut sections.leave, was_joined, newly, account_data).await
        }
        Some(Section::StillGone) => visit.write_still_gone(&mut sections.leave).await,
        Some(Section::Invite) => stripped::write_invite(&mut sections.invite, &visit.view, &visit.own).await,
        Some(Section::Knock) => stripped::write_knock(&mut sections.knock, &visit.view, &visit.own).await,
    }
}

/// A room while it is looked at.
struct Visit<'a> {
    view: RoomView<'a>,
    tape: Tape,
    /// The last sync's place in the timeline.
    since: Option<Order>,
    /// The state at `since`.
    state_before: StateVersion,
    passage: Passage,
    /// The reader's member event in force.
    own: Arc<StoredEvent>,
    /// For those who left: the event by which they did.
    departure: Option<Arc<StoredEvent>>,
    /// Where the reader last came to be joined; 0 is never, or that it did not matter.
    joined_position: u64,
    /// The room has got the members that it was joined without: how many there are is news.
    members_came: bool,
}

/// What a look at the reader's part in a room began with.
enum Begun<'a> {
    /// The reader has and had no part in it, or is not told of it yet.
    Nothing,
    /// No event gives the reader a membership any more: what did lost where branches of the room met.
    Erased {
        view: Box<RoomView<'a>>,
        upto: Order,
        /// The state at the last sync.
        state: StateVersion,
    },
    Visit(Box<Visit<'a>>),
}

/// What surrounds the timeline of a room that the reader is or was in.
struct Stretch {
    /// What the client has of the state.
    base: StateVersion,
    /// The timeline begins behind this.
    after: Option<Order>,
    all_is_news: bool,
}

impl<'a> Visit<'a> {
    async fn begin(view: RoomView<'a>, row: Option<MembershipRow>) -> Result<Begun<'a>, SyncError> {
        let look = view.look;
        let store = &look.syncs.store;
        let partition = view.room.partition();
        let upto = Order::live(look.now.positions.at(partition));
        let since = look.since.map(|since| Order::live(since.positions.at(partition)));
        let limit = look.filter.room.timeline.events.limit_or(LIMIT_DEFAULT, LIMIT_MAX);
        let tape = Tape::read(store, view.room, (since, upto), limit).await?;
        let state_before = match since {
            Some(since) => tape.state_at(store, since).await?,
            None => StateVersion::EMPTY,
        };
        let Some(own) = view.gate.own_member(tape.state_now()).await? else {
            let before = view.gate.own_member(state_before).await?;
            let is_in = before.is_some_and(|own| is_part(membership_of(&own)));
            return Ok(match is_in {
                true => Begun::Erased { view: Box::new(view), upto, state: state_before },
                false => Begun::Nothing,
            });
        };
        let own_before = match state_before == tape.state_now() {
            true => Some(Arc::clone(&own)),
            false => view.gate.own_member(state_before).await?,
        };
        let changed = own_before.as_ref().is_none_or(|before| before.number != own.number);
        let row = match row {
            None if changed => store.membership(look.user, view.room).await?,
            // Under one and the same member event nobody has come or gone.
            known => known,
        };
        let joined_position = row.map_or(0, |row| row.joined_position);
        let passage = Passage {
            before: own_before.as_deref().map_or(Membership::Leave, membership_of),
            after: membership_of(&own),
            changed,
            departed_between: false,
            joined_between: joined_position > since.map_or(0, |since| since.position),
            departed_from: Membership::Leave,
            forgotten: row.is_some_and(|row| row.forgotten),
        };
        let (departure, members_came) = (None, false);
        let mut visit =
            Self { view, tape, since, state_before, passage, own, departure, joined_position, members_came };
        if visit.passage.after == Membership::Join && !visit.heed_members().await? {
            return Ok(Begun::Nothing);
        }
        if matches!(visit.passage.after, Membership::Leave | Membership::Ban) && (changed || look.wish.first) {
            let was_in = visit.passage.before == Membership::Join || visit.passage.joined_between;
            let (event, from) = match find_departure(&visit.view, Arc::clone(&visit.own), was_in).await? {
                // What won where branches met may never have heard of the stay that it ended.
                (_, Membership::Leave) if is_part(visit.passage.before) => {
                    (Arc::clone(&visit.own), visit.passage.before)
                }
                found => found,
            };
            visit.passage.departed_from = from;
            visit.passage.departed_between = since.is_none_or(|since| event.header.order() > since);
            visit.departure = Some(event);
            if !visit.was_whole_before().await? {
                // The room was not told of at `since`, although they were in it.
                visit.passage.before = Membership::Leave;
            }
        }
        Ok(Begun::Visit(Box::new(visit)))
    }

    /// Heeds whether the room has its members; `false`: it is not told of yet. A room that was joined without them is
    /// shown at once to those who ask for members one by one, and to others when all are there, as newly joined.
    async fn heed_members(&mut self) -> Result<bool, LoadError> {
        let look = self.view.look;
        let since = self.since.map_or(0, |since| since.position);
        let is_news = |(order, row): &(Order, TimelineRow)| row.event.is_none() && order.position > since;
        // The row that says so may lie behind those that were read.
        let is_cut_off = self.since.is_some_and(|since| !self.tape.reaches(since));
        let may_have_come = is_cut_off || self.tape.rows.iter().any(is_news);
        if look.wish.lazy_members && !may_have_come {
            return Ok(true);
        }
        // What came behind the place to which this look reaches is told by the next one.
        let completed = self.completed().await?.filter(|completed| *completed <= self.tape.upto.position);
        let came = completed.is_some_and(|completed| completed > since);
        if look.wish.lazy_members {
            self.members_came = came;
            return Ok(true);
        }
        if came && self.since.is_some() {
            (self.passage.before, self.passage.changed) = (Membership::Leave, true);
        }
        Ok(completed.is_some())
    }

    /// Whether a reader who was in the room at `since` had been told of it: it had its members by then, or they ask for
    /// members one by one.
    async fn was_whole_before(&self) -> Result<bool, LoadError> {
        let since = self.since.map_or(0, |since| since.position);
        Ok(self.view.look.wish.lazy_members || self.completed().await?.is_some_and(|completed| completed <= since))
    }

    /// The position at which the room had all its members, 0 if it had them from the start; `None`: it has not. While the
    /// reader's membership is the same the room does not lose them again.
    async fn completed(&self) -> Result<Option<u64>, LoadError> {
        let Syncs { store, completed, .. } = self.view.look.syncs;
        let key = (self.view.room, self.own.number);
        if let Some(known) = completed.get(&key) {
            return Ok(Some(known));
        }
        let found = match store.head(self.view.room).await? {
            Some(head) if head.partial => return Ok(None),
            Some(head) => head.completed,
            None => 0,
        };
        completed.insert(key, found);
        Ok(Some(found))
    }

    /// What the client has of a stay, and what of its timeline is new to it.
    fn stretch(&self, newly: bool) -> Stretch {
        let all_is_news = newly || self.view.look.wish.first || self.view.look.wish.full_state;
        Stretch {
            base: if all_is_news { StateVersion::EMPTY } else { self.state_before },
            // Who left and came back was told of everything up to `since`.
            after: self.since.filter(|_| !newly || self.passage.before == Membership::Join),
            all_is_news,
        }
    }

    async fn gather(&mut self, after: Option<Order>) -> Result<Timeline, SyncError> {
        let filter = &self.view.look.filter.room.timeline;
        if filter.events.is_nothing() || !filter.allows_room(self.view.room_id.as_str()) {
            return Ok(Timeline::none(self.tape.upto));
        }
        Timeline::gather(&mut self.view, &mut self.tape, after, filter).await
    }

    async fn span(&self, base: StateVersion, timeline: &Timeline) -> Result<Span, LoadError> {
        let end = self.tape.state_now();
        let start = if timeline.events.is_empty() {
            end
        } else {
            self.tape.state_at(&self.view.look.syncs.store, timeline.start_order()).await?
        };
        Ok(Span { base, start, end })
    }

    async fn write_joined(
        &mut self,
        out: &mut Vec<u8>,
        met: &mut Met,
        newly: bool,
        account_data: &[AccountData],
    ) -> Result<(), SyncError> {
        self.view.gate.joined_until = u64::MAX;
        self.view.gate.given = Some(self.tape.state_now());
        let Stretch { base, after, all_is_news } = self.stretch(newly);
        let mut timeline = self.gather(after).await?;
        timeline.limited |= newly;
        let span = self.span(base, &timeline).await?;
        let differences = state::differences(&self.view, &span).await?;
        let summary = Summary::load(&self.view, span.end, &differences, all_is_news || self.members_came).await?;
        let heroes = summary.as_ref().and_then(|summary| summary.heroes.as_deref()).unwrap_or_default();
        let ask = state::Ask { span, differences: &differences, timeline: &timeline.events, heroes, all_is_news };
        let state = state::choose(&self.view, &ask).await?;
        met.newcomers.add(&self.view, newly, all_is_news, &differences).await?;
        let everybody = newly || self.members_came;
        // Who asks for all of the state is still told what changed.
        let changes = match all_is_news && !everybody && self.since.is_some() {
            true => Some(state::differences(&self.view, &Span { base: self.state_before, ..span }).await?),
            false => None,
        };
        let changes = changes.as_ref().unwrap_or(&differences);
        met.sharing.add_joined(&self.view, everybody, span.end, changes).await?;

        let begin = out.len();
        json::name(out, self.view.room_id.as_str());
        out.push(b'{');
        let mut has_news = all_is_news || timeline.limited || !timeline.events.is_empty() || !state.is_empty();
        self.write_timeline(out, &timeline).await?;
        self.write_state(out, &state).await?;
        has_news |= receipts::write(out, &self.view, self.since.filter(|_| !newly)).await?;
        has_news |= account::write_room(out, &self.view, newly, account_data).await?;
        if let Some(summary) = summary {
            summary.write(out);
            has_news = true;
        }
        out.push(b'}');
        if !has_news {
            out.truncate(begin);
        }
        Ok(())
    }

    /// A room that was left is told up to the departure and no further.
    async fn write_left(
        &mut self,
        out: &mut Vec<u8>,
        was_joined: bool,
        newly: bool,
        account_data: &[AccountData],
    ) -> Result<(), SyncError> {
        let Some(departure) = self.departure.take() else { return Ok(()) };
        let store = &self.view.look.syncs.store;
        let limit = self.view.look.filter.room.timeline.events.limit_or(LIMIT_DEFAULT, LIMIT_MAX);
        self.tape = Tape::read(store, self.view.room, (self.since, departure.header.order()), limit).await?;
        // While they were in the room they were shown also what branches said that had not heard of them.
        self.view.gate.joined_until = if was_joined { departure.header.order().position } else { self.joined_position };
        let Stretch { base, after, all_is_news } = self.stretch(newly);
        // The end of a mere invite or knock begins no stay: what they saw in an earlier one was told then.
        let after = if was_joined { after } else { self.since };
        let mut timeline = self.gather(after).await?;
        timeline.limited |= newly && was_joined && !self.view.look.wish.first;
        let mut state = if was_joined {
            let span = self.span(base, &timeline).await?;
            let differences = state::differences(&self.view, &span).await?;
            let ask =
                state::Ask { span, differences: &differences, timeline: &timeline.events, heroes: &[], all_is_news };
            state::choose(&self.view, &ask).await?
        } else {
            Vec::new()
        };
        if departure.number != self.own.number {
            // Banned since, or no longer so: the end of the story, without what came between.
            self.tell_own(&mut timeline, &mut state).await?;
        }
        json::name(out, self.view.room_id.as_str());
        out.push(b'{');
        self.write_timeline(out, &timeline).await?;
        self.write_state(out, &state).await?;
        account::write_room(out, &self.view, false, account_data).await?;
        out.push(b'}');
        Ok(())
    }

    /// Of a room that was left before only the reader's own membership is told.
    async fn write_still_gone(&self, out: &mut Vec<u8>) -> Result<(), SyncError> {
        let order = self.own.header.order();
        let mut timeline = Timeline::none(order);
        timeline.start = PageToken::before(order.position, order.within);
        let mut state = Vec::new();
        self.tell_own(&mut timeline, &mut state).await?;
        json::name(out, self.view.room_id.as_str());
        out.push(b'{');
        self.write_timeline(out, &timeline).await?;
        self.write_state(out, &state).await?;
        out.push(b'}');
        Ok(())
    }

    /// Puts the reader's own member event at the end, which they are told whatever the history's visibility.
    async fn tell_own(&self, timeline: &mut Timeline, state: &mut Vec<Arc<StoredEvent>>) -> Result<(), LoadError> {
        let filter = &self.view.look.filter.room;
        let own = &self.own;
        if filter.timeline.allows(&own.event) && !filter.timeline.events.is_nothing() {
            timeline.events.extend(self.view.gate.show_own(own).await?);
        }
        if self.view.look.wish.state_after && filter.state.allows(&own.event) {
            let is_own = |event: &Arc<StoredEvent>| event.event.state_pair() == own.event.state_pair();
            state.retain(|event| !is_own(event));
            state.push(Arc::clone(own));
        }
        Ok(())
    }

    async fn write_timeline(&self, out: &mut Vec<u8>, timeline: &Timeline) -> Result<(), SyncError> {
        json::name(out, "timeline");
        json::push(out, "{\"events\":[");
        for shown in &timeline.events {
            self.view.write_timeline_event(out, shown).await?;
        }
        json::push(out, &format!("],\"limited\":{},\"prev_batch\":\"{}\"}}", timeline.limited, timeline.start));
        Ok(())
    }

    async fn write_state(&self, out: &mut Vec<u8>, state: &[Arc<StoredEvent>]) -> Result<(), SyncError> {
        let name = match self.view.look.state_form {
            StateForm::Before => "state",
            StateForm::After => "state_after",
            StateForm::AfterUnstable => "org.matrix.msc4222.state_after",
        };
        json::name(out, name);
        json::push(out, "{\"events\":[");
        for event in state {
            self.view.write_state_event(out, event).await?;
        }
        json::push(out, "]}");
        Ok(())
    }
}

fn membership_of(event: &StoredEvent) -> Membership {
    Membership::of(Some(&event.event))
}

/// Of a room out of which no event has put the reader only that is told: that it is left.
fn write_erased(out: &mut Vec<u8>, room_id: &RoomId, upto: Order) {
    let place = PageToken { position: upto.position, within: upto.within };
    json::name(out, room_id.as_str());
    let timeline = format!("{{\"events\":[],\"limited\":false,\"prev_batch\":\"{place}\"}}");
    json::push(out, &format!("{{\"timeline\":{timeline},\"state\":{{\"events\":[]}}}}"));
}

/// Whether it is a part in the room that can end.
fn is_part(membership: Membership) -> bool {
    !matches!(membership, Membership::Leave | Membership::Ban)
}

/// The event by which a reader whose member event this is left, and what they left: of leaves and bans in a row the
/// first counts. `was_in`: they were joined since they were last told; knocks and invites since they left change nothing of
/// what they are to be told of their stay.
async fn find_departure(
    view: &RoomView<'_>,
    own: Arc<StoredEvent>,
    was_in: bool,
) -> Result<(Arc<StoredEvent>, Membership), LoadError> {
    let mut event = own;
    for _ in 0..DEPARTURES_MAX {
        let Some(number) = event.header.replaces else { break };
        let Some(replaced) = view.look.syncs.store.event(view.room, number).await? else { break };
        match Membership::of(Some(&replaced.event)) {
            Membership::Leave | Membership::Ban => event = replaced,
            Membership::Knock | Membership::Invite if was_in => event = replaced,
            from => return Ok((event, from)),
        }
    }
    Ok((event, Membership::Leave))
}
