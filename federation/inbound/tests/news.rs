//! Typing, receipts and presence of other servers' users.

use hearth_rooms::Preset;
use hearth_store::Position;
use hearth_users::{PresenceState, Receipt, ReceiptKind, Typing};
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::inbound::ephemeral::Ephemeral;

impl World {
    /// What a server tells beside events.
    async fn tell(&self, origin: &str, items: &[Value]) {
        let origin: &ServerName = origin.try_into().unwrap();
        let items: Vec<Box<RawValue>> = items.iter().map(|item| to_raw_value(item).unwrap()).collect();
        let items: Vec<&RawValue> = items.iter().map(|item| &**item).collect();
        let mut news = Ephemeral::read(origin, &items);
        news.tell(&self.state, origin).await;
        news.read_up_to(&self.state, origin).await;
    }

    async fn typing(&self, room_id: &RoomId) -> Vec<OwnedUserId> {
        let room = self.store.room_number(room_id).await.unwrap().unwrap();
        self.users.typing_since(room, 0).map_or_else(Vec::new, |Typing { users, .. }| users)
    }

    async fn receipts(&self, room_id: &RoomId) -> Vec<Receipt> {
        let room = self.store.room_number(room_id).await.unwrap().unwrap();
        let reader = self.store.user_number(&ours("alice")).await.unwrap().unwrap();
        self.users.receipts_since(room, reader, Position(0), Position(u64::MAX), 100).await.unwrap()
    }
}

fn typing(room_id: &RoomId, user_id: &OwnedUserId, typing: bool) -> Value {
    let content = json!({ "room_id": room_id, "user_id": user_id, "typing": typing });
    json!({ "edu_type": "m.typing", "content": content })
}

fn receipt(room_id: &RoomId, users: &Value) -> Value {
    json!({ "edu_type": "m.receipt", "content": { room_id.as_str(): { "m.read": users } } })
}

#[tokio::test(start_paused = true)]
async fn who_types_is_seen_for_a_while() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    let bob = far("bob");
    world.join(&room_id, &bob).await;
    world.tell(FAR, &[json!(7), json!({}), typing(&room_id, &bob, true)]).await;
    assert_eq!(world.typing(&room_id).await, std::slice::from_ref(&bob), "what came with it did no harm");
    world.tell(FAR, &[typing(&room_id, &bob, false)]).await;
    assert_eq!(world.typing(&room_id).await, Vec::<OwnedUserId>::new());
    world.tell(FAR, &[typing(&room_id, &bob, true)]).await;
    tokio::time::sleep(std::time::Duration::from_secs(62)).await;
    assert_eq!(world.typing(&room_id).await, Vec::<OwnedUserId>::new());
}

#[tokio::test]
async fn strangers_are_not_heeded() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    let bob = far("bob");
    world.join(&room_id, &bob).await;
    let event = world.say(&room_id, "hello").await;
    let read = json!({ "event_ids": [event], "data": { "ts": 1 } });
    let of = |user: &OwnedUserId| receipt(&room_id, &json!({ user.as_str(): read }));
    // Of another server's user, and of one who is not in the room.
    for (origin, user) in [("else.test", &bob), (FAR, &ours("alice")), (FAR, &far("carol"))] {
        world.tell(origin, &[typing(&room_id, user, true), of(user)]).await;
    }
    let elsewhere = RoomId::parse("!none:far.test").unwrap();
    world.tell(FAR, &[typing(&elsewhere, &bob, true)]).await;
    // Of a server that the room keeps out.
    world.deny(&room_id, FAR).await;
    world.tell(FAR, &[typing(&room_id, &bob, true), of(&bob)]).await;
    assert_eq!(world.typing(&room_id).await, Vec::<OwnedUserId>::new());
    assert_eq!(world.receipts(&room_id).await, []);
}

#[tokio::test]
async fn receipts_are_set_each_on_its_own() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    for name in ["bob", "carol", "dave", "george"] {
        world.join(&room_id, &far(name)).await;
    }
    let first = world.say(&room_id, "first").await;
    let last = world.say(&room_id, "last").await;
    let users = json!({
        far("bob"): { "event_ids": [last], "data": { "ts": 5 } },
        far("carol"): { "event_ids": [last], "data": { "ts": NOW_MS + 1_000_000, "thread_id": first } },
        far("dave"): { "event_ids": [first, last], "data": { "ts": 5 } },
        far("erin"): { "event_ids": [first], "data": { "ts": 5 } },
        far("frank"): 7,
        far("george"): { "event_ids": [format!("${}", "a".repeat(100_000))], "data": { "ts": 5 } },
        "not a user": {},
    });
    world.tell(FAR, &[receipt(&room_id, &users)]).await;
    let mut receipts = world.receipts(&room_id).await;
    receipts.sort_by(|one, other| one.user_id.cmp(&other.user_id));
    let of = |name: &str, thread: Option<&OwnedEventId>, ts_ms: u64| Receipt {
        user_id: far(name),
        kind: ReceiptKind::Public,
        thread: thread.map(ToString::to_string),
        event_id: last.clone(),
        ts_ms,
    };
    assert_eq!(receipts, [of("bob", None, 5), of("carol", Some(&first), NOW_MS)], "nobody reads in the future");
    // Back, and in a thread that is none.
    let users = json!({
        far("bob"): { "event_ids": [first], "data": { "ts": 9 } },
        far("dave"): { "event_ids": [first], "data": { "ts": 9, "thread_id": "$none" } },
    });
    world.tell(FAR, &[receipt(&room_id, &users)]).await;
    assert_eq!(world.receipts(&room_id).await.len(), 2);
    assert!(world.receipts(&room_id).await.iter().all(|receipt| receipt.event_id == last));
}

#[tokio::test(start_paused = true)]
async fn presence_is_believed_for_a_while() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    let bob = far("bob");
    world.join(&room_id, &bob).await;
    let online = |user: &OwnedUserId| {
        json!({
            "user_id": user, "presence": "online", "status_msg": "here", "last_active_ago": 7_000,
            "currently_active": true,
        })
    };
    let push = json!([online(&far("stranger")), online(&ours("alice")), { "user_id": bob }, online(&bob)]);
    world.tell(FAR, &[json!({ "edu_type": "m.presence", "content": { "push": push } })]).await;
    let seen = world.users.presence(&bob);
    assert_eq!((seen.state, seen.currently_active), (PresenceState::Online, true));
    assert_eq!(seen.status_msg.as_deref(), Some("here"));
    assert!(seen.last_active_ago_ms.is_none_or(|ago| ago >= 7_000 || ago == 0), "{seen:?}");
    for user in [far("stranger"), ours("alice")] {
        assert_eq!(world.users.presence(&user).state, PresenceState::Offline, "{user}");
    }
    // Silence is no sign of idleness, but not for ever.
    tokio::time::sleep(std::time::Duration::from_secs(20 * 60)).await;
    assert_eq!(world.users.presence(&bob).state, PresenceState::Online);
    tokio::time::sleep(std::time::Duration::from_secs(11 * 60)).await;
    assert_eq!(world.users.presence(&bob).state, PresenceState::Offline);
}
