//! What a sync tells of a room: in which section it stands, which of its timeline, which of its state.
//!
//! [Client-server API, syncing](https://spec.matrix.org/v1.19/client-server-api/#syncing). The numbers of events are
//! opaque here (`E`); whoever loads them asks this file what to load and what to tell.

use std::collections::{HashMap, HashSet};

use crate::Membership;

/// What the client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// There is no `since`.
    pub first: bool,
    /// `full_state`.
    pub full_state: bool,
    /// `use_state_after`, or its unstable name.
    pub state_after: bool,
    /// `include_leave` of the filter.
    pub include_leave: bool,
    /// `lazy_load_members` of the state filter.
    pub lazy_members: bool,
}

/// What became of the reader's membership of a room between the last sync and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// In the state at `since`; [`Membership::Leave`] without one.
    pub before: Membership,
    /// In the state now.
    pub after: Membership,
    /// The member event in force now is not the one at `since`, which includes that there was none then.
    pub changed: bool,
    /// For `leave` and `ban`, which may follow each other: the departure itself was after `since`.
    pub departed_between: bool,
    /// The reader came to be joined after `since`, at least once.
    pub joined_between: bool,
    /// For `leave` and `ban`: what the reader's last departure ended.
    pub departed_from: Membership,
    /// The reader asked to forget the room.
    pub forgotten: bool,
}

/// Where a room stands in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `join`
    Join {
        /// The stay began after `since`: all state is news, and the timeline has a gap in front of it.
        newly: bool,
    },
    /// `invite`
    Invite,
    /// `knock`
    Knock,
    /// `leave`
    Leave {
        /// The reader was joined until then, and so knows the state that the room had; after a mere invite or knock
        /// nothing but the end of it is told.
        was_joined: bool,
        /// There is no stay at `since` that what is told could continue.
        newly: bool,
    },
    /// `leave`: the reader had left before, and only the membership is another: banned, or no longer so.
    StillGone,
}

/// Where the room stands in the answer; `None` is nowhere.
pub fn section(wish: &Wish, passage: &Passage) -> Option<Section> {
    let all = wish.first || wish.full_state;
    match passage.after {
        // Who left and came back in between starts anew, so `joined_between` counts even if both ends are `join`.
        Membership::Join => {
            let newly = !wish.first && (passage.before != Membership::Join || passage.joined_between);
            Some(Section::Join { newly })
        }
        Membership::Invite => (all || passage.changed).then_some(Section::Invite),
        Membership::Knock => (all || passage.changed).then_some(Section::Knock),
        Membership::Leave | Membership::Ban => departed(wish, passage),
    }
}

fn departed(wish: &Wish, passage: &Passage) -> Option<Section> {
    let was_joined = passage.departed_from == Membership::Join;
    if wish.first {
        // Of what was never joined nothing is left to be told.
        let told = wish.include_leave && was_joined && !passage.forgotten;
        return told.then_some(Section::Leave { was_joined, newly: true });
    }
    // Who never had a part in the room is not told of it, whatever others do to the membership.
    if !passage.changed || passage.departed_from == Membership::Leave {
        return None;
    }
    if !passage.departed_between {
        return Some(Section::StillGone);
    }
    Some(Section::Leave { was_joined, newly: passage.before != Membership::Join || passage.joined_between })
}

/// Gathers a timeline from its newest event backwards, until there is one more than fits.
#[derive(Clone, Debug)]
pub struct Window<T> {
    limit: usize,
    newest_first: Vec<T>,
    limited: bool,
}

impl<T> Window<T> {
    /// Room for so many events.
    pub fn new(limit: usize) -> Self {
        Self { limit, newest_first: Vec::with_capacity(limit.min(16)), limited: false }
    }

    /// Offers the next older event that the reader may and wants to see. `false`: it did not fit, no more are needed.
    pub fn offer(&mut self, event: T) -> bool {
        if self.newest_first.len() == self.limit {
            self.limited = true;
            return false;
        }
        self.newest_first.push(event);
        true
    }

    /// The search was given up: whether there would have been more is not known, so the client must look.
    pub fn give_up(&mut self) {
        self.limited = true;
    }

    /// The events, oldest first, and whether there are more since the last sync.
    pub fn close(mut self) -> (Vec<T>, bool) {
        self.newest_first.reverse();
        (self.newest_first, self.limited)
    }
}

/// A state event that the timeline tells by itself.
pub type Pair = (Box<str>, Box<str>);

/// Chooses the state that is told beside the timeline.
///
/// The client begins with the state at `since` (nothing, if all state is news), puts the `state` section over it, then
/// the state events of the timeline in their order; with `state_after` it leaves the timeline out. What it then has
/// must be the state now. So a pair that the timeline sets is told as it was before the timeline, every other one as
/// it is now: it may have changed without an event, or by an event that the filter left out.
#[derive(Debug)]
pub struct StateChoice {
    state_after: bool,
    /// With lazy loading and all state as news: only these members.
    only_members: Option<HashSet<Box<str>>>,
    in_timeline: HashSet<Pair>,
}

impl StateChoice {
    /// `members`: those whom the answer needs (senders of its timeline, the reader, heroes). They bound what is told only
    /// where members are loaded lazily and `all_is_news`: changes of members since the last sync are always told.
    pub fn new(wish: &Wish, all_is_news: bool, members: HashSet<Box<str>>, in_timeline: HashSet<Pair>) -> Self {
        let only_members = (wish.lazy_members && all_is_news).then_some(members);
        let in_timeline = if wish.state_after { HashSet::new() } else { in_timeline };
        Self { state_after: wish.state_after, only_members, in_timeline }
    }

    /// Whether a pair that differs between the two ends is told as it is now.
    pub fn tells_now(&self, kind: &str, state_key: &str) -> bool {
        let wanted =
            kind != "m.room.member" || self.only_members.as_ref().is_none_or(|members| members.contains(state_key));
        wanted && !self.is_in_timeline(kind, state_key)
    }

    /// The pairs that are told as they were before the timeline, where that is not what the client has.
    pub fn told_from_start(&self) -> impl Iterator<Item = (&str, &str)> {
        let wanted = |(kind, state_key): &&Pair| {
            &**kind != "m.room.member" || self.only_members.as_ref().is_none_or(|members| members.contains(state_key))
        };
        self.in_timeline.iter().filter(wanted).map(|(kind, state_key)| (&**kind, &**state_key))
    }

    /// Whether the state told is that after the timeline.
    pub const fn is_after(&self) -> bool {
        self.state_after
    }

    fn is_in_timeline(&self, kind: &str, state_key: &str) -> bool {
        // A set of owned pairs can't be asked with borrowed ones; timelines hold few state events.
        self.in_timeline.iter().any(|(known, key)| &**known == kind && &**key == state_key)
    }
}

/// "This should be the first 5 members of the room."
/// [MSC688](https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/688-room-summaries.md)
pub const HEROES: usize = 5;

/// The members from whom a client makes a name for the room: joined and invited ones, else those who left; never the
/// reader. `members` come by user id.
pub fn heroes<'a>(reader: &str, members: impl IntoIterator<Item = (&'a str, Membership)>) -> Vec<&'a str> {
    let mut present = Vec::new();
    let mut gone = Vec::new();
    for (user, membership) in members.into_iter().filter(|(user, _)| *user != reader) {
        match membership {
            Membership::Join | Membership::Invite => present.push(user),
            Membership::Leave | Membership::Ban if gone.len() < HEROES => gone.push(user),
            Membership::Knock | Membership::Leave | Membership::Ban => {}
        }
        if present.len() == HEROES {
            break;
        }
    }
    if present.is_empty() { gone } else { present }
}

/// Receipts as the events that sync tells. A user has at most one entry for an event and type, so receipts of several
/// threads on one event need several events.
///
/// [Client-server API, receipts](https://spec.matrix.org/v1.19/client-server-api/#receipts)
#[derive(Debug, Default)]
pub struct Receipts<'a> {
    /// By event id and type, whose receipts.
    layers: Vec<HashMap<(&'a str, &'a str), Vec<Receipt<'a>>>>,
}

/// One receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt<'a> {
    /// The event that it names.
    pub event_id: &'a str,
    /// `m.read` or `m.read.private`.
    pub kind: &'a str,
    /// Whose.
    pub user_id: &'a str,
    /// When it was set, in milliseconds since the Unix epoch.
    pub ts_ms: u64,
    /// `main` or a thread root's event id; `None` is unthreaded.
    pub thread: Option<&'a str>,
}

impl<'a> Receipts<'a> {
    /// Adds one.
    pub fn push(&mut self, receipt: Receipt<'a>) {
        let place = (receipt.event_id, receipt.kind);
        for layer in &mut self.layers {
            let here = layer.entry(place).or_default();
            if here.iter().all(|known| known.user_id != receipt.user_id) {
                here.push(receipt);
                return;
            }
        }
        self.layers.push(HashMap::from([(place, vec![receipt])]));
    }

    /// The events, each as JSON.
    pub fn events(&self) -> impl Iterator<Item = Vec<u8>> {
        self.layers.iter().map(|layer| {
            let mut by_event: HashMap<&str, Vec<(&str, &[Receipt<'_>])>> = HashMap::new();
            for ((event_id, kind), receipts) in layer {
                by_event.entry(event_id).or_default().push((kind, receipts));
            }
            write_receipts(&by_event)
        })
    }
}

fn write_receipts(by_event: &HashMap<&str, Vec<(&str, &[Receipt<'_>])>>) -> Vec<u8> {
    let mut out = b"{\"type\":\"m.receipt\",\"content\":".to_vec();
    write_object(&mut out, by_event.iter().map(|(event_id, kinds)| (*event_id, kinds)), |out, kinds| {
        write_object(out, kinds.iter().copied(), |out, receipts| {
            write_object(out, receipts.iter().map(|receipt| (receipt.user_id, receipt)), |out, receipt| {
                out.extend_from_slice(b"{\"ts\":");
                out.extend_from_slice(receipt.ts_ms.to_string().as_bytes());
                if let Some(thread) = receipt.thread {
                    out.extend_from_slice(b",\"thread_id\":");
                    crate::event_json::push_string(out, thread);
                }
                out.push(b'}');
            });
        });
    });
    out.push(b'}');
    out
}

fn write_object<'a, V>(
    out: &mut Vec<u8>,
    entries: impl Iterator<Item = (&'a str, V)>,
    value: impl Fn(&mut Vec<u8>, V),
) {
    out.push(b'{');
    for (index, (name, entry)) in entries.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        crate::event_json::push_string(out, name);
        out.push(b':');
        value(out, entry);
    }
    out.push(b'}');
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
