//! State trees, state keys and the current state.

use std::collections::HashMap;

use bytes::Bytes;
use hearth_ports::{Key, KeyRange, Table, Unavailable};

use super::{Pages, key_u32, loaded, read, room::RoomCheck};
use crate::{
    EventNumber, StateKeyNumber, StateVersion, key,
    state::pair_hash,
    tables::{
        CurrentStateRow, Head, Membership, MembershipRow, StateKeyRow, member_rooms_key, server_room_key, state_key_key,
    },
};
use ruma::{OwnedServerName, UserId};

/// An entry of the current state, with its type and state key.
struct Current {
    kind: String,
    state_key: String,
    row: CurrentStateRow,
}

impl RoomCheck<'_> {
    /// Every version's nodes are there, in the right places.
    pub(super) async fn check_states(&mut self, head: &Head) -> Result<(), Unavailable> {
        let mut pages = Pages::new(Table::St, KeyRange::prefix(key(b'V').room(self.room).build()));
        let mut version: Option<StateVersion> = None;
        let mut chunks: Vec<(u16, Bytes)> = Vec::new();
        while let Some(page) = pages.next(self.store).await? {
            self.rows += page.len() as u64;
            for row in page {
                let chunk: Option<[u8; 2]> = row.key.get(13..).and_then(|bytes| bytes.try_into().ok());
                let (Some(number), Some(chunk)) = (key_u32(&row.key, 9), chunk) else {
                    self.problem("the key of a state version does not read");
                    continue;
                };
                if version != Some(StateVersion(number)) {
                    self.add_version(version, std::mem::take(&mut chunks), head);
                    version = Some(StateVersion(number));
                }
                chunks.push((u16::from_be_bytes(chunk), row.value));
            }
        }
        self.add_version(version, chunks, head);
        self.want_state(head.state, || "the head".to_owned());
        Ok(())
    }

    fn add_version(&mut self, version: Option<StateVersion>, chunks: Vec<(u16, Bytes)>, head: &Head) {
        let Some(version) = version else { return };
        if version >= head.next_state {
            self.problem(format!("state version {} was not given out by the head", version.0));
        }
        let mut newest = EventNumber(0);
        for problem in self.levels.add(version, &chunks, &mut |event| newest = newest.max(event)) {
            self.problem(format!("state version {}: {problem}", version.0));
        }
        if newest >= head.next_event {
            self.problem(format!("state version {} has event {}, which there is not yet", version.0, newest.0));
        }
    }

    /// The current state's rows are what the head's version of the state has, and the memberships follow them.
    pub(super) async fn check_current_state(&mut self, head: &Head) -> Result<(), Unavailable> {
        let current = self.read_current_state().await?;
        let mut expected: HashMap<StateKeyNumber, EventNumber> = HashMap::new();
        match loaded(self.store.state_all(self.room, head.state).await)? {
            Ok(all) => expected.extend(all),
            Err(problem) => {
                self.problem(format!("the current state: {problem}"));
                return Ok(());
            }
        }
        self.check_summary(head, &expected).await?;
        for entry in &current {
            let Current { kind, state_key, row } = entry;
            if expected.remove(&row.state_key) != row.event {
                self.problem(format!(
                    "the current state has another {kind:?} of {state_key:?} than the head's version"
                ));
            }
            if row.state_key >= head.next_state_key {
                self.problem(format!("{kind:?} of {state_key:?} has a number that the head has not given out"));
            }
        }
        for state_key in expected.keys() {
            self.problem(format!("the head's version has state key {}, the current state has not", state_key.0));
        }
        for page in current.chunks(super::PAGE_ROWS) {
            self.check_state_keys(page).await?;
            self.check_state_events(page).await?;
            self.check_members(page).await?;
        }
        let count = |wanted| {
            let set = current.iter().filter(|entry| entry.row.event.is_some() && entry.row.membership == Some(wanted));
            set.count()
        };
        let (joined, invited) = (count(Membership::Join), count(Membership::Invite));
        if (head.joined as usize, head.invited as usize) != (joined, invited) {
            let told = format!("{} joined and {} invited", head.joined, head.invited);
            self.problem(format!("the head has {told}, the current state {joined} and {invited}"));
        }
        self.check_servers(&current).await
    }

    /// The servers in the room are those of its joined users, and each is told of the room.
    async fn check_servers(&mut self, current: &[Current]) -> Result<(), Unavailable> {
        let joined = current.iter().filter(|entry| entry.row.event.is_some());
        let joined = joined.filter(|entry| entry.row.membership == Some(Membership::Join));
        let users = joined.filter_map(|entry| <&UserId>::try_from(entry.state_key.as_str()).ok());
        let mut expected: HashMap<OwnedServerName, u32> = HashMap::new();
        users.for_each(|user| *expected.entry(user.server_name().to_owned()).or_default() += 1);
        let found = match loaded(self.store.servers_in_room(self.room).await)? {
            Ok(found) => found,
            Err(problem) => {
                self.problem(problem);
                return Ok(());
            }
        };
        for (server, joined) in &found {
            if expected.remove(server) != Some(*joined) {
                self.problem(format!(
                    "{joined} users of {server} are said to be joined, in the current state are others"
                ));
            }
            let row = self.store.engine().get(Table::Rm, &server_room_key(server, self.room)).await?;
            if row.is_none() {
                self.problem(format!("the room is not among those of {server}"));
            }
        }
        for server in expected.keys() {
            self.problem(format!("users of {server} are joined, but it is not among the room's servers"));
        }
        Ok(())
    }

    async fn read_current_state(&mut self) -> Result<Vec<Current>, Unavailable> {
        let mut current = Vec::new();
        let mut pages = Pages::new(Table::Rm, KeyRange::prefix(key(b'k').room(self.room).build()));
        while let Some(page) = pages.next(self.store).await? {
            self.rows += page.len() as u64;
            for entry in page {
                match (pair_of_key(&entry.key), read(&entry.value)) {
                    (Some((kind, state_key)), Ok(row)) => current.push(Current { kind, state_key, row }),
                    (None, _) => self.problem("the key of an entry of the current state does not read"),
                    (_, Err(problem)) => self.problem(problem),
                }
            }
        }
        Ok(current)
    }

    /// The version's own count and hash are those of what it has.
    async fn check_summary(
        &mut self,
        head: &Head,
        all: &HashMap<StateKeyNumber, EventNumber>,
    ) -> Result<(), Unavailable> {
        let hash = all.iter().fold(0u128, |hash, (key, event)| hash.wrapping_add(pair_hash(*key, *event)));
        match loaded(self.store.state_summary(self.room, head.state).await)? {
            Ok(summary) if summary.hash == hash.to_le_bytes() && summary.count as usize == all.len() => {}
            Ok(_) => self.problem(format!("state version {} has another count or hash than it says", head.state.0)),
            Err(problem) => self.problem(problem),
        }
        Ok(())
    }

    async fn check_state_keys(&mut self, page: &[Current]) -> Result<(), Unavailable> {
        let keys: Vec<Key> = page.iter().map(|entry| state_key_key(self.room, entry.row.state_key)).collect();
        let rows = self.store.engine().multi_get(Table::St, &keys).await?;
        for (Current { kind, state_key, row }, found) in page.iter().zip(rows) {
            let found = found.as_deref().map(read::<StateKeyRow>);
            let same = matches!(&found, Some(Ok(found)) if (&found.kind, &found.state_key) == (kind, state_key));
            if !same {
                let number = row.state_key.0;
                self.problem(format!("state key {number} does not lead back to {kind:?} of {state_key:?}"));
            }
        }
        Ok(())
    }

    /// The events in force are state events for what they are in force for.
    async fn check_state_events(&mut self, page: &[Current]) -> Result<(), Unavailable> {
        let set: Vec<_> = page.iter().filter_map(|entry| Some((entry, entry.row.event?))).collect();
        for (Current { kind, state_key, .. }, event) in set {
            match loaded(self.store.event(self.room, event).await)? {
                Ok(Some(stored)) if stored.event.state_pair() == Some((kind, state_key)) => {}
                Ok(Some(_)) => {
                    self.problem(format!(
                        "event {} is in force for {kind:?} of {state_key:?}, which it is not",
                        event.0
                    ));
                }
                Ok(None) => self.check_stored(event, format_args!("the current state's {kind:?} of {state_key:?} is")),
                // Told where events are looked at.
                Err(_) => {}
            }
        }
        Ok(())
    }

    async fn check_members(&mut self, page: &[Current]) -> Result<(), Unavailable> {
        let members: Vec<_> = page.iter().filter(|entry| entry.kind == "m.room.member").collect();
        let user = |entry: &&&Current| entry.row.user.is_some();
        for entry in members.iter().filter(|entry| !user(entry) && entry.row.event.is_some()) {
            self.problem(format!("the member {:?} has no number", entry.state_key));
        }
        let members: Vec<_> = members.iter().filter_map(|entry| Some((*entry, entry.row.user?))).collect();
        let keys: Vec<Key> = members.iter().map(|(_, user)| member_rooms_key(*user, self.room)).collect();
        let rows = self.store.engine().multi_get(Table::Rm, &keys).await?;
        for ((Current { state_key, row, .. }, _), found) in members.into_iter().zip(rows) {
            match found.as_deref().map(read::<MembershipRow>) {
                Some(Ok(found)) if Some(found.membership) == row.membership && Some(found.event) == row.event => {}
                None if row.event.is_none() => {}
                // Who is no longer named by the state has left.
                Some(Ok(found)) if row.event.is_none() && found.membership == Membership::Leave => {}
                Some(Err(problem)) => self.problem(problem),
                Some(Ok(_)) => self.problem(format!("the membership of {state_key:?} is not that of the room's state")),
                None => self.problem(format!("the member {state_key:?} has no membership")),
            }
        }
        Ok(())
    }
}

/// Type and state key.
fn pair_of_key(key: &Key) -> Option<(String, String)> {
    let pair = key.get(9..)?;
    let end = pair.iter().position(|byte| *byte == 0xff)?;
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    Some((text(pair.get(..end)?)?, text(pair.get(end + 1..)?)?))
}
