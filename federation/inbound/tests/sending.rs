//! Transactions.

use futures_util::FutureExt as _;
use hearth_rooms::{MemberAction, MemberChange, Membership, Preset};
use hearth_users::Typing;
use serde_json::{Value, json};

use super::*;

impl World {
    /// A message of the other server's user, after these events.
    async fn message(&self, room_id: &RoomId, sender: &str, prev: &OwnedEventId, text: &str) -> Event {
        let room = self.store.room_number(room_id).await.unwrap().unwrap();
        let prev = self.store.event_by_id(room, prev).await.unwrap().unwrap();
        let mut auth: Vec<OwnedEventId> = Vec::new();
        for (kind, key) in [("m.room.power_levels", ""), ("m.room.member", far(sender).as_str())] {
            let row = self.store.current_state_row(room, kind, key).await.unwrap();
            let event = self.store.event(room, row.unwrap().event.unwrap()).await.unwrap().unwrap();
            auth.push(event.event.event_id().to_owned());
        }
        let fields = json!({
            "type": "m.room.message", "sender": far(sender), "depth": prev.event.depth() + 1,
            "prev_events": [prev.event.event_id()], "auth_events": auth,
            "content": { "msgtype": "m.text", "body": text },
        });
        self.sign(RoomVersion::DEFAULT, room_id, &fields)
    }

    async fn has(&self, room_id: &RoomId, event: &Event) -> bool {
        let room = self.store.room_number(room_id).await.unwrap().unwrap();
        self.store.event_by_id(room, event.event_id()).await.unwrap().is_some()
    }
}

fn transaction(events: &[&Event], news: &[Value]) -> Value {
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event.json_str()).unwrap()).collect();
    json!({ "origin": FAR, "origin_server_ts": NOW_MS, "pdus": events, "edus": news })
}

#[tokio::test]
async fn events_are_taken_each_on_its_own() {
    let world = World::new().await;
    let (one, other) = (world.create(Preset::Public).await, world.create(Preset::Public).await);
    let (_, join) = world.join(&one, &far("bob")).await;
    let (_, other_join) = world.join(&other, &far("bob")).await;
    let first = world.message(&one, "bob", &join, "first").await;
    let second = world.message(&other, "bob", &other_join, "second").await;
    let mut body = transaction(&[&first, &second], &[]);
    let pdus = body["pdus"].as_array_mut().unwrap();
    pdus.insert(0, json!(7));
    pdus.insert(1, json!({ "room_id": "none", "type": "m.room.message" }));
    let mut forged = pdus[3].clone();
    forged["depth"] = json!(77);
    pdus.push(forged);
    let (status, answer) = world.put(FAR, "v1/send/1", &body).await;
    assert_eq!(status, 200, "{answer}");
    for event in [&first, &second] {
        assert_eq!(answer["pdus"][event.event_id().as_str()], json!({}), "{answer}");
    }
    assert!(world.has(&one, &first).await && world.has(&other, &second).await);
    let errors = answer["pdus"].as_object().unwrap().values().filter(|result| result["error"].is_string());
    assert_eq!(errors.count(), 1, "the forged one: {answer}");
}

/// One room of ours that does not read is not in the way of others, nor for ever.
#[tokio::test]
async fn a_broken_room_spoils_no_transaction() {
    let world = World::new().await;
    let (broken, other) = (world.create(Preset::Public).await, world.create(Preset::Public).await);
    let (_, join) = world.join(&broken, &far("bob")).await;
    let (_, other_join) = world.join(&other, &far("bob")).await;
    let lost = world.message(&broken, "bob", &join, "lost").await;
    let taken = world.message(&other, "bob", &other_join, "taken").await;
    let room = world.store.room_number(&broken).await.unwrap().unwrap();
    let mut write = hearth_store::Write::new(room.partition());
    write.put_bytes(hearth_ports::Table::Rm, hearth_store::tables::head_key(room), vec![255]);
    world.store.commit(write).await.unwrap();
    let (status, answer) = world.put(FAR, "v1/send/1", &transaction(&[&lost, &taken], &[])).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["pdus"][taken.event_id().as_str()], json!({}), "{answer}");
    assert!(world.has(&other, &taken).await);
}

/// Our guests leave a room in which another server's user shuts them out; who only looks like one stays.
#[tokio::test]
async fn guests_leave_when_another_server_shuts_them_out() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    world.set(&room_id, "m.room.guest_access", "", &json!({ "guest_access": "can_join" })).await;
    world.set(&room_id, "m.room.power_levels", "", &json!({ "users": { far("bob"): 50 } })).await;
    for (name, kind) in [("gus", AccountKind::Guest), ("grace", AccountKind::Full)] {
        let localpart = Localpart::parse(name, US.try_into().unwrap()).unwrap();
        world.users.create(&NewAccount { localpart, password: None, kind, admin: false }).await.unwrap();
        let change = MemberChange {
            room_id: room_id.clone(),
            sender: ours(name),
            target: ours(name),
            action: MemberAction::Join,
            content: Map::new(),
            guest: true,
        };
        world.rooms.change_member(change).await.unwrap();
    }
    let (_, join) = world.join(&room_id, &far("bob")).await;
    let shut = |prev: &OwnedEventId, auth: &[OwnedEventId], access: &str| {
        let fields = json!({
            "type": "m.room.guest_access", "state_key": "", "sender": far("bob"), "depth": 100,
            "prev_events": [prev], "auth_events": auth, "content": { "guest_access": access },
        });
        world.sign(RoomVersion::DEFAULT, &room_id, &fields)
    };
    let model = world.message(&room_id, "bob", &join, "").await;
    let mut last = join;
    for (access, expected) in [("can_join", Membership::Join), ("forbidden", Membership::Leave)] {
        let event = shut(&last, model.auth_events(), access);
        let (status, answer) = world.put(FAR, &format!("v1/send/{access}"), &transaction(&[&event], &[])).await;
        assert_eq!((status, &answer["pdus"][event.event_id().as_str()]), (200, &json!({})), "{answer}");
        assert_eq!(world.membership(&room_id, &ours("gus")).await, Some(expected), "{access}");
        assert_eq!(world.membership(&room_id, &ours("grace")).await, Some(Membership::Join));
        last = event.event_id().to_owned();
    }
}

#[tokio::test]
async fn a_repeated_transaction_has_the_same_answer() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    let (_, join) = world.join(&room_id, &far("bob")).await;
    let event = world.message(&room_id, "bob", &join, "once").await;
    let typing = json!({ "room_id": room_id, "user_id": far("bob"), "typing": true });
    let body = transaction(&[&event], &[json!({ "edu_type": "m.typing", "content": typing })]);
    // Together, as a server does that has not waited long enough.
    let (one, other) = tokio::join!(world.put(FAR, "v1/send/1", &body), world.put(FAR, "v1/send/1", &body));
    assert_eq!(one.0, 200, "{one:?}");
    assert_eq!(one, other);
    let room = world.store.room_number(&room_id).await.unwrap().unwrap();
    let Typing { serial, users } = world.users.typing_since(room, 0).unwrap();
    assert_eq!(users, [far("bob")]);
    world.users.set_typing(room, &far("bob"), None);
    assert_eq!(world.put(FAR, "v1/send/1", &body).await, one);
    assert!(world.users.typing_since(room, serial).unwrap().users.is_empty(), "it was not taken once more");
    // The same id with something else in it is another transaction.
    let stop = transaction(&[], &[]);
    assert_eq!(world.put(FAR, "v1/send/1", &stop).await, (200, json!({ "pdus": {} })));
}

/// Our answer was lost, and what was missing has come since.
#[tokio::test]
async fn a_repeated_transaction_is_taken_if_it_could_not_be() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    let (_, join) = world.join(&room_id, &far("bob")).await;
    let first = world.message(&room_id, "bob", &join, "first").await;
    let model = json!({
        "type": "m.room.message", "sender": far("bob"), "depth": first.depth() + 1,
        "prev_events": [first.event_id()], "auth_events": first.auth_events(), "content": { "body": "second" },
    });
    let second = world.sign(RoomVersion::DEFAULT, &room_id, &model);
    let body = transaction(&[&second], &[]);
    let (status, answer) = world.put(FAR, "v1/send/1", &body).await;
    assert!(status == 200 && answer["pdus"][second.event_id().as_str()]["error"].is_string(), "{answer}");
    let other = <&ServerName>::try_from("other.test").unwrap();
    let received = world.rooms.receive(other, &room_id, vec![first.json().clone()]).await;
    assert!(received[0].result.is_ok(), "{received:?}");
    let (status, answer) = world.put(FAR, "v1/send/1", &body).await;
    assert_eq!((status, &answer["pdus"][second.event_id().as_str()]), (200, &json!({})), "{answer}");
}

#[tokio::test]
async fn transactions_have_bounds() {
    let world = World::new().await;
    let of = |pdus: usize, edus: usize| json!({ "origin": FAR, "pdus": vec![1; pdus], "edus": vec![1; edus] });
    assert_eq!(world.put(FAR, "v1/send/1", &of(50, 100)).await, (200, json!({ "pdus": {} })));
    for (body, expected) in [
        (of(51, 0), expect(400, "M_BAD_JSON")),
        (of(0, 101), expect(400, "M_BAD_JSON")),
        (json!({ "origin": FAR }), expect(400, "M_BAD_JSON")),
        (json!({ "pdus": [] }), expect(400, "M_BAD_JSON")),
        (json!({ "origin": FAR, "pdus": {} }), expect(400, "M_BAD_JSON")),
        (json!({ "origin": "else.test", "pdus": [] }), expect(403, "M_FORBIDDEN")),
        (json!({ "origin": FAR, "pdus": [], "x": "y".repeat(10 << 20) }), expect(413, "M_TOO_LARGE")),
    ] {
        assert_eq!(world.refused(FAR, "PUT", "v1/send/2", &body).await, expected);
    }
    let long = format!("v1/send/{}", "x".repeat(256));
    assert_eq!(world.refused(FAR, "PUT", &long, &of(0, 0)).await, expect(400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn one_transaction_at_a_time_and_few_wait() {
    use crate::inbound::transactions::{Entry, Transactions};
    let transactions = Transactions::new();
    let (far, other): (&ServerName, &ServerName) = (FAR.try_into().unwrap(), "else.test".try_into().unwrap());
    let (body, answer) = (Bytes::from_static(b"{}"), Bytes::from_static(b"{\"pdus\":{}}"));
    let Entry::New(turn) = transactions.enter(far, "1", &body).await else { panic!("it is new") };
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(transactions.enter(far, "1", &body))).collect();
    assert!(waiting.iter_mut().all(|entry| entry.now_or_never().is_none()));
    assert!(matches!(transactions.enter(far, "2", &body).await, Entry::Crowded));
    assert!(matches!(transactions.enter(other, "1", &body).await, Entry::New(_)), "others need not wait");
    // One goes away.
    waiting.pop();
    turn.answered(&answer);
    for entry in waiting {
        assert!(matches!(entry.await, Entry::Repeated(bytes) if bytes == answer));
    }
    assert!(matches!(transactions.enter(far, "2", &body).await, Entry::New(_)));
    assert!(matches!(transactions.enter(far, "1", &Bytes::from_static(b"[]")).await, Entry::New(_)));
}

/// Keys of servers that are in the room are asked for before those of which anybody may tell.
#[tokio::test]
async fn keys_of_strangers_are_asked_for_in_the_name_of_who_tells_of_them() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    let (_, join) = world.join(&room_id, &far("bob")).await;
    let event = world.message(&room_id, "bob", &join, "mine").await;
    let mut strange: Value = serde_json::from_str(event.json_str()).unwrap();
    strange["sender"] = json!("@mallory:else.test");
    strange["signatures"] = json!({ "else.test": { "ed25519:1": "c2lnbmF0dXJl" } });
    world.wanted.lock().clear();
    let body = json!({ "origin": "teller.test", "origin_server_ts": NOW_MS, "pdus": [strange, event_json(&event)] });
    world.put("teller.test", "v1/send/1", &body).await;
    let asked_by = |server: &str| {
        let server: OwnedServerName = server.try_into().unwrap();
        world.wanted.lock().get(&server).map(|wanted| wanted.asked_by.as_ref().map(ToString::to_string))
    };
    assert_eq!(asked_by("else.test"), Some(Some("teller.test".to_owned())));
    assert_eq!(asked_by(FAR), Some(None), "it is in the room");
}

fn event_json(event: &Event) -> Value {
    serde_json::from_str(event.json_str()).unwrap()
}
