//! The state that stands beside a timeline.

use std::{collections::HashSet, sync::Arc};

use hearth_store::{
    EventNumber, LoadError, StateKeyNumber, StateVersion, StoredEvent,
    tables::{StateDifference, StateKeyRow},
};
use hearth_view::delta::{Pair, StateChoice};

use crate::{SyncError, gate::Shown, view::RoomView};

const MEMBER: &str = "m.room.member";

/// Between which states the room went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// What the client has; [`StateVersion::EMPTY`] where all state is news.
    pub(crate) base: StateVersion,
    /// Just before the first event of the timeline.
    pub(crate) start: StateVersion,
    /// Now, or at the reader's departure.
    pub(crate) end: StateVersion,
}

/// The pairs in which two states differ.
pub(crate) type Differences = Vec<(StateDifference, Arc<StateKeyRow>)>;

/// Loads the pairs in which the ends of a span differ.
pub(crate) async fn differences(view: &RoomView<'_>, span: &Span) -> Result<Differences, LoadError> {
    let store = &view.look.syncs.store;
    let differences = store.state_difference(view.room, span.base, span.end).await?;
    let keys: Vec<StateKeyNumber> = differences.iter().map(|difference| difference.state_key).collect();
    let pairs = store.state_keys(view.room, &keys).await?;
    Ok(differences.into_iter().zip(pairs).filter_map(|(difference, pair)| Some((difference, pair?))).collect())
}

/// What is asked for beside the span.
pub(crate) struct Ask<'a> {
    pub(crate) span: Span,
    pub(crate) differences: &'a Differences,
    pub(crate) timeline: &'a [Shown],
    /// The summary's heroes, as far as the client is told of them.
    pub(crate) heroes: &'a [String],
    /// All state is news: the room is new to the client, or it asks for all.
    pub(crate) all_is_news: bool,
}

/// The state events to be told, and remembers that the device was told of their members.
pub(crate) async fn choose(view: &RoomView<'_>, ask: &Ask<'_>) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
    let look = view.look;
    let filter = &look.filter.room.state;
    let told: Vec<Arc<StoredEvent>> = if filter.allows_room(view.room_id.as_str()) && !filter.events.is_nothing() {
        let chosen = choose_numbers(view, ask).await?;
        let numbers: Vec<EventNumber> = chosen.into_iter().collect();
        let events = look.syncs.store.events(view.room, &numbers).await?;
        events.into_iter().flatten().filter(|event| filter.is_everything() || filter.allows(&event.event)).collect()
    } else {
        Vec::new()
    };
    if look.wish.lazy_members {
        let in_timeline = ask.timeline.iter().map(|shown| &shown.event);
        remember(view, told.iter().chain(in_timeline)).await?;
    }
    Ok(told)
}

async fn choose_numbers(view: &RoomView<'_>, ask: &Ask<'_>) -> Result<Vec<EventNumber>, LoadError> {
    let look = view.look;
    let filter = &look.filter.room.state.events;
    let senders: HashSet<&str> = ask.timeline.iter().map(|shown| shown.event.event.sender().as_str()).collect();
    let choice = StateChoice::new(&look.wish, ask.all_is_news, needed(view, ask, &senders), pairs(ask.timeline));

    let mut chosen = Vec::new();
    for (difference, pair) in ask.differences {
        if filter.allows_type(&pair.kind) && choice.tells_now(&pair.kind, &pair.state_key) {
            chosen.extend(difference.after);
        }
    }
    let mut early: Vec<(&str, &str)> = choice.told_from_start().filter(|(kind, _)| filter.allows_type(kind)).collect();
    if ask.span.start == ask.span.base {
        early.clear();
    }
    for (kind, state_key) in early {
        chosen.extend(early_value(view, &ask.span, kind, state_key).await?);
    }
    if look.wish.lazy_members && !ask.all_is_news && filter.allows_type(MEMBER) {
        let version = if choice.is_after() { ask.span.end } else { ask.span.start };
        for sender in senders {
            let member = unsent_member(view, version, sender).await?;
            chosen.extend(member.filter(|member| !chosen.contains(member)));
        }
    }
    Ok(chosen)
}

/// The members whom the answer needs, where it does not tell all of them.
fn needed(view: &RoomView<'_>, ask: &Ask<'_>, senders: &HashSet<&str>) -> HashSet<Box<str>> {
    if !view.look.wish.lazy_members || !ask.all_is_news {
        return HashSet::new();
    }
    // "Servers MUST include the syncing user's own membership event when they join a room, or when the full state of
    // rooms is requested."
    let own = view.look.reader.user_id.as_str();
    let heroes = ask.heroes.iter().map(String::as_str);
    senders.iter().copied().chain(heroes).chain([own]).map(Box::from).collect()
}

fn pairs(timeline: &[Shown]) -> HashSet<Pair> {
    let pairs = timeline.iter().filter_map(|shown| shown.event.event.state_pair());
    pairs.map(|(kind, state_key)| (kind.into(), state_key.into())).collect()
}

/// What a pair was before the timeline, if the client does not have it.
async fn early_value(
    view: &RoomView<'_>,
    span: &Span,
    kind: &str,
    state_key: &str,
) -> Result<Option<EventNumber>, LoadError> {
    let store = &view.look.syncs.store;
    let Some(key) = store.state_key_number(view.room, kind, state_key).await? else { return Ok(None) };
    let start = store.state_get(view.room, span.start, key).await?;
    let base = store.state_get(view.room, span.base, key).await?;
    Ok(start.filter(|_| start != base))
}

/// A member's event in a version, unless the device was told of it.
async fn unsent_member(
    view: &RoomView<'_>,
    version: StateVersion,
    user: &str,
) -> Result<Option<EventNumber>, LoadError> {
    let look = view.look;
    let Some(key) = look.syncs.store.state_key_number(view.room, MEMBER, user).await? else { return Ok(None) };
    let Some(event) = look.syncs.store.state_get(view.room, version, key).await? else { return Ok(None) };
    let redundant_too = look.filter.room.state.include_redundant_members;
    let since = look.since.map_or(0, |since| since.positions.at(view.room.partition()).0);
    let was_sent = !redundant_too && look.syncs.sent.has(look.device, view.room, key, event, since);
    Ok((!was_sent).then_some(event))
}

async fn remember(view: &RoomView<'_>, events: impl Iterator<Item = &Arc<StoredEvent>>) -> Result<(), LoadError> {
    let look = view.look;
    let at = look.now.positions.at(view.room.partition()).0;
    for event in events {
        let Some((MEMBER, user)) = event.event.state_pair() else { continue };
        if let Some(key) = look.syncs.store.state_key_number(view.room, MEMBER, user).await? {
            look.syncs.sent.add(look.device, view.room, key, event.number, at);
        }
    }
    Ok(())
}
