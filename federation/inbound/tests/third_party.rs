//! Pending invites whose identifier was bound.

use hearth_core::SigningKey;
use hearth_rooms::Membership;
use ruma::server_name;

use super::*;

fn identity_key() -> SigningKey {
    SigningKey::from_seed(&[42; 32], "0")
}

/// The identity server's word that a user is who was invited.
fn proof(user_id: &OwnedUserId) -> Value {
    let word = json!({ "mxid": user_id, "token": "token" }).to_string();
    serde_json::from_str(&identity_key().sign_json(server_name!("id.test"), word.as_bytes()).unwrap()).unwrap()
}

impl World {
    /// A private room of Alice's with a pending invite.
    async fn pending(&self) -> OwnedRoomId {
        let room_id = self.create(Preset::Private).await;
        let content = json!({ "display_name": "somebody", "public_key": identity_key().public_key_base64() });
        let change = StateChange {
            room_id: room_id.clone(),
            sender: ours("alice"),
            kind: "m.room.third_party_invite".to_owned(),
            state_key: "token".to_owned(),
            content: to_raw_value(&content).unwrap(),
            guest: false,
            ts_ms: None,
        };
        self.rooms.set_state(change).await.unwrap();
        room_id
    }
}

#[tokio::test]
async fn an_identity_server_tells_of_a_bound_identifier() {
    let world = World::new().await;
    let (carol, room_id) = (world.account("carol").await, world.pending().await);
    let invite = |user_id: &OwnedUserId| {
        json!({
            "medium": "email", "address": "c@x.test", "mxid": user_id, "room_id": room_id, "sender": ours("alice"),
            "signed": proof(user_id),
        })
    };
    let body = |user_id: &OwnedUserId, invites: Vec<Value>| json!({ "medium": "email", "address": "c@x.test", "mxid": user_id, "invites": invites });
    let path = "v1/3pid/onbind";
    // One that makes no sense, or is another's, does not take the others with it.
    let invites = vec![json!({ "nonsense": true }), json!(7), invite(&ours("dave")), invite(&carol)];
    assert_eq!(world.put("nobody", path, &body(&carol, invites)).await, (200, json!({})));
    assert_eq!(world.rooms.membership(&carol, &room_id).await.unwrap(), Some(Membership::Invite));
    assert_eq!(world.rooms.membership(&ours("dave"), &room_id).await.unwrap(), None);
    for (body, expected) in [
        (body(&ours("nobody"), vec![]), expect(403, "M_FORBIDDEN")),
        (body(&far("bob"), vec![]), expect(400, "M_INVALID_PARAM")),
        (body(&carol, vec![json!(1); 11]), expect(400, "M_BAD_JSON")),
        (json!({ "mxid": "carol", "invites": [] }), expect(400, "M_BAD_JSON")),
        (json!({ "mxid": carol }), expect(400, "M_BAD_JSON")),
    ] {
        assert_eq!(world.refused("nobody", "PUT", path, &body).await, expected, "{body}");
    }
}

#[tokio::test]
async fn servers_ask_for_invites_of_their_own_users_only() {
    let world = World::new().await;
    let room_id = world.pending().await;
    let path = format!("v1/exchange_third_party_invite/{room_id}");
    let event = |target: &OwnedUserId| {
        let content = json!({ "membership": "invite", "third_party_invite": { "signed": proof(target) } });
        json!({
            "type": "m.room.member", "room_id": room_id, "sender": ours("alice"), "state_key": target,
            "content": content,
        })
    };
    let mut topic = event(&far("bob"));
    topic["type"] = json!("m.room.topic");
    let mut forged = event(&far("bob"));
    forged["content"]["third_party_invite"]["signed"]["signatures"] = json!({});
    for (origin, event, expected) in [
        ("else.test", event(&far("bob")), expect(400, "M_INVALID_PARAM")),
        (FAR, event(&ours("alice")), expect(400, "M_INVALID_PARAM")),
        (FAR, topic, expect(400, "M_INVALID_PARAM")),
        (FAR, json!({}), expect(400, "M_INVALID_PARAM")),
        (FAR, forged, expect(403, "M_FORBIDDEN")),
    ] {
        assert_eq!(world.refused(origin, "PUT", &path, &event).await, expected, "{origin} {event}");
    }
    let unknown = "v1/exchange_third_party_invite/!none:hearth.test";
    let mut elsewhere = event(&far("bob"));
    elsewhere["room_id"] = json!("!none:hearth.test");
    assert_eq!(world.refused(FAR, "PUT", unknown, &elsewhere).await, expect(404, "M_NOT_FOUND"));
}
