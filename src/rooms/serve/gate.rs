//! The gate at work for one request: looks up what it asks for, as seldom as it can.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hearth_core::redact;
use hearth_ports::{EventBytes, Table};
use hearth_store::{
    LoadError, RoomNumber, StateKeyNumber, StateVersion, Store, StoredEvent,
    tables::{
        EventFlags,
        users::{AccountRow, account_key},
    },
};
use hearth_view::{Membership, Party, ServerCircumstances, ServerStanding, Sight, Visibility, server_sight};
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId, events::room::member::MembershipState};

use super::ServeError;
use crate::rooms::Rooms;

/// Pairs of room and server whose members' state keys are kept. Only rooms whose history is not shared are asked for.
const MEMBER_KEYS_MAX: usize = 256;

/// Memberships that are looked up at once: of a large server one of the first is mostly joined.
const MEMBERS_AT_ONCE: usize = 64;

/// The state keys of one server's users' memberships, by room and server, complete up to the first number.
pub(crate) struct MemberKeys(Cache<(RoomNumber, OwnedServerName), KeysOfServer>);

/// State keys, and up to which number they are all there.
type KeysOfServer = (StateKeyNumber, Arc<[StateKeyNumber]>);

impl MemberKeys {
    pub(super) fn new() -> Self {
        Self(Cache::new(MEMBER_KEYS_MAX))
    }

    /// All there are. State keys are never taken back, so those known before stay.
    async fn load(
        &self,
        store: &Store,
        room: RoomNumber,
        server: &ServerName,
    ) -> Result<Arc<[StateKeyNumber]>, LoadError> {
        let until = store.head(room).await?.map_or(StateKeyNumber::FIRST, |head| head.next_state_key);
        let key = (room, server.to_owned());
        let (from, known) = self.0.get(&key).unwrap_or((StateKeyNumber::FIRST, Arc::from([])));
        if from >= until {
            return Ok(known);
        }
        let newer = store.member_keys_of(room, server, from, until).await?;
        let all: Arc<[StateKeyNumber]> = known.iter().copied().chain(newer).collect();
        self.0.insert(key, (until, Arc::clone(&all)));
        Ok(all)
    }
}

/// One server's view of one room.
pub(super) struct Gate<'a> {
    rooms: &'a Rooms,
    room: RoomNumber,
    server: &'a ServerName,
    visibility_key: Option<StateKeyNumber>,
    /// Looked up when first asked for.
    members: Option<Arc<[StateKeyNumber]>>,
    visibilities: HashMap<StateVersion, Visibility>,
    parties: HashMap<StateVersion, Party>,
    erased: BTreeMap<OwnedUserId, bool>,
}

impl<'a> Gate<'a> {
    /// For a server of which [`Rooms::room_for_server`] found that it is in the room; or [`Rooms::room_until`], that it
    /// was up to the end of what is given.
    pub(super) async fn new(rooms: &'a Rooms, room: RoomNumber, server: &'a ServerName) -> Result<Self, ServeError> {
        let visibility_key = rooms.writer.store.state_key_number(room, "m.room.history_visibility", "").await?;
        Ok(Self {
            rooms,
            room,
            server,
            visibility_key,
            members: None,
            visibilities: HashMap::new(),
            parties: HashMap::new(),
            erased: BTreeMap::new(),
        })
    }

    /// What the server gets of an event: whole, redacted, or nothing.
    pub(super) async fn give(&mut self, stored: &StoredEvent) -> Result<Option<EventBytes>, ServeError> {
        Ok(match self.sight(stored).await? {
            Sight::Show => Some(stored.event.json().clone()),
            Sight::ShowRedacted => Some(redact(&stored.event).json().clone()),
            Sight::Hide => None,
        })
    }

    /// Whether an event goes to the server, as one of those in the room before it, or as one that it puts out by joining
    /// branches; or it is a join of the server's own, which may have been undone while its answer was on its way.
    pub(super) async fn is_told(&mut self, stored: &StoredEvent) -> Result<bool, ServeError> {
        let header = &stored.header;
        let is_placed = header.state_before != StateVersion::UNKNOWN && !header.flags.has(EventFlags::OUTLIER);
        if !(is_placed && stored.accepted()) {
            return Ok(false);
        }
        let is_own_join = stored.event.membership() == Some(MembershipState::Join)
            && stored.event.sender().server_name() == self.server;
        if is_own_join || self.party(header.state_before).await? == Party::Joined {
            return Ok(true);
        }
        let undone = super::undone_joins(&self.rooms.writer.store, self.room, stored).await?;
        Ok(undone.contains(self.server))
    }

    /// What the gate says of an event.
    pub(super) async fn sight(&mut self, stored: &StoredEvent) -> Result<Sight, ServeError> {
        let header = &stored.header;
        let sender_erased = self.is_erased(stored.event.sender()).await?;
        let at = ServerCircumstances {
            in_room: true,
            before: self.standing(header.state_before, sender_erased).await?,
            rejected: header.flags.has(EventFlags::REJECTED),
            outlier: header.flags.has(EventFlags::OUTLIER),
            sender_erased,
        };
        Ok(server_sight(self.server, &stored.event, &at))
    }

    /// The server's standing in a version of the state. Where the history is for all in the room nobody needs to know
    /// who was there, unless an erased sender's words are at stake.
    async fn standing(
        &mut self,
        version: StateVersion,
        sender_erased: bool,
    ) -> Result<Option<ServerStanding>, ServeError> {
        if version == StateVersion::UNKNOWN {
            return Ok(None);
        }
        let visibility = self.visibility(version).await?;
        let is_for_all = matches!(visibility, Visibility::WorldReadable | Visibility::Shared);
        let party = if is_for_all && !sender_erased { Party::Outside } else { self.party(version).await? };
        Ok(Some(ServerStanding { visibility, party }))
    }

    async fn visibility(&mut self, version: StateVersion) -> Result<Visibility, ServeError> {
        if let Some(known) = self.visibilities.get(&version) {
            return Ok(*known);
        }
        let store = &self.rooms.writer.store;
        let number = match self.visibility_key {
            Some(key) => store.state_get(self.room, version, key).await?,
            None => None,
        };
        let event = match number {
            Some(number) => store.event(self.room, number).await?,
            None => None,
        };
        let visibility = Visibility::of(event.as_ref().map(|stored| &stored.event));
        self.visibilities.insert(version, visibility);
        Ok(visibility)
    }

    async fn party(&mut self, version: StateVersion) -> Result<Party, ServeError> {
        if let Some(known) = self.parties.get(&version) {
            return Ok(*known);
        }
        let store = &self.rooms.writer.store;
        let members = match &self.members {
            Some(members) => Arc::clone(members),
            None => self.rooms.serving.members.load(store, self.room, self.server).await?,
        };
        self.members = Some(Arc::clone(&members));
        let mut best = Party::Outside;
        for keys in members.chunks(MEMBERS_AT_ONCE) {
            let numbers = store.state_get_many(self.room, version, keys).await?;
            let numbers: Vec<_> = numbers.into_iter().flatten().collect();
            for stored in store.events(self.room, &numbers).await?.iter().flatten() {
                best = best.max(Party::of(Membership::of(Some(&stored.event))));
            }
            if best == Party::Joined {
                break;
            }
        }
        self.parties.insert(version, best);
        Ok(best)
    }

    /// Whether the sender is one of ours who had the account erased.
    async fn is_erased(&mut self, sender: &UserId) -> Result<bool, ServeError> {
        let writer = &self.rooms.writer;
        if sender.server_name() != writer.server_name {
            return Ok(false);
        }
        if let Some(known) = self.erased.get(sender) {
            return Ok(*known);
        }
        let account = match writer.store.user_number(sender).await? {
            Some(user) => writer.store.get::<AccountRow>(Table::Us, &account_key(user)).await?,
            None => None,
        };
        let erased = account.is_some_and(|account| account.erased);
        self.erased.insert(sender.to_owned(), erased);
        Ok(erased)
    }
}
