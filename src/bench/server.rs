//! The services over an engine, with rooms and people in them: for the benches of what requests do.

use std::sync::Arc;

use hearth_core::SigningKey;
use hearth_ports::{Engine, NoPeers, SystemClock, SystemEntropy};
use hearth_rooms::{Creation, MemberAction, MemberChange, Message, Preset, Rooms, RoomsSettings, TransactionId};
use hearth_store::{Store, StoreSettings};
use hearth_sync::{Reader, SyncSettings, Syncs, read::Reads};
use hearth_users::{UserSettings, Users};
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde_json::{Map, json, value::to_raw_value};

use crate::world::{key, server_name, user};

/// A server without its HTTP.
#[derive(Clone)]
pub struct Server {
    /// All that is stored.
    pub store: Arc<Store>,
    /// Writes rooms.
    pub rooms: Arc<Rooms>,
    /// Shows them.
    pub syncs: Arc<Syncs>,
    /// Shows what is asked for.
    pub reads: Arc<Reads>,
}

impl Server {
    /// The services on an engine. Must be called within a tokio runtime.
    pub async fn over(engine: Arc<dyn Engine>) -> Self {
        let store = Store::open(engine, StoreSettings::default()).await.expect("an empty engine opens");
        let (clock, entropy, name) = (Arc::new(SystemClock), Arc::new(SystemEntropy), server_name().to_owned());
        let key: Arc<SigningKey> = Arc::new(key());
        let settings = RoomsSettings::default();
        let rooms =
            Rooms::new(store.clone(), clock.clone(), entropy.clone(), Arc::new(NoPeers), key, name.clone(), settings);
        let users = Users::new(store.clone(), clock.clone(), entropy.clone(), UserSettings::new(name));
        let syncs = Syncs::new(store.clone(), users.clone(), clock.clone(), entropy, SyncSettings::default());
        let reads = Reads::new(store.clone(), users, clock);
        Self { store, rooms, syncs, reads }
    }

    /// The id of a user whom the store knows, as it does after they registered.
    pub async fn user(&self, number: usize) -> OwnedUserId {
        let user = user(number);
        self.store.ensure_user_number(&user).await.expect("the engine is there");
        user
    }

    /// A new public room.
    pub async fn create(&self, creator: usize) -> OwnedRoomId {
        let creation = Creation {
            creator: self.user(creator).await,
            is_admin: false,
            profile: Map::new(),
            version: None,
            preset: Preset::Public,
            is_published: false,
            alias_name: None,
            name: Some("The wall".to_owned()),
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            creation_content: Map::new(),
            initial_state: Vec::new(),
            power_levels: Map::new(),
        };
        self.rooms.create(creation).await.expect("anybody may create rooms")
    }

    /// A user, whom the store must know, joins a public room.
    pub async fn join(&self, room_id: &RoomId, member: usize) {
        let change = MemberChange {
            room_id: room_id.to_owned(),
            sender: user(member),
            target: user(member),
            action: MemberAction::Join,
            content: Map::new(),
            guest: false,
        };
        self.rooms.change_member(change).await.expect("anybody may join");
    }

    /// A member says something, with a transaction id as clients do: `number` must be new for this sender.
    pub async fn send(&self, room_id: &RoomId, sender: usize, number: u64) {
        let content = json!({ "msgtype": "m.text", "body": format!("Humpty Dumpty sat on wall number {number}.") });
        let message = Message {
            room_id: room_id.to_owned(),
            sender: user(sender),
            kind: "m.room.message".to_owned(),
            content: to_raw_value(&content).expect("a value is JSON"),
            transaction: Some(TransactionId { device: "DEVICE".to_owned(), id: format!("m{number}") }),
            only_own: false,
            ts_ms: None,
        };
        self.rooms.send(message).await.expect("members may talk");
    }
}

/// The user's only device.
pub fn reader(number: usize) -> Reader {
    Reader { user_id: user(number), device_id: "DEVICE".into() }
}
