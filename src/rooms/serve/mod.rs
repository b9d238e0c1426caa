//! What other servers may read: events, state, history. Start here, at who may ask; what they get passes [`gate`].
//!
//! Every answer first asks whether the server is in the room and whether the room's access list lets it in. History then
//! goes through the one gate for servers ([`hearth_view::server_sight`]). State and what authorises it go whole to every
//! server in the room: to follow the room it must compute with them.

mod gate;
mod history;
mod state;
mod undone;

use std::{sync::Arc, time::Duration};

use hearth_store::{LoadError, RoomNumber, StoredEvent};
use ruma::{OwnedEventId, OwnedServerName, RoomId, ServerName};

use crate::{
    ReadError,
    rooms::Rooms,
    turns::{Shares, Turn, Turns},
};

pub(crate) use gate::MemberKeys;
pub use undone::undone_joins;

use gate::Gate;

const NOT_IN_ROOM: &str = "your server is not in this room";

/// Whole states that are read for other servers at once: each may be a hundred megabytes. One event whose previous events
/// nobody has makes all servers of a room ask in the same second; the least patient of them waits half a minute.
const STATES: Shares =
    Shares { turns: 4, turns_of_one: 2, waiting: 1_000, waiting_of_one: 10, patience: Duration::from_secs(15) };

/// The same of ids and of what authorises one event: a few megabytes.
const CHAINS: Shares =
    Shares { turns: 8, turns_of_one: 4, waiting: 1_000, waiting_of_one: 20, patience: Duration::from_secs(15) };

/// Whose joins are told a whole state at once, by server. How long one waits for its turn: servers wait longer for an
/// answer.
const JOINS: Shares =
    Shares { turns: 4, turns_of_one: 2, waiting: 1_000, waiting_of_one: 100, patience: Duration::from_secs(10) };

/// Bound invites that other servers are asked for at once, by whose they are. Strangers may tell of as many as they like, of
/// servers that hang: one that does not get its turn is asked for later.
const CLAIMS: Shares =
    Shares { turns: 16, turns_of_one: 2, waiting: 200, waiting_of_one: 20, patience: Duration::from_secs(30) };

/// Why another server is not given what it asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServeError {
    /// It is not in the room, or the room's access list keeps it out (`M_FORBIDDEN`).
    #[error("{0}")]
    Forbidden(&'static str),
    /// There is no such room or event here, or the state there is not known (`M_NOT_FOUND`).
    #[error("not found")]
    NotFound,
    /// Too much is asked at once; later it may be given. The other server is told that the state is not to be had here
    /// (`M_NOT_FOUND`), and may ask others: one that is told to ask less (`M_LIMIT_EXCEEDED`) sends us nothing for a while,
    /// of no room.
    #[error("the state is not to be had from this server now")]
    Busy,
    /// Our fault; the text is for the log.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<LoadError> for ServeError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What serving keeps in memory.
pub(crate) struct Serving {
    /// The state keys of the memberships of one server's users.
    members: MemberKeys,
    states: Turns<OwnedServerName>,
    chains: Turns<OwnedServerName>,
    /// Their own, so that who asks for states keeps nobody from joining.
    joins: Turns<OwnedServerName>,
    claims: Turns<OwnedServerName>,
}

impl Serving {
    pub(crate) fn new() -> Self {
        let (states, chains) = (Turns::new(STATES), Turns::new(CHAINS));
        Self { members: MemberKeys::new(), states, chains, joins: Turns::new(JOINS), claims: Turns::new(CLAIMS) }
    }

    /// A turn to read a whole state for another server.
    pub(crate) async fn state_turn(&self, server: &ServerName) -> Result<Turn<'_>, ServeError> {
        self.states.take(&server.to_owned()).await.ok_or(ServeError::Busy)
    }

    /// A turn to read the ids of one, or what authorises an event.
    pub(crate) async fn chain_turn(&self, server: &ServerName) -> Result<Turn<'_>, ServeError> {
        self.chains.take(&server.to_owned()).await.ok_or(ServeError::Busy)
    }

    /// A turn to tell a whole state with a join; `None`: there was none for too long.
    pub(crate) async fn join_turn(&self, server: &ServerName) -> Option<Turn<'_>> {
        self.joins.take(&server.to_owned()).await
    }

    /// A turn to ask a server for the invite of who has bound an identifier; `None`: too many are asked for.
    pub(crate) async fn claim_turn(&self, server: &ServerName) -> Option<Turn<'_>> {
        self.claims.take(&server.to_owned()).await
    }
}

impl Rooms {
    /// The room, if this server may read in it.
    pub(crate) async fn room_for_server(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<RoomNumber, ServeError> {
        let room = self.room_to_read(room_id).await?;
        if self.writer.store.joined_from(room, origin).await? == 0 {
            return Err(ServeError::Forbidden(NOT_IN_ROOM));
        }
        self.lets_in(origin, room_id).await?;
        Ok(room)
    }

    /// The room, and those of these events of which this server may ask what was before: all, if it is in the room, else
    /// those that go to it: its joins, what happened while it was in the room, and what put it out. Its turn to hear of
    /// them, or to ask, may come when it is out already, and it must be able to find their places: else it never learns
    /// that it is.
    pub(super) async fn room_until(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        until: &[OwnedEventId],
    ) -> Result<(RoomNumber, Vec<Arc<StoredEvent>>), ServeError> {
        let room = self.room_to_read(room_id).await?;
        let store = &self.writer.store;
        let numbers: Vec<_> = store.event_numbers(room, until).await?.into_iter().flatten().collect();
        let mut events: Vec<_> = store.events(room, &numbers).await?.into_iter().flatten().collect();
        if store.joined_from(room, origin).await? == 0 {
            let mut gate = Gate::new(self, room, origin).await?;
            let mut last = Vec::new();
            for stored in events {
                if gate.is_told(&stored).await? {
                    last.push(stored);
                }
            }
            events = last;
            if events.is_empty() {
                return Err(ServeError::Forbidden(NOT_IN_ROOM));
            }
        }
        self.lets_in(origin, room_id).await?;
        Ok((room, events))
    }

    async fn room_to_read(&self, room_id: &RoomId) -> Result<RoomNumber, ServeError> {
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(ServeError::NotFound)?;
        let head = store.head(room).await?.filter(|head| !head.loading && !head.purged);
        head.map(|_| room).ok_or(ServeError::NotFound)
    }

    async fn lets_in(&self, origin: &ServerName, room_id: &RoomId) -> Result<(), ServeError> {
        match self.acl_allows(room_id, origin).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ServeError::Forbidden("the room's access list keeps your server out")),
            Err(ReadError::Unavailable(text)) => Err(ServeError::Unavailable(text)),
            Err(ReadError::NotFound | ReadError::Forbidden(_) | ReadError::BadToken) => Err(ServeError::NotFound),
        }
    }
}
