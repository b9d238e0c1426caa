//! Messages to devices and changes of device lists that other servers bring.

use hearth_rooms::Preset;
use hearth_users::SessionWish;
use serde_json::{Value, json};

use super::*;

impl World {
    /// Carol, with a device C.
    async fn with_device(&self) -> OwnedUserId {
        let carol = self.account("carol").await;
        let wish = SessionWish { device_id: Some("C".into()), ..SessionWish::default() };
        self.users.open_session(&carol, None, &wish).await.unwrap();
        carol
    }

    async fn transaction(&self, origin: &str, id: &str, edus: &[Value]) -> (u16, Value) {
        let body = json!({ "origin": origin, "origin_server_ts": 1, "pdus": [], "edus": edus });
        self.put(origin, &format!("v1/send/{id}"), &body).await
    }

    /// The contents that wait for a device.
    async fn waiting(&self, user_id: &OwnedUserId, device_id: &str) -> Vec<Value> {
        let user = self.store.user_number(user_id).await.unwrap().unwrap();
        let waiting = self.users.messages_to_device(user, device_id.into(), (0, u64::MAX), 1_000).await.unwrap();
        waiting.messages.iter().map(|message| serde_json::from_str(&message.content).unwrap()).collect()
    }
}

fn direct(sender: &str, message_id: &str, messages: &Value) -> Value {
    let content = json!({ "sender": sender, "type": "m.test", "message_id": message_id, "messages": messages });
    json!({ "edu_type": "m.direct_to_device", "content": content })
}

fn device_update(user_id: &OwnedUserId, stream_id: u64) -> Value {
    let content = json!({ "user_id": user_id, "device_id": "B", "stream_id": stream_id, "prev_id": [] });
    json!({ "edu_type": "m.device_list_update", "content": content })
}

#[tokio::test]
async fn messages_reach_devices_once_and_from_their_own_server_only() {
    let world = World::new().await;
    let carol = world.with_device().await;
    let one = |n: u64| json!({ &carol: { "C": { "n": n } }, "@x:else.test": { "*": {} } });
    let edus = [
        direct("@bob:far.test", "1", &one(1)),
        direct("@bob:far.test", "1", &one(2)),
        direct("@eve:else.test", "2", &one(3)),
        direct("@bob:far.test", "3", &json!({ &carol: { "C": "no object" } })),
        direct("@bob:far.test", "4", &json!(7)),
        direct("@bob:far.test", &"x".repeat(200), &one(5)),
        direct("@bob:far.test", "6", &json!({ &carol: { "*": { "n": 6 } } })),
    ];
    assert_eq!(world.transaction(FAR, "a", &edus).await.0, 200, "one that is wrong does no harm to the others");
    assert_eq!(world.transaction(FAR, "b", &edus).await.0, 200);
    assert_eq!(world.waiting(&carol, "C").await, [json!({ "n": 1 }), json!({ "n": 6 })]);
}

#[tokio::test]
async fn all_messages_for_us_may_come_in_one() {
    let world = World::new().await;
    let carol = world.with_device().await;
    // What our users need to decrypt, in the size that other servers send.
    let devices: serde_json::Map<String, Value> =
        (0..250).map(|n| (format!("OTHER{n}"), json!({ "ciphertext": "x".repeat(2_500) }))).collect();
    let mut messages = json!({ &carol: devices });
    messages[carol.as_str()]["C"] = json!({ "n": 1 });
    assert!(messages.to_string().len() > 600_000);
    // As many recipients as a large room has.
    let mut many: serde_json::Map<String, Value> =
        (0..1_500).map(|n| (ours(&format!("user{n}")).to_string(), json!({ "*": {} }))).collect();
    many.insert(carol.to_string(), json!({ "C": { "n": 2 } }));
    let edus = [direct("@bob:far.test", "1", &messages), direct("@bob:far.test", "2", &Value::Object(many))];
    assert_eq!(world.transaction(FAR, "a", &edus).await.0, 200);
    assert_eq!(world.waiting(&carol, "C").await, [json!({ "n": 1 }), json!({ "n": 2 })]);
}

#[tokio::test]
async fn a_message_that_is_wrong_does_no_harm_to_those_beside_it() {
    let world = World::new().await;
    let carol = world.with_device().await;
    let wish = SessionWish { device_id: Some("D".into()), ..SessionWish::default() };
    world.users.open_session(&carol, None, &wish).await.unwrap();
    let messages = json!({
        &carol: { "C": { "n": 1.5e3 }, "D": { "body": "x".repeat(70_000) }, "x".repeat(300): {}, "E": 7 },
        ours("alice"): "no devices",
    });
    assert_eq!(world.transaction(FAR, "a", &[direct("@bob:far.test", "1", &messages)]).await.0, 200);
    assert_eq!(world.waiting(&carol, "C").await, [json!({ "n": 1.5e3 })]);
    assert!(world.waiting(&carol, "D").await.is_empty());
}

#[tokio::test]
async fn changes_are_heeded_of_those_who_share_a_room() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    let (bob, dave) = (far("bob"), far("dave"));
    world.join(&room_id, &bob).await;
    let jobs = async || {
        let range = hearth_ports::KeyRange::prefix(hearth_store::tables::users::refreshes_prefix());
        let page = hearth_ports::Page::first(10);
        world.store.scan_bytes(hearth_store::Table::Mi, range, page).await.unwrap().len()
    };
    let edus =
        [device_update(&dave, 1), device_update(&ours("alice"), 1), json!({ "edu_type": "m.device_list_update" })];
    assert_eq!(world.transaction(FAR, "a", &edus).await.0, 200);
    assert_eq!(world.transaction("else.test", "a", &[device_update(&bob, 1)]).await.0, 200);
    assert_eq!(jobs().await, 0);
    // However much it says to follow, it says that something changed.
    let mut update = device_update(&bob, 1);
    update["content"]["prev_id"] = (100..1_000).collect();
    assert_eq!(world.transaction(FAR, "b", &[update, device_update(&bob, 2)]).await.0, 200);
    assert_eq!(jobs().await, 1, "his list is to be asked for");
}
