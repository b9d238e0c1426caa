//! Servers that take a request and never answer, and servers that ask for much: nobody else waits for them.

use std::{future::Future, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::twin::{Town, towns};
use crate::{Membership, Preset};

const SOON: Duration = Duration::from_secs(1);

/// Lets these get as far as they get.
async fn begin<T>(stuck: impl IntoIterator<Item = impl Future<Output = T>>) {
    assert!(timeout(SOON, join_all(stuck)).await.is_err(), "they hang");
}

fn hang(town: &Town, what: &str) {
    town.net.hanging.lock().insert(format!("{what} {}", town.name));
}

#[tokio::test(start_paused = true)]
async fn keys_that_do_not_come_stop_no_joins_of_other_servers() {
    let [a, b, g, h] = towns(["a.test", "b.test", "g.test", "h.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    hang(&g, "server_keys");
    hang(&h, "server_keys");
    let strangers = [(&g, "g0"), (&g, "g1"), (&h, "h0"), (&h, "h1")];
    let via = [&a];
    begin(strangers.map(|(town, name)| town.join(&room_id, name, &via))).await;
    timeout(SOON, b.join(&room_id, "bob", &[&a])).await.expect("nobody stands in the way").unwrap();
    assert_eq!(a.membership(&room_id, &g.user("g0")).await, None);
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
