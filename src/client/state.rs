//! The services that handlers use.

use std::sync::Arc;

use hearth_core::RoomVersion;
use hearth_ports::Peers;
use hearth_rooms::Rooms;
use hearth_search::People;
use hearth_sync::{Syncs, read::Reads};
use hearth_users::Users;
use ruma::OwnedServerName;

use crate::server::WellKnown;

/// What the client-server API needs: the services, other servers, and what this one is called.
pub struct ClientState {
    /// Accounts and all that belongs to a user.
    pub users: Arc<Users>,
    /// Rooms, for writing.
    pub rooms: Arc<Rooms>,
    /// Rooms, for reading.
    pub reads: Arc<Reads>,
    /// Long-poll sessions.
    pub syncs: Arc<Syncs>,
    /// The user directory.
    pub people: Arc<People>,
    /// Other servers, for what is passed on unread: profiles, directories.
    pub peers: Arc<dyn Peers>,
    /// What of the configuration this API shows or obeys.
    pub settings: ClientSettings,
}

/// The part of the configuration that handlers look at.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The server's name, the part behind the colon of its users' ids.
    pub server_name: OwnedServerName,
    /// The version of new rooms whose creators ask for none, as capabilities name it.
    pub default_room_version: RoomVersion,
    /// `GET /publicRooms` works without an account.
    pub public_rooms_without_auth: bool,
    /// The well-known documents.
    pub well_known: WellKnown,
}
