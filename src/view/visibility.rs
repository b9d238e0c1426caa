//! The one gate of history: what a reader may see of an event, whichever way it is read.
//!
//! [Client-server API, room history visibility](https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility).
//! Everything is judged by the state at the event, never by the present one, with one exception that the specification
//! makes: `shared` history opens to whoever joins later.

use std::borrow::Cow;

use hearth_core::Event;
use ruma::{UserId, events::room::member::MembershipState};
use serde::Deserialize;

/// What the gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// As it is.
    Show,
    /// Only what a redaction would leave of it ([`hearth_core::redact`]): its sender had the account erased.
    ShowRedacted,
    /// Not at all; the reader is not told that there is such an event.
    Hide,
}

/// The value of `m.room.history_visibility`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// `world_readable`
    WorldReadable,
    /// `shared`, also where none is set or the value is not understood.
    Shared,
    /// `invited`
    Invited,
    /// `joined`
    Joined,
}

impl Visibility {
    /// "By default if no `history_visibility` is set, or if the value is not understood, the visibility is assumed to
    /// be `shared`." `event` is the state event in force, if there is one.
    pub fn of(event: Option<&Event>) -> Self {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            history_visibility: Cow<'a, str>,
        }
        let content = event.and_then(|event| event.content_as::<Content<'_>>().ok());
        match content.as_ref().map(|content| content.history_visibility.as_ref()) {
            Some("world_readable") => Self::WorldReadable,
            Some("invited") => Self::Invited,
            Some("joined") => Self::Joined,
            _ => Self::Shared,
        }
    }
}

/// A membership. To have none is [`Membership::Leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Membership {
    /// `join`
    Join,
    /// `invite`
    Invite,
    /// `knock`
    Knock,
    /// `leave`, or never anything else.
    Leave,
    /// `ban`
    Ban,
}

impl Membership {
    /// What a member event says; none is `leave`, and so is a value that nobody knows.
    pub fn of(event: Option<&Event>) -> Self {
        match event.and_then(Event::membership) {
            Some(MembershipState::Join) => Self::Join,
            Some(MembershipState::Invite) => Self::Invite,
            Some(MembershipState::Knock) => Self::Knock,
            Some(MembershipState::Ban) => Self::Ban,
            _ => Self::Leave,
        }
    }

    /// As the specification writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
    }
}

/// What of a room's state decides whether one reader sees an event there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The room's history visibility.
    pub visibility: Visibility,
    /// The reader's membership.
    pub membership: Membership,
}

impl Standing {
    /// Before the create event.
    pub const NOTHING: Self = Self { visibility: Visibility::Shared, membership: Membership::Leave };

    /// From the two state events in force, as far as there are such.
    pub fn of(history_visibility: Option<&Event>, member: Option<&Event>) -> Self {
        Self { visibility: Visibility::of(history_visibility), membership: Membership::of(member) }
    }

    /// The standing just after an accepted event, for this reader. Only the two kinds of event that it consists of
    /// change it, so whoever walks along a timeline need not look at the state again.
    #[must_use]
    pub fn after(mut self, event: &Event, reader: &UserId) -> Self {
        match event.state_pair() {
            Some(("m.room.history_visibility", "")) => self.visibility = Visibility::of(Some(event)),
            Some(("m.room.member", user)) if user == reader.as_str() => self.membership = Membership::of(Some(event)),
            _ => {}
        }
        self
    }
}

/// All that the gate looks at beside the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// The standing in the state just before the event; `None` where that state is not known.
    pub before: Option<Standing>,
    /// The event passed all checks on receipt and has a place in the timeline: it is neither rejected, nor
    /// soft-failed, nor an outlier.
    pub accepted: bool,
    /// The reader is joined now, or came to be joined at some point after the event.
    pub joined_later: bool,
    /// The event is part of a state that the reader is given anyway, as members are given the current one: to hide it
    /// would only make it appear without its place in time. Never set for readers who have left.
    pub in_given_state: bool,
    /// The reader ignores the sender.
    pub sender_ignored: bool,
    /// The sender's account was deactivated with erasure.
    pub sender_erased: bool,
}

/// What `reader` may see of `event`. Readers who are no member and never were (guests, peeking) have the membership
/// `leave` throughout.
pub fn sight(reader: &UserId, event: &Event, at: &Circumstances) -> Sight {
    // What is not accepted is never shown; what stands where the state is unknown is denied until it is known.
    let Some(before) = at.before.filter(|_| at.accepted) else { return Sight::Hide };
    let after = before.after(event, reader);
    let own_member_event = event.state_pair() == Some(("m.room.member", reader.as_str()));
    let allowed = allows(before, at.joined_later)
        || allows(after, at.joined_later)
        || (own_member_event && was_party(before))
        || (at.in_given_state && event.is_state());
    if !allowed {
        return Sight::Hide;
    }
    // "The client will no longer receive events sent by that user, with the exception of state events."
    let own = event.sender() == reader;
    if at.sender_ignored && !own && !event.is_state() {
        return Sight::Hide;
    }
    let was_there = before.membership == Membership::Join || after.membership == Membership::Join;
    if at.sender_erased && !own && !was_there {
        return Sight::ShowRedacted;
    }
    Sight::Show
}

/// The five rules of "Server behaviour". For the two kinds of event that change what is asked here, "the user should
/// be allowed to see the event if [it] before *or* after the event would allow them to": the caller asks for both.
fn allows(standing: Standing, joined_later: bool) -> bool {
    match (standing.visibility, standing.membership) {
        // "1. If the history_visibility was set to world_readable, allow. 2. If the user's membership was join, allow."
        (Visibility::WorldReadable, _) | (_, Membership::Join) => true,
        // "3. If history_visibility was set to shared, and the user joined the room at any point after the event was
        // sent, allow."
        (Visibility::Shared, _) => joined_later,
        // "4. If the user's membership was invite, and the history_visibility was set to invited, allow."
        (Visibility::Invited, Membership::Invite) => true,
        // "5. Otherwise, deny."
        (Visibility::Invited | Visibility::Joined, _) => false,
    }
}

/// Whether the end of this membership concerns the reader, so that the event which ends it is theirs to see whatever
/// the history's visibility: an invite that is rejected or withdrawn, a knock that is answered.
fn was_party(before: Standing) -> bool {
    matches!(before.membership, Membership::Join | Membership::Invite | Membership::Knock)
}

/// Remembers the standing while walking a timeline upwards, so that one lookup serves all events whose state follows
/// from the one before. `V` names a version of the room's state; equal names are equal states.
#[derive(Clone, Debug, Default)]
pub struct Trail<V> {
    last: Option<(V, Standing)>,
}

impl<V: Copy + Eq> Trail<V> {
    /// Nothing is known yet.
    pub const fn new() -> Self {
        Self { last: None }
    }

    /// The standing in this version, if it is the one that the last event left. Otherwise look it up and [`Self::set`] it.
    pub fn at(&self, version: V) -> Option<Standing> {
        self.last.filter(|(known, _)| *known == version).map(|(_, standing)| standing)
    }

    /// The standing in this version was found to be this.
    pub fn set(&mut self, version: V, standing: Standing) {
        self.last = Some((version, standing));
    }

    /// Steps over an accepted event that leads from the version asked for last to `after`.
    pub fn step(&mut self, event: &Event, reader: &UserId, after: V) {
        if let Some((version, standing)) = &mut self.last {
            *standing = standing.after(event, reader);
            *version = after;
        }
    }
}

#[cfg(test)]
#[path = "visibility_tests.rs"]
mod tests;
