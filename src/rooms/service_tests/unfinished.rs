//! Events whose base could not be had when they came.

use std::{sync::Arc, time::Duration};

use hearth_core::{Event, RoomVersion};
use ruma::{OwnedEventId, OwnedRoomId, RoomId};

use super::{
    PATIENCE,
    elsewhere::Act,
    script::{BOB, Scene},
    twin::{Town, towns},
};
use crate::{Preset, ReceiveError};

impl Town {
    /// Hears the last of two events while its server is down, which is then missing the first.
    async fn hears_half(&self, from: &Town, room_id: &RoomId) -> [OwnedEventId; 2] {
        let first = from.say(room_id, "alice", "first").await.unwrap();
        let last = from.say(room_id, "alice", "last").await.unwrap();
        let bytes = from.event(room_id, &last).await.json().clone();
        self.net.down.lock().insert(from.name.clone());
        let received = self.world.rooms.receive(&from.name, room_id, vec![bytes]).await.remove(0);
        assert!(matches!(received.result, Err(ReceiveError::Incomplete(_))), "{received:?}");
        assert!(!self.has(room_id, &last).await);
        [first, last]
    }

    async fn finishes(&self, room_id: &RoomId) {
        let room = self.world.number(room_id).await;
        let left = async {
            while !self.world.store.unfinished_events(room, 1).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(100 * PATIENCE, left).await.expect("they are finished");
    }
}

async fn shared_room(a: &Town, others: &[&Town]) -> OwnedRoomId {
    let room_id = a.create_in("alice", Preset::Public, RoomVersion::V11).await;
    for other in others {
        let join = other.join(&room_id, "guest", &[a]).await.unwrap();
        for third in others.iter().filter(|third| third.name != other.name) {
            if third.world.store.room_number(&room_id).await.unwrap().is_some() {
                third.hears(a, &room_id, &[&join]).await;
            }
        }
    }
    room_id
}

#[tokio::test(start_paused = true)]
async fn the_last_word_of_a_server_is_taken_when_it_answers_again() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = shared_room(&a, &[&b]).await;
    let [first, last] = b.hears_half(&a, &room_id).await;
    let b = b.restarted().await;
    b.net.down.lock().clear();
    b.world.rooms.resume().await.unwrap();
    b.finishes(&room_id).await;
    assert!(b.has(&room_id, &first).await && b.has(&room_id, &last).await);
    b.world.check().await;
}

#[tokio::test(start_paused = true)]
async fn another_server_is_asked_for_what_is_missing() {
    let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
    let room_id = shared_room(&a, &[&b, &c]).await;
    let [first, last] = b.hears_half(&a, &room_id).await;
    c.hears(&a, &room_id, &[&first, &last]).await;
    b.finishes(&room_id).await;
    assert!(b.net.down.lock().contains(&a.name), "it never came back");
    assert!(b.has(&room_id, &first).await && b.has(&room_id, &last).await);
    b.world.check().await;
}

#[tokio::test]
async fn what_one_server_can_have_kept_is_bounded_and_given_up_after_a_day() {
    let scene = Scene::new(RoomVersion::V11).await;
    let hidden = scene.go_on(&Act::say(BOB, "never told"));
    let behind = |n: usize| scene.room().make(&[hidden.event_id()], &Act::say(BOB, &n.to_string()));
    let sent: Vec<Event> = (0..60).map(behind).collect();
    scene.script.hidden.lock().insert(hidden.event_id().to_owned());
    scene.script.refused.lock().extend(["missing_events", "state_ids", "state", "event", "event_auth"]);
    // Of a server that is not in the room nothing is.
    let json: Vec<_> = sent.iter().map(|event| event.json().clone()).collect();
    scene.world.rooms.receive(ruma::server_name!("evil.test"), &scene.room_id, json).await;
    assert_eq!(scene.world.store.unfinished_rooms().await.unwrap(), []);
    for some in sent.chunks(40) {
        let results = scene.send(&some.iter().collect::<Vec<_>>()).await;
        assert!(results.iter().all(|result| matches!(result, Err(ReceiveError::Incomplete(_)))), "{results:?}");
    }
    let room = scene.world.number(&scene.room_id).await;
    let kept = async || scene.world.store.unfinished_events(room, 1_000).await.unwrap().len();
    assert_eq!(kept().await, 50);
    assert_eq!(scene.world.store.unfinished_rooms().await.unwrap(), [room]);
    // Again: none is kept twice.
    scene.send(&sent[..40].iter().collect::<Vec<_>>()).await;
    assert_eq!(kept().await, 50);
    let rooms = Arc::clone(&scene.world.rooms);
    assert!(!rooms.finish(room, 1).await.unwrap());
    scene.world.clock.advance_ms(24 * 3_600_000);
    assert!(rooms.finish(room, 1).await.unwrap());
    assert_eq!(kept().await, 0);
    assert!(scene.stored(&sent[0]).await.is_none());
}

/// One that cannot be finished for long does not make others wait as long.
#[tokio::test(start_paused = true)]
async fn what_is_kept_later_is_tried_soon() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = shared_room(&a, &[&b]).await;
    b.hears_half(&a, &room_id).await;
    tokio::time::sleep(Duration::from_secs(3_100)).await;
    let [first, last] = b.hears_half(&a, &room_id).await;
    b.net.down.lock().clear();
    let since = tokio::time::Instant::now();
    b.finishes(&room_id).await;
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
    assert!(b.has(&room_id, &first).await && b.has(&room_id, &last).await);
}

/// Only the first event of a room follows none; another that does not need not be tried again.
#[tokio::test]
async fn what_follows_nothing_is_not_kept() {
    let scene = Scene::new(RoomVersion::V11).await;
    let id = ruma::EventId::new_v1(ruma::server_name!("two"));
    let first = scene.room().build_named(&[], &Act::say(BOB, "first"), &id);
    let result = scene.send(&[&first]).await.remove(0);
    assert!(matches!(result, Err(ReceiveError::Incomplete(_))), "{result:?}");
    assert_eq!(scene.world.store.unfinished_rooms().await.unwrap(), []);
}
