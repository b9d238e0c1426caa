//! Typing, receipts and presence.

use hearth_users::{PresenceState, ReceiptKind, TypingChange};

use super::*;

fn contents(sent: &[Sent], kind: &str) -> Vec<Value> {
    let edus = sent.iter().flat_map(Sent::edus).filter(|edu| edu["edu_type"] == kind);
    edus.map(|edu| edu["content"].clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn public_receipts_of_our_users_are_told_together() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test", "@dave:hearth.test"]).await;
    let event = w.say(&room, "@bob:far.test", "read me").await;
    w.settle().await;
    w.script.take("far.test");
    let (alice, dave, bob) = (user("@alice:hearth.test"), user("@dave:hearth.test"), user("@bob:far.test"));
    w.users.set_receipt(&alice, &room, ReceiptKind::Public, None, &event).await.unwrap();
    w.users.set_receipt(&dave, &room, ReceiptKind::Public, Some("main"), &event).await.unwrap();
    w.users.set_receipt(&dave, &room, ReceiptKind::Private, None, &event).await.unwrap();
    w.users.set_receipt(&bob, &room, ReceiptKind::Public, None, &event).await.unwrap();
    w.settle().await;
    let receipts = contents(&w.script.take("far.test"), "m.receipt");
    let ts = 1_700_000_000_000_u64;
    let all: Vec<_> =
        receipts.iter().flat_map(|content| content[room.as_str()]["m.read"].as_object().unwrap()).collect();
    assert_eq!(all.len(), 2, "neither private ones nor those of others: {all:?}");
    assert_eq!(*all[0].1, json!({ "event_ids": [event], "data": { "ts": ts } }));
    assert_eq!(*all[1].1, json!({ "event_ids": [event], "data": { "ts": ts, "thread_id": "main" } }));
}

#[tokio::test(start_paused = true)]
async fn typing_is_told_when_it_begins_goes_on_and_ends() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.take("far.test");
    let number = w.number(&room).await;
    let told = tokio::spawn(Outbound::keep_telling(Arc::downgrade(&w.outbound), w.users.typing_changes()));
    let (alice, bob) = (user("@alice:hearth.test"), user("@bob:far.test"));
    let minute = Some(Duration::from_secs(60));
    let typing = async |who: &OwnedUserId, timeout| {
        w.users.set_typing(number, who, timeout);
        w.settle().await;
        contents(&w.script.take("far.test"), "m.typing")
    };
    let news = |typing: bool| vec![json!({ "room_id": room, "user_id": alice, "typing": typing })];
    assert_eq!(typing(&alice, minute).await, news(true));
    assert!(typing(&bob, minute).await.is_empty(), "that is theirs to tell");
    assert!(typing(&alice, minute).await.is_empty(), "they know");
    w.clock.advance_ms(30_000);
    assert_eq!(typing(&alice, minute).await, news(true), "they would forget");
    // Time ends it.
    tokio::time::sleep(Duration::from_secs(62)).await;
    w.settle().await;
    assert_eq!(contents(&w.script.take("far.test"), "m.typing"), news(false));
    told.abort();
}

#[tokio::test(start_paused = true)]
async fn presence_is_told_to_those_who_share_a_room() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test", "@dave:hearth.test"]).await;
    w.room(&["@eve:elsewhere.test"]).await;
    w.say(&room, "@alice:hearth.test", "hello").await;
    w.settle().await;
    w.script.forget(&["far.test", "elsewhere.test"]);
    w.users.set_presence(&user("@dave:hearth.test"), PresenceState::Online, Some("here".to_owned())).await.unwrap();
    w.users.set_presence(&user("@bob:far.test"), PresenceState::Online, None).await.unwrap();
    w.pass_ms(1_000).await;
    let told = contents(&w.script.take("far.test"), "m.presence");
    assert_eq!(told.len(), 1);
    let push = told[0]["push"].as_array().unwrap();
    assert_eq!(push.len(), 1);
    assert_eq!((&push[0]["user_id"], &push[0]["presence"]), (&json!("@dave:hearth.test"), &json!("online")));
    assert_eq!((&push[0]["status_msg"], &push[0]["currently_active"]), (&json!("here"), &json!(true)));
    assert!(push[0]["last_active_ago"].is_u64());
    assert!(w.script.take("elsewhere.test").is_empty(), "dave is in no room with them");
    w.pass_ms(1_000).await;
    assert!(w.script.take("far.test").is_empty(), "told once");
}

/// In a large room more users of others come and go than are told of at once.
#[tokio::test(start_paused = true)]
async fn ours_are_told_of_however_many_others_come_and_go() {
    let w = World::new().await;
    let others: Vec<String> = (0..60).map(|nth| format!("@u{nth}:far.test")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let room = w.room(&others).await;
    w.say(&room, "@alice:hearth.test", "hello").await;
    w.settle().await;
    w.pass_ms(1_000).await;
    w.pass_ms(1_000).await;
    w.script.forget(&["far.test"]);
    for other in others {
        w.users.set_presence(&user(other), PresenceState::Online, None).await.unwrap();
    }
    w.users.set_presence(&user("@alice:hearth.test"), PresenceState::Online, None).await.unwrap();
    w.pass_ms(1_000).await;
    let told = contents(&w.script.take("far.test"), "m.presence");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["push"][0]["user_id"], "@alice:hearth.test");
}

#[tokio::test(start_paused = true)]
async fn who_stays_is_told_of_again_before_others_take_them_for_gone() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test", "@dave:hearth.test"]).await;
    w.say(&room, "@alice:hearth.test", "hello").await;
    w.settle().await;
    let dave = user("@dave:hearth.test");
    let pass_minutes = async |minutes: u64| {
        for _ in 0..minutes {
            tokio::time::advance(Duration::from_secs(60)).await;
            w.pass_ms(60_000).await;
        }
        let told = contents(&w.script.take("far.test"), "m.presence").into_iter();
        told.flat_map(|content| content["push"].as_array().unwrap().clone())
            .map(|push| {
                assert_eq!(push["user_id"], dave.as_str());
                push["presence"].as_str().unwrap().to_owned()
            })
            .collect::<Vec<_>>()
    };
    let syncing = w.users.syncing(&dave, PresenceState::Online).await.unwrap();
    assert_eq!(pass_minutes(1).await, ["online"]);
    assert_eq!(pass_minutes(10).await.last().unwrap(), "unavailable", "they leave it open, and do something else");
    assert_eq!(pass_minutes(10).await, [""; 0], "nothing changes");
    assert_eq!(pass_minutes(12).await, ["unavailable"]);
    assert_eq!(pass_minutes(60).await.len(), 2, "and again");
    drop(syncing);
    assert_eq!(pass_minutes(10).await, ["offline"]);
    assert_eq!(pass_minutes(60).await, [""; 0], "who is gone is gone");
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_share_a_room_learns_who_is_there() {
    let w = World::new().await;
    let room = w.room(&["@dave:hearth.test", "@eve:elsewhere.test"]).await;
    let mut present = Vec::new();
    for name in ["@dave:hearth.test", "@carol:hearth.test"] {
        let number = w.store.ensure_user_number(&user(name)).await.unwrap();
        w.users.set_presence(&user(name), PresenceState::Online, Some("here".to_owned())).await.unwrap();
        present.push(w.store.attach(number).await.unwrap());
    }
    w.settle().await;
    w.pass_ms(1_000).await;
    w.pass_ms(1_000).await;
    w.script.forget(&["elsewhere.test"]);

    let told = |server: &str| -> Vec<Value> {
        let contents = contents(&w.script.take(server), "m.presence").into_iter();
        contents.flat_map(|content| content["push"].as_array().unwrap().clone()).map(|p| p["user_id"].clone()).collect()
    };
    w.act(&room, "@bob:far.test", MemberAction::Join, "@bob:far.test").await;
    w.settle().await;
    w.pass_ms(1_000).await;
    assert_eq!(told("far.test"), [""; 0], "it may not have the room yet");
    w.pass_ms(1_000).await;
    assert_eq!(told("far.test"), ["@dave:hearth.test"], "alice is not there, carol is in no room with bob");
    w.act(&room, "@zoe:far.test", MemberAction::Join, "@zoe:far.test").await;
    w.settle().await;
    w.pass_ms(1_000).await;
    w.pass_ms(1_000).await;
    assert_eq!(told("far.test"), [""; 0], "once a server");
    // Two of a server come before the log is read.
    w.act(&room, "@ida:third.test", MemberAction::Join, "@ida:third.test").await;
    w.act(&room, "@jan:third.test", MemberAction::Join, "@jan:third.test").await;
    w.settle().await;
    w.pass_ms(1_000).await;
    w.pass_ms(1_000).await;
    assert_eq!(told("third.test"), ["@dave:hearth.test"]);

    w.act(&room, "@carol:hearth.test", MemberAction::Join, "@carol:hearth.test").await;
    w.settle().await;
    w.pass_ms(1_000).await;
    w.pass_ms(1_000).await;
    assert_eq!(told("far.test"), ["@carol:hearth.test"]);
    assert_eq!(told("elsewhere.test"), ["@carol:hearth.test"]);
}

#[tokio::test(start_paused = true)]
async fn fleeting_news_is_not_kept_for_a_server_that_fails() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    let number = w.number(&room).await;
    w.script.fail("far.test");
    let event = w.say(&room, "@alice:hearth.test", "hello").await;
    w.settle().await;
    let change = TypingChange { room: number, user_id: user("@alice:hearth.test"), typing: true };
    w.outbound.tell_typing(change).await.unwrap();
    w.users.set_receipt(&user("@alice:hearth.test"), &room, ReceiptKind::Public, None, &event).await.unwrap();
    w.settle().await;
    w.script.take("far.test");
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let sent = w.script.take("far.test");
    assert!(contents(&sent, "m.typing").is_empty());
    assert_eq!(contents(&sent, "m.receipt").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_tasks_drive_it_by_themselves() {
    let w = World::new().await;
    let World { store, users, clock, script, rooms, .. } = &w;
    let room = w.room(&["@bob:far.test"]).await;
    let parts = OutboundParts {
        store: store.clone(),
        users: users.clone(),
        clock: clock.clone(),
        entropy: Arc::new(SeededEntropy::new(3)),
        transmit: script.clone(),
        server_name: US.try_into().unwrap(),
        settings: OutboundSettings::default(),
    };
    let outbound = Outbound::start(parts).await.unwrap();
    w.say(&room, "@alice:hearth.test", "hello").await;
    w.users.set_typing(w.number(&room).await, &user("@alice:hearth.test"), Some(Duration::from_secs(5)));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let sent = script.take("far.test");
    assert!(sent.iter().flat_map(Sent::texts).any(|text| text == "hello"));
    assert_eq!(contents(&sent, "m.typing").len(), 1);
    assert!(Arc::strong_count(rooms) > 0);
    // When it is let go of, its tasks end.
    drop(outbound);
    tokio::time::sleep(Duration::from_secs(3)).await;
    w.say(&room, "@alice:hearth.test", "nobody listens").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(script.take("far.test").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_absent_is_told_what_was_read_meanwhile() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test", "@dave:hearth.test"]).await;
    let quiet = w.room(&["@bob:far.test"]).await;
    let early = w.say(&quiet, "@bob:far.test", "early").await;
    let first = w.say(&room, "@bob:far.test", "first").await;
    let second = w.say(&room, "@bob:far.test", "second").await;
    w.settle().await;
    let read = async |who: &str, room: &RoomId, event: &EventId| {
        w.users.set_receipt(&user(who), room, ReceiptKind::Public, None, event).await.unwrap();
        w.settle().await;
    };
    read("@dave:hearth.test", &room, &first).await;
    w.script.fail("far.test");
    // This one is what fails; the others come while it is absent.
    read("@alice:hearth.test", &quiet, &early).await;
    w.lose("far.test").await;
    read("@alice:hearth.test", &room, &first).await;
    read("@alice:hearth.test", &room, &second).await;
    w.users.set_receipt(&user("@dave:hearth.test"), &room, ReceiptKind::Private, None, &second).await.unwrap();
    let w = w.restarted().await;
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let sent = w.script.take("far.test");
    let told = contents(&sent, "m.receipt");
    let event_of = |room: &RoomId, who: &str| {
        let of: Vec<_> = told.iter().map(|content| &content[room.as_str()]["m.read"][who]).collect();
        of.iter()
            .filter(|receipt| !receipt.is_null())
            .map(|receipt| receipt["event_ids"][0].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(event_of(&room, "@alice:hearth.test"), [second.as_str()], "the newest, once");
    assert_eq!(event_of(&quiet, "@alice:hearth.test"), [early.as_str()], "also what failed to arrive");
    assert!(event_of(&room, "@dave:hearth.test").is_empty(), "neither what it has nor what is private");
    assert_eq!(w.standing("far.test"), Standing::Healthy);
}
