//! Who is told of what, and in which order.

use hearth_rooms::MemberAction;
use hearth_store::tables::{cursor_key, cursor_partition};

use super::*;
use crate::outbound::targets::{Target, Targets};

#[tokio::test(start_paused = true)]
async fn an_event_goes_to_the_servers_in_the_room_and_to_nobody_else() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test", "@bill:far.test", "@carol:other.test", "@dave:hearth.test"]).await;
    let elsewhere = w.room(&["@eve:elsewhere.test"]).await;
    w.settle().await;
    w.script.forget(&["far.test", "other.test", "elsewhere.test"]);
    w.say(&room, "@alice:hearth.test", "ours").await;
    w.say(&room, "@bob:far.test", "theirs").await;
    w.settle().await;
    assert_eq!(w.script.texts("far.test"), ["ours"], "once for all users of a server, and not what is theirs");
    assert_eq!(w.script.texts("other.test"), ["ours"]);
    w.say(&elsewhere, "@alice:hearth.test", "there").await;
    w.settle().await;
    assert_eq!(w.script.texts("elsewhere.test"), ["there"]);
    assert!(w.script.sent.lock().is_empty(), "nothing to us, nothing to others: {:?}", w.script.sent.lock());
}

/// A room that gets the members that our join had left out has other states from then on: who has read an event before, and
/// looks at the room's servers after, finds all of them.
#[tokio::test(start_paused = true)]
async fn an_event_whose_room_gets_its_members_goes_to_all_of_them() {
    let w = World::new().await;
    let room_id = w.room(&[]).await;
    let room = w.number(&room_id).await;
    let before = w.store.head(room).await.unwrap().unwrap().state;
    w.act(&room_id, "@bob:far.test", MemberAction::Join, "@bob:far.test").await;
    let said = w.say(&room_id, "@alice:hearth.test", "to all").await;
    let whole = w.store.event_by_id(room, &said).await.unwrap().unwrap().header.state_before;
    w.set_header(&room_id, &said, |header| header.state_before = before).await;
    let as_read = w.store.event_by_id(room, &said).await.unwrap().unwrap();
    w.set_header(&room_id, &said, |header| header.state_before = whole).await;
    let targets = Targets::new(w.store.clone(), US.try_into().unwrap());
    let far: OwnedServerName = "far.test".try_into().unwrap();
    assert_eq!(targets.of(room, &as_read).await.unwrap(), [Target { server: far.clone(), parting: false }]);
    targets.forget(room);
    assert!(targets.goes_to(room, &as_read, &far).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_servers_are_those_before_the_event() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.take("far.test");
    // All of this is in the log before the reader looks at any of it.
    w.say(&room, "@alice:hearth.test", "early").await;
    w.act(&room, "@carol:other.test", MemberAction::Join, "@carol:other.test").await;
    w.say(&room, "@alice:hearth.test", "middle").await;
    w.act(&room, "@bob:far.test", MemberAction::Leave, "@bob:far.test").await;
    w.say(&room, "@alice:hearth.test", "late").await;
    w.settle().await;
    assert_eq!(w.script.texts("far.test"), ["early", "middle"], "nothing after it left");
    assert_eq!(w.script.texts("other.test"), ["middle", "late"], "nothing before it joined");
}

#[tokio::test(start_paused = true)]
async fn who_is_removed_hears_of_it_and_who_is_invited_does_not() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test", "@bill:far.test", "@carol:other.test"]).await;
    w.settle().await;
    w.script.forget(&["far.test", "other.test"]);
    w.act(&room, "@alice:hearth.test", MemberAction::Kick, "@bob:far.test").await;
    w.act(&room, "@alice:hearth.test", MemberAction::Ban, "@bill:far.test").await;
    w.say(&room, "@alice:hearth.test", "gone?").await;
    w.act(&room, "@alice:hearth.test", MemberAction::Unban, "@bill:far.test").await;
    w.settle().await;
    let memberships = |sent: &[Sent]| -> Vec<String> {
        let pdus = sent.iter().flat_map(Sent::pdus);
        pdus.filter_map(|pdu| Some(pdu["content"]["membership"].as_str()?.to_owned())).collect()
    };
    let far = w.script.take("far.test");
    assert_eq!(memberships(&far), ["leave", "ban"], "its last user's removal, and nothing after");
    assert_eq!(far.iter().flat_map(Sent::texts).count(), 2);
    assert_eq!(memberships(&w.script.take("other.test")), ["leave", "ban", "leave"]);
}

#[tokio::test(start_paused = true)]
async fn a_knock_that_is_refused_is_told_to_its_server() {
    let w = World::new().await;
    let room = w.room(&[]).await;
    let rules = hearth_rooms::StateChange {
        room_id: room.clone(),
        sender: user("@alice:hearth.test"),
        kind: "m.room.join_rules".to_owned(),
        state_key: String::new(),
        content: to_raw_value(&json!({ "join_rule": "knock" })).unwrap(),
        guest: false,
        ts_ms: None,
    };
    w.rooms.set_state(rules).await.unwrap();
    w.act(&room, "@bob:far.test", MemberAction::Knock, "@bob:far.test").await;
    w.say(&room, "@alice:hearth.test", "who is that").await;
    w.act(&room, "@alice:hearth.test", MemberAction::Kick, "@bob:far.test").await;
    w.settle().await;
    let sent = w.script.take("far.test");
    assert_eq!(sent.iter().flat_map(Sent::texts).collect::<Vec<_>>(), ["m.room.member"]);
    assert_eq!(sent[0].pdus()[0]["content"]["membership"], "leave");
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_through_us_is_passed_on_but_not_back() {
    let w = World::new().await;
    let room = w.room(&["@carol:other.test", "@bill:far.test"]).await;
    w.settle().await;
    w.script.forget(&["far.test", "other.test"]);
    let relayed = w.act(&room, "@bob:far.test", MemberAction::Join, "@bob:far.test").await;
    w.set_header(&room, &relayed, |header| {
        header.origin = Some("far.test".to_owned());
        header.relay = true;
    })
    .await;
    let received = w.say(&room, "@alice:hearth.test", "ours, but had from another").await;
    w.set_header(&room, &received, |header| header.origin = Some("other.test".to_owned())).await;
    w.settle().await;
    assert_eq!(w.script.texts("other.test"), ["m.room.member"]);
    assert!(w.script.take("far.test").is_empty());
}

/// A server takes its time between asking for a join's place and sending the join; another comes in meanwhile.
#[tokio::test(start_paused = true)]
async fn what_was_accepted_through_us_goes_to_those_who_came_in_before_it() {
    let w = World::new().await;
    let room = w.room(&[]).await;
    let early = w.say(&room, "@alice:hearth.test", "early").await;
    let early = w.store.event_by_id(w.number(&room).await, &early).await.unwrap().unwrap();
    w.act(&room, "@carol:other.test", MemberAction::Join, "@carol:other.test").await;
    w.settle().await;
    w.script.forget(&["other.test"]);
    let relayed = w.act(&room, "@bob:far.test", MemberAction::Join, "@bob:far.test").await;
    w.set_header(&room, &relayed, |header| {
        header.origin = Some("far.test".to_owned());
        header.relay = true;
        (header.prevs, header.state_before) = (vec![early.number], early.header.state_after);
    })
    .await;
    w.settle().await;
    assert_eq!(w.script.texts("other.test"), ["m.room.member"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_costs_the_same_in_a_large_room() {
    let w = World::new().await;
    let mut costs = Vec::new();
    for members in [5, 200] {
        let members: Vec<String> = (0..members).map(|nth| format!("@u{nth}:far.test")).collect();
        let room = w.room(&members.iter().map(String::as_str).collect::<Vec<_>>()).await;
        w.say(&room, "@alice:hearth.test", "warm").await;
        w.settle().await;
        for text in texts(0..20) {
            w.say(&room, "@alice:hearth.test", &text).await;
        }
        let before = w.engine.reads();
        w.settle().await;
        costs.push(w.engine.reads() - before);
    }
    assert_eq!(costs[0], costs[1]);
    assert_eq!(w.script.texts("far.test").len(), 42);
}

#[tokio::test(start_paused = true)]
async fn a_room_of_ours_alone_costs_nothing_but_the_log() {
    let w = World::new().await;
    let room = w.room(&["@dave:hearth.test"]).await;
    w.say(&room, "@alice:hearth.test", "warm").await;
    w.settle().await;
    for text in texts(0..100) {
        w.say(&room, "@alice:hearth.test", &text).await;
    }
    let before = w.engine.reads();
    w.settle().await;
    assert!(w.engine.reads() - before < 10, "{}", w.engine.reads() - before);
    // The first stranger is noticed, and so is that the last one leaves.
    w.act(&room, "@bob:far.test", MemberAction::Join, "@bob:far.test").await;
    w.say(&room, "@alice:hearth.test", "welcome").await;
    w.act(&room, "@alice:hearth.test", MemberAction::Kick, "@bob:far.test").await;
    w.say(&room, "@alice:hearth.test", "alone again").await;
    w.settle().await;
    assert_eq!(w.script.texts("far.test"), ["welcome", "m.room.member"]);
}

#[tokio::test(start_paused = true)]
async fn the_first_server_that_joins_through_us_hears_what_follows() {
    let w = World::new().await;
    let room = w.room(&["@dave:hearth.test"]).await;
    w.say(&room, "@alice:hearth.test", "alone").await;
    w.settle().await;
    let joined = w.act(&room, "@bob:far.test", MemberAction::Join, "@bob:far.test").await;
    w.set_header(&room, &joined, |header| {
        header.origin = Some("far.test".to_owned());
        header.relay = true;
    })
    .await;
    w.settle().await;
    w.say(&room, "@alice:hearth.test", "welcome").await;
    w.settle().await;
    assert_eq!(w.script.texts("far.test"), ["welcome"]);
}

#[tokio::test(start_paused = true)]
async fn order_is_kept_one_transaction_at_a_time_of_at_most_50() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.take("far.test");
    let let_go = Arc::new(Notify::new());
    w.script.set("far.test", Manner::Waits(let_go.clone()));
    for text in texts(0..120) {
        w.say(&room, "@alice:hearth.test", &text).await;
        w.outbound.follow().await.unwrap();
    }
    w.settle().await;
    assert_eq!(w.script.sent.lock().len(), 1, "the next waits for the answer");
    w.script.set("far.test", Manner::Takes);
    let_go.notify_one();
    w.settle().await;
    let sent = w.script.take("far.test");
    assert_eq!(sent.iter().flat_map(Sent::texts).collect::<Vec<_>>(), texts(0..120));
    assert!(sent.iter().all(|sent| sent.pdus().len() <= 50));
    assert_eq!(sent.iter().filter(|sent| sent.pdus().len() == 50).count(), 2, "they are full where they can be");
    let ids: HashSet<_> = sent.iter().map(|sent| &sent.id).collect();
    assert_eq!(ids.len(), sent.len());
}

#[tokio::test(start_paused = true)]
async fn the_cursor_stays_before_what_is_on_its_way_and_moves_once_a_second() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.pass_ms(2_000).await;
    let cursor = async || w.store.cursor("federation").await.unwrap().positions;
    let before = cursor().await;
    assert!(before.covers(&w.store.live().positions()), "all is delivered");

    let let_go = Arc::new(Notify::new());
    w.script.set("far.test", Manner::Waits(let_go.clone()));
    w.say(&room, "@alice:hearth.test", "slow").await;
    w.settle().await;
    w.pass_ms(2_000).await;
    assert_eq!(cursor().await, before, "it would be lost");
    let_go.notify_one();
    w.settle().await;
    w.pass_ms(2_000).await;
    let after = cursor().await;
    assert!(after.covers(&before) && after != before);

    w.script.set("far.test", Manner::Takes);
    w.say(&room, "@alice:hearth.test", "one more").await;
    w.pass_ms(10).await;
    w.say(&room, "@alice:hearth.test", "and one").await;
    w.pass_ms(10).await;
    assert_eq!(cursor().await, after, "not so soon again");
    w.pass_ms(1_000).await;
    assert!(cursor().await != after);
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_the_first_second_of_all_loses_nothing() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.script.set("far.test", Manner::Hangs);
    w.say(&room, "@alice:hearth.test", "early").await;
    w.settle().await;
    w.script.set("far.test", Manner::Takes);
    let w = w.restarted().await;
    w.settle().await;
    assert!(w.script.texts("far.test").contains(&"early".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_nothing_is_lost() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.pass_ms(2_000).await;
    w.script.take("far.test");
    w.say(&room, "@alice:hearth.test", "arrived").await;
    w.settle().await;
    assert_eq!(w.script.texts("far.test"), ["arrived"]);
    w.script.set("far.test", Manner::Hangs);
    w.say(&room, "@alice:hearth.test", "on its way").await;
    w.settle().await;
    w.say(&room, "@alice:hearth.test", "never read").await;
    let w = w.restarted().await;
    w.script.set("far.test", Manner::Takes);
    w.settle().await;
    let texts = w.script.texts("far.test");
    assert_eq!(texts, ["arrived", "on its way", "never read"], "once more, in order");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_begins_to_federate_begins_now() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.say(&room, "@alice:hearth.test", "long ago").await;
    let mut write = Write::new(cursor_partition("federation"));
    write.delete(hearth_store::Table::Mi, cursor_key("federation"));
    w.store.commit(write).await.unwrap();
    let w = w.restarted().await;
    w.say(&room, "@alice:hearth.test", "now").await;
    // A crash before the cursor was ever moved.
    let w = w.restarted().await;
    w.settle().await;
    assert_eq!(w.script.texts("far.test"), ["now"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_saved_at_the_end_is_not_sent_again() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    // The cursor was stored just now: it is not stored again within the second.
    w.pass_ms(5_000).await;
    w.say(&room, "@alice:hearth.test", "last").await;
    w.settle().await;
    assert_eq!(w.script.texts("far.test").last().map(String::as_str), Some("last"));
    w.outbound.save().await;
    let w = w.restarted().await;
    w.settle().await;
    assert!(w.script.take("far.test").is_empty());
}
