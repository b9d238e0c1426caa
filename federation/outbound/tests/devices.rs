//! Which servers hear of our users' devices, and messages to devices of others.

use std::collections::BTreeMap;

use hearth_users::{AccountKind, Localpart, NewAccount, SessionWish, keys::KeyUpload};
use ruma::{OwnedDeviceId, UserId};

use super::*;

impl World {
    /// Alice, with a device A that has keys.
    async fn with_keys(&self) -> OwnedUserId {
        let localpart = Localpart::parse("alice", US.try_into().unwrap()).unwrap();
        let new = NewAccount { localpart, password: None, kind: AccountKind::Full, admin: false };
        let alice = self.users.create(&new).await.unwrap();
        self.log_in(&alice, "A").await;
        self.upload(&alice, "A", "first").await;
        self.settle().await;
        alice
    }

    async fn log_in(&self, user_id: &UserId, device_id: &str) {
        let wish = SessionWish { device_id: Some(device_id.into()), ..SessionWish::default() };
        self.users.open_session(user_id, None, &wish).await.unwrap();
    }

    async fn upload(&self, user_id: &UserId, device_id: &str, key: &str) {
        let keys = json!({
            "user_id": user_id, "device_id": device_id, "algorithms": [],
            "keys": { format!("ed25519:{device_id}"): key }, "signatures": {},
        });
        let Value::Object(keys) = keys else { unreachable!() };
        let upload = KeyUpload { device_keys: Some(keys), ..KeyUpload::default() };
        self.users.upload_keys(user_id, device_id.into(), upload).await.unwrap();
    }

    /// The contents of the device updates that went to a server since this was last asked.
    fn updates(&self, server: &str) -> Vec<Value> {
        let edus = self.script.take(server).into_iter().flat_map(|sent| sent.edus());
        let updates = edus.filter(|edu| edu["edu_type"] == "m.device_list_update");
        updates.map(|edu| edu["content"].clone()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn each_change_names_the_one_before() {
    let w = World::new().await;
    let alice = w.with_keys().await;
    assert!(w.script.sent.lock().is_empty(), "nobody shares a room");
    w.room(&["@bob:far.test"]).await;
    w.settle().await;
    // The server that came learns that there is a list: perhaps for her coming and for its own.
    let mut announced = w.updates("far.test");
    announced.dedup();
    assert_eq!(announced.len(), 1, "{announced:?}");
    assert_eq!((&announced[0]["device_id"], &announced[0]["prev_id"]), (&json!("A"), &json!([])));
    let mut last = announced[0]["stream_id"].clone();
    assert_eq!(last, json!(w.users.device_list(&alice).await.unwrap().unwrap().stream_id));

    w.upload(&alice, "A", "second").await;
    w.log_in(&alice, "B").await;
    w.users.delete_devices(&alice, &["A".into(), "B".into()]).await.unwrap();
    w.settle().await;
    let mut updates = w.updates("far.test");
    assert_eq!(updates.len(), 4);
    let w = w.restarted().await;
    w.log_in(&alice, "C").await;
    w.settle().await;
    updates.extend(w.updates("far.test"));
    for update in &updates {
        assert_eq!(update["prev_id"], json!([last]), "{updates:?}");
        last = update["stream_id"].clone();
    }
    assert_eq!(updates.last().unwrap()["device_id"], "C");
    assert_eq!(last, json!(w.users.device_list(&alice).await.unwrap().unwrap().stream_id));
}

#[tokio::test(start_paused = true)]
async fn changes_go_to_those_who_share_a_room_and_wait_for_those_who_are_away() {
    let w = World::new().await;
    let alice = w.with_keys().await;
    let room = w.room(&["@bob:far.test", "@carol:else.test"]).await;
    w.settle().await;
    w.act(&room, "@carol:else.test", MemberAction::Leave, "@carol:else.test").await;
    w.settle().await;
    w.script.forget(&["far.test", "else.test"]);
    w.script.fail("far.test");
    w.upload(&alice, "A", "second").await;
    w.settle().await;
    w.lose("far.test").await;
    assert!(w.updates("else.test").is_empty(), "it left");
    let w = w.restarted().await;
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let updates = w.updates("far.test");
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0]["keys"]["keys"]["ed25519:A"], "second");
}

#[tokio::test(start_paused = true)]
async fn who_joins_is_announced_to_servers_that_are_new_to_them_only() {
    let w = World::new().await;
    w.room(&["@bob:far.test"]).await;
    let other = w.room(&["@bob:far.test", "@carol:else.test"]).await;
    w.with_keys().await;
    // He has no keys of which others should know.
    w.act(&other, "@dave:hearth.test", MemberAction::Join, "@dave:hearth.test").await;
    w.settle().await;
    w.script.forget(&["far.test", "else.test"]);
    w.act(&other, "@erin:third.test", MemberAction::Join, "@erin:third.test").await;
    w.settle().await;
    assert_eq!(w.updates("third.test").len(), 1, "alice's");
    assert!(w.updates("far.test").is_empty() && w.updates("else.test").is_empty());
    // Two of another come before the log is read.
    w.act(&other, "@gina:fourth.test", MemberAction::Join, "@gina:fourth.test").await;
    w.act(&other, "@hugo:fourth.test", MemberAction::Join, "@hugo:fourth.test").await;
    w.settle().await;
    assert_eq!(w.updates("fourth.test").len(), 1);
    // A second user of it brings nothing new.
    w.act(&other, "@fred:third.test", MemberAction::Join, "@fred:third.test").await;
    w.settle().await;
    assert!(w.updates("third.test").is_empty());
}

#[tokio::test(start_paused = true)]
async fn messages_to_devices_go_out_before_what_needs_them_and_survive() {
    let w = World::new().await;
    let alice = w.with_keys().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.take("far.test");
    let device = OwnedDeviceId::from("A");
    let send = async |w: &World, transaction: &str| {
        let content = to_raw_value(&json!({ "key": transaction })).unwrap();
        let devices = BTreeMap::from([(OwnedDeviceId::from("B"), content)]);
        let contents = BTreeMap::from([(user("@bob:far.test"), devices)]);
        w.users.send_to_device(&alice, &device, "m.room.encrypted", transaction, &contents).await.unwrap();
    };
    send(&w, "one").await;
    w.say(&room, "@alice:hearth.test", "encrypted").await;
    w.settle().await;
    let sent = w.script.take("far.test");
    assert_eq!(sent[0].edus()[0]["content"]["messages"]["@bob:far.test"]["B"]["key"], "one");
    // Stored, and the process dies before anything is read.
    send(&w, "two").await;
    let w = w.restarted().await;
    send(&w, "two").await;
    w.settle().await;
    // What was not noted as delivered yet is told again.
    let edus = w.script.take("far.test").into_iter().flat_map(|sent| sent.edus());
    let keys: Vec<_> = edus.filter(|edu| edu["edu_type"] == "m.direct_to_device").collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!(keys[0]["content"]["messages"]["@bob:far.test"]["B"]["key"], "two");
}
