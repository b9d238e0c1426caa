//! Devices and keys of our users.

use hearth_users::{SessionWish, keys::KeyUpload};

use super::*;

impl World {
    /// Carol with a device that has a one-time key.
    async fn carol(&self) -> OwnedUserId {
        let carol = self.account("carol").await;
        let wish = SessionWish { device_id: Some("C".into()), ..SessionWish::default() };
        self.users.open_session(&carol, None, &wish).await.unwrap();
        self.users.rename_device(&carol, "C", Some("Carol's secret phone")).await.unwrap();
        let Value::Object(device_keys) = device() else { unreachable!() };
        let upload = KeyUpload {
            device_keys: Some(device_keys),
            one_time_keys: [("c:1".to_owned(), json!("key"))].into_iter().collect(),
            fallback_keys: Map::new(),
        };
        self.users.upload_keys(&carol, <&ruma::DeviceId>::from("C"), upload).await.unwrap();
        carol
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.request(FAR, "POST", path, body.to_string().into()).await
    }
}

fn device() -> Value {
    json!({ "user_id": "@carol:hearth.test", "device_id": "C", "algorithms": [], "keys": {}, "signatures": {} })
}

#[tokio::test]
async fn devices_are_told_without_their_names() {
    let world = World::new().await;
    let carol = world.carol().await;
    let mut keys = device();
    keys["unsigned"] = json!({});
    let (status, list) = world.get(FAR, &format!("v1/user/devices/{carol}")).await;
    assert_eq!(status, 200);
    assert_eq!(list["stream_id"], 0, "nobody was told of a change");
    assert_eq!(list["devices"], json!([{ "device_id": "C", "keys": keys }]));
    let wanted = json!({ "device_keys": { &carol: [], "@bob:far.test": [], "@nobody:hearth.test": [] } });
    let (status, answer) = world.post("v1/user/keys/query", &wanted).await;
    assert_eq!((status, &answer["device_keys"]), (200, &json!({ &carol: { "C": keys } })));
    for (user_id, expected) in [
        ("@nobody:hearth.test", expect(404, "M_NOT_FOUND")),
        ("@bob:far.test", expect(400, "M_INVALID_PARAM")),
        ("bob", expect(400, "M_INVALID_PARAM")),
    ] {
        assert_eq!(world.refused(FAR, "GET", &format!("v1/user/devices/{user_id}"), &Value::Null).await, expected);
    }
}

#[tokio::test]
async fn keys_are_given_to_other_servers_once() {
    let world = World::new().await;
    let carol = world.carol().await;
    let wanted = json!({ "one_time_keys": { &carol: { "C": "c" }, "@bob:far.test": { "B": "c" } } });
    let claim = async || world.post("v1/user/keys/claim", &wanted).await;
    assert_eq!(claim().await, (200, json!({ "one_time_keys": { &carol: { "C": { "c:1": "key" } } } })));
    assert_eq!(claim().await, (200, json!({ "one_time_keys": {} })));
    for (path, field) in [("v1/user/keys/claim", "one_time_keys"), ("v1/user/keys/query", "device_keys")] {
        let expected = expect(400, "M_BAD_JSON");
        assert_eq!(world.refused(FAR, "POST", path, &json!({})).await, expected);
        assert_eq!(world.refused(FAR, "POST", path, &json!({ field: { "bob": {} } })).await, expected);
        assert_eq!(world.refused(FAR, "POST", path, &json!({ field: { &carol: 1 } })).await, expected);
    }
    let many: Map<String, Value> = (0..20_000).map(|nth| (nth.to_string(), json!("c"))).collect();
    let many = json!({ "one_time_keys": { &carol: many } });
    assert_eq!(world.refused(FAR, "POST", "v1/user/keys/claim", &many).await, expect(413, "M_TOO_LARGE"));
}
