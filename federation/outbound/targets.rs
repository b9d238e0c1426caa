//! Which servers an event goes to.
//!
//! A room's servers are known at one version of its state and corrected from there by what differs at another, so that an
//! event costs nothing where the state did not change, and otherwise as much as changed.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hearth_core::redact;
use hearth_rooms::undone_joins;
use hearth_store::{EventNumber, LoadError, RoomNumber, StateDifference, StateVersion, Store, StoredEvent};
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedServerName, ServerName, UserId, events::room::member::MembershipState};

/// Memory for the servers of rooms, in bytes.
const CACHE_BYTES: u64 = 32 << 20;

/// Rooms that are expected in the cache: most have few servers.
const CACHE_ROOMS: usize = 10_000;

/// What a server in the cache costs, in bytes: its name, its count, its share of the map.
const SERVER_BYTES: u64 = 80;

/// Changes of the state that are read at once.
const DIFFERENCES_AT_ONCE: usize = 500;

/// So often a room's servers are read anew because its state changed meanwhile.
const READS_MAX: usize = 10;

/// The servers of a room at one version of its state.
#[derive(Clone, Debug)]
pub(super) struct RoomServers {
    state: StateVersion,
    /// How many users of each are joined; ours is among them. While the room's members are being fetched, 0: not known.
    joined: BTreeMap<OwnedServerName, u32>,
    /// An event of ours behind this state went to nobody: what there was of branches is joined.
    is_settled: bool,
}

impl RoomServers {
    /// All but this one.
    pub(super) fn others<'a>(&'a self, own: &'a ServerName) -> impl Iterator<Item = &'a OwnedServerName> {
        self.joined.keys().filter(move |server| ***server != *own)
    }

    fn joined(&self, server: &ServerName) -> u32 {
        self.joined.get(server).copied().unwrap_or(0)
    }

    fn is_only(&self, own: &ServerName) -> bool {
        self.others(own).next().is_none()
    }

    fn count(&mut self, user: &str, before: bool, after: bool) {
        let Ok(user) = <&UserId>::try_from(user) else { return };
        let server = user.server_name();
        match (before, after) {
            (false, true) => *self.joined.entry(server.to_owned()).or_default() += 1,
            (true, false) => {
                if let Some(count) = self.joined.get_mut(server) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.joined.remove(server);
                    }
                }
            }
            (true, true) | (false, false) => {}
        }
    }
}

#[derive(Clone)]
struct ByServers;

impl Weighter<RoomNumber, Arc<RoomServers>> for ByServers {
    fn weight(&self, _: &RoomNumber, servers: &Arc<RoomServers>) -> u64 {
        SERVER_BYTES * (1 + servers.joined.len() as u64)
    }
}

/// A server that an event goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) server: OwnedServerName,
    /// It is not in the room after the event.
    pub(super) parting: bool,
}

/// Finds the servers that events go to.
pub(super) struct Targets {
    store: Arc<Store>,
    own: OwnedServerName,
    rooms: Cache<RoomNumber, Arc<RoomServers>, ByServers>,
}

impl Targets {
    pub(super) fn new(store: Arc<Store>, own: OwnedServerName) -> Self {
        Self { store, own, rooms: Cache::with_weighter(CACHE_ROOMS, CACHE_BYTES, ByServers) }
    }

    /// Whether the room had no servers but ours when an event of ours was last looked at, and the event went to nobody: true
    /// until a membership changes.
    pub(super) fn is_ours_alone(&self, room: RoomNumber) -> bool {
        self.rooms.get(&room).is_some_and(|servers| servers.is_settled && servers.is_only(&self.own))
    }

    /// What is known of a room's servers may no longer be true.
    pub(super) fn forget(&self, room: RoomNumber) {
        self.rooms.remove(&room);
    }

    /// Whether an event is ours to send: made here, or accepted through us for others to hear.
    pub(super) fn is_ours(&self, stored: &StoredEvent) -> bool {
        let header = &stored.header;
        let made_here = header.origin.is_none() && stored.event.sender().server_name() == self.own;
        stored.accepted() && (header.relay || made_here)
    }

    /// The servers that an event of ours goes to: those in the room before it, and that of a user who is told by it that
    /// an invite or knock has come to nothing. Never those who are invited by it: they were asked already. Where it joins
    /// branches, also those that were in the room behind one of them: see [`undone_joins`]. What was accepted through us
    /// may stand behind events of long ago: it also goes to the servers that had come in when it was accepted.
    pub(super) async fn of(&self, room: RoomNumber, stored: &Arc<StoredEvent>) -> Result<Vec<Target>, LoadError> {
        self.as_it_stands(room, stored, |stored| async move { self.of_read(room, &stored).await }).await
    }

    /// What is found of an event and the state before it. If that is another one by then, its room has got the members that
    /// our join had left out, and what was found may be of the servers on a state without them: it is found again.
    async fn as_it_stands<T, F>(
        &self,
        room: RoomNumber,
        stored: &Arc<StoredEvent>,
        find: impl Fn(Arc<StoredEvent>) -> F,
    ) -> Result<T, LoadError>
    where
        F: Future<Output = Result<T, LoadError>>,
    {
        let mut stored = stored.clone();
        loop {
            let found = find(stored.clone()).await?;
            let now = self.store.event(room, stored.number).await?;
            match now.filter(|now| now.header.state_before != stored.header.state_before) {
                Some(now) => stored = now,
                None => return Ok(found),
            }
            self.forget(room);
        }
    }

    /// [`Targets::of`] an event by the state before it that was read.
    async fn of_read(&self, room: RoomNumber, stored: &StoredEvent) -> Result<Vec<Target>, LoadError> {
        let before = self.at(room, stored.header.state_before).await?;
        let knows = |server: &OwnedServerName| stored.header.origin.as_deref() == Some(server.as_str());
        let others = before.others(&self.own).filter(|server| !knows(server));
        let mut targets: Vec<Target> = others.map(|server| Target { server: server.clone(), parting: false }).collect();
        if let Some(then) = self.when_accepted(room, stored).await? {
            let came = then.others(&self.own).filter(|server| !knows(server) && !before.joined.contains_key(*server));
            targets.extend(came.map(|server| Target { server: server.clone(), parting: false }));
        }
        if let Some(user) = removed(stored)
            && user.server_name() != self.own
            && self.was_there(room, stored, user).await?
        {
            let server = user.server_name();
            // The last one of its server, or one who was not in the room.
            let parting = before.joined(server) <= 1;
            match targets.iter_mut().find(|target| target.server == server) {
                Some(target) => target.parting = parting,
                None => targets.push(Target { server: server.to_owned(), parting }),
            }
        }
        for server in undone_joins(&self.store, room, stored).await? {
            if server != self.own && !knows(&server) && !targets.iter().any(|target| target.server == server) {
                targets.push(Target { server, parting: true });
            }
        }
        if targets.is_empty() && !before.is_settled && before.state != StateVersion::EMPTY {
            self.rooms.insert(room, Arc::new(RoomServers { is_settled: true, ..RoomServers::clone(&before) }));
        }
        Ok(targets)
    }

    /// Whether an event of ours goes to this server.
    pub(super) async fn goes_to(
        &self,
        room: RoomNumber,
        stored: &Arc<StoredEvent>,
        server: &ServerName,
    ) -> Result<bool, LoadError> {
        let goes_to = |stored: Arc<StoredEvent>| async move { self.goes_to_as_read(room, &stored, server).await };
        self.as_it_stands(room, stored, goes_to).await
    }

    async fn goes_to_as_read(
        &self,
        room: RoomNumber,
        stored: &StoredEvent,
        server: &ServerName,
    ) -> Result<bool, LoadError> {
        if stored.header.origin.as_deref() == Some(server.as_str()) {
            return Ok(false);
        }
        let before = self.at(room, stored.header.state_before).await?;
        if before.joined.contains_key(server) {
            return Ok(true);
        }
        let then = self.when_accepted(room, stored).await?;
        Ok(then.is_some_and(|then| then.joined.contains_key(server)))
    }

    /// The servers in the room when an event of others was accepted through us; `None`: it was not.
    async fn when_accepted(
        &self,
        room: RoomNumber,
        stored: &StoredEvent,
    ) -> Result<Option<Arc<RoomServers>>, LoadError> {
        if !stored.header.relay {
            return Ok(None);
        }
        let order = stored.header.order();
        let rows = self.store.timeline(room, order..=order, 1, false).await?;
        match rows.first() {
            Some((_, row)) => Ok(Some(self.at(room, row.state).await?)),
            None => Ok(None),
        }
    }

    /// Whether a user of a server is in the room after an event.
    pub(super) async fn is_there_after(
        &self,
        room: RoomNumber,
        stored: &StoredEvent,
        server: &ServerName,
    ) -> Result<bool, LoadError> {
        Ok(self.at(room, stored.header.state_after).await?.joined.contains_key(server))
    }

    /// Whether a server comes into the room with this join of a user of it: nobody of it was there before. If others of it are
    /// there now, the state before the join is asked, which they may have followed.
    pub(super) async fn comes_with(
        &self,
        room: RoomNumber,
        join: &StoredEvent,
        server: &ServerName,
    ) -> Result<bool, LoadError> {
        // The count is there; of a large room not seen before, the servers must be read first.
        let is_alone = self.store.joined_from(room, server).await? <= 1;
        match join.header.state_before {
            before if !is_alone && before != StateVersion::UNKNOWN => {
                Ok(!self.at(room, before).await?.joined.contains_key(server))
            }
            _ => Ok(is_alone),
        }
    }

    /// The servers in the room now.
    pub(super) async fn now(&self, room: RoomNumber) -> Result<Arc<RoomServers>, LoadError> {
        match self.store.head(room).await? {
            Some(head) if !head.loading && !head.purged => self.at(room, head.state).await,
            _ => {
                let (state, joined) = (StateVersion::EMPTY, BTreeMap::new());
                Ok(Arc::new(RoomServers { state, joined, is_settled: false }))
            }
        }
    }

    /// Whether the user whom the event removes was joined, invited or had knocked.
    async fn was_there(&self, room: RoomNumber, stored: &StoredEvent, user: &UserId) -> Result<bool, LoadError> {
        if stored.header.state_before == StateVersion::UNKNOWN {
            return Ok(true);
        }
        let before = self.store.state_event(room, stored.header.state_before, "m.room.member", user.as_str()).await?;
        let membership = before.and_then(|before| before.event.membership());
        Ok(matches!(membership, Some(MembershipState::Join | MembershipState::Invite | MembershipState::Knock)))
    }

    /// The servers in the room at a version of its state; of an unknown one, those now.
    async fn at(&self, room: RoomNumber, state: StateVersion) -> Result<Arc<RoomServers>, LoadError> {
        if state == StateVersion::EMPTY {
            return Ok(Arc::new(RoomServers { state, joined: BTreeMap::new(), is_settled: false }));
        }
        let known = match self.rooms.get(&room) {
            Some(known) => known,
            None => self.load(room).await?,
        };
        if known.state == state || state == StateVersion::UNKNOWN {
            return Ok(known);
        }
        let mut servers = RoomServers::clone(&known);
        let differences = self.store.state_difference(room, known.state, state).await?;
        for differences in differences.chunks(DIFFERENCES_AT_ONCE) {
            self.apply(room, &mut servers, differences).await?;
        }
        (servers.state, servers.is_settled) = (state, false);
        let servers = Arc::new(servers);
        self.rooms.insert(room, servers.clone());
        Ok(servers)
    }

    /// The servers in the room now, with the version of the state at which they are.
    async fn load(&self, room: RoomNumber) -> Result<Arc<RoomServers>, LoadError> {
        let state =
            async || Ok::<_, LoadError>(self.store.head(room).await?.map_or(StateVersion::EMPTY, |head| head.state));
        let mut before = state().await?;
        for _ in 0..READS_MAX {
            let joined = self.store.servers_in_room(room).await?;
            let after = state().await?;
            if before == after {
                let joined = joined.into_iter().collect();
                let servers = Arc::new(RoomServers { state: before, joined, is_settled: false });
                self.rooms.insert(room, servers.clone());
                return Ok(servers);
            }
            before = after;
        }
        Err(hearth_store::Unavailable("the state of a room changed whenever it was read".to_owned()).into())
    }

    async fn apply(
        &self,
        room: RoomNumber,
        servers: &mut RoomServers,
        differences: &[StateDifference],
    ) -> Result<(), LoadError> {
        let pairs: Vec<_> = differences.iter().map(|difference| difference.state_key).collect();
        let pairs = self.store.state_keys(room, &pairs).await?;
        let members = differences.iter().zip(pairs).filter_map(|(difference, pair)| Some((difference, pair?)));
        let members: Vec<_> = members.filter(|(_, pair)| pair.kind == "m.room.member").collect();
        let numbers: Vec<EventNumber> =
            members.iter().flat_map(|(difference, _)| [difference.before, difference.after]).flatten().collect();
        let mut events = self.store.events(room, &numbers).await?.into_iter();
        for (difference, pair) in members {
            let mut is_join = |event: Option<EventNumber>| {
                let stored = event.and_then(|_| events.next().flatten());
                stored.is_some_and(|stored| stored.event.membership() == Some(MembershipState::Join))
            };
            let (before, after) = (is_join(difference.before), is_join(difference.after));
            servers.count(&pair.state_key, before, after);
        }
        Ok(())
    }
}

/// The user whom an event by another takes out of the room.
fn removed(stored: &StoredEvent) -> Option<&UserId> {
    let event = &stored.event;
    let user = <&UserId>::try_from(event.state_key()?).ok().filter(|user| *user != event.sender())?;
    matches!(event.membership(), Some(MembershipState::Leave | MembershipState::Ban)).then_some(user)
}

/// An event as it goes to a server that it puts out: a message that only joins branches goes without its content, since
/// none of that server's users may read it. Its id stays the same, and so does what it cites.
pub(super) fn in_parting(stored: &StoredEvent, server: &ServerName) -> Bytes {
    let is_theirs = removed(stored).is_some_and(|user| user.server_name() == server);
    if is_theirs || stored.event.is_state() {
        stored.event.json().clone()
    } else {
        redact(&stored.event).json().clone()
    }
}
