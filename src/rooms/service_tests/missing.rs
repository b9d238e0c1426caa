//! What is missing of a room, and asked for, story by story.

use std::collections::HashSet;

use hearth_core::{Event, RoomVersion};
use hearth_store::{RoomNumber, tables::EventFlags};
use ruma::{OwnedEventId, server_name};
use serde_json::json;

use super::{
    elsewhere::Act,
    receiving::{open_topic, topic},
    script::{BOB, CARL, DAN, Scene, ids},
    user,
};
use crate::{MemberAction, ReceiveError};

const V: RoomVersion = RoomVersion::DEFAULT;

const EVE: &str = "@eve:two";

#[tokio::test]
async fn what_is_missing_is_fetched() {
    let scene = Scene::new(V).await;
    let said: Vec<Event> = (0..30).map(|n| scene.go_on(&Act::say(BOB, &n.to_string()))).collect();
    scene.take(&said[29]).await;
    assert!(scene.timeline().await.ends_with(&said.iter().map(|e| e.event_id().to_owned()).collect::<Vec<_>>()));
    assert_eq!(scene.extremities().await, ids(&[&said[29]]));
    let asked = scene.asked();
    assert!(asked.iter().all(|what| *what == "missing_events") && asked.len() <= 3, "{asked:?}");
    let room = scene.world.number(&scene.room_id).await;
    assert!(scene.world.store.gaps(room, .., 10, false).await.unwrap().is_empty());
    scene.world.check().await;
}

async fn gaps(scene: &Scene, room: RoomNumber) -> Vec<Vec<String>> {
    let gaps = scene.world.store.gaps(room, .., 10, false).await.unwrap();
    gaps.into_iter().map(|(_, gap)| gap.missing).collect()
}

#[tokio::test]
async fn after_a_long_silence_there_is_a_gap() {
    let scene = Scene::new(V).await;
    open_topic(&scene).await;
    let set = scene.go_on(&topic(BOB, "set in the dark"));
    let said: Vec<Event> = (0..90).map(|n| scene.go_on(&Act::say(BOB, &n.to_string()))).collect();
    scene.take(&said[89]).await;
    let room = scene.world.number(&scene.room_id).await;
    assert_eq!(scene.world.state(&scene.room_id, "m.room.topic", "").await.unwrap()["topic"], "set in the dark");
    let shown = scene.timeline().await;
    let first = said.iter().position(|event| shown.iter().any(|id| id == event.event_id())).unwrap();
    assert!(first > 10, "not all was fetched");
    assert_eq!(gaps(&scene, room).await, [[said[first - 1].event_id().to_string()]]);
    let stored = scene.stored(&set).await.unwrap();
    assert!(stored.header.flags.has(EventFlags::OUTLIER), "it is known as state only");
    // What we had and what is behind the gap are both ends of the graph.
    assert_eq!(scene.extremities().await.len(), 2);
    scene.world.check().await;
    // The missing one comes: it is part of the past, and the gap moves below it.
    scene.take(&said[first - 1]).await;
    let number = scene.stored(&said[first - 1]).await.unwrap().number;
    assert_eq!(scene.stored(&said[first]).await.unwrap().header.prevs, [number], "walks do not end there");
    let ends = scene.extremities().await;
    assert!(!ends.contains(said[first - 1].event_id().as_str()), "something follows it");
    assert!(!gaps(&scene, room).await.iter().flatten().any(|id| id == said[first - 1].event_id().as_str()));
    assert_eq!(scene.world.state(&scene.room_id, "m.room.topic", "").await.unwrap()["topic"], "set in the dark");
    scene.world.check().await;
}

/// Somebody came in while nothing was heard, and says all that is heard since.
#[tokio::test]
async fn who_came_in_during_a_silence_is_heard() {
    for version in [RoomVersion::V1, V] {
        let scene = Scene::new(version).await;
        scene.go_on(&Act::join(EVE));
        let said: Vec<Event> = (0..90).map(|n| scene.go_on(&Act::say(EVE, &n.to_string()))).collect();
        scene.take(&said[89]).await;
        assert!(scene.is_shown(&said[89]).await, "{version}");
        assert_eq!(gaps(&scene, scene.world.number(&scene.room_id).await).await.len(), 1);
        let next = scene.go_on(&Act::say(EVE, "and on"));
        scene.take(&next).await;
        assert!(scene.is_shown(&next).await, "{version}");
        let membership = scene.world.state(&scene.room_id, "m.room.member", EVE).await.unwrap();
        assert_eq!(membership["membership"], "join");
        scene.world.check().await;
    }
}

/// The same where somebody who may do so has made them a moderator: what they do counts.
#[tokio::test]
async fn who_came_to_power_during_a_silence_is_heard() {
    let scene = Scene::new(V).await;
    open_topic(&scene).await;
    scene.go_on(&Act::join(EVE));
    let raise = json!({ "users": { "@bob:two": 50, "@carl:two": 50, EVE: 50 }, "state_default": 50 });
    scene.go_on(&Act::state(BOB, "m.room.power_levels", "", raise));
    let hidden = scene.go_on(&Act::say(EVE, "hidden"));
    let set = scene.go_on(&topic(EVE, "mine"));
    scene.script.hidden.lock().insert(hidden.event_id().to_owned());
    scene.script.refused.lock().insert("missing_events");
    scene.take(&set).await;
    assert!(scene.is_shown(&set).await);
    assert_eq!(scene.world.state(&scene.room_id, "m.room.topic", "").await.unwrap()["topic"], "mine");
    scene.world.check().await;
}

/// Alice, here, does something to somebody's membership, and all know it.
async fn alice_does(scene: &Scene, action: MemberAction, target: &str) -> OwnedEventId {
    let change = crate::MemberChange {
        room_id: scene.room_id.clone(),
        sender: user("alice"),
        target: target.try_into().unwrap(),
        action,
        content: serde_json::Map::new(),
        guest: false,
    };
    let id = scene.world.rooms.change_member(change).await.unwrap();
    scene.follow().await;
    id
}

/// Who is banned, or put out of a room that they may not come back into, tells of the state before that.
#[tokio::test]
async fn a_state_that_is_told_lets_nobody_back_in() {
    for (version, action, is_public) in [
        (V, MemberAction::Ban, true),
        (V, MemberAction::Kick, false),
        (RoomVersion::V1, MemberAction::Ban, true),
        (RoomVersion::V1, MemberAction::Kick, false),
    ] {
        let scene = Scene::new(version).await;
        if !is_public {
            let rules = json!({ "join_rule": "invite" });
            scene.world.set(&scene.room_id, "alice", "m.room.join_rules", "", rules).await.unwrap();
            scene.follow().await;
        }
        let base = scene.room().last();
        alice_does(&scene, action, CARL).await;
        let out = scene.world.state(&scene.room_id, "m.room.member", CARL).await.unwrap();
        let kept_back = scene.room().make(&[&base], &Act::member(CARL, CARL, "join"));
        let told = scene.room().make(&[kept_back.event_id()], &Act::say(CARL, "still here"));
        let after = scene.room().make(&[told.event_id()], &Act::say(CARL, "and on"));
        scene.script.refused.lock().insert("missing_events");
        scene.take(&told).await;
        scene.take(&after).await;
        assert!(!scene.is_shown(&told).await && !scene.is_shown(&after).await, "{version} {action:?}");
        assert!(scene.stored(&told).await.unwrap().header.flags.has(EventFlags::SOFT_FAILED));
        assert_eq!(scene.world.state(&scene.room_id, "m.room.member", CARL).await, Some(out));
        scene.world.check().await;
    }
}

/// Who once had all power, gave it away and was banned, makes up a past in which who banned them could not, and tells of
/// that as the state before what a newcomer of theirs says.
#[tokio::test]
async fn a_newcomer_brings_no_made_up_past_with_them() {
    let scene = Scene::new(RoomVersion::V11).await;
    let levels = |bob: u32, carl: u32| json!({ "users": { "@alice:hearth.test": 100, BOB: bob, CARL: carl } });
    scene.world.set(&scene.room_id, "alice", "m.room.power_levels", "", levels(100, 50)).await.unwrap();
    scene.follow().await;
    let base = scene.room().last();
    // First, as it says to be earlier.
    let made_up = scene.room().make(&[&base], &Act::state(BOB, "m.room.power_levels", "", levels(0, 0)));
    let gives_up = scene.room().make(&[&base], &Act::state(BOB, "m.room.power_levels", "", levels(0, 50)));
    let ban = scene.room().make(&[gives_up.event_id()], &Act::member(CARL, BOB, "ban"));
    assert!(scene.send(&[&gives_up, &ban]).await.iter().all(Result::is_ok));
    let join = scene.room().make(&[made_up.event_id()], &Act::join(EVE));
    let kept_back = scene.room().make(&[join.event_id()], &Act::say(EVE, "kept back"));
    let told = scene.room().make(&[kept_back.event_id()], &Act::say(EVE, "told"));
    let would_be = {
        let room = scene.room();
        room.resolved(vec![room.get(ban.event_id()).after.clone(), room.get(told.event_id()).before.clone()])
    };
    assert_eq!(
        would_be[&("m.room.power_levels".into(), String::new())],
        made_up.event_id(),
        "that is how it would end"
    );
    scene.script.refused.lock().insert("missing_events");
    scene.take(&told).await;
    assert!(!scene.is_shown(&told).await);
    let membership = scene.world.state(&scene.room_id, "m.room.member", BOB).await.unwrap();
    assert_eq!(membership["membership"], "ban");
    assert_eq!(scene.world.state(&scene.room_id, "m.room.power_levels", "").await, Some(levels(0, 50)));
    scene.world.check().await;
}

/// What is missing in front of something that nobody is shown is missing in front of what comes next, of theirs or of ours.
#[tokio::test]
async fn there_is_a_gap_behind_what_is_hidden() {
    for is_ours in [false, true] {
        let scene = Scene::new(V).await;
        let room = scene.world.number(&scene.room_id).await;
        let target = scene.go_on(&Act::say(BOB, "to be redacted"));
        let redaction = scene.go_on(&Act::redact(BOB, target.event_id()));
        scene.script.refused.lock().insert("missing_events");
        scene.take(&redaction).await;
        assert!(!scene.is_shown(&redaction).await);
        match is_ours {
            true => drop(scene.world.say(&scene.room_id, "alice", "next").await.unwrap()),
            false => scene.take(&scene.go_on(&Act::say(CARL, "next"))).await,
        }
        assert_eq!(gaps(&scene, room).await, [[target.event_id().to_string()]], "{is_ours}");
        scene.world.check().await;
        // What follows is behind no gap of its own.
        scene.world.say(&scene.room_id, "alice", "and on").await.unwrap();
        assert_eq!(gaps(&scene, room).await.len(), 1);
        scene.take(&target).await;
        assert!(scene.stored(&target).await.unwrap().header.flags.has(EventFlags::REDACTED));
        assert!(scene.is_shown(&redaction).await && gaps(&scene, room).await.is_empty());
        scene.world.check().await;
    }
}

/// A redaction that nothing follows yet, before which more is missing than its target.
#[tokio::test]
async fn there_is_a_gap_before_a_redaction_that_has_waited() {
    let scene = Scene::new(V).await;
    let room = scene.world.number(&scene.room_id).await;
    let base = scene.room().last();
    let target = scene.room().make(&[&base], &Act::say(BOB, "to be redacted"));
    let other = scene.room().make(&[&base], &Act::say(CARL, "aside"));
    let redaction = scene.room().make(&[target.event_id(), other.event_id()], &Act::redact(BOB, target.event_id()));
    scene.script.refused.lock().insert("missing_events");
    scene.take(&redaction).await;
    assert!(gaps(&scene, room).await.is_empty());
    scene.take(&target).await;
    assert!(scene.is_shown(&redaction).await);
    assert_eq!(gaps(&scene, room).await, [[other.event_id().to_string()]]);
    scene.world.check().await;
    scene.take(&other).await;
    assert!(gaps(&scene, room).await.is_empty());
    scene.world.check().await;
}

/// The event next to the gap is soft-failed, and somebody else goes on behind it.
#[tokio::test]
async fn there_is_a_gap_behind_what_is_soft_failed() {
    let scene = Scene::new(V).await;
    let room = scene.world.number(&scene.room_id).await;
    let base = scene.room().last();
    alice_does(&scene, MemberAction::Ban, CARL).await;
    let kept_back = scene.room().make(&[&base], &Act::say(CARL, "kept back"));
    let told = scene.room().make(&[kept_back.event_id()], &Act::say(CARL, "still here"));
    let after = scene.room().make(&[told.event_id()], &Act::say(CARL, "and on"));
    scene.script.refused.lock().insert("missing_events");
    scene.take(&told).await;
    scene.take(&after).await;
    assert!(gaps(&scene, room).await.is_empty(), "nothing of it is shown");
    let last = scene.room().make(&[after.event_id()], &Act::say(DAN, "hi"));
    scene.take(&last).await;
    assert!(scene.is_shown(&last).await);
    assert_eq!(gaps(&scene, room).await, [[kept_back.event_id().to_string()]]);
    scene.world.check().await;
}

/// What lies before a gap is fetched when somebody reads it, not because something new rests on it.
#[tokio::test]
async fn nothing_is_asked_for_that_is_older_than_the_first_gap() {
    let scene = Scene::new(V).await;
    let before = scene.room().last();
    let said: Vec<Event> = (0..90).map(|n| scene.go_on(&Act::say(BOB, &n.to_string()))).collect();
    scene.take(&said[89]).await;
    let asked = std::mem::take(&mut *scene.script.min_depths.lock());
    assert!(!asked.is_empty() && asked.iter().all(|depth| *depth == 0), "there was no gap yet: {asked:?}");
    let room = scene.world.number(&scene.room_id).await;
    let missing = gaps(&scene, room).await;
    let first = said.iter().position(|event| missing == [[event.event_id().to_string()]]).unwrap() + 1;

    // A branch that leaves the known part within the gap, and comes up above it.
    let branch = scene.room().make(&[said[first - 20].event_id()], &Act::say(CARL, "aside"));
    let mut far = vec![branch];
    for n in 0..3 {
        let last = far[n].event_id().to_owned();
        far.push(scene.room().make(&[&last], &Act::say(CARL, &n.to_string())));
    }
    let join = scene.room().make(&[said[89].event_id(), far[3].event_id()], &Act::say(BOB, "both"));
    scene.take(&join).await;
    let asked = std::mem::take(&mut *scene.script.min_depths.lock());
    assert_eq!(asked.first(), Some(&said[first].depth()), "{asked:?}");
    assert!(scene.is_shown(&join).await);
    for event in &said[..first] {
        assert!(!scene.is_shown(event).await, "it lies in the gap");
    }
    assert!(scene.room().find(&before).unwrap().depth() < asked[0]);
    scene.world.check().await;
}

/// A server tells of a state without a ban, behind an event that it keeps back and then sends: what we know by ourselves
/// still counts.
#[tokio::test]
async fn a_state_that_is_told_does_not_replace_what_is_known() {
    let scene = Scene::new(V).await;
    let last = scene.room().last();
    let before_ban = scene.room().get(&last).after.clone();
    let ban = crate::MemberChange {
        room_id: scene.room_id.clone(),
        sender: user("alice"),
        target: DAN.try_into().unwrap(),
        action: MemberAction::Ban,
        content: serde_json::Map::new(),
        guest: false,
    };
    let ban = scene.world.rooms.change_member(ban).await.unwrap();
    scene.follow().await;
    let kept_back = scene.room().make(&[&ban], &Act::say(BOB, "kept back"));
    let told = scene.room().make(&[kept_back.event_id()], &Act::say(BOB, "told"));
    scene.room().tell(told.event_id(), before_ban);
    scene.script.refused.lock().insert("missing_events");
    scene.take(&told).await;
    assert_eq!(scene.extremities().await.len(), 2);
    scene.take(&kept_back).await;
    assert!(scene.is_shown(&kept_back).await);
    let membership = scene.world.state(&scene.room_id, "m.room.member", DAN).await.unwrap();
    assert_eq!(membership["membership"], "ban");
    let last = scene.room().make(&[told.event_id()], &Act::say(BOB, "and on"));
    scene.take(&last).await;
    scene.world.say(&scene.room_id, "alice", "no").await.unwrap();
    let membership = scene.world.state(&scene.room_id, "m.room.member", DAN).await.unwrap();
    assert_eq!(membership["membership"], "ban");
    scene.world.check().await;
}

/// A server sends what follows a ban before the ban is here, and tells of a state without it: the ban counts all the same
/// when it comes.
#[tokio::test]
async fn a_ban_that_comes_after_what_follows_it_counts() {
    let scene = Scene::new(V).await;
    open_topic(&scene).await;
    let last = scene.room().last();
    let before_ban = scene.room().get(&last).after.clone();
    let ban = scene.go_on(&Act::member(BOB, DAN, "ban"));
    let told = scene.go_on(&Act::say(CARL, "told"));
    scene.room().tell(told.event_id(), before_ban);
    scene.script.refused.lock().insert("missing_events");
    scene.take(&told).await;
    scene.take(&ban).await;
    let membership = scene.world.state(&scene.room_id, "m.room.member", DAN).await.unwrap();
    assert_eq!(membership["membership"], "ban");
    scene.world.check().await;
}

/// A server tells of a state in which a user of another server is not in the room: their event is not refused for good.
#[tokio::test]
async fn a_state_that_is_told_silences_nobody() {
    let scene = Scene::new(V).await;
    let last = scene.room().last();
    let mut lie = scene.room().get(&last).after.clone();
    let kept_back = scene.go_on(&Act::say(BOB, "kept back"));
    let said = scene.go_on(&Act::say(DAN, "said"));
    let behind = scene.go_on(&Act::say(BOB, "behind"));
    let truth = scene.room().get(said.event_id()).before.clone();
    lie.retain(|(_, key), _| key != DAN);
    scene.room().tell(said.event_id(), lie);
    scene.script.unlisted.lock().insert(kept_back.event_id().to_owned());
    scene.send(&[&behind]).await;
    assert!(scene.stored(&said).await.is_none_or(|stored| !stored.header.flags.has(EventFlags::REJECTED)));
    scene.room().tell(said.event_id(), truth);
    scene.take(&said).await;
    assert!(scene.is_shown(&said).await);
    scene.world.check().await;
}

/// A room of version 1 in which Bob has taken another name and shut the door, while Carl spoke; and Eve, who comes in where
/// these branches meet: Bob is in conflict there, so that what he did does not count, and the door is open again.
/// What Carl said is not told unasked.
async fn a_door_that_opens_where_branches_meet() -> (Scene, Event, Event) {
    let scene = Scene::new(RoomVersion::V1).await;
    open_topic(&scene).await;
    let base = scene.room().last();
    let name = json!({ "membership": "join", "displayname": "Robert" });
    let named = scene.room().make(&[&base], &Act::state(BOB, "m.room.member", BOB, name));
    let shut = Act::state(BOB, "m.room.join_rules", "", json!({ "join_rule": "invite" }));
    let shut = scene.room().make(&[named.event_id()], &shut);
    assert_eq!(scene.send(&[&named, &shut]).await.into_iter().filter(Result::is_ok).count(), 2);
    let kept_back = scene.room().make(&[&base], &Act::say(CARL, "kept back"));
    let join = scene.room().make(&[kept_back.event_id(), shut.event_id()], &Act::join("@eve:two"));
    assert!(!scene.room().get(join.event_id()).event.rejected(), "so has it room version 1");
    scene.script.unlisted.lock().insert(kept_back.event_id().to_owned());
    (scene, kept_back, join)
}

async fn assert_stands_where_it_does(scene: &Scene, event: &Event) {
    let told = scene.world.rooms.serve_state_ids(server_name!("two"), &scene.room_id, event.event_id()).await.unwrap();
    let told: HashSet<_> = told.state.into_iter().collect();
    assert_eq!(told, scene.room().get(event.event_id()).before.values().cloned().collect());
    assert!(!scene.stored(event).await.unwrap().header.flags.has(EventFlags::REJECTED));
    scene.world.check().await;
}

/// The state before an event, resolved once more with what of it is known here, would be another.
#[tokio::test]
async fn in_version_1_the_states_that_meet_are_asked_for() {
    let (scene, _, join) = a_door_that_opens_where_branches_meet().await;
    scene.take(&join).await;
    assert_stands_where_it_does(&scene, &join).await;
}

/// The same if they are not told.
#[tokio::test]
async fn in_version_1_nothing_is_refused_for_good_for_a_state_that_need_not_be_so() {
    let (scene, kept_back, join) = a_door_that_opens_where_branches_meet().await;
    scene.script.hidden.lock().insert(kept_back.event_id().to_owned());
    let result = scene.send(&[&join]).await.remove(0);
    assert!(matches!(result, Err(ReceiveError::Incomplete(_))), "{result:?}");
    assert!(scene.stored(&join).await.is_none());
    scene.take(&kept_back).await;
    scene.take(&join).await;
    assert!(scene.is_shown(&join).await);
    assert_stands_where_it_does(&scene, &join).await;
}

#[tokio::test]
async fn who_is_not_told_a_state_asks_for_the_one_before_the_missing_event() {
    let scene = Scene::new(V).await;
    open_topic(&scene).await;
    let set = scene.go_on(&topic(BOB, "set in the dark"));
    let oldest = scene.go_on(&Act::say(BOB, "hi"));
    let last = scene.go_on(&Act::say(BOB, "and on"));
    scene.script.refused.lock().insert("event_auth");
    scene.script.unlisted.lock().insert(set.event_id().to_owned());
    scene.script.untold.lock().insert(oldest.event_id().to_owned());
    scene.take(&last).await;
    assert!(scene.is_shown(&oldest).await && scene.is_shown(&last).await);
    assert_eq!(scene.world.state(&scene.room_id, "m.room.topic", "").await.unwrap()["topic"], "set in the dark");
    let stored = scene.stored(&set).await.unwrap();
    assert!(stored.header.flags.has(EventFlags::OUTLIER), "where it stands is not known");
    scene.world.check().await;
}

/// "If any event in `auth_events` has a `room_id` which does not match that of the event being authorised, reject."
#[tokio::test]
async fn a_state_with_holes_is_used_without_them() {
    let scene = Scene::new(V).await;
    open_topic(&scene).await;
    let hidden = scene.go_on(&Act::say(BOB, "never told"));
    let set = scene.go_on(&topic(BOB, "never told"));
    let name = scene.go_on(&Act::state(BOB, "m.room.name", "", json!({ "name": "told" })));
    let last = scene.go_on(&Act::say(BOB, "hi"));
    scene.script.hidden.lock().extend([&hidden, &set].map(|event| event.event_id().to_owned()));
    scene.script.refused.lock().insert("missing_events");
    scene.take(&last).await;
    assert!(scene.is_shown(&last).await);
    assert_eq!(scene.world.state(&scene.room_id, "m.room.name", "").await.unwrap()["name"], "told");
    assert_eq!(scene.world.state(&scene.room_id, "m.room.topic", "").await, None);
    let stored = scene.stored(&name).await.unwrap();
    assert!(stored.header.flags.has(EventFlags::OUTLIER));
    // When it gets its place, it keeps its number.
    scene.script.hidden.lock().clear();
    let result = scene.send(&[&hidden, &set, &name]).await;
    assert!(result.iter().all(Result::is_ok), "{result:?}");
    let placed = scene.stored(&name).await.unwrap();
    assert_eq!(placed.number, stored.number);
    assert!(!placed.header.flags.has(EventFlags::OUTLIER) && scene.is_shown(&name).await);
    scene.world.check().await;
}

/// Asked for an event of a state, a server gives another: then the whole state is asked for.
#[tokio::test]
async fn a_wrong_event_leaves_no_hole_in_a_state() {
    let scene = Scene::new(V).await;
    open_topic(&scene).await;
    let set = scene.go_on(&topic(BOB, "set in the dark"));
    let between = scene.go_on(&Act::say(BOB, "hi"));
    let last = scene.go_on(&Act::say(BOB, "and on"));
    scene.script.mistaken.lock().insert(set.event_id().to_owned(), between.event_id().to_owned());
    scene.script.refused.lock().insert("missing_events");
    scene.take(&last).await;
    assert_eq!(scene.world.state(&scene.room_id, "m.room.topic", "").await.unwrap()["topic"], "set in the dark");
    assert!(scene.asked().contains(&"state"));
    scene.world.check().await;
}

/// The connection breaks in the middle of a state.
#[tokio::test]
async fn half_a_state_is_none() {
    let scene = Scene::new(V).await;
    open_topic(&scene).await;
    scene.go_on(&topic(BOB, "set in the dark"));
    scene.go_on(&Act::say(BOB, "hi"));
    let last = scene.go_on(&Act::say(BOB, "and on"));
    scene.script.refused.lock().insert("missing_events");
    scene.script.unreachable.lock().extend(["event", "state"]);
    let result = scene.send(&[&last]).await.remove(0);
    assert!(matches!(result, Err(ReceiveError::Incomplete(_))), "{result:?}");
    assert!(scene.stored(&last).await.is_none());
    scene.script.unreachable.lock().clear();
    scene.take(&last).await;
    assert_eq!(scene.world.state(&scene.room_id, "m.room.topic", "").await.unwrap()["topic"], "set in the dark");
    scene.world.check().await;
}

#[tokio::test]
async fn auth_events_that_are_missing_are_fetched() {
    let scene = Scene::new(V).await;
    open_topic(&scene).await;
    let base = scene.room().last();
    // A fork that is not sent: its levels are cited by what is.
    let levels = {
        let mut users = json!({ "@bob:two": 50, "@carl:two": 50, "@dan:three": 50 });
        users["@bob:two"] = json!(50);
        scene.room().make(&[&base], &Act::state(CARL, "m.room.power_levels", "", json!({ "users": users })))
    };
    let state = scene.room().get(levels.event_id()).after.clone();
    let said = scene.room().make_citing(&[&base], &state, &Act::say(BOB, "hi"));
    scene.script.refused.lock().extend(["event_auth", "event"]);
    let result = scene.send(&[&said]).await.remove(0);
    assert!(matches!(result, Err(ReceiveError::Incomplete(_))), "{result:?}");
    assert!(scene.stored(&said).await.is_none(), "it may be sent again");
    // One by one will do.
    scene.script.refused.lock().remove("event");
    scene.take(&said).await;
    let stored = scene.stored(&levels).await.unwrap();
    assert!(stored.header.flags.has(EventFlags::OUTLIER));
    assert_eq!(stored.header.flags.has(EventFlags::REJECTED), levels.rejected());
    scene.world.check().await;
}
