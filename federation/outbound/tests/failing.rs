//! Servers that are not reached.

use hearth_ports::mem::Failure;
use hearth_store::tables::event_key;

use super::*;

/// The store fails in the middle of a page of the log.
#[tokio::test(start_paused = true)]
async fn what_was_queued_is_not_queued_again_when_a_page_breaks_off() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test", "@carol:other.test"]).await;
    w.settle().await;
    w.script.fail("far.test");
    w.say(&room, "@alice:hearth.test", "first").await;
    w.settle().await;
    w.script.forget(&["other.test"]);
    w.say(&room, "@alice:hearth.test", "second").await;
    // That it is out must be stored for a server that is not reached.
    w.act(&room, "@alice:hearth.test", MemberAction::Kick, "@bob:far.test").await;
    w.engine.fail_next(Failure::Before);
    w.outbound.follow().await.unwrap_err();
    w.settle().await;
    assert_eq!(w.script.texts("other.test"), ["second", "m.room.member"]);
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let told = w.script.texts("far.test");
    assert!(told.contains(&"m.room.member".to_owned()), "{told:?}");
}

/// An event that the store cannot read, for whatever reason.
#[tokio::test(start_paused = true)]
async fn what_is_damaged_keeps_nothing_else_from_being_told() {
    let w = World::new().await;
    let damaged = w.room(&["@bob:far.test"]).await;
    let other = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.take("far.test");
    w.say(&other, "@alice:hearth.test", "before").await;
    let event = w.say(&damaged, "@alice:hearth.test", "lost").await;
    let room = w.number(&damaged).await;
    let number = w.store.event_by_id(room, &event).await.unwrap().unwrap().number;
    w.say(&other, "@alice:hearth.test", "after").await;
    let mut write = Write::new(room.partition());
    write.put_bytes(Table::Ev, event_key(room, number), b"garbage".to_vec());
    w.store.commit(write).await.unwrap();
    w.store.forget_event(room, number);
    w.settle().await;
    w.pass_ms(5_000).await;
    assert_eq!(w.script.texts("far.test"), ["before", "after"], "each once");
    assert_eq!(w.outbound.pdu(room, number).await.unwrap(), None, "nor when it is to be sent");
}

#[tokio::test(start_paused = true)]
async fn a_failed_transaction_is_repeated_as_it_was_after_longer_and_longer() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.take("far.test");
    w.script.fail("far.test");
    w.say(&room, "@alice:hearth.test", "first").await;
    w.settle().await;
    let mut pauses = Vec::new();
    for failures in 1..=3 {
        assert_eq!(w.failures("far.test"), failures);
        let pause = w.retry_in_ms("far.test");
        pauses.push(pause);
        w.pass_ms(pause - 1).await;
        assert_eq!(w.failures("far.test"), failures, "not yet");
        w.pass_ms(1).await;
    }
    assert!((7_500..=10_000).contains(&pauses[0]) && pauses.is_sorted_by(|a, b| a < b), "{pauses:?}");
    w.say(&room, "@alice:hearth.test", "second").await;
    w.settle().await;
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let sent = w.script.take("far.test");
    assert_eq!(sent.len(), 6, "five attempts at the first, then the second");
    assert!(sent[..5].iter().all(|sent| sent.id == sent.id && sent.texts() == ["first"]));
    assert!(sent[..5].windows(2).all(|two| two[0].id == two[1].id && two[0].body == two[1].body));
    assert_eq!(sent[5].texts(), ["second"]);
    assert_eq!(w.standing("far.test"), Standing::Healthy);
    assert!(super::super::rows::destinations(&w.store).await.unwrap().is_empty(), "its row is gone");
}

#[tokio::test(start_paused = true)]
async fn the_pause_survives_a_restart() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.fail("far.test");
    w.say(&room, "@alice:hearth.test", "first").await;
    w.settle().await;
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let (failures, pause) = (w.failures("far.test"), w.retry_in_ms("far.test"));
    assert_eq!(failures, 2);
    // The cursor passes what a row says is not delivered.
    w.pass_ms(2_000).await;
    let w = w.restarted().await;
    w.settle().await;
    assert_eq!((w.failures("far.test"), w.retry_in_ms("far.test")), (failures, pause - 2_000));
    let Standing::Failing { last_error, .. } = w.standing("far.test") else { panic!() };
    assert_eq!(last_error, "nobody there");
    w.pass_ms(pause - 2_001).await;
    assert!(w.script.take("far.test").is_empty(), "left alone");
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(1).await;
    assert_eq!(w.script.texts("far.test"), ["first"]);
    w.settle().await;
    assert_eq!(w.standing("far.test"), Standing::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_delays_no_other() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test", "@carol:other.test"]).await;
    w.settle().await;
    w.script.set("far.test", Manner::Hangs);
    w.script.forget(&["far.test", "other.test"]);
    for text in texts(0..100) {
        w.say(&room, "@alice:hearth.test", &text).await;
        w.settle().await;
    }
    assert_eq!(w.script.texts("other.test"), texts(0..100));
    assert_eq!(w.script.take("far.test").len(), 1);
    // It is given up in the end, and tried again.
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(w.failures("far.test"), 1);
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(10_000).await;
    assert_eq!(w.script.texts("far.test"), texts(0..100));
}

#[tokio::test(start_paused = true)]
async fn many_servers_that_hang_leave_room_for_those_that_answer() {
    let w = World::new().await;
    let names: Vec<String> = (0..300).map(|nth| format!("@bob:dead{nth}.test")).collect();
    let room = w.room(&["@carol:other.test"]).await;
    w.settle().await;
    w.say(&room, "@alice:hearth.test", "hello").await;
    w.settle().await;
    assert_eq!(w.script.texts("other.test"), ["hello"], "it is known to answer");
    for (nth, name) in names.iter().enumerate() {
        w.script.set(&format!("dead{nth}.test"), Manner::Hangs);
        w.act(&room, name, hearth_rooms::MemberAction::Join, name).await;
    }
    w.say(&room, "@alice:hearth.test", "to all").await;
    w.settle().await;
    assert_eq!(w.script.texts("other.test"), ["to all"]);
    let hanging = w.script.busy.lock().len();
    assert_eq!(hanging, 256, "tasks are bounded");
    tokio::time::sleep(Duration::from_secs(300)).await;
    let tried: HashSet<_> = w.script.sent.lock().iter().map(|sent| sent.server.clone()).collect();
    assert_eq!(tried.len(), 300, "everybody has their turn");
}

#[tokio::test(start_paused = true)]
async fn who_makes_itself_heard_is_tried_at_once() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.fail("far.test");
    w.say(&room, "@alice:hearth.test", "first").await;
    w.settle().await;
    w.script.take("far.test");
    let far = <&ServerName>::try_from("far.test").unwrap();
    w.outbound.note_alive(far);
    w.settle().await;
    assert_eq!((w.script.take("far.test").len(), w.failures("far.test")), (1, 2));
    w.outbound.note_alive(far);
    w.settle().await;
    assert!(w.script.take("far.test").is_empty(), "it reaches us, we don't reach it: not at each of its requests");
    w.clock.advance_ms(60_000);
    w.lose("far.test").await;
    w.clock.advance_ms(60_000);
    w.script.set("far.test", Manner::Takes);
    w.outbound.note_alive(far);
    w.settle().await;
    assert_eq!(w.script.texts("far.test"), ["first"]);
    w.clock.advance_ms(60_000);
    w.outbound.note_alive(<&ServerName>::try_from("unknown.test").unwrap());

    w.script.fail("far.test");
    w.say(&room, "@alice:hearth.test", "second").await;
    w.settle().await;
    let (sender, alive) = tokio::sync::broadcast::channel(4);
    w.outbound.follow_alive(alive);
    w.clock.advance_ms(1);
    w.script.set("far.test", Manner::Takes);
    sender.send(far.to_owned()).unwrap();
    w.settle().await;
    assert_eq!(w.script.texts("far.test").last().map(String::as_str), Some("second"));
    assert_eq!(w.standing("far.test"), Standing::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_a_pause_gets_it() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    let refused = |for_ms: u64| {
        let now_ms = hearth_ports::Clock::now_ms(&*w.clock);
        w.script.wishes.lock().insert("far.test".to_owned(), now_ms.saturating_add(for_ms));
        let (errcode, error, body) = ("M_LIMIT_EXCEEDED".to_owned(), String::new(), Bytes::new());
        w.script.set("far.test", Manner::Fails(PeerError::Refused { status: 429, errcode, error, body }));
    };
    refused(60_000);
    w.say(&room, "@alice:hearth.test", "first").await;
    w.settle().await;
    assert_eq!(w.retry_in_ms("far.test"), 60_000);
    // That it sends us something does not say that it has time.
    w.script.take("far.test");
    w.outbound.note_alive("far.test".try_into().unwrap());
    w.settle().await;
    assert!(w.script.take("far.test").is_empty());
    w.clock.advance_ms(60_000);
    refused(u64::MAX);
    w.pass_ms(0).await;
    assert_eq!(w.retry_in_ms("far.test"), 3_600_000, "within reason");
}

#[tokio::test(start_paused = true)]
async fn the_cursor_does_not_wait_for_one_that_hangs_or_lags() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.set("far.test", Manner::Hangs);
    w.say(&room, "@alice:hearth.test", "first").await;
    w.settle().await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    w.say(&room, "@alice:hearth.test", "second").await;
    w.settle().await;
    w.pass_ms(2_000).await;
    assert!(w.store.cursor("federation").await.unwrap().positions.covers(&w.store.live().positions()));
    assert_eq!(w.failures("far.test"), 0, "it may yet answer");
    w.script.set("far.test", Manner::Takes);
    let w = w.restarted().await;
    w.settle().await;
    assert_eq!(w.script.texts("far.test"), ["second"], "which leads to the first");
}

#[tokio::test(start_paused = true)]
async fn the_operator_is_told_why_a_server_is_left_alone() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test", "@carol:other.test"]).await;
    w.settle().await;
    let refused = PeerError::Refused {
        status: 403,
        errcode: "M_FORBIDDEN".to_owned(),
        error: "not you".to_owned(),
        body: Bytes::new(),
    };
    w.script.set("far.test", Manner::Fails(refused));
    w.say(&room, "@alice:hearth.test", "first").await;
    w.say(&room, "@alice:hearth.test", "second").await;
    w.settle().await;
    let troubled = w.outbound.troubled();
    assert_eq!(troubled.len(), 1);
    assert_eq!(troubled[0].server, "far.test");
    let Standing::Failing { since_ms, failures, last_error, .. } = &troubled[0].standing else { panic!() };
    assert_eq!((*since_ms, *failures, last_error.as_str()), (1_700_000_000_000, 1, "M_FORBIDDEN: not you"));
    assert!(troubled[0].in_flight);
}

#[tokio::test(start_paused = true)]
async fn trouble_of_the_store_loses_nothing() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.pass_ms(2_000).await;
    w.script.take("far.test");
    w.script.fail("far.test");
    w.say(&room, "@alice:hearth.test", "first").await;
    while w.outbound.follow().await.unwrap() {}
    // The row that says that the server is behind is not stored: the cursor must not pass.
    w.engine.fail_next(hearth_ports::mem::Failure::Before);
    w.settle().await;
    let before = w.store.cursor("federation").await.unwrap().positions;
    w.pass_ms(2_000).await;
    assert_eq!(w.store.cursor("federation").await.unwrap().positions, before);
    let w = w.restarted().await;
    w.script.set("far.test", Manner::Takes);
    w.settle().await;
    assert_eq!(w.script.texts("far.test"), ["first"]);
}
