//! What this server did in a room before, and the server through which it comes back had not heard of.
//!
//! A user of ours leaves, and before others hear of it somebody of ours comes in through one of them. That one takes the
//! join behind what it knows, and tells a state in which the user is still there. The leave is told to it later, and where
//! the two branches meet both sides must come to the same: so the branch with the leave stays an extremity here, beside the
//! join. What the two resolve into is then the room's state here at once, and everywhere once the leave has arrived; the
//! next event of ours joins them for all.
//!
//! Whether the branch was known shows in what is told: an event that a later one took the place of is in the auth chain of
//! that one. A branch that was known must not stay: it would bring up what is settled.

use std::collections::HashSet;

use hearth_store::{
    LoadError, RoomNumber, StateKeyNumber, StateVersion,
    tables::{EventFlags, Extremity},
};
use ruma::EventId;

use super::{Given, GivenState, Join, Loader};
use crate::{
    SendError,
    append::Group,
    writer::{ATTEMPTS_MAX, Writer},
};

/// Extremities that stay at most, beside the join: an event cites at most 20.
const EXTREMITIES_MAX: usize = 10;

impl Loader<'_> {
    /// The ends of our own branch of the room, if there is one. Where the members are told later, it cannot be known.
    pub(super) async fn own_branch(&self, given: &GivenState, join: &Join<'_>) -> Result<Vec<Extremity>, SendError> {
        if self.is_new || join.servers.is_some() {
            return Ok(Vec::new());
        }
        let told: HashSet<&EventId> = given.events.iter().map(|Given { event, .. }| event.event_id()).collect();
        if self.own_members_are_told(&told).await? {
            return Ok(Vec::new());
        }
        let mut ends = Vec::new();
        for extremity in &self.head.extremities {
            let stored = self.writer.store.event(self.room, extremity.event).await?;
            let has_state = stored.is_some_and(|stored| {
                !stored.header.flags.has(EventFlags::OUTLIER) && stored.header.state_after != StateVersion::UNKNOWN
            });
            let is_followed = join.event.prev_events().iter().any(|prev| prev.as_str() == extremity.event_id);
            if has_state && !is_followed {
                ends.push(extremity.clone());
            }
        }
        ends.truncate(EXTREMITIES_MAX);
        Ok(ends)
    }

    /// Whether all memberships of our users, as they are stored, are among these events.
    async fn own_members_are_told(&self, told: &HashSet<&EventId>) -> Result<bool, LoadError> {
        let (store, head) = (&self.writer.store, &self.head);
        let all = (StateKeyNumber::FIRST, head.next_state_key);
        let keys = store.member_keys_of(self.room, &self.writer.server_name, all.0, all.1).await?;
        let numbers: Vec<_> = store.state_get_many(self.room, head.state, &keys).await?.into_iter().flatten().collect();
        let events = store.events(self.room, &numbers).await?;
        Ok(events.iter().flatten().all(|stored| told.contains(stored.event.event_id())))
    }
}

impl Writer {
    /// Makes a room's state what its extremities resolve into.
    pub(super) async fn meet(&self, room: RoomNumber) -> Result<(), SendError> {
        let active = self.active(room);
        let mut slot = active.cache.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let cache = self.load(&mut slot, room).await?;
            let mut group = Group::new(self, cache);
            match group.meet(cache).await {
                Ok(true) => {}
                Ok(false) => {
                    // It may have resolved, and not noted it down.
                    *slot = None;
                    return Ok(());
                }
                Err(error) => {
                    *slot = None;
                    return Err(SendError::from(error));
                }
            }
            match self.commit_group(cache, group).await {
                Ok(()) => return Ok(()),
                Err(_) => *slot = None,
            }
        }
        Err(SendError::Conflict)
    }
}
