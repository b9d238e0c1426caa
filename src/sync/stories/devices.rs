//! Messages to devices, and whose device lists changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hearth_store::{LogEntry, Write, tables::Membership};
use hearth_users::{AccountKind, Localpart, NewAccount, SessionWish, ToDeviceContents, keys::KeyUpload};
use ruma::{UserId, server_name};
use serde_json::{Value, json};

use super::world::{Person, Room, World, following};
use crate::{KeyChanges, SyncQuery};

impl World {
    /// Somebody with an account and a device in it.
    async fn account(&self, name: &str) -> Person {
        let localpart = Localpart::parse(name, server_name!("hearth")).expect("a name");
        let new = NewAccount { localpart, password: None, kind: AccountKind::Full, admin: false };
        let user_id = self.users.create(&new).await.expect("a free name");
        let person = self.person(name).await;
        self.log_in(&user_id, person.reader.device_id.as_str()).await;
        person
    }

    async fn log_in(&self, user_id: &UserId, device_id: &str) {
        let wish = SessionWish { device_id: Some(device_id.into()), ..SessionWish::default() };
        self.users.open_session(user_id, None, &wish).await.expect("an account");
    }

    async fn tell(&self, from: &Person, to: &Person, transaction: usize) {
        let content = json!({ to.id(): { "DEVICE": { "n": transaction } } }).to_string();
        let contents: ToDeviceContents = serde_json::from_str(&content).expect("contents");
        let (sender, device) = (&from.reader.user_id, &from.reader.device_id);
        let transaction = transaction.to_string();
        let sent = self.users.send_to_device(sender, device, "m.test", &transaction, &contents);
        sent.await.expect("memory commits");
    }

    async fn change_devices(&self, person: &Person) {
        let user = self.store.user_number(&person.reader.user_id).await.expect("memory reads").expect("a person");
        let mut write = Write::new(user.partition());
        let at = write.position();
        write.log(at, LogEntry::DeviceList { user });
        self.store.commit(write).await.expect("memory commits");
    }
}

fn numbers(answer: &Value) -> Vec<u64> {
    let events = answer["to_device"]["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().map(|event| event["content"]["n"].as_u64().expect("a number")).collect()
}

/// Of a section of `device_lists`, the names.
fn lists<'a>(answer: &'a Value, section: &str) -> Vec<&'a str> {
    let users = answer["device_lists"][section].as_array().map(Vec::as_slice).unwrap_or_default();
    users.iter().filter_map(Value::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn messages_come_in_parts_and_again_until_they_are_confirmed() {
    let world = World::new().await;
    let (alice, bob) = (world.account("alice").await, world.account("bob").await);
    for n in 0..250 {
        world.tell(&alice, &bob, n).await;
    }
    let first = world.first(&bob, json!({})).await;
    assert_eq!(numbers(&first), (0..100).collect::<Vec<_>>());
    assert_eq!(first["to_device"]["events"][0]["sender"], alice.id());
    // The same place again: the answer was lost.
    assert_eq!(numbers(&world.first(&bob, json!({})).await), (0..100).collect::<Vec<_>>());
    let second = world.next(&bob, &first, json!({})).await;
    assert_eq!(numbers(&second), (100..200).collect::<Vec<_>>());
    assert_eq!(numbers(&world.first(&bob, json!({})).await), (100..200).collect::<Vec<_>>(), "what it has is gone");
    // More is left: nobody waits.
    let query = SyncQuery { timeout_ms: 30_000, ..following(&second, json!({})) };
    let third = world.sync(&bob, &query).await;
    assert_eq!(numbers(&third), (200..250).collect::<Vec<_>>());
    let last = world.next(&bob, &third, json!({})).await;
    assert!(last.get("to_device").is_none());
    assert!(numbers(&world.first(&bob, json!({})).await).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_ends_a_long_poll_and_is_not_lost() {
    let world = Arc::new(World::new().await);
    let (alice, bob) = (world.account("alice").await, world.account("bob").await);
    let first = world.first(&bob, json!({})).await;
    let mut last = world.next(&bob, &first, json!({})).await;
    for n in 0..20 {
        let query = SyncQuery { timeout_ms: 30_000, ..following(&last, json!({})) };
        let begun = tokio::time::Instant::now();
        let waiting = tokio::spawn({
            let (world, bob) = (Arc::clone(&world), bob.clone());
            async move { world.sync(&bob, &query).await }
        });
        tokio::task::yield_now().await;
        world.tell(&alice, &bob, n).await;
        last = waiting.await.expect("it ends");
        assert_eq!(numbers(&last), [n as u64]);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn the_present_of_old_tools_confirms_nothing() {
    let world = World::new().await;
    let (alice, bob) = (world.account("alice").await, world.account("bob").await);
    world.tell(&alice, &bob, 1).await;
    let query = SyncQuery { since: Some(world.syncs.now_token()), ..SyncQuery::default() };
    assert_eq!(numbers(&world.sync(&bob, &query).await), [1]);
}

#[tokio::test(start_paused = true)]
async fn changes_of_those_who_share_a_room_are_told() {
    let world = World::new().await;
    let (alice, bob, carol) = (world.person("alice").await, world.person("bob").await, world.person("carol").await);
    let room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    let first = world.first(&bob, json!({})).await;
    assert!(first.get("device_lists").is_none());
    let before = world.next(&bob, &first, json!({})).await;
    for person in [&alice, &bob, &carol] {
        world.change_devices(person).await;
    }
    let after = world.next(&bob, &before, json!({})).await;
    assert_eq!(lists(&after, "changed"), [alice.id(), bob.id()]);
    assert!(world.next(&bob, &after, json!({})).await.get("device_lists").is_none());
    // Memory does not know it any more; the log does.
    let world = World::over(world.engine.clone(), 2).await;
    let after = world.next(&bob, &before, json!({})).await;
    assert_eq!(lists(&after, "changed"), [alice.id(), bob.id()]);
}

#[tokio::test(start_paused = true)]
async fn who_is_met_is_told_and_who_is_left() {
    let world = World::new().await;
    let (alice, bob, carol) = (world.person("alice").await, world.person("bob").await, world.person("carol").await);
    let (one, two) = (world.room("one", &alice).await, world.room("two", &alice).await);
    one.member(&bob, &bob, Membership::Join).await;
    let first = world.first(&bob, json!({})).await;
    let start = world.next(&bob, &first, json!({})).await;
    // Somebody comes.
    one.member(&carol, &carol, Membership::Join).await;
    let met = world.next(&bob, &start, json!({})).await;
    assert_eq!((lists(&met, "changed"), lists(&met, "left")), (vec![carol.id()], vec![]));
    // The reader comes.
    two.member(&bob, &bob, Membership::Join).await;
    let came = world.next(&bob, &met, json!({})).await;
    assert!(lists(&came, "changed").contains(&alice.id()));
    // The reader goes: alice is still in the other room.
    one.member(&bob, &bob, Membership::Leave).await;
    let left = world.next(&bob, &came, json!({})).await;
    assert_eq!((lists(&left, "changed"), lists(&left, "left")), (vec![], vec![carol.id()]));
    // She goes too, and comes back within one interval: she was out of sight.
    two.member(&alice, &alice, Membership::Leave).await;
    two.member(&alice, &alice, Membership::Join).await;
    let back = world.next(&bob, &left, json!({})).await;
    assert_eq!((lists(&back, "changed"), lists(&back, "left")), (vec![alice.id()], vec![]));
    two.member(&alice, &alice, Membership::Leave).await;
    let gone = world.next(&bob, &back, json!({})).await;
    assert_eq!((lists(&gone, "changed"), lists(&gone, "left")), (vec![], vec![alice.id()]));
    check_changes(&world, &bob, [&came, &gone], &[], &[&alice, &carol]).await;
    check_changes(&world, &bob, [&start, &met], &[], &[&alice, &carol]).await;
}

/// What `/keys/changes` says between two answers.
async fn check_changes(world: &World, reader: &Person, tokens: [&Value; 2], changed: &[&Person], left: &[&Person]) {
    let [from, to] = tokens.map(|answer| answer["next_batch"].as_str().expect("a token"));
    let found = world.syncs.key_changes(&reader.reader, from, to).await.expect("the tokens are ours");
    let ids = |people: &[&Person]| people.iter().map(|person| person.reader.user_id.clone()).collect::<Vec<_>>();
    assert_eq!(found, KeyChanges { changed: ids(changed), left: ids(left) });
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_last_key_was_given_out_learns_that() {
    const ALGORITHM: &str = "signed_curve25519";
    let world = World::new().await;
    let alice = world.account("alice").await;
    let (user_id, device_id) = (&alice.reader.user_id, &alice.reader.device_id);
    let upload = async |keys: Value| {
        let one_time_keys = serde_json::from_value(keys).expect("an object");
        let upload = KeyUpload { one_time_keys, ..KeyUpload::default() };
        world.users.upload_keys(user_id, device_id, upload).await.expect("a key").one_time[ALGORITHM]
    };
    assert_eq!(upload(json!({ "signed_curve25519:1": { "key": "k" } })).await, 1);
    let first = world.first(&alice, json!({})).await;
    assert_eq!(first["device_one_time_keys_count"], json!({ ALGORITHM: 1 }));
    let device = BTreeMap::from([(device_id.clone(), ALGORITHM.to_owned())]);
    assert_eq!(world.users.claim_local_keys(BTreeMap::from([(user_id.clone(), device)])).await.len(), 1);
    let next = world.next(&alice, &first, json!({})).await;
    assert_eq!(next["device_one_time_keys_count"], json!({ ALGORITHM: 0 }));
    assert_eq!(upload(json!({})).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_room_that_becomes_encrypted_makes_its_members_known() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room: Room = world.room("room", &alice).await;
    room.member(&bob, &bob, Membership::Join).await;
    let first = world.first(&bob, json!({})).await;
    let content = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    room.send(&alice, "m.room.encryption", Some(""), content).await;
    let next = world.next(&bob, &first, json!({})).await;
    assert_eq!(lists(&next, "changed"), [alice.id()]);
}
