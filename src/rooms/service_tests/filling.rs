//! History that is filled in from other servers.

use hearth_core::RoomVersion;
use hearth_ports::Table;
use hearth_store::{
    EventNumber, Order, Write,
    tables::{BackwardRow, EventFlags, backward_key, gap_key},
};
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::json;

use super::twin::{Town, towns};
use crate::{MemberAction, Preset};

/// The gap that is highest in the timeline.
async fn gap(town: &Town, room_id: &OwnedRoomId) -> Option<Order> {
    let room = town.world.number(room_id).await;
    town.world.store.gaps(room, .., 1, true).await.unwrap().first().map(|(order, _)| *order)
}

/// The ids of the timeline, oldest first.
async fn timeline(town: &Town, room_id: &OwnedRoomId) -> Vec<OwnedEventId> {
    let (store, room) = (&town.world.store, town.world.number(room_id).await);
    let rows = store.timeline(room, .., 20_000, false).await.unwrap();
    let numbers: Vec<EventNumber> = rows.iter().filter_map(|(_, row)| row.event).collect();
    let events = store.events(room, &numbers).await.unwrap();
    events.into_iter().map(|stored| stored.unwrap().event.event_id().to_owned()).collect()
}

async fn fill(town: &Town, room_id: &OwnedRoomId) -> usize {
    let Some(gap) = gap(town, room_id).await else { return 0 };
    town.world.rooms.backfill(room_id, gap).await.unwrap()
}

#[tokio::test]
async fn a_newcomer_learns_the_whole_history_of_every_version() {
    for version in RoomVersion::ALL {
        let [a, b] = towns(["a.test", "b.test"]).await;
        let room_id = a.create_in("alice", Preset::Public, version).await;
        a.say(&room_id, "alice", "one").await.unwrap();
        a.set(&room_id, "alice", "m.room.topic", json!({ "topic": "first" })).await;
        a.join(&room_id, "anna", &[]).await.unwrap();
        let bad = a.say(&room_id, "anna", "bad").await.unwrap();
        a.set(&room_id, "alice", "m.room.topic", json!({ "topic": "second" })).await;
        redact(&a, &room_id, &bad).await;
        a.own(&room_id, "anna", MemberAction::Leave, &[]).await.unwrap();
        b.join(&room_id, "bob", &[&a]).await.unwrap();
        let state = b.state_ids(&room_id).await;
        b.say(&room_id, "bob", "hello").await.unwrap();
        assert_eq!(timeline(&b, &room_id).await.len(), 2);
        assert!(fill(&b, &room_id).await > 8, "{version}");
        assert_eq!(gap(&b, &room_id).await, None, "{version}: the room's beginning is reached");
        let (here, there) = (timeline(&b, &room_id).await, timeline(&a, &room_id).await);
        assert_eq!(here[..there.len()], there[..], "{version}");
        assert_eq!(b.state_ids(&room_id).await, state, "{version}: the present is as it was");
        b.world.check().await;
        // Each event knows the state before it, as at a.
        for id in &there {
            let at = |town: &Town| {
                let (rooms, room_id, id) = (town.world.rooms.clone(), room_id.clone(), id.clone());
                let other = if town.name == a.name { b.name.clone() } else { a.name.clone() };
                async move { rooms.serve_state_ids(&other, &room_id, &id).await.unwrap().state }
            };
            let (mut one, mut other) = (at(&a).await, at(&b).await);
            one.sort();
            other.sort();
            assert_eq!(one, other, "{version}");
        }
        assert!(!b.event(&room_id, &bad).await.content_json().contains("bad"));
        // What b fetched it can give.
        let all = b.world.rooms.serve_backfill(&a.name, &room_id, &here[here.len() - 1..], 100).await.unwrap();
        assert_eq!(all.len(), here.len(), "{version}: the graph holds together");
    }
}

async fn redact(town: &Town, room_id: &OwnedRoomId, target: &OwnedEventId) {
    let redaction = crate::Redaction {
        room_id: room_id.clone(),
        sender: town.user("alice"),
        target: target.clone(),
        content: serde_json::value::to_raw_value(&json!({})).unwrap(),
        transaction: None,
        only_own: false,
    };
    town.world.rooms.redact(redaction).await.unwrap();
}

#[tokio::test]
async fn a_long_history_comes_in_pieces_each_below_the_other() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    for nth in 0..250 {
        a.say(&room_id, "alice", &nth.to_string()).await.unwrap();
    }
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let there = timeline(&a, &room_id).await;
    let mut pieces = Vec::new();
    while let Some(before) = gap(&b, &room_id).await {
        let count = fill(&b, &room_id).await;
        assert!(count > 0 && gap(&b, &room_id).await < Some(before));
        pieces.push(count);
        let here = timeline(&b, &room_id).await;
        assert_eq!(here[..], there[there.len() - here.len()..], "no hole in what is here");
        b.world.check().await;
    }
    assert_eq!(timeline(&b, &room_id).await, there);
    assert!(pieces.len() == 3 && pieces[0] == 100, "{pieces:?}");
    assert_eq!(fill(&b, &room_id).await, 0);
}

#[tokio::test]
async fn a_gap_that_nobody_fills_is_left_alone_for_a_while() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let before = gap(&b, &room_id).await;
    assert!(before.is_some());
    a.net.set_down(&a, true);
    assert_eq!((fill(&b, &room_id).await, fill(&b, &room_id).await), (0, 0));
    let asked = a.net.asked.lock().iter().filter(|asked| asked.starts_with("backfill")).count();
    assert_eq!(asked, 1);
    a.net.set_down(&a, false);
    b.world.clock.advance_ms(120_000);
    assert!(fill(&b, &room_id).await > 0);
    assert_eq!(gap(&b, &room_id).await, None);
}

#[tokio::test]
async fn who_comes_back_sees_what_was_said_meanwhile_below_the_return() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    a.say(&room_id, "alice", "early").await.unwrap();
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    while fill(&b, &room_id).await > 0 {}
    a.world.clock.advance_ms(1_000);
    b.world.clock.advance_ms(1_000);
    let left = b.own(&room_id, "bob", MemberAction::Leave, &[]).await.unwrap();
    let leave = b.event(&room_id, &left).await;
    a.world.rooms.accept_leave(&b.name, &room_id, &left, leave.json().clone()).await.unwrap();
    a.say(&room_id, "alice", "meanwhile").await.unwrap();
    a.set(&room_id, "alice", "m.room.topic", json!({ "topic": "meanwhile" })).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    assert_eq!(fill(&b, &room_id).await, 2);
    assert_eq!(gap(&b, &room_id).await, None, "what was before is here");
    assert_eq!(timeline(&b, &room_id).await, timeline(&a, &room_id).await);
    b.world.check().await;
}

#[tokio::test]
async fn history_that_may_not_be_seen_comes_as_its_shape() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    a.set(&room_id, "alice", "m.room.history_visibility", json!({ "history_visibility": "joined" })).await;
    let secret = a.say(&room_id, "alice", "secret").await.unwrap();
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    assert!(fill(&b, &room_id).await > 0);
    let room = b.world.number(&room_id).await;
    let stored = b.world.store.event_by_id(room, &secret).await.unwrap().unwrap();
    assert!(!stored.event.content_json().contains("secret"));
    assert!(stored.accepted() && !stored.header.flags.has(EventFlags::OUTLIER));
    b.world.check().await;
}

#[tokio::test]
async fn an_event_in_the_middle_of_a_gap_is_fetched_and_the_rest_fills_up_around_it() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    let mut said = Vec::new();
    for nth in 0..120 {
        a.world.clock.advance_ms(1_000);
        said.push(a.say(&room_id, "alice", &nth.to_string()).await.unwrap());
    }
    b.world.clock.advance_ms(200_000);
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let middle = a.event(&room_id, &said[40]).await.origin_server_ts();
    let now = b.world.clock.as_ref();
    let now_ms = hearth_ports::Clock::now_ms(now);
    let found = b.world.rooms.fetch_near(&room_id, middle + 10, true, None).await.unwrap();
    assert_eq!(found, Some((said[40].clone(), middle)));
    assert_eq!(b.world.rooms.fetch_near(&room_id, now_ms, true, Some(now_ms)).await.unwrap(), None, "nothing nearer");
    assert_eq!(timeline(&b, &room_id).await.len(), 2);
    b.world.check().await;
    // From the top down to it, and from it down to the beginning.
    let mut rounds = 0;
    while fill(&b, &room_id).await > 0 {
        b.world.check().await;
        rounds += 1;
    }
    assert_eq!(gap(&b, &room_id).await, None);
    assert_eq!(timeline(&b, &room_id).await, timeline(&a, &room_id).await);
    assert!(rounds <= 4, "{rounds}");
}

/// Somebody has cited events that never were: there are more of them than are asked for at once, and they come first.
#[tokio::test]
async fn events_that_never_were_do_not_hide_those_that_were() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    chatter(&a, &room_id, 150).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let (store, room) = (&b.world.store, b.world.number(&room_id).await);
    let (order, mut row) = store.gaps(room, .., 1, true).await.unwrap().remove(0);
    let citing: BackwardRow = store.get(Table::Tl, &backward_key(room, &row.missing[0])).await.unwrap().unwrap();
    let mut write = Write::new(room.partition());
    for nth in 0..250 {
        let never = format!("$----------------------------------------{nth:03}");
        write.put(Table::Tl, backward_key(room, &never), &BackwardRow { event_id: never.clone(), ..citing.clone() });
        row.missing.push(never);
    }
    row.missing.sort_unstable();
    write.put(Table::Tl, gap_key(room, order), &row);
    store.commit(write).await.unwrap();
    while fill(&b, &room_id).await > 0 {
        let gaps = store.gaps(room, .., 1, true).await.unwrap();
        assert!(gaps.iter().all(|(_, row)| row.missing.len() < 100), "what nobody has is forgotten");
        b.world.check().await;
    }
    assert_eq!(timeline(&b, &room_id).await, timeline(&a, &room_id).await);
}

/// What is missing has come by another way and is not shown, so that the gap is still in front of it.
#[tokio::test]
async fn a_gap_in_front_of_what_is_here_but_not_shown_is_filled() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    chatter(&a, &room_id, 150).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    assert_eq!(fill(&b, &room_id).await, 100);
    let (store, room) = (&b.world.store, b.world.number(&room_id).await);
    let (order, mut row) = store.gaps(room, .., 1, true).await.unwrap().remove(0);
    let missing = backward_key(room, &row.missing[0]);
    let citing: BackwardRow = store.get(Table::Tl, &missing).await.unwrap().unwrap();
    let here = store.event(room, citing.cited_by).await.unwrap().unwrap().event.event_id().to_string();
    let mut write = Write::new(room.partition());
    write.delete(Table::Tl, missing);
    row.missing = vec![here.clone()];
    write.put(Table::Tl, backward_key(room, &here), &BackwardRow { event_id: here, ..citing });
    write.put(Table::Tl, gap_key(room, order), &row);
    store.commit(write).await.unwrap();
    while fill(&b, &room_id).await > 0 {}
    assert_eq!(timeline(&b, &room_id).await, timeline(&a, &room_id).await);
}

/// Messages of alice, many at a time.
async fn chatter(town: &Town, room_id: &OwnedRoomId, count: usize) {
    const AT_ONCE: usize = 100;
    for first in (0..count).step_by(AT_ONCE) {
        let texts: Vec<String> = (first..count.min(first + AT_ONCE)).map(|nth| format!("message {nth}")).collect();
        let said = texts.iter().map(|text| town.say(room_id, "alice", text));
        futures_util::future::try_join_all(said).await.unwrap();
    }
}

/// A server was away for ten thousand events of a room, and is then told the newest: it stands where the others do, and the
/// rest is there for who reads back.
#[tokio::test]
async fn ten_thousand_missed_events_are_had_in_the_end() {
    const HALF: usize = 5_000;
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    while fill(&b, &room_id).await > 0 {}
    a.join(&room_id, "anna", &[]).await.unwrap();
    chatter(&a, &room_id, HALF).await;
    // What happens while b is away changes the state, and in part changes it back. Where branches meet, time decides.
    a.world.clock.advance_ms(1);
    a.set(&room_id, "alice", "m.room.topic", json!({ "topic": "in the dark" })).await;
    a.own(&room_id, "anna", MemberAction::Leave, &[]).await.unwrap();
    a.join(&room_id, "arne", &[]).await.unwrap();
    a.act(&room_id, "alice", MemberAction::Ban, &a.user("arne"), &[]).await.unwrap();
    chatter(&a, &room_id, HALF).await;
    let last = a.say(&room_id, "alice", "are you there?").await.unwrap();
    let newest = a.event(&room_id, &last).await.json().clone();
    for received in b.world.rooms.receive(&a.name, &room_id, vec![newest]).await {
        received.result.unwrap();
    }
    assert_eq!(b.state_ids(&room_id).await, a.state_ids(&room_id).await);
    assert!(gap(&b, &room_id).await.is_some());
    let mut asked = 0;
    while fill(&b, &room_id).await > 0 {
        asked += 1;
    }
    assert_eq!(gap(&b, &room_id).await, None, "asked {asked} times");
    let (here, there) = (timeline(&b, &room_id).await, timeline(&a, &room_id).await);
    assert!(there.len() > 2 * HALF);
    assert_eq!(here, there, "the same events in the same order");
    assert_eq!(b.state_ids(&room_id).await, a.state_ids(&room_id).await);
    b.world.check().await;
    // And both go on from there.
    let said = b.say(&room_id, "bob", "yes").await.unwrap();
    let said = b.event(&room_id, &said).await.json().clone();
    for received in a.world.rooms.receive(&b.name, &room_id, vec![said]).await {
        received.result.unwrap();
    }
    assert_eq!(b.state_ids(&room_id).await, a.state_ids(&room_id).await);
    assert_eq!(a.world.head(&room_id).await.extremities.len(), 1);
}
