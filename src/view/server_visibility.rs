//! The gate of history for other servers: what of an event one may be given, whichever way it asks.
//!
//! Servers differ from users in one thing: to follow a room at all a server needs the shape of its whole graph. So what
//! its users may not see is not kept back but cut down to what a redaction leaves, which is enough to check
//! signatures, authorisation and state. Servers that are not in the room get nothing.
//! [Client-server API, room history visibility](https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility).

use hearth_core::Event;
use ruma::{ServerName, UserId};

use crate::{Membership, Sight, Visibility};

/// The best membership that any user of a server has in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// Nobody is joined or invited.
    Outside,
    /// Somebody is invited, nobody joined.
    Invited,
    /// Somebody is joined.
    Joined,
}

impl Party {
    /// What one membership makes of a server.
    pub const fn of(membership: Membership) -> Self {
        match membership {
            Membership::Join => Self::Joined,
            Membership::Invite => Self::Invited,
            Membership::Knock | Membership::Leave | Membership::Ban => Self::Outside,
        }
    }
}

/// What of a room's state decides whether one server's users see an event there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerStanding {
    /// The room's history visibility.
    pub visibility: Visibility,
    /// The server's part in the room.
    pub party: Party,
}

impl ServerStanding {
    /// The standing just after an event, or a better one: who loses a membership by it was allowed before.
    fn after(mut self, event: &Event, server: &ServerName) -> Self {
        match event.state_pair() {
            Some(("m.room.history_visibility", "")) => self.visibility = Visibility::of(Some(event)),
            Some(("m.room.member", user)) if is_of(user, server) => {
                self.party = self.party.max(Party::of(Membership::of(Some(event))));
            }
            _ => {}
        }
        self
    }

    /// The users' five rules, asked of all users of the server at once. It is in the room now, so that of `shared`
    /// history somebody there has "joined the room at some point after the event was sent".
    fn allows(self) -> bool {
        match self.visibility {
            Visibility::WorldReadable | Visibility::Shared => true,
            Visibility::Invited => self.party >= Party::Invited,
            Visibility::Joined => self.party == Party::Joined,
        }
    }
}

/// All that the gate looks at beside the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerCircumstances {
    /// A user of the server is joined now.
    pub in_room: bool,
    /// The standing in the state just before the event; `None` where that state is not known.
    pub before: Option<ServerStanding>,
    /// The event failed a check on receipt. (One that only soft-failed did not: it may be asked for.)
    pub rejected: bool,
    /// It is kept because others rest on it; its place in the room is not known.
    pub outlier: bool,
    /// The sender's account was deactivated with erasure.
    pub sender_erased: bool,
}

/// What `server` may be given of `event`.
pub fn server_sight(server: &ServerName, event: &Event, at: &ServerCircumstances) -> Sight {
    if !at.in_room || at.rejected {
        return Sight::Hide;
    }
    if event.sender().server_name() == server {
        return Sight::Show;
    }
    let Some(before) = at.before else {
        // State that others rest on goes whole to every server that joins. Of other events without a place it is not
        // known who was to see them.
        let is_given = at.outlier && event.is_state() && !at.sender_erased;
        return if is_given { Sight::Show } else { Sight::ShowRedacted };
    };
    let after = before.after(event, server);
    let is_about_them = event.state_pair().is_some_and(|(kind, user)| kind == "m.room.member" && is_of(user, server));
    if !(before.allows() || after.allows() || is_about_them) {
        return Sight::ShowRedacted;
    }
    let were_there = before.party == Party::Joined || after.party == Party::Joined;
    if at.sender_erased && !were_there { Sight::ShowRedacted } else { Sight::Show }
}

fn is_of(user: &str, server: &ServerName) -> bool {
    <&UserId>::try_from(user).is_ok_and(|user| user.server_name() == server)
}

#[cfg(test)]
#[path = "server_visibility_tests.rs"]
mod tests;
