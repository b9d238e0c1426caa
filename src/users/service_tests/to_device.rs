//! Messages to devices: stored once, waiting until they are delivered, gone with their device.

use hearth_ports::mem::Failure;
use hearth_store::{
    Table,
    tables::{QueuedRow, queued_prefix},
};
use ruma::{DeviceId, OwnedDeviceId};
use serde_json::{Value, json, value::to_raw_value};

use super::*;
use crate::{ToDeviceContents, ToDeviceError};

const KIND: &str = "m.room_key_request";

fn contents(messages: &Value) -> ToDeviceContents {
    serde_json::from_str(&messages.to_string()).unwrap()
}

fn id(name: &str) -> OwnedUserId {
    format!("@{name}:hearth.test").try_into().unwrap()
}

impl World {
    async fn with_devices(&self, name: &str, devices: &[&str]) -> OwnedUserId {
        let user_id = self.account(name).await;
        for device_id in devices {
            self.log_in(&user_id, &on_device(device_id)).await;
        }
        user_id
    }

    async fn tell(&self, transaction: &str, messages: &Value) -> Result<(), ToDeviceError> {
        let (sender, device) = (id("sender"), <&DeviceId>::from("S"));
        self.users.send_to_device(&sender, device, KIND, transaction, &contents(messages)).await
    }

    /// The bodies of what waits for a device.
    async fn waiting(&self, user_id: &UserId, device_id: &str) -> Vec<Value> {
        let user = self.users.number(user_id).await.unwrap().unwrap();
        let all = (0, self.store.live().position(user.partition()).0);
        let waiting = self.users.messages_to_device(user, device_id.into(), all, 1_000).await.unwrap();
        assert_eq!(waiting.more_behind, None);
        waiting.messages.iter().map(|message| serde_json::from_str(&message.content).unwrap()).collect()
    }

    async fn delivered(&self, user_id: &UserId, device_id: &str) {
        let user = self.users.number(user_id).await.unwrap().unwrap();
        let until = self.store.live().position(user.partition()).0;
        self.users.delivered_to_device(user, device_id.into(), until).await.unwrap();
    }

    /// What is queued for another server.
    async fn queued(&self, server: &str) -> Vec<Value> {
        let range = hearth_ports::KeyRange::prefix(queued_prefix(server.try_into().unwrap()));
        let rows = self.store.scan::<QueuedRow>(Table::Fd, range, hearth_ports::Page::first(1_000)).await.unwrap();
        let json = |(_, row)| match row {
            QueuedRow::Edu { json } => serde_json::from_str(&json).unwrap(),
            QueuedRow::Event { .. } => panic!("only messages are queued here"),
        };
        rows.into_iter().map(json).collect()
    }
}

#[tokio::test]
async fn each_device_gets_its_own_in_order_until_it_has_them() {
    let engine = MemEngine::new();
    let world = World::over(Arc::clone(&engine)).await;
    world.with_devices("sender", &["S"]).await;
    let alice = world.with_devices("alice", &["A", "B"]).await;
    let nobody = json!({ &alice: { "NONE": { "n": 0 } }, "@nobody:hearth.test": { "*": { "n": 0 } } });
    world.tell("0", &nobody).await.unwrap();
    world.tell("1", &json!({ &alice: { "*": { "n": 1 }, "B": { "own": 1 } } })).await.unwrap();
    world.tell("2", &json!({ &alice: { "A": { "n": 2 } } })).await.unwrap();
    // The same transaction does nothing twice, also after a restart.
    world.tell("1", &json!({ &alice: { "*": { "n": 1 } } })).await.unwrap();
    let world = World::over(engine).await;
    world.tell("2", &json!({ &alice: { "A": { "n": 2 } } })).await.unwrap();
    assert_eq!(world.waiting(&alice, "A").await, [json!({ "n": 1 }), json!({ "n": 2 })]);
    assert_eq!(world.waiting(&alice, "B").await, [json!({ "own": 1 })]);
    world.delivered(&alice, "A").await;
    assert!(world.waiting(&alice, "A").await.is_empty());
    assert_eq!(world.waiting(&alice, "B").await.len(), 1, "another device's messages stay");
    world.tell("3", &json!({ &alice: { "A": { "n": 3 } } })).await.unwrap();
    assert_eq!(world.waiting(&alice, "A").await, [json!({ "n": 3 })]);
}

#[tokio::test]
async fn what_waits_goes_with_its_device() {
    let world = world().await;
    world.with_devices("sender", &["S"]).await;
    let alice = world.with_devices("alice", &["A"]).await;
    for nth in 0..150 {
        world.tell(&nth.to_string(), &json!({ &alice: { "A": { "n": nth } } })).await.unwrap();
    }
    world.users.delete_devices(&alice, &["A".into()]).await.unwrap();
    world.tell("late", &json!({ &alice: { "A": { "n": "late" } } })).await.unwrap();
    world.log_in(&alice, &on_device("A")).await;
    assert!(world.waiting(&alice, "A").await.is_empty(), "a new device of the same id is another");
    world.tell("new", &json!({ &alice: { "A": { "n": "new" } } })).await.unwrap();
    world.users.clear_ended_devices().await.unwrap();
    assert_eq!(world.waiting(&alice, "A").await, [json!({ "n": "new" })]);
}

#[tokio::test]
async fn what_ended_devices_left_is_deleted_in_the_end() {
    let world = world().await;
    world.with_devices("sender", &["S"]).await;
    let alice = world.with_devices("alice", &["A"]).await;
    world.tell("1", &json!({ &alice: { "A": { "n": 1 } } })).await.unwrap();
    world.users.log_out_all(&alice).await.unwrap();
    assert_eq!(world.waiting(&alice, "A").await.len(), 1);
    world.users.clear_ended_devices().await.unwrap();
    assert!(world.waiting(&alice, "A").await.is_empty());
}

#[tokio::test]
async fn who_sends_again_after_a_failure_doubles_nothing() {
    let world = world().await;
    world.with_devices("sender", &["S"]).await;
    let devices: Vec<String> = (10..40).map(|nth| format!("D{nth}")).collect();
    let names: Vec<&str> = devices.iter().map(String::as_str).collect();
    let alice = world.with_devices("alice", &names).await;
    // More than a batch holds: the first is through, and nobody is told.
    let message = json!({ &alice: { "*": { "body": "x".repeat(60_000) } } });
    world.engine.fail_next(Failure::After);
    assert!(matches!(world.tell("1", &message).await, Err(ToDeviceError::Fault(_))));
    let reached = async || {
        let mut reached = 0;
        for device_id in &devices {
            reached += world.waiting(&alice, device_id).await.len();
        }
        reached
    };
    let first = reached().await;
    assert!(first > 0 && first < devices.len(), "{first}");
    world.tell("1", &message).await.unwrap();
    for device_id in &devices {
        assert_eq!(world.waiting(&alice, device_id).await.len(), 1, "{device_id}");
    }
}

#[tokio::test]
async fn messages_for_other_servers_are_queued_once_in_edus_that_fit() {
    let world = world().await;
    world.with_devices("sender", &["S"]).await;
    let large = json!({ "body": "x".repeat(40_000), "number": 150 });
    let message = json!({ "@bob:far.test": { "A": large, "B": large, "*": large }, "@carol:else.test": { "C": {} } });
    for _ in 0..2 {
        world.tell("1", &message).await.unwrap();
    }
    let edus = world.queued("far.test").await;
    assert_eq!(edus.len(), 3);
    let mut devices: Vec<String> = Vec::new();
    for edu in &edus {
        assert!(edu.to_string().len() < 65_536);
        let content = &edu["content"];
        assert_eq!((&content["sender"], &content["type"]), (&json!("@sender:hearth.test"), &json!(KIND)));
        let of_bob = content["messages"]["@bob:far.test"].as_object().unwrap();
        assert!(of_bob.values().all(|content| *content == large));
        devices.extend(of_bob.keys().cloned());
    }
    devices.sort();
    assert_eq!(devices, ["*", "A", "B"]);
    assert_ne!(edus[0]["content"]["message_id"], edus[1]["content"]["message_id"]);
    assert_eq!(world.queued("else.test").await.len(), 1);
}

#[tokio::test]
async fn what_another_server_brings_again_is_known_by_its_id() {
    let world = world().await;
    let alice = world.with_devices("alice", &["A"]).await;
    let bob = UserId::parse("@bob:far.test").unwrap();
    let bring = async |origin: &str, message_id: &str, n: u64| {
        let origin = origin.try_into().unwrap();
        let contents = contents(&json!({ &alice: { "A": { "n": n } }, "@x:else.test": { "*": {} } }));
        world.users.receive_to_device(origin, &bob, KIND, message_id, contents).await.unwrap();
    };
    bring("far.test", "one", 1).await;
    bring("far.test", "one", 2).await;
    bring("far.test", "two", 3).await;
    bring("else.test", "one", 4).await;
    assert_eq!(world.waiting(&alice, "A").await, [json!({ "n": 1 }), json!({ "n": 3 }), json!({ "n": 4 })]);
}

#[tokio::test]
async fn requests_are_bounded() {
    let world = world().await;
    world.with_devices("sender", &["S"]).await;
    let alice = world.with_devices("alice", &["A"]).await;
    let no_object = world.tell("1", &json!({ &alice: { "A": "text" } })).await;
    assert!(matches!(no_object, Err(ToDeviceError::Malformed)));
    for number in ["1.10", "1e-7", "1E5", "-0", "9007199254740992", "1".repeat(300).as_str()] {
        let messages = format!("{{\"{alice}\":{{\"A\":{{\"deep\":[{{\"x\":{number}}}]}}}}}}");
        let messages: ToDeviceContents = serde_json::from_str(&messages).unwrap();
        let (sender, device) = (id("sender"), <&DeviceId>::from("S"));
        let sent = world.users.send_to_device(&sender, device, KIND, "n", &messages).await;
        assert!(matches!(sent, Err(ToDeviceError::Malformed)), "{number}");
        // What another server lets pass is not lost for it.
        let (bob, origin) = (UserId::parse("@bob:far.test").unwrap(), "far.test".try_into().unwrap());
        assert_eq!(world.users.receive_to_device(origin, &bob, KIND, number, messages).await.unwrap(), 0);
    }
    assert_eq!(world.waiting(&alice, "A").await.len(), 6);
    world.delivered(&alice, "A").await;
    let large = json!({ &alice: { "A": { "body": "x".repeat(70_000) } } });
    assert!(matches!(world.tell("1", &large).await, Err(ToDeviceError::TooLarge(_))));
    let many = (0..2_000).map(|nth| {
        let devices = [(OwnedDeviceId::from("A"), to_raw_value(&json!({})).unwrap())];
        (id(&format!("u{nth}")), devices.into_iter().collect())
    });
    let (sender, device) = (id("sender"), <&DeviceId>::from("S"));
    let sent = world.users.send_to_device(&sender, device, KIND, "1", &many.collect()).await;
    assert!(matches!(sent, Err(ToDeviceError::TooLarge(_))));
    assert!(world.waiting(&alice, "A").await.is_empty());
}
