//! Servers that were away.

use hearth_rooms::MemberAction;
use hearth_store::tables::QueuedRow;

use super::*;
use crate::outbound::queue::EVENTS_MAX;

#[tokio::test(start_paused = true)]
async fn who_was_absent_gets_the_newest_of_each_room() {
    let w = World::new().await;
    let rooms = [w.room(&["@bob:far.test"]).await, w.room(&["@bob:far.test"]).await, w.room(&["@bob:far.test"]).await];
    w.settle().await;
    w.say(&rooms[0], "@alice:hearth.test", "lost 1").await;
    w.lose("far.test").await;
    for nth in 0..30 {
        w.say(&rooms[0], "@alice:hearth.test", &format!("zero {nth}")).await;
        w.say(&rooms[1], "@alice:hearth.test", &format!("one {nth}")).await;
    }
    // Somebody else has the last word in this one.
    w.say(&rooms[1], "@bob:far.test", "theirs").await;
    w.settle().await;
    let status = w.outbound.status("far.test".try_into().unwrap()).unwrap();
    assert_eq!((status.queued_events, status.behind), (0, true), "nothing is kept in memory for it");
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let mut texts = w.script.texts("far.test");
    texts.sort();
    assert_eq!(texts, ["one 29", "zero 29"], "nothing of the room in which nothing happened");
    w.say(&rooms[2], "@alice:hearth.test", "and on").await;
    w.settle().await;
    assert_eq!(w.script.texts("far.test"), ["and on"]);
    assert_eq!(w.standing("far.test"), Standing::Healthy);
}

#[tokio::test(start_paused = true)]
async fn all_that_nothing_cites_yet_is_caught_up_with_but_not_what_is_not_for_it() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    let closed = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.say(&room, "@alice:hearth.test", "lost").await;
    w.lose("far.test").await;
    let one = w.say(&room, "@alice:hearth.test", "one").await;
    w.say(&room, "@bob:far.test", "theirs").await;
    w.say(&room, "@alice:hearth.test", "two").await;
    // As if both had been written at once.
    w.add_extremity(&room, &one).await;
    // Between leaving and coming back it was told nothing.
    w.act(&closed, "@bob:far.test", MemberAction::Leave, "@bob:far.test").await;
    w.say(&closed, "@alice:hearth.test", "not for them").await;
    w.act(&closed, "@bob:far.test", MemberAction::Join, "@bob:far.test").await;
    w.settle().await;
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    assert_eq!(w.script.texts("far.test"), ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn catching_up_survives_a_restart() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.say(&room, "@alice:hearth.test", "lost").await;
    w.lose("far.test").await;
    w.say(&room, "@alice:hearth.test", "newest").await;
    w.settle().await;
    w.pass_ms(2_000).await;
    assert!(w.store.cursor("federation").await.unwrap().positions.covers(&w.store.live().positions()));
    let w = w.restarted().await;
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    assert_eq!(w.script.texts("far.test"), ["newest"]);
}

#[tokio::test(start_paused = true)]
async fn more_rooms_than_a_transaction_holds_are_caught_up_in_several() {
    let w = World::new().await;
    let mut expected = Vec::new();
    let mut rooms = Vec::new();
    for _ in 0..300 {
        rooms.push(w.room(&["@bob:far.test"]).await);
    }
    w.settle().await;
    w.say(&rooms[0], "@alice:hearth.test", "lost").await;
    w.lose("far.test").await;
    for (nth, room) in rooms.iter().enumerate() {
        w.say(room, "@alice:hearth.test", &format!("in {nth}")).await;
        expected.push(format!("in {nth}"));
    }
    w.settle().await;
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let sent = w.script.take("far.test");
    assert!(sent.len() >= 6 && sent.iter().all(|sent| sent.pdus().len() <= 50));
    let mut texts: Vec<_> = sent.iter().flat_map(Sent::texts).collect();
    texts.sort();
    expected.sort();
    assert_eq!(texts, expected);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_amid_catching_up_goes_on_from_there() {
    let w = World::new().await;
    let mut rooms = Vec::new();
    for _ in 0..80 {
        rooms.push(w.room(&["@bob:far.test"]).await);
    }
    w.settle().await;
    w.say(&rooms[0], "@alice:hearth.test", "lost").await;
    w.lose("far.test").await;
    for (nth, room) in rooms.iter().enumerate() {
        w.say(room, "@alice:hearth.test", &format!("in {nth}")).await;
    }
    w.settle().await;
    let let_go = Arc::new(Notify::new());
    w.script.set("far.test", Manner::Waits(let_go.clone()));
    w.pass_ms(w.retry_in_ms("far.test")).await;
    // The first transaction is taken, the second fails.
    w.script.fail("far.test");
    let_go.notify_one();
    w.settle().await;
    assert_eq!(w.failures("far.test"), 1);
    w.say(&rooms[3], "@alice:hearth.test", "meanwhile").await;
    w.settle().await;
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let sent = w.script.take("far.test");
    assert_eq!(sent.iter().map(|sent| sent.pdus().len()).collect::<Vec<_>>(), [50, 30, 30, 1]);
    assert_eq!(sent[1].id, sent[2].id);
    assert_eq!(sent[3].texts(), ["meanwhile"]);
    assert_eq!(w.standing("far.test"), Standing::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_overflows_is_caught_up_with() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.take("far.test");
    let let_go = Arc::new(Notify::new());
    w.script.set("far.test", Manner::Waits(let_go.clone()));
    // One is in flight, a queue is full, and there are more.
    w.say(&room, "@alice:hearth.test", "text 0").await;
    w.settle().await;
    for text in texts(1..EVENTS_MAX + 101) {
        w.say(&room, "@alice:hearth.test", &text).await;
    }
    w.settle().await;
    let status = w.outbound.status("far.test".try_into().unwrap()).unwrap();
    assert_eq!(status.queued_events, EVENTS_MAX);
    w.script.set("far.test", Manner::Takes);
    let_go.notify_one();
    w.settle().await;
    let mut expected = texts(0..EVENTS_MAX + 1);
    expected.push(format!("text {}", EVENTS_MAX + 100));
    assert_eq!(w.script.texts("far.test"), expected, "the queue, then the newest");
    assert!(super::super::rows::destinations(&w.store).await.unwrap().is_empty());
    assert_eq!(w.standing("far.test"), Standing::Healthy);
}

#[tokio::test(start_paused = true)]
async fn what_overflowed_before_a_crash_is_caught_up_with_too() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.set("far.test", Manner::Hangs);
    for text in texts(0..EVENTS_MAX + 101) {
        w.say(&room, "@alice:hearth.test", &text).await;
    }
    w.settle().await;
    w.pass_ms(2_000).await;
    let w = w.restarted().await;
    w.script.set("far.test", Manner::Takes);
    w.settle().await;
    assert_eq!(w.script.texts("far.test").last(), texts(0..EVENTS_MAX + 101).last());
}

#[tokio::test(start_paused = true)]
async fn the_removal_of_its_last_user_reaches_a_server_however_late() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    let other = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    // One is in flight when it fails, one comes while it is absent.
    w.script.fail("far.test");
    w.act(&room, "@alice:hearth.test", MemberAction::Kick, "@bob:far.test").await;
    w.settle().await;
    w.lose("far.test").await;
    w.act(&other, "@alice:hearth.test", MemberAction::Ban, "@bob:far.test").await;
    w.settle().await;
    w.pass_ms(2_000).await;
    let w = w.restarted().await;
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let sent = w.script.take("far.test");
    let memberships: Vec<_> =
        sent.iter().flat_map(Sent::pdus).map(|pdu| pdu["content"]["membership"].clone()).collect();
    assert_eq!(memberships, ["leave", "ban"]);
    assert!(super::super::rows::queued_servers(&w.store).await.unwrap().is_empty(), "nothing is left");
    assert!(super::super::rows::destinations(&w.store).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_in_no_room_of_ours_is_forgotten() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.say(&room, "@alice:hearth.test", "lost").await;
    w.lose("far.test").await;
    w.act(&room, "@bob:far.test", MemberAction::Leave, "@bob:far.test").await;
    w.settle().await;
    w.pass_ms(w.retry_in_ms("far.test")).await;
    assert!(w.script.take("far.test").is_empty(), "there is nothing to tell it");
    assert!(super::super::rows::destinations(&w.store).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_that_misses_nothing_stays_known_as_dead() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    let number = w.number(&room).await;
    w.script.fail("far.test");
    let change = hearth_users::TypingChange { room: number, user_id: user("@alice:hearth.test"), typing: true };
    w.outbound.tell_typing(change.clone()).await.unwrap();
    w.settle().await;
    w.lose("far.test").await;
    w.pass_ms(w.retry_in_ms("far.test")).await;
    assert!(w.script.take("far.test").is_empty(), "nothing to tell it");
    let failures = w.failures("far.test");
    w.outbound.tell_typing(change).await.unwrap();
    w.settle().await;
    assert!(w.script.take("far.test").is_empty(), "not for such news");
    w.say(&room, "@alice:hearth.test", "but for this").await;
    w.settle().await;
    assert_eq!((w.script.texts("far.test").len(), w.failures("far.test")), (1, failures + 1));
}

#[tokio::test(start_paused = true)]
async fn heads_of_a_room_for_which_a_transaction_has_no_place_come_in_the_next() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.say(&room, "@alice:hearth.test", "lost").await;
    w.lose("far.test").await;
    let mut heads = Vec::new();
    for nth in 0..6 {
        heads.push(w.say(&room, "@alice:hearth.test", &format!("head {nth}")).await);
    }
    // As if all had been written at once.
    for head in &heads[..5] {
        w.add_extremity(&room, head).await;
    }
    w.settle().await;
    // What would put it out of other rooms is in rows, and fills most of a transaction.
    let far = w.outbound.destination("far.test".try_into().unwrap()).unwrap();
    let first = w.store.event_by_id(w.number(&room).await, &heads[0]).await.unwrap().unwrap();
    for _ in 0..47 {
        let row = QueuedRow::Event { room: w.number(&room).await, event: first.number };
        w.outbound.queue_row(&far, row).await.unwrap();
    }
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let sent = w.script.take("far.test");
    assert_eq!(sent.iter().map(|sent| sent.pdus().len()).collect::<Vec<_>>(), [50, 3]);
    let mut caught_up: Vec<_> = sent.iter().flat_map(Sent::texts).collect();
    caught_up.retain(|text| text.starts_with("head"));
    assert_eq!(caught_up, (0..6).map(|nth| format!("head {nth}")).collect::<Vec<_>>());
    assert_eq!(w.standing("far.test"), Standing::Healthy);
}
