//! Sending, over the in-memory engine, with rooms of the real service, a set clock and a scripted way out.

mod catching_up;
mod devices;
mod failing;
mod parting;
mod queued;
mod reading;
mod refusing;
mod telling;
mod unsendable;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hearth_core::{Limits, Numbers, SigningKey, check_json, json::SIGNED_DEPTH_MAX};
use hearth_ports::{BoxFuture, ManualClock, NoPeers, PeerError, SeededEntropy, mem::MemEngine};
use hearth_rooms::{Creation, MemberAction, MemberChange, Message, Preset, Rooms, RoomsSettings};
use hearth_store::{
    RoomNumber, Store, StoreSettings, Table, Write,
    tables::{EventHeader, Extremity, head_key},
};
use hearth_users::{UserSettings, Users};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName};
use serde_json::{Map, Value, json, value::to_raw_value};
use tokio::sync::Notify;

use super::{Outbound, OutboundParts, OutboundSettings, Standing, Transmit};

const US: &str = "hearth.test";

/// A process does not draw what another has drawn.
static SEED: AtomicU64 = AtomicU64::new(0);

/// How a server answers.
#[derive(Clone)]
enum Manner {
    /// 200, with nothing refused.
    Takes,
    /// With this error.
    Fails(PeerError),
    /// Never.
    Hangs,
    /// 200, once it is let.
    Waits(Arc<Notify>),
    /// 200, or this status, as it finds the body.
    Judges(fn(&[u8]) -> Option<u16>),
}

/// A transaction as it left.
#[derive(Clone, Debug)]
struct Sent {
    server: String,
    id: String,
    body: Value,
}

impl Sent {
    fn pdus(&self) -> Vec<Value> {
        self.body["pdus"].as_array().unwrap().clone()
    }

    fn edus(&self) -> Vec<Value> {
        self.body["edus"].as_array().cloned().unwrap_or_default()
    }

    /// What the messages in it say; other events are their type.
    fn texts(&self) -> Vec<String> {
        let text = |pdu: &Value| pdu["content"]["body"].as_str().or(pdu["type"].as_str()).unwrap().to_owned();
        self.pdus().iter().map(text).collect()
    }
}

/// The other servers.
#[derive(Default)]
struct Script {
    manners: Mutex<HashMap<String, Manner>>,
    sent: Mutex<Vec<Sent>>,
    /// Servers with a transaction in flight.
    busy: Mutex<HashSet<String>>,
    /// Until when a server asked to be left alone.
    wishes: Mutex<HashMap<String, u64>>,
}

impl Script {
    fn set(&self, server: &str, manner: Manner) {
        self.manners.lock().insert(server.to_owned(), manner);
    }

    fn fail(&self, server: &str) {
        self.set(server, Manner::Fails(PeerError::Unreachable("nobody there".to_owned())));
    }

    /// All that was sent to a server since this was last asked.
    fn take(&self, server: &str) -> Vec<Sent> {
        let mut sent = self.sent.lock();
        sent.extract_if(.., |sent| sent.server == server).collect()
    }

    /// What was sent so far to these is of no interest.
    fn forget(&self, servers: &[&str]) {
        self.sent.lock().retain(|sent| !servers.contains(&&*sent.server));
    }

    fn texts(&self, server: &str) -> Vec<String> {
        self.take(server).iter().flat_map(Sent::texts).collect()
    }
}

impl Transmit for Script {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        transaction_id: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        Box::pin(async move {
            let server = destination.to_string();
            assert!(self.busy.lock().insert(server.clone()), "one transaction in flight");
            let bytes = body;
            // As what is signed, whoever parses it and writes it anew.
            let limits = Limits { depth_max: SIGNED_DEPTH_MAX - 1, numbers: Numbers::Strict };
            assert_eq!(check_json(&bytes, &limits), Ok(()), "the body is canonical JSON but for its white space");
            let body = serde_json::from_slice(&bytes).expect("the body is JSON");
            self.sent.lock().push(Sent { server: server.clone(), id: transaction_id.to_owned(), body });
            let manner = self.manners.lock().get(&server).cloned().unwrap_or(Manner::Takes);
            // Also if nobody waits any longer.
            let _free = Free(self, server);
            let answer = Bytes::from_static(br#"{"pdus":{}}"#);
            match manner {
                Manner::Takes => Ok(answer),
                Manner::Judges(judge) => judge(&bytes).map_or(Ok(answer), |status| {
                    let (errcode, error) = ("M_UNKNOWN".to_owned(), String::new());
                    Err(PeerError::Refused { status, errcode, error, body: Bytes::new() })
                }),
                Manner::Fails(error) => Err(error),
                Manner::Hangs => std::future::pending().await,
                Manner::Waits(let_go) => {
                    let_go.notified().await;
                    Ok(answer)
                }
            }
        })
    }

    fn asked_to_wait_until(&self, destination: &ServerName) -> Option<u64> {
        self.wishes.lock().get(destination.as_str()).copied()
    }
}

struct Free<'a>(&'a Script, String);

impl Drop for Free<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().remove(&self.1);
    }
}

/// A server that federates.
struct World {
    engine: Arc<MemEngine>,
    store: Arc<Store>,
    clock: Arc<ManualClock>,
    rooms: Arc<Rooms>,
    users: Arc<Users>,
    script: Arc<Script>,
    outbound: Arc<Outbound>,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at_ms(1_700_000_000_000));
        Self::on(MemEngine::new(), clock, Arc::default()).await
    }

    async fn on(engine: Arc<MemEngine>, clock: Arc<ManualClock>, script: Arc<Script>) -> Self {
        let store = Store::open(engine.clone(), StoreSettings::default()).await.unwrap();
        let key = Arc::new(SigningKey::from_seed(&[7; 32], "test"));
        let entropy = Arc::new(SeededEntropy::new(SEED.fetch_add(1, Ordering::Relaxed)));
        let name: OwnedServerName = US.try_into().unwrap();
        let peers = Arc::new(NoPeers);
        let settings = RoomsSettings::default();
        let rooms = Rooms::new(store.clone(), clock.clone(), entropy.clone(), peers, key, name.clone(), settings);
        let users = Users::new(store.clone(), clock.clone(), entropy.clone(), UserSettings::new(name.clone()));
        let parts = OutboundParts {
            store: store.clone(),
            users: users.clone(),
            clock: clock.clone(),
            entropy,
            transmit: script.clone(),
            server_name: name,
            settings: OutboundSettings::default(),
        };
        let outbound = Outbound::open(parts).await.unwrap();
        Self { engine, store, clock, rooms, users, script, outbound }
    }

    /// The process dies and is started again; what was only in memory is gone.
    async fn restarted(self) -> Self {
        let Self { engine, clock, script, .. } = self;
        // Tasks of before that still wait for an answer.
        script.sent.lock().clear();
        script.busy.lock().clear();
        Self::on(engine, clock, script).await
    }

    /// Reads the log to its end and lets everything happen that can.
    async fn settle(&self) {
        loop {
            while self.outbound.follow().await.unwrap() {
                // Others have their turn.
                tokio::task::yield_now().await;
            }
            // Time is paused: it passes when nobody has anything left to do.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if self.outbound.reader_is_at_end().await {
                return;
            }
        }
    }

    /// So much time passes.
    async fn pass_ms(&self, by_ms: u64) {
        self.clock.advance_ms(by_ms);
        self.outbound.tick(1).await;
        self.settle().await;
    }

    /// A public room of alice's, with these users in it.
    async fn room(&self, members: &[&str]) -> OwnedRoomId {
        self.room_of(None, members).await
    }

    /// The same of this version.
    async fn room_of(&self, version: Option<&str>, members: &[&str]) -> OwnedRoomId {
        let creation = Creation {
            creator: user("@alice:hearth.test"),
            is_admin: false,
            profile: Map::new(),
            version: version.map(str::to_owned),
            preset: Preset::Public,
            is_published: false,
            alias_name: None,
            name: None,
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            creation_content: Map::new(),
            initial_state: Vec::new(),
            power_levels: Map::new(),
        };
        let room = self.rooms.create(creation).await.unwrap();
        for member in members {
            self.act(&room, member, MemberAction::Join, member).await;
        }
        room
    }

    async fn act(&self, room_id: &RoomId, sender: &str, action: MemberAction, target: &str) -> OwnedEventId {
        self.store.ensure_user_number(&user(sender)).await.unwrap();
        let change = MemberChange {
            room_id: room_id.to_owned(),
            sender: user(sender),
            target: user(target),
            action,
            content: Map::new(),
            guest: false,
        };
        self.rooms.change_member(change).await.unwrap()
    }

    async fn say(&self, room_id: &RoomId, sender: &str, text: &str) -> OwnedEventId {
        let message = Message {
            room_id: room_id.to_owned(),
            sender: user(sender),
            kind: "m.room.message".to_owned(),
            content: to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap(),
            transaction: None,
            only_own: false,
            ts_ms: None,
        };
        self.rooms.send(message).await.unwrap()
    }

    async fn number(&self, room_id: &RoomId) -> RoomNumber {
        self.store.room_number(room_id).await.unwrap().unwrap()
    }

    /// Changes what is stored of an event beside its JSON.
    async fn set_header(&self, room_id: &RoomId, event_id: &EventId, change: impl FnOnce(&mut EventHeader)) {
        let room = self.number(room_id).await;
        let stored = self.store.event_by_id(room, event_id).await.unwrap().unwrap();
        let mut header = stored.header.clone();
        change(&mut header);
        let mut write = Write::new(room.partition());
        write.rewrite_event(room, stored.number, &header, stored.event.json());
        self.store.commit(write).await.unwrap();
    }

    /// Nothing cites this event, whatever does.
    async fn add_extremity(&self, room_id: &RoomId, event_id: &EventId) {
        let room = self.number(room_id).await;
        let stored = self.store.event_by_id(room, event_id).await.unwrap().unwrap();
        let (bytes, mut head) = self.store.head_bytes(room).await.unwrap().unwrap();
        let (event, depth) = (stored.number, stored.event.depth());
        head.extremities.push(Extremity { event, event_id: event_id.to_string(), depth });
        let mut write = Write::new(room.partition());
        write.require(Table::Rm, head_key(room), Some(bytes));
        write.put(Table::Rm, head_key(room), &head);
        self.store.commit(write).await.unwrap();
    }

    /// How a server stands.
    fn standing(&self, server: &str) -> Standing {
        self.outbound.status(server.try_into().unwrap()).expect("something was sent to it").standing
    }

    fn failures(&self, server: &str) -> u32 {
        match self.standing(server) {
            Standing::Failing { failures, .. } => failures,
            Standing::Healthy | Standing::CatchingUp => 0,
        }
    }

    /// When a failing server is tried again, in milliseconds from now.
    fn retry_in_ms(&self, server: &str) -> u64 {
        let Standing::Failing { retry_at_ms, .. } = self.standing(server) else { panic!("{server} does not fail") };
        retry_at_ms.saturating_sub(hearth_ports::Clock::now_ms(&*self.clock))
    }

    /// Lets a server fail until it counts as absent.
    async fn lose(&self, server: &str) {
        self.script.fail(server);
        while self.failures_or_none(server) < super::queue::ABSENT_AFTER {
            let pause = if self.failures_or_none(server) == 0 { 0 } else { self.retry_in_ms(server) };
            self.pass_ms(pause).await;
        }
        self.script.take(server);
    }

    fn failures_or_none(&self, server: &str) -> u32 {
        self.outbound.status(server.try_into().unwrap()).map_or(0, |_| self.failures(server))
    }
}

fn user(name: &str) -> OwnedUserId {
    name.try_into().unwrap()
}

fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|nth| format!("text {nth}")).collect()
}
