//! The room's current state and all that follows from it: pairs, memberships, servers.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use hearth_core::Event;
use hearth_ports::Table;
use hearth_store::{
    EventNumber, LoadError, PositionIndex, StateBuilder, StateKeyNumber, UserNumber, Write,
    tables::{self, CurrentStateRow, Membership, MembershipRow, StateKeyRow},
};
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use super::{GivenState, Join, Loader, LocalMember, Target, current_key, current_row, is_joined, member_of};
use crate::{SendError, append::membership_of};

/// Pairs of state put into one batch: their rows, with those of members, are some 250 bytes each, and the tree's nodes.
const PAIRS_AT_ONCE: usize = 1_500;

/// Servers put into one batch: two rows of some 120 bytes each.
const SERVERS_AT_ONCE: usize = 2_000;

impl Loader<'_> {
    /// The pairs of the state that is to be, members with their users' numbers.
    pub(super) async fn targets<'g>(
        &self,
        given: &'g GivenState,
        numbers: &[Option<EventNumber>],
    ) -> Result<Vec<Target<'g>>, SendError> {
        let in_state = given.events.iter().zip(numbers).filter(|(given, _)| given.in_state);
        let mut targets: Vec<Target<'g>> = in_state
            .filter_map(|(given, number)| Some(Target { event: &given.event, number: (*number)?, member: None }))
            .filter(|target| target.event.is_state() && !target.event.rejected())
            .collect();
        let mut members: Vec<&mut Target<'g>> = Vec::new();
        let mut users: Vec<OwnedUserId> = Vec::new();
        for target in &mut targets {
            if let Some(user) = member_of(target.event) {
                users.push(user);
                members.push(target);
            }
        }
        let found = self.writer.store.ensure_user_numbers(&users).await?;
        for (target, user) in members.into_iter().zip(found) {
            target.member = Some((user, membership_of(target.event)));
        }
        Ok(targets)
    }

    /// Makes the room's current state what is given, piece by piece.
    pub(super) async fn store_state(&mut self, targets: &[Target<'_>]) -> Result<(), SendError> {
        let mut set: Vec<StateKeyNumber> = Vec::with_capacity(targets.len());
        for some in targets.chunks(PAIRS_AT_ONCE) {
            let mut write = Write::new(self.room.partition());
            let at = write.position();
            let keys = some.iter().map(|target| current_key(self.room, target.event)).collect::<Vec<_>>();
            let known: Vec<Option<CurrentStateRow>> = match self.is_new {
                true => vec![None; keys.len()],
                false => self.writer.store.multi_get(Table::Rm, &keys).await?,
            };
            let mut changes = Vec::with_capacity(some.len());
            for ((target, key), known) in some.iter().zip(keys).zip(known) {
                let state_key = self.state_key(&mut write, target.event, known);
                set.push(state_key);
                changes.push((state_key, Some(target.number)));
                let row = current_row(state_key, target.number, target.member);
                let is_told = known == Some(row) && !self.is_local(target.event);
                if is_told {
                    continue;
                }
                write.put(Table::Rm, key, &row);
                if let Some((user, membership)) = target.member {
                    self.put_member(&mut write, at, target, user, membership).await?;
                }
            }
            self.build(&mut write, &changes).await?;
            self.commit_at(write, at).await?;
        }
        if self.is_new { Ok(()) } else { self.remove_others(set).await }
    }

    /// The number of an event's pair; given, if it has none.
    pub(in crate::remote) fn state_key(
        &mut self,
        write: &mut Write,
        event: &Event,
        known: Option<CurrentStateRow>,
    ) -> StateKeyNumber {
        if let Some(row) = known {
            return row.state_key;
        }
        let number = self.head.next_state_key;
        self.head.next_state_key = number.next();
        let (kind, state_key) = event.state_pair().unwrap_or_default();
        let row = StateKeyRow { kind: kind.to_owned(), state_key: state_key.to_owned() };
        write.put(Table::St, tables::state_key_key(self.room, number), &row);
        number
    }

    /// Writes a membership row, or keeps it for the last batch if the user is ours.
    pub(in crate::remote) async fn put_member(
        &mut self,
        write: &mut Write,
        at: PositionIndex,
        target: &Target<'_>,
        user: UserNumber,
        membership: Membership,
    ) -> Result<(), LoadError> {
        let before = match self.is_new {
            true => None,
            false => self.writer.store.membership(user, self.room).await?,
        };
        let came_in = membership == Membership::Join && before.is_none_or(|row| row.membership != Membership::Join);
        let row = MembershipRow {
            position: 0,
            joined_position: before.map_or(0, |row| row.joined_position),
            membership,
            event: target.number,
            forgotten: before.is_some_and(|row| row.forgotten)
                && matches!(membership, Membership::Leave | Membership::Ban),
            guest: before.is_some_and(|row| row.guest),
        };
        if self.is_local(target.event) {
            self.local.push(LocalMember { user, row, came_in });
            return Ok(());
        }
        let positions: &[PositionIndex] = if came_in { &[at, at] } else { &[at] };
        write.put_at(Table::Rm, tables::member_rooms_key(user, self.room), &row, positions);
        Ok(())
    }

    /// Whether the event sets the membership of a user of ours. What they are told of it is told in the last batch, also
    /// where a load that was broken off has written the state already.
    pub(in crate::remote) fn is_local(&self, event: &Event) -> bool {
        member_of(event).is_some_and(|user| user.server_name() == self.writer.server_name)
    }

    /// Makes the next version of the state.
    pub(in crate::remote) async fn build(
        &mut self,
        write: &mut Write,
        changes: &[(StateKeyNumber, Option<EventNumber>)],
    ) -> Result<(), LoadError> {
        let mut states = StateBuilder::new(&self.writer.store, self.room);
        let new = self.head.next_state;
        self.state = states.apply(self.state, changes, new).await?;
        if self.state == new {
            self.head.next_state = new.next();
        }
        states.finish(write);
        Ok(())
    }

    /// Takes out what the room's state once had here, and has no more: from when this server was last in the room, or
    /// from a load that was broken off. Memberships stay as they were last known where the present ones are yet to come.
    async fn remove_others(&mut self, set: Vec<StateKeyNumber>) -> Result<(), SendError> {
        let set: HashSet<StateKeyNumber> = set.into_iter().collect();
        let numbers = (StateKeyNumber::FIRST.0..self.head.next_state_key.0).map(StateKeyNumber);
        let others: Vec<StateKeyNumber> = numbers.filter(|number| !set.contains(number)).collect();
        for some in others.chunks(PAIRS_AT_ONCE) {
            let mut pairs = self.writer.store.state_keys(self.room, some).await?;
            if self.head.partial {
                pairs.retain(|pair| pair.as_ref().is_some_and(|pair| pair.kind != "m.room.member"));
            }
            let key = |pair: &StateKeyRow| tables::current_state_key(self.room, &pair.kind, &pair.state_key);
            let keys: Vec<Bytes> = pairs.iter().flatten().map(|pair| key(pair)).collect();
            let rows = self.writer.store.multi_get::<CurrentStateRow>(Table::Rm, &keys).await?;
            let mut write = Write::new(self.room.partition());
            let mut changes = Vec::new();
            for (key, row) in keys.into_iter().zip(rows) {
                let Some(row) = row.filter(|row| row.event.is_some()) else { continue };
                if let Some(user) = row.user {
                    write.delete(Table::Rm, tables::member_rooms_key(user, self.room));
                }
                write.put(Table::Rm, key, &CurrentStateRow { event: None, membership: None, ..row });
                changes.push((row.state_key, None));
            }
            if !changes.is_empty() {
                self.build(&mut write, &changes).await?;
                self.commit(write).await?;
            }
        }
        Ok(())
    }

    /// Counts the users of each server, the joining one among them. Where members are yet to come, of others only is told
    /// that they are there.
    pub(super) async fn store_servers(&mut self, targets: &[Target<'_>], join: &Join<'_>) -> Result<(), SendError> {
        let mut servers: BTreeMap<OwnedServerName, u32> = BTreeMap::new();
        let (told, through, join) = (join.servers, join.through, join.event);
        if !self.is_new {
            let before = self.writer.store.servers_in_room(self.room).await?;
            servers.extend(before.into_iter().map(|(server, _)| (server, 0)));
        }
        let joined = targets.iter().filter(|target| is_joined(target)).filter_map(|target| target.event.state_key());
        let joined = joined.filter(|user| *user != join.sender().as_str());
        for user in joined.filter_map(|user| <&UserId>::try_from(user).ok()).chain([join.sender()]) {
            *servers.entry(user.server_name().to_owned()).or_default() += 1;
        }
        let own = self.writer.server_name.clone();
        let told: Option<BTreeSet<&ServerName>> =
            told.map(|told| told.iter().map(|server| &**server).chain([through]).collect());
        let uncounted: Vec<&ServerName> = told.into_iter().flatten().filter(|server| **server != own).collect();
        if !uncounted.is_empty() {
            servers.iter_mut().filter(|(server, _)| **server != own).for_each(|(_, joined)| *joined = 0);
        }
        let servers: Vec<(OwnedServerName, u32)> = servers.into_iter().collect();
        self.put_servers(&servers).await?;
        for some in uncounted.chunks(SERVERS_AT_ONCE) {
            let mut write = Write::new(self.room.partition());
            some.iter().for_each(|server| tables::put_uncounted_server(&mut write, self.room, server));
            self.commit(write).await?;
        }
        Ok(())
    }

    /// Says how many users of these servers are joined; 0: none.
    pub(in crate::remote) async fn put_servers(&mut self, servers: &[(OwnedServerName, u32)]) -> Result<(), SendError> {
        for some in servers.chunks(SERVERS_AT_ONCE) {
            let mut write = Write::new(self.room.partition());
            for (server, joined) in some {
                tables::put_room_server(&mut write, self.room, server, *joined);
            }
            self.commit(write).await?;
        }
        Ok(())
    }
}
