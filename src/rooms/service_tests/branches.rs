//! Servers whose users' joins are undone where branches of a room meet: nothing would ever tell them, so the event that
//! joins the branches does.

use std::collections::BTreeSet;

use hearth_ports::MissingEvents;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName};
use serde_json::json;

use super::twin::{Town, towns};
use crate::{MemberAction, Membership, Preset, undone_joins};

/// Alice's room, with Bob and Carol of two other servers in it. Nothing crosses by itself.
struct Scene {
    a: Town,
    b: Town,
    c: Town,
    room_id: OwnedRoomId,
}

impl Scene {
    async fn new() -> Self {
        let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
        let room_id = a.create("alice", Preset::Public).await;
        b.join(&room_id, "bob", &[&a]).await.unwrap();
        let joined = c.join(&room_id, "carol", &[&a]).await.unwrap();
        let scene = Self { a, b, c, room_id };
        scene.carry(&joined, &scene.a, &[&scene.b]).await;
        scene.tick();
        scene
    }

    /// Where branches meet, time decides.
    fn tick(&self) {
        [&self.a, &self.b, &self.c].iter().for_each(|town| town.world.clock.advance_ms(1_000));
    }

    /// One server tells others of an event.
    async fn carry(&self, event_id: &EventId, from: &Town, to: &[&Town]) {
        let json = from.event(&self.room_id, event_id).await.json().clone();
        for town in to {
            for received in town.world.rooms.receive(&from.name, &self.room_id, vec![json.clone()]).await {
                received.result.unwrap();
            }
        }
    }

    async fn close(&self) -> OwnedEventId {
        self.tick();
        self.a.set(&self.room_id, "alice", "m.room.join_rules", json!({ "join_rule": "invite" })).await
    }

    /// Whom an event of a server puts out by joining branches.
    async fn undone_by(&self, town: &Town, event_id: &EventId) -> BTreeSet<OwnedServerName> {
        let room = town.world.number(&self.room_id).await;
        let stored = town.world.store.event_by_id(room, event_id).await.unwrap().unwrap();
        undone_joins(&town.world.store, room, &stored).await.unwrap()
    }

    async fn carol_at(&self, town: &Town) -> Option<Membership> {
        town.membership(&self.room_id, &self.c.user("carol")).await
    }

    /// Bob has the branches, and Carol is not in his room: what he says next tells her server.
    async fn carol_is_told_by_bob(&self) {
        let Self { a, b, c, room_id } = self;
        assert_eq!(self.carol_at(b).await, Some(Membership::Leave));
        assert_eq!(self.carol_at(c).await, Some(Membership::Join), "nobody has told her");
        let said = b.say(room_id, "bob", "hello").await.unwrap();
        assert_eq!(self.undone_by(b, &said).await, [c.name.clone()].into());
        self.carry(&said, b, &[a, c]).await;
        assert_eq!(self.carol_at(c).await, Some(Membership::Leave));
        assert_eq!(c.state_ids(room_id).await, b.state_ids(room_id).await);
        assert_eq!(a.state_ids(room_id).await, b.state_ids(room_id).await);
        // Of that event, and nothing that comes after.
        let next = b.say(room_id, "bob", "now we are alone").await.unwrap();
        assert!(self.undone_by(b, &next).await.is_empty());
        let missing = MissingEvents { earliest: Vec::new(), latest: vec![next], limit: 9, min_depth: 0 };
        assert!(b.world.rooms.serve_missing(&c.name, room_id, &missing).await.is_err());
        for town in [a, b, c] {
            town.world.check().await;
        }
    }
}

#[tokio::test]
async fn who_came_in_by_rules_that_had_changed_is_told_where_the_branches_meet() {
    let scene = Scene::new().await;
    let Scene { a, b, c, room_id } = &scene;
    let left = c.own(room_id, "carol", MemberAction::Leave, &[]).await.unwrap();
    scene.carry(&left, c, &[a, b]).await;
    let closed = scene.close().await;
    scene.tick();
    let back = c.join(room_id, "carol", &[b]).await.unwrap();
    scene.carry(&back, b, &[a]).await;
    assert_eq!(scene.carol_at(a).await, Some(Membership::Leave));
    scene.carry(&closed, a, &[b]).await;
    scene.carol_is_told_by_bob().await;
}

#[tokio::test]
async fn who_comes_back_through_a_server_that_has_not_heard_of_the_leave_is_where_the_branches_lead() {
    let scene = Scene::new().await;
    let Scene { a, b, c, room_id } = &scene;
    let closed = scene.close().await;
    scene.carry(&closed, a, &[b, c]).await;
    scene.tick();
    let left = c.own(room_id, "carol", MemberAction::Leave, &[]).await.unwrap();
    scene.carry(&left, c, &[a]).await;
    scene.tick();
    let back = c.join(room_id, "carol", &[b]).await.unwrap();
    // The room was closed when she left: what b took for a change of her profile is no way in.
    assert_eq!(scene.carol_at(b).await, Some(Membership::Join));
    assert_eq!(scene.carol_at(c).await, Some(Membership::Leave));
    scene.carry(&left, c, &[b]).await;
    scene.carry(&back, b, &[a]).await;
    for town in [a, b] {
        assert_eq!(town.state_ids(room_id).await, c.state_ids(room_id).await);
        town.world.check().await;
    }
    c.world.check().await;
}

#[tokio::test]
async fn who_was_kicked_knows_it_and_is_told_nothing_more() {
    let scene = Scene::new().await;
    let Scene { a, b, c, room_id } = &scene;
    let said = b.say(room_id, "bob", "meanwhile").await.unwrap();
    let kick = a.act(room_id, "alice", MemberAction::Kick, &c.user("carol"), &[]).await.unwrap();
    scene.carry(&kick, a, &[b, c]).await;
    assert_eq!(scene.carol_at(b).await, Some(Membership::Leave));
    let next = b.say(room_id, "bob", "she is gone").await.unwrap();
    assert_eq!(b.event(room_id, &next).await.prev_events().len(), 2, "{said} and the kick");
    assert!(scene.undone_by(b, &next).await.is_empty());
}

/// Carol and Cecil of one server: she leaves, and he comes in through a server that has not heard of it.
#[tokio::test]
async fn what_a_server_did_before_it_came_back_is_not_forgotten() {
    let scene = Scene::new().await;
    let Scene { a, b, c, room_id } = &scene;
    let left = c.own(room_id, "carol", MemberAction::Leave, &[]).await.unwrap();
    scene.tick();
    let came = c.join(room_id, "cecil", &[b]).await.unwrap();
    assert_eq!(scene.carol_at(b).await, Some(Membership::Join), "b has not heard");
    assert_eq!(scene.carol_at(c).await, Some(Membership::Leave));
    assert_eq!(c.membership(room_id, &c.user("cecil")).await, Some(Membership::Join));
    c.world.check().await;
    // The others hear of all of it from c's next words.
    let said = c.say(room_id, "cecil", "hello").await.unwrap();
    let prevs = c.event(room_id, &said).await.prev_events().to_vec();
    assert_eq!(BTreeSet::from_iter(&prevs), [&left, &came].into());
    scene.carry(&came, b, &[a]).await;
    scene.carry(&said, c, &[a, b]).await;
    for town in [a, b] {
        assert_eq!(scene.carol_at(town).await, Some(Membership::Leave));
        assert_eq!(town.state_ids(room_id).await, c.state_ids(room_id).await);
    }
    // What was known elsewhere is of the past: nothing is cited twice.
    let again = c.own(room_id, "cecil", MemberAction::Leave, &[]).await.unwrap();
    scene.carry(&again, c, &[a, b]).await;
    scene.tick();
    c.join(room_id, "cecil", &[b]).await.unwrap();
    assert_eq!(c.world.head(room_id).await.extremities.len(), 1);
}
