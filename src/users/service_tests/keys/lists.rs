//! Devices of other servers' users: kept, followed, asked for anew, forgotten.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use hearth_core::{Event, PublicKeys, RoomVersion};
use hearth_ports::{
    AliasTarget, BoxFuture, EventBytes, Handshake, JoinAnswer, MissingEvents, PeerError, Peers, Position, StateEvents,
    StateIds, Table, Template, WantedKeys,
};
use hearth_store::{
    EventNumber, RoomNumber, Write,
    tables::{Membership, MembershipRow, member_rooms_key, put_room_server},
};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomAliasId, RoomId, ServerName};

use super::*;
use crate::keys::{DeviceUpdate, SigningKeysUpdate};

/// Methods that nobody calls here.
macro_rules! denied {
    ($($name:ident($($argument:ty),*) -> $answer:ty;)*) => {
        $(denied!(@ $name [] [a b c d e] [$($argument,)*] $answer);)*
    };
    (@ $name:ident [$($named:tt)*] [$next:ident $($names:ident)*] [$argument:ty, $($arguments:ty,)*] $answer:ty) => {
        denied!(@ $name [$($named)* ($next: $argument)] [$($names)*] [$($arguments,)*] $answer);
    };
    (@ $name:ident [$(($named:ident: $argument:ty))*] [$($names:ident)*] [] $answer:ty) => {
        fn $name<'a>(&'a self, $($named: $argument),*) -> BoxFuture<'a, Result<$answer, PeerError>> {
            let _ = ($($named,)*);
            Box::pin(std::future::ready(Err(PeerError::Denied)))
        }
    };
}

/// Another server, which tells what it is told to.
#[derive(Default)]
struct Far {
    lists: Mutex<HashMap<String, Value>>,
    /// Of these it says nothing when it is asked for their lists.
    hangs: Mutex<HashSet<String>>,
    /// Keys that it tells in one request.
    keys: Mutex<Value>,
    /// Whether somebody waited, of each list that it was asked for.
    waited: Mutex<Vec<bool>>,
    /// How often it was asked for lists, and for keys.
    asked: Mutex<(usize, usize)>,
}

impl Far {
    fn tell(&self, user_id: &UserId, stream_id: i64, devices: &[(&str, &str)]) {
        let device = |(device_id, public): &(&str, &str)| {
            let mut keys = device_keys(user_id, device_id);
            keys["keys"] = json!({ format!("ed25519:{device_id}"): public });
            json!({ "device_id": device_id, "keys": keys, "device_display_name": format!("name of {device_id}") })
        };
        let devices: Vec<Value> = devices.iter().map(device).collect();
        let list = json!({ "user_id": user_id, "stream_id": stream_id, "devices": devices });
        self.lists.lock().insert(user_id.to_string(), list);
    }

    fn asked(&self) -> (usize, usize) {
        std::mem::take(&mut *self.asked.lock())
    }
}

impl Peers for Far {
    fn server_keys(&self, _: BTreeMap<OwnedServerName, WantedKeys>) -> BoxFuture<'_, PublicKeys> {
        Box::pin(std::future::ready(PublicKeys::default()))
    }

    fn user_devices<'a>(
        &'a self,
        user: &'a UserId,
        timeout_ms: u64,
        is_waited_for: bool,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        self.asked.lock().0 += 1;
        self.waited.lock().push(is_waited_for);
        if self.hangs.lock().contains(user.as_str()) {
            return Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(timeout_ms)).await;
                Err(PeerError::Unreachable("it said nothing".to_owned()))
            });
        }
        let answer = self.lists.lock().get(user.as_str()).map(|list| Bytes::from(list.to_string()));
        Box::pin(std::future::ready(answer.ok_or_else(|| PeerError::Unreachable("nobody there".to_owned()))))
    }

    fn device_keys<'a>(&'a self, _: &'a ServerName, _: Bytes, _: u64) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        self.asked.lock().1 += 1;
        let keys = self.keys.lock().clone();
        let answer = if keys.is_null() { json!({ "device_keys": {} }) } else { json!({ "device_keys": keys }) };
        Box::pin(std::future::ready(Ok(Bytes::from(answer.to_string()))))
    }

    denied! {
        make_member(&'a ServerName, Handshake, &'a RoomId, &'a UserId, &'a [RoomVersion]) -> Template;
        send_join(&'a ServerName, &'a Event, bool) -> JoinAnswer;
        send_leave(&'a ServerName, &'a Event) -> ();
        send_knock(&'a ServerName, &'a Event) -> Vec<EventBytes>;
        invite(&'a ServerName, &'a Event, Vec<EventBytes>) -> EventBytes;
        missing_events(&'a ServerName, &'a RoomId, MissingEvents) -> Vec<EventBytes>;
        backfill(&'a ServerName, &'a RoomId, &'a [OwnedEventId], usize) -> Vec<EventBytes>;
        event(&'a ServerName, &'a EventId) -> EventBytes;
        state_ids(&'a ServerName, &'a RoomId, &'a EventId) -> StateIds;
        state(&'a ServerName, &'a RoomId, &'a EventId) -> StateEvents;
        event_auth(&'a ServerName, &'a RoomId, &'a EventId) -> Vec<EventBytes>;
        event_near(&'a ServerName, &'a RoomId, u64, bool) -> (OwnedEventId, u64);
        alias(&'a RoomAliasId) -> AliasTarget;
        profile(&'a UserId, Option<&'a str>) -> Bytes;
        public_rooms(&'a ServerName, Bytes) -> Bytes;
        hierarchy(&'a ServerName, &'a RoomId, bool) -> Bytes;
        openid_user(&'a ServerName, &'a str) -> OwnedUserId;
    }
}

fn bob() -> OwnedUserId {
    "@bob:far.test".try_into().unwrap()
}

impl World {
    /// A remote user is in a room with one of ours, or leaves it.
    async fn share(&self, user_id: &UserId, room: RoomNumber, membership: Membership) -> Position {
        let user = self.store.ensure_user_number(user_id).await.unwrap();
        let row = MembershipRow {
            position: 0,
            joined_position: 0,
            membership,
            event: EventNumber::FIRST,
            forgotten: false,
            guest: false,
        };
        let mut write = Write::new(room.partition());
        let at = write.position();
        write.put_at(Table::Rm, member_rooms_key(user, room), &row, &[at, at]);
        put_room_server(&mut write, room, self.users.settings().server_name.as_ref(), 1);
        self.store.commit(write).await.unwrap().last
    }

    /// Something changed that is not said.
    async fn update_without_words(&self, user_id: &UserId) {
        let update = DeviceUpdate {
            user_id: user_id.to_owned(),
            device_id: "NEW".into(),
            stream_id: 77,
            prev_id: vec![76],
            deleted: true,
            keys: None,
            display_name: None,
        };
        assert!(self.users.take_device_update(update).await.unwrap());
    }

    async fn update(&self, device_id: &str, stream_id: i64, prev_id: &[i64], public: Option<&str>) -> bool {
        let keys = public.map(|public| {
            let mut keys = device_keys(&bob(), device_id);
            keys["keys"] = json!({ format!("ed25519:{device_id}"): public });
            serde_json::value::to_raw_value(&keys).unwrap()
        });
        let update = DeviceUpdate {
            user_id: bob(),
            device_id: device_id.into(),
            stream_id,
            prev_id: prev_id.to_vec(),
            deleted: public.is_none(),
            keys,
            display_name: None,
        };
        self.users.take_device_update(update).await.unwrap()
    }

    /// Public keys of bob's devices as clients are told, or that his server did not answer.
    async fn query(&self, far: &Far) -> Result<Vec<String>, String> {
        let asker = id("alice");
        let wanted = WantedDevices::from([(bob(), vec![])]);
        let query = self.users.query_keys(far, &asker, wanted, 100).await.unwrap();
        if let Some(failure) = query.failures.values().next() {
            return Err(failure.clone());
        }
        let devices = query.device_keys.get(&bob()).ok_or("no such user")?;
        let public = devices
            .iter()
            .map(|(device_id, keys)| value(keys)["keys"][format!("ed25519:{device_id}")].as_str().unwrap().to_owned());
        Ok(public.collect())
    }

    async fn told_of_changes(&self, since: &hearth_store::Positions) -> bool {
        let bob = self.store.user_number(&bob()).await.unwrap().unwrap();
        self.store.device_lists_since(since).await.unwrap().unwrap().contains(&bob)
    }
}

const ROOM: RoomNumber = RoomNumber(7);

#[tokio::test(start_paused = true)]
async fn a_list_is_asked_for_once_and_then_follows_the_updates() {
    let world = world().await;
    let far = Far::default();
    world.share(&bob(), ROOM, Membership::Join).await;
    far.tell(&bob(), 3, &[("A", "a")]);
    assert_eq!(world.query(&far).await.unwrap(), ["a"]);
    assert_eq!(far.asked(), (1, 0));
    let since = world.store.live().positions();
    assert!(world.update("B", 5, &[3], Some("b")).await);
    assert!(world.told_of_changes(&since).await);
    assert!(world.update("A", 6, &[5], None).await);
    assert_eq!(world.query(&far).await.unwrap(), ["b"]);
    // Cross-signing keys come by themselves.
    let master = serde_json::value::to_raw_value(&json!({ "user_id": bob(), "keys": { "k": "master" } })).unwrap();
    let keys = SigningKeysUpdate { user_id: bob(), master_key: Some(master), self_signing_key: None };
    assert!(world.users.take_signing_keys(keys).await.unwrap());
    let wanted = WantedDevices::from([(bob(), vec![])]);
    let query = world.users.query_keys(&far, &id("alice"), wanted, 100).await.unwrap();
    assert_eq!(value(&query.master_keys[&bob()])["keys"]["k"], "master");
    assert_eq!(far.asked(), (0, 0), "nobody was asked again");
}

#[tokio::test(start_paused = true)]
async fn a_gap_makes_the_list_stale_until_it_was_asked_for() {
    let engine = MemEngine::new();
    let world = World::over(Arc::clone(&engine)).await;
    let far = Arc::new(Far::default());
    world.share(&bob(), ROOM, Membership::Join).await;
    far.tell(&bob(), 1, &[("A", "a")]);
    world.query(&far).await.unwrap();
    assert!(world.update("A", 3, &[2], Some("c")).await);
    far.lists.lock().clear();
    assert!(world.query(&far).await.is_err(), "what is out of date is not told");
    // It stays stale over a restart, and is asked for until it comes.
    let world = World::over(engine).await;
    assert!(world.query(&far).await.is_err());
    let since = world.store.live().positions();
    world.users.keep_lists_fresh(Arc::clone(&far) as _);
    tokio::time::sleep(Duration::from_secs(1)).await;
    far.tell(&bob(), 3, &[("A", "c")]);
    tokio::time::sleep(Duration::from_secs(10 * 60)).await;
    assert!(world.told_of_changes(&since).await);
    far.asked();
    assert_eq!(world.query(&far).await.unwrap(), ["c"]);
    assert_eq!(far.asked(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn lists_of_those_with_whom_no_room_is_shared_are_not_kept() {
    let world = world().await;
    let far = Far::default();
    far.tell(&bob(), 1, &[("A", "a")]);
    assert!(!world.update("A", 1, &[], Some("a")).await, "a stranger");
    world.store.ensure_user_number(&bob()).await.unwrap();
    assert!(!world.update("A", 1, &[], Some("a")).await);
    world.query(&far).await.unwrap_err();
    assert_eq!(far.asked(), (0, 1), "asked, and not kept");
    let other = RoomNumber(8);
    world.share(&bob(), ROOM, Membership::Join).await;
    world.share(&bob(), other, Membership::Join).await;
    world.query(&far).await.unwrap();
    let user = world.store.user_number(&bob()).await.unwrap().unwrap();
    let left = world.share(&bob(), ROOM, Membership::Leave).await;
    world.users.forget_remote_list(user, ROOM, left).await.unwrap();
    far.asked();
    assert_eq!(world.query(&far).await.unwrap(), ["a"]);
    assert_eq!(far.asked(), (0, 0), "the other room is still shared");
    // Who comes back at once was out of sight all the same.
    let left = world.share(&bob(), other, Membership::Leave).await;
    world.share(&bob(), ROOM, Membership::Join).await;
    world.users.forget_remote_list(user, other, left).await.unwrap();
    assert_eq!(world.query(&far).await.unwrap(), ["a"]);
    assert_eq!(far.asked(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn lists_that_are_too_large_are_not_kept() {
    let world = world().await;
    let far = Far::default();
    world.share(&bob(), ROOM, Membership::Join).await;
    let names: Vec<String> = (0..600).map(|nth| format!("D{nth}")).collect();
    let devices: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    far.tell(&bob(), 1, &devices);
    assert!(world.query(&far).await.is_err(), "his server was asked, and says nothing");
    assert_eq!(far.asked(), (1, 1));
    // An update that would make it too large is as good as a missing one.
    far.tell(&bob(), 1, &devices[..500]);
    assert_eq!(world.query(&far).await.unwrap().len(), 500);
    world.update("MORE", 2, &[1], Some("x")).await;
    far.tell(&bob(), 2, &devices[..10]);
    assert_eq!(world.query(&far).await.unwrap().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn changes_of_lists_that_cannot_be_kept_are_told_once_each() {
    let world = world().await;
    let far = Arc::new(Far::default());
    world.share(&bob(), ROOM, Membership::Join).await;
    let names: Vec<String> = (0..600).map(|nth| format!("D{nth}")).collect();
    let devices: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    far.tell(&bob(), 1, &devices[..10]);
    world.query(&far).await.unwrap();
    world.users.keep_lists_fresh(Arc::clone(&far) as _);
    far.tell(&bob(), 1, &devices);
    for stream_id in [11, 12] {
        let since = world.store.live().positions();
        world.update("MORE", stream_id, &[10], Some("x")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.told_of_changes(&since).await, "{stream_id}");
        let since = world.store.live().positions();
        tokio::time::sleep(Duration::from_secs(10 * 60 * 60)).await;
        assert!(far.asked().0 > 1, "it is asked for again");
        assert!(!world.told_of_changes(&since).await, "nothing is new: {stream_id}");
    }
    // A server that answers for another user.
    far.lists.lock().insert(bob().to_string(), json!({ "user_id": "@x:far.test", "stream_id": 1, "devices": [] }));
    let since = world.store.live().positions();
    world.update("MORE", 13, &[12], Some("x")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.told_of_changes(&since).await);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_too_large_makes_a_known_list_be_asked_for() {
    let world = world().await;
    let far = Arc::new(Far::default());
    world.share(&bob(), ROOM, Membership::Join).await;
    far.tell(&bob(), 1, &[("A", "a")]);
    world.query(&far).await.unwrap();
    world.users.keep_lists_fresh(Arc::clone(&far) as _);
    tokio::time::sleep(Duration::from_secs(1)).await;
    far.asked();
    let master = serde_json::value::to_raw_value(&json!({ "more": "x".repeat(100_000) })).unwrap();
    let keys = SigningKeysUpdate { user_id: bob(), master_key: Some(master), self_signing_key: None };
    assert!(world.users.take_signing_keys(keys).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(far.asked(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_asks_gets_in_time_what_a_server_tells_that_fails_over_some_lists() {
    let world = world().await;
    let far = Arc::new(Far::default());
    let [carol, dave] = ["@carol:far.test", "@dave:far.test"].map(|name| UserId::parse(name).unwrap());
    for user_id in [&bob(), &carol, &dave] {
        world.share(user_id, ROOM, Membership::Join).await;
    }
    // Bob's list does not come, neither for us in the background, nor for those who wait; carol's is an error.
    far.hangs.lock().insert(bob().to_string());
    far.tell(&dave, 1, &[("D", "d")]);
    *far.keys.lock() = json!({
        bob(): { "B": device_keys(&bob(), "B") }, &carol: { "C": device_keys(&carol, "C") },
    });
    world.users.keep_lists_fresh(Arc::clone(&far) as _);
    world.update("B", 1, &[], Some("b")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(std::mem::take(&mut *far.waited.lock()), [false]);
    let begun = tokio::time::Instant::now();
    let wanted = [bob(), carol.clone(), dave.clone()].map(|user_id| (user_id, vec![]));
    let query = world.users.query_keys(&*far, &id("alice"), wanted.into_iter().collect(), 10_000).await.unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(10), "{:?}", begun.elapsed());
    let found: Vec<_> = query.device_keys.iter().map(|(user_id, devices)| (user_id, devices.len())).collect();
    assert_eq!(found, [(&bob(), 1), (&carol, 1), (&dave, 1)]);
    assert!(query.failures.is_empty(), "{:?}", query.failures);
    assert_eq!(*far.waited.lock(), [true, true], "who waits does not heed that the server was not reached lately");
    // Bob's comes once his server is well.
    far.hangs.lock().clear();
    far.tell(&bob(), 1, &[("B", "b")]);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(world.query(&far).await.unwrap(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn no_server_holds_back_another() {
    let world = world().await;
    let far = Arc::new(Far::default());
    let carol = UserId::parse("@carol:else.test").unwrap();
    let many: Vec<OwnedUserId> = (0..20).map(|nth| UserId::parse(format!("@u{nth}:far.test")).unwrap()).collect();
    for user_id in many.iter().chain([&carol]) {
        world.share(user_id, ROOM, Membership::Join).await;
    }
    world.users.keep_lists_fresh(Arc::clone(&far) as _);
    for user_id in &many {
        far.hangs.lock().insert(user_id.to_string());
        world.update_without_words(user_id).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(far.asked().0, 1, "one list of the server at a time");
    far.tell(&carol, 77, &[("C", "c")]);
    world.update_without_words(&carol).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(far.asked().0, 1);
    let wanted = WantedDevices::from([(carol.clone(), vec![])]);
    let query = world.users.query_keys(&*far, &id("alice"), wanted, 1_000).await.unwrap();
    assert_eq!((query.device_keys[&carol].len(), far.asked()), (1, (0, 0)), "it is kept, and nobody was asked");
    // All of the other server's come in the end, in more than one turn.
    far.hangs.lock().clear();
    for user_id in &many {
        far.tell(user_id, 77, &[("D", "d")]);
    }
    tokio::time::sleep(Duration::from_secs(10 * 60)).await;
    let wanted = many.iter().map(|user_id| (user_id.clone(), vec![])).collect();
    far.asked();
    let query = world.users.query_keys(&*far, &id("alice"), wanted, 1_000).await.unwrap();
    assert_eq!((query.device_keys.len(), far.asked()), (many.len(), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_with_many_lists_gives_way_after_its_turn() {
    let world = world().await;
    let far = Arc::new(Far::default());
    // As many slow servers as are asked at once, each with more lists than a turn can have.
    let of = |server: usize, nth: usize| UserId::parse(format!("@u{nth}:slow{server}.test")).unwrap();
    for server in 0..32 {
        for nth in 0..10 {
            let user_id = of(server, nth);
            world.share(&user_id, ROOM, Membership::Join).await;
            far.hangs.lock().insert(user_id.to_string());
            world.update_without_words(&user_id).await;
        }
    }
    let carol = UserId::parse("@carol:else.test").unwrap();
    world.share(&carol, ROOM, Membership::Join).await;
    far.tell(&carol, 77, &[("C", "c")]);
    world.users.keep_lists_fresh(Arc::clone(&far) as _);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.update_without_words(&carol).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    far.asked();
    let wanted = WantedDevices::from([(carol.clone(), vec![])]);
    let query = world.users.query_keys(&*far, &id("alice"), wanted, 1_000).await.unwrap();
    assert_eq!((query.device_keys[&carol].len(), far.asked()), (1, (0, 0)));
}

#[tokio::test]
async fn a_device_with_an_endless_id_makes_the_list_stale_also_where_it_is_deleted() {
    let world = World::over(MemEngine::new()).await;
    let far = Arc::new(Far::default());
    world.share(&bob(), ROOM, Membership::Join).await;
    far.tell(&bob(), 1, &[("A", "a")]);
    world.query(&far).await.unwrap();
    assert!(world.update(&"x".repeat(2_000), 2, &[1], None).await);
    far.lists.lock().clear();
    assert!(world.query(&far).await.is_err(), "what is out of date is not told");
}
