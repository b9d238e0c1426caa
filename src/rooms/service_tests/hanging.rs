//! Servers that take a request and never answer, and servers that ask for much: nobody else waits for them.

use std::{future::Future, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::twin::{Town, towns};
use crate::{Membership, Preset, SendError};

const SOON: Duration = Duration::from_secs(1);

/// Lets these get as far as they get.
async fn begin<T>(stuck: impl IntoIterator<Item = impl Future<Output = T>>) {
    assert!(timeout(SOON, join_all(stuck)).await.is_err(), "they hang");
}

fn hang(town: &Town, what: &str) {
    town.net.hanging.lock().insert(format!("{what} {}", town.name));
}

/// Public rooms, as many as joins of ours may be under way at once.
async fn rooms_of(town: &Town) -> [ruma::OwnedRoomId; 4] {
    let rooms = join_all((0..4).map(|_| town.create("helen", Preset::Public))).await;
    rooms.try_into().unwrap()
}

#[tokio::test(start_paused = true)]
async fn servers_that_give_no_template_stop_nobody_elses_joins() {
    let [a, b, h] = towns(["a.test", "b.test", "h.test"]).await;
    let (room_id, far) = (a.create("alice", Preset::Public).await, rooms_of(&h).await);
    hang(&h, "make_member");
    let names = ["m0", "m1", "m2", "m3"];
    let via = [&h];
    begin(far.iter().zip(names).map(|(room_id, name)| b.join(room_id, name, &via))).await;
    timeout(SOON, b.join(&room_id, "bob", &[&a])).await.expect("nobody stands in the way").unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobodys_joins_that_hang_stop_those_of_others() {
    let [a, b, h] = towns(["a.test", "b.test", "h.test"]).await;
    let (room_id, far) = (a.create("alice", Preset::Public).await, rooms_of(&h).await);
    hang(&h, "send_join");
    let via = [&h];
    begin(far.iter().map(|room_id| b.join(room_id, "mallory", &via))).await;
    timeout(SOON, b.join(&room_id, "bob", &[&a])).await.expect("bob has his own share").unwrap();
    // Four who hang do stop others, but these are told so.
    let more = ["m1", "m2", "m3"];
    begin(rooms_of(&h).await[1..].iter().zip(more).map(|(room_id, name)| b.join(room_id, name, &via))).await;
    let room_id = a.create("alice", Preset::Public).await;
    let late = timeout(Duration::from_secs(600), b.join(&room_id, "bert", &[&a])).await.expect("they are answered");
    assert!(matches!(late, Err(SendError::Busy)), "{late:?}");
    assert_eq!(a.membership(&room_id, &b.user("bert")).await, None);
}

#[tokio::test(start_paused = true)]
async fn keys_that_do_not_come_stop_no_joins_of_other_servers() {
    let [a, b, g, h] = towns(["a.test", "b.test", "g.test", "h.test"]).await;
    let (room_id, rooms) = (a.create("alice", Preset::Public).await, rooms_of(&a).await);
    hang(&g, "server_keys");
    hang(&h, "server_keys");
    let strangers = [&g, &g, &h, &h];
    let via = [&a];
    let joins = strangers.into_iter().zip(["0", "1", "2", "3"]).zip(&rooms);
    begin(joins.map(|((town, name), room_id)| town.join(room_id, name, &via))).await;
    timeout(SOON, b.join(&room_id, "bob", &[&a])).await.expect("nobody stands in the way").unwrap();
    assert_eq!(a.membership(&rooms[0], &g.user("0")).await, None);
}

/// One server that takes all turns it can get.
#[tokio::test(start_paused = true)]
async fn a_server_that_joins_much_stops_no_joins_of_others() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    let serving = &a.world.rooms.serving;
    let greedy = "greedy.test".try_into().unwrap();
    let turns = join_all((0..4).map(|_| serving.join_turn(greedy))).await;
    timeout(SOON, b.join(&room_id, "bob", &[&a])).await.expect("others have their share").unwrap();
    assert_eq!(a.membership(&room_id, &b.user("bob")).await, Some(Membership::Join));
    assert!(turns.iter().flatten().count() > 0);
}

#[tokio::test(start_paused = true)]
async fn who_looks_for_an_event_near_a_time_waits_only_so_long() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    hang(&a, "event_near");
    let found = timeout(Duration::from_secs(60), b.world.rooms.fetch_near(&room_id, 0, false, None)).await;
    assert!(matches!(found, Ok(Ok(None))), "{found:?}");
}
