//! The current state's rows: what is in force by pair, memberships, counts, servers.

use hearth_core::Event;
use hearth_ports::Table;
use hearth_store::{
    Corrupt, EventNumber, LoadError, LogEntry, MemberNote, PositionIndex, StateDifference, StateKeyNumber,
    StateVersion, UserNumber,
    tables::{self, CurrentStateRow, Head, Membership, MembershipRow, StateKeyRow},
};
use ruma::{OwnedUserId, ServerName, UserId};

use super::{Group, PlaceError, Placing, membership_of};
use crate::cache::{Entry, InForce, RoomCache};

/// Pairs that one event may change in the current state, where branches of the room meet: some 500 bytes of rows each,
/// and a batch may have 8 MB.
const CHANGES_MAX: usize = 10_000;

/// The row of a pair that no event in force sets.
pub(super) fn unset(state_key: StateKeyNumber) -> CurrentStateRow {
    CurrentStateRow { state_key, event: None, membership: None, user: None }
}

impl Group<'_> {
    /// Makes this version the room's current state. `placed`: the event that is the occasion, if one is; `own`: the pair
    /// that it sets, if that is all that changes. Returns the membership that it sets; what else changes of memberships is
    /// told to the log.
    pub(super) async fn set_current(
        &mut self,
        cache: &mut RoomCache,
        version: StateVersion,
        own: Option<StateKeyNumber>,
        placed: Option<(EventNumber, &Placing)>,
        position: PositionIndex,
    ) -> Result<Option<MemberNote>, PlaceError> {
        let number = placed.map(|(number, _)| number);
        let changes = match own {
            Some(state_key) => vec![StateDifference { state_key, before: None, after: number }],
            None => self.states.difference(cache.head.state, version).await?,
        };
        if changes.len() > CHANGES_MAX {
            // Whatever comes next would have to change as much: nothing is taken any more.
            metrics::counter!("hearth_rooms_standing_still_total").increment(1);
            let (room_id, changes) = (&cache.id, changes.len());
            tracing::error!(%room_id, changes, "a room stands still: for it to go on, all its users of this server must leave and join again");
            return Err(PlaceError::TooMuch("the room's state would change in too many places at once"));
        }
        cache.head.state = version;
        let mut own_note = None;
        let pairs = self.pairs_of(cache, &changes).await?;
        for (change, (kind, state_key)) in changes.into_iter().zip(pairs) {
            let own = placed.filter(|(number, _)| change.after == Some(*number)).map(|(_, placing)| placing);
            let in_force = match (change.after, own) {
                (Some(number), Some(placing)) => Some(InForce { number, event: placing.event.clone() }),
                (Some(number), None) => Some(InForce { number, event: self.known(cache, number).await?.event }),
                (None, _) => None,
            };
            let is_own = own.is_some();
            // Others' memberships are told at positions of their own: those of one are bounded in bytes.
            let at = if is_own { position } else { self.write.position() };
            let guest = own.is_some_and(|placing| placing.guest);
            let note = self.set_pair(cache, (change.state_key, &kind, &state_key), in_force, (at, guest)).await?;
            match note {
                Some(note) if is_own => own_note = Some(note),
                Some(note) => self.write.log(at, LogEntry::Membership(note)),
                None => {}
            }
        }
        Ok(own_note)
    }

    /// The pairs that change. Their users have numbers then, which are commits of their own: one for many, as the room waits.
    async fn pairs_of(
        &self,
        cache: &RoomCache,
        changes: &[StateDifference],
    ) -> Result<Vec<(Box<str>, Box<str>)>, LoadError> {
        let mut pairs = Vec::with_capacity(changes.len());
        for change in changes {
            pairs.push(self.pair_of(cache, change.state_key).await?);
        }
        let users: Vec<OwnedUserId> = pairs.iter().filter_map(|(kind, key)| member_of(kind, key)).collect();
        if users.len() > 1 {
            self.writer.store.ensure_user_numbers(&users).await?;
        }
        Ok(pairs)
    }

    /// Writes what is in force for a pair from now on.
    async fn set_pair(
        &mut self,
        cache: &mut RoomCache,
        (number, kind, state_key): (StateKeyNumber, &str, &str),
        in_force: Option<InForce>,
        (position, guest): (PositionIndex, bool),
    ) -> Result<Option<MemberNote>, LoadError> {
        let before = cache.entry(&self.writer.store, kind, state_key).await?.row;
        let user = match member_of(kind, state_key) {
            Some(user) => Some(self.writer.store.ensure_user_number(&user).await?),
            None => None,
        };
        let membership = in_force.as_ref().filter(|_| user.is_some()).map(|in_force| membership_of(&in_force.event));
        let event = in_force.as_ref().map(|in_force| in_force.number);
        let row = CurrentStateRow { state_key: number, event, membership, user };
        self.write.put(Table::Rm, tables::current_state_key(cache.number, kind, state_key), &row);
        if let Some(pair) = self.pairs.get_mut(&number) {
            pair.is_written = true;
        }
        let mut note = None;
        if let Some(user) = user {
            let was = before.and_then(|row| row.membership);
            count_member(&mut cache.head, was, membership);
            self.count_server(cache, state_key, was, membership).await?;
            let last_event = event.or(before.and_then(|row| row.event));
            if let Some(event) = last_event {
                note = Some(self.put_member(cache, user, (event, membership), (position, guest)).await?);
            }
        }
        cache.set(kind, state_key, Entry { row: Some(row), in_force });
        Ok(note)
    }

    /// Writes a membership row. Who is no longer named by the state has left.
    async fn put_member(
        &mut self,
        cache: &RoomCache,
        user: UserNumber,
        (event, membership): (EventNumber, Option<Membership>),
        (position, guest): (PositionIndex, bool),
    ) -> Result<MemberNote, LoadError> {
        let before = match self.members.get(&user) {
            Some((row, joined)) => Some((*row, *joined)),
            None if cache.head_bytes.is_none() => None,
            None => self.writer.store.membership(user, cache.number).await?.map(|row| (row, None)),
        };
        let membership = membership.unwrap_or(Membership::Leave);
        let was_joined = before.is_some_and(|(row, _)| row.membership == Membership::Join);
        let joined_now = membership == Membership::Join && !was_joined;
        let left = matches!(membership, Membership::Leave | Membership::Ban);
        let row = MembershipRow {
            position: 0,
            joined_position: before.map_or(0, |(row, _)| row.joined_position),
            membership,
            event,
            // What happens to a forgotten room without its former member stays forgotten.
            forgotten: left && before.is_some_and(|(row, _)| row.forgotten),
            guest: if joined_now { guest } else { before.is_some_and(|(row, _)| row.guest) },
        };
        let joined = if joined_now { Some(position) } else { before.and_then(|(_, joined)| joined) };
        let positions: &[PositionIndex] = match &joined {
            Some(joined) => &[position, *joined],
            None => &[position],
        };
        self.write.put_at(Table::Rm, tables::member_rooms_key(user, cache.number), &row, positions);
        self.members.insert(user, (row, joined));
        Ok(MemberNote { room: cache.number, user, membership })
    }

    /// Keeps the number of users of a server who are joined.
    async fn count_server(
        &mut self,
        cache: &RoomCache,
        user: &str,
        was: Option<Membership>,
        is: Option<Membership>,
    ) -> Result<(), LoadError> {
        let (was, is) = (was == Some(Membership::Join), is == Some(Membership::Join));
        let Some(user) = <&UserId>::try_from(user).ok().filter(|_| was != is) else { return Ok(()) };
        let server = user.server_name();
        let before = self.joined_from(cache, server).await?;
        let joined = if is { before + 1 } else { before.saturating_sub(1) };
        self.servers.insert(server.to_owned(), joined);
        Ok(())
    }

    /// How many users of a server are joined.
    pub(crate) async fn joined_from(&self, cache: &RoomCache, server: &ServerName) -> Result<u32, LoadError> {
        match self.servers.get(server) {
            Some(joined) => Ok(*joined),
            None if cache.head_bytes.is_none() => Ok(0),
            None => self.writer.store.joined_from(cache.number, server).await,
        }
    }

    async fn pair_of(&self, cache: &RoomCache, number: StateKeyNumber) -> Result<(Box<str>, Box<str>), LoadError> {
        if let Some(pair) = self.pairs.get(&number) {
            return Ok((pair.kind.clone(), pair.state_key.clone()));
        }
        let pair = self.writer.store.state_key(cache.number, number).await?.ok_or_else(|| Corrupt {
            what: "state key",
            reason: format!("room {:x} has no state key {}", cache.number.0, number.0),
        })?;
        Ok((pair.kind.as_str().into(), pair.state_key.as_str().into()))
    }

    /// Gives a pair its number.
    pub(super) fn put_pair(&mut self, cache: &RoomCache, number: StateKeyNumber, kind: &str, state_key: &str) {
        let row = StateKeyRow { kind: kind.to_owned(), state_key: state_key.to_owned() };
        self.write.put(Table::St, tables::state_key_key(cache.number, number), &row);
    }

    /// New pairs that no event in force sets: their numbers must be found.
    pub(super) fn put_unset_pairs(&mut self, cache: &RoomCache) {
        for (number, pair) in self.pairs.iter().filter(|(_, pair)| !pair.is_written) {
            let key = tables::current_state_key(cache.number, &pair.kind, &pair.state_key);
            self.write.put(Table::Rm, key, &unset(*number));
        }
    }
}

/// Whose membership a pair is. The rules let only user ids be members.
fn member_of(kind: &str, state_key: &str) -> Option<OwnedUserId> {
    (kind == "m.room.member").then(|| OwnedUserId::try_from(state_key).ok()).flatten()
}

fn count_member(head: &mut Head, was: Option<Membership>, is: Option<Membership>) {
    match was {
        Some(Membership::Join) => head.joined = head.joined.saturating_sub(1),
        Some(Membership::Invite) => head.invited = head.invited.saturating_sub(1),
        Some(Membership::Knock | Membership::Leave | Membership::Ban) | None => {}
    }
    match is {
        Some(Membership::Join) => head.joined += 1,
        Some(Membership::Invite) => head.invited += 1,
        Some(Membership::Knock | Membership::Leave | Membership::Ban) | None => {}
    }
}

/// The user whose membership an event sets.
pub(crate) fn member_in(event: &Event) -> Option<OwnedUserId> {
    let (kind, state_key) = event.state_pair()?;
    member_of(kind, state_key)
}
