//! What other servers send, story by story.

use hearth_core::{Event, RoomVersion};
use hearth_store::tables::EventFlags;
use ruma::{EventId, room_id, server_name};
use serde_json::{Value, json};

use super::{
    PATIENCE,
    elsewhere::Act,
    script::{BOB, CARL, DAN, Scene, ids},
    user,
};
use crate::{MemberAction, Preset, ReceiveError};

const V: RoomVersion = RoomVersion::DEFAULT;

pub(super) fn topic(sender: &'static str, text: &str) -> Act {
    Act::state(sender, "m.room.topic", "", json!({ "topic": text }))
}

/// The event with something changed in its JSON.
fn tampered(event: &Event, change: impl FnOnce(&mut Value)) -> bytes::Bytes {
    let mut json: Value = serde_json::from_slice(event.json()).unwrap();
    change(&mut json);
    json.to_string().into()
}

/// Alice lets the others set the topic.
pub(super) async fn open_topic(scene: &Scene) {
    let mut users = json!({ "@bob:two": 50, "@carl:two": 50 });
    if scene.room().version < RoomVersion::V12 {
        users["@alice:hearth.test"] = json!(100);
    }
    let content = json!({ "users": users, "state_default": 50 });
    scene.world.set(&scene.room_id, "alice", "m.room.power_levels", "", content).await.unwrap();
    scene.follow().await;
}

#[tokio::test]
async fn events_in_order_are_shown_in_order() {
    for version in RoomVersion::ALL {
        let scene = Scene::new(version).await;
        let said: Vec<Event> = (0..20).map(|n| scene.go_on(&Act::say(BOB, &n.to_string()))).collect();
        let results = scene.send(&said.iter().collect::<Vec<_>>()).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert!(scene.timeline().await.ends_with(&said.iter().map(|e| e.event_id().to_owned()).collect::<Vec<_>>()));
        assert_eq!(scene.extremities().await, ids(&[&said[19]]));
        // And we go on behind them.
        scene.world.say(&scene.room_id, "alice", "hello").await.unwrap();
        assert_eq!(scene.extremities().await.len(), 1);
        assert_eq!(scene.asked(), [""; 0], "nothing was missing");
        scene.world.check().await;
    }
}

#[tokio::test]
async fn the_order_within_a_transaction_does_not_matter() {
    let scene = Scene::new(V).await;
    let said: Vec<Event> = (0..5).map(|n| scene.go_on(&Act::say(BOB, &n.to_string()))).collect();
    let results = scene.send(&[&said[3], &said[4], &said[1], &said[0], &said[2]]).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!(scene.timeline().await.ends_with(&said.iter().map(|e| e.event_id().to_owned()).collect::<Vec<_>>()));
    assert_eq!(scene.asked(), [""; 0]);
    // A second time changes nothing.
    let before = scene.timeline().await;
    let results = scene.send(&[&said[4], &said[4], &said[0]]).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(scene.timeline().await, before);
    scene.world.check().await;
}

#[tokio::test]
async fn branches_meet() {
    for version in RoomVersion::ALL {
        let scene = Scene::new(version).await;
        open_topic(&scene).await;
        let base = scene.room().last();
        let left = scene.room().make(&[&base], &topic(BOB, "left"));
        let right = scene.room().make(&[&base], &topic(CARL, "right"));
        let (more_left, more_right) = {
            let mut room = scene.room();
            (room.make(&[left.event_id()], &Act::say(BOB, "l")), room.make(&[right.event_id()], &Act::say(CARL, "r")))
        };
        for event in [&left, &right, &more_left, &more_right] {
            scene.take(event).await;
        }
        assert_eq!(scene.extremities().await, ids(&[&more_left, &more_right]), "{version}");
        let merge = scene.room().make(&[more_left.event_id(), more_right.event_id()], &Act::say(DAN, "both"));
        scene.take(&merge).await;
        assert_eq!(scene.extremities().await, ids(&[&merge]));
        let stored = scene.stored(&merge).await.unwrap();
        assert_eq!(stored.header.prevs.len(), 2);
        let wanted = scene.room().get(merge.event_id()).before[&("m.room.topic".into(), String::new())].clone();
        let topic = scene.world.state(&scene.room_id, "m.room.topic", "").await.unwrap();
        assert_eq!(topic, scene.room().find(&wanted).unwrap().content_as::<Value>().unwrap(), "{version}");
        assert!(scene.is_shown(&left).await && scene.is_shown(&right).await);
        scene.world.check().await;
    }
}

#[tokio::test]
async fn what_the_rules_refuse_has_no_effect() {
    let scene = Scene::new(V).await;
    let base = scene.room().last();
    let refused = scene.go_on(&topic(BOB, "mine"));
    let result = scene.send(&[&refused]).await.remove(0);
    assert!(matches!(result, Err(ReceiveError::Rejected(_))), "{result:?}");
    let stored = scene.stored(&refused).await.unwrap();
    assert!(stored.header.flags.has(EventFlags::REJECTED) && !scene.is_shown(&refused).await);
    assert_eq!(stored.header.state_before, stored.header.state_after);
    assert_eq!(scene.extremities().await, [base.to_string()].into(), "it is cited by nothing of ours");
    // "Subsequent events from other servers that reference rejected events should be allowed if they still pass."
    let next = scene.go_on(&Act::say(BOB, "behind it"));
    scene.take(&next).await;
    assert_eq!(scene.extremities().await, ids(&[&next]), "what the refused one followed is followed");
    assert_eq!(scene.world.state(&scene.room_id, "m.room.topic", "").await, None);
    // An event that rests on a refused one is refused.
    let mut state = scene.room().get(next.event_id()).after.clone();
    let levels = scene.room().make_citing(
        &[next.event_id()],
        &state.clone(),
        &Act::state(BOB, "m.room.power_levels", "", json!({ "users": { "@bob:two": 100 } })),
    );
    state.insert(("m.room.power_levels".into(), String::new()), levels.event_id().to_owned());
    let resting = scene.room().make_citing(&[next.event_id()], &state, &topic(BOB, "now"));
    let results = scene.send(&[&levels, &resting]).await;
    assert!(results.iter().all(|result| matches!(result, Err(ReceiveError::Rejected(_)))), "{results:?}");
    scene.world.check().await;
}

/// A row of ours that does not read is no reason to be sent the same for ever.
#[tokio::test]
async fn what_comes_for_a_broken_room_is_given_up() {
    let scene = Scene::new(V).await;
    let room = scene.world.number(&scene.room_id).await;
    let said = scene.go_on(&Act::say(BOB, "hi"));
    let mut write = hearth_store::Write::new(room.partition());
    write.put_bytes(hearth_ports::Table::Rm, hearth_store::tables::head_key(room), vec![255]);
    scene.world.store.commit(write).await.unwrap();
    let result = scene.send(&[&said]).await.remove(0);
    assert!(matches!(result, Err(ReceiveError::Broken(_))), "{result:?}");
}

/// What strangers send and the rules refuse is not kept, unless somebody who is in the room cites it.
#[tokio::test]
async fn what_strangers_may_not_send_is_not_kept() {
    let scene = Scene::new(V).await;
    let refused = scene.go_on(&Act::say("@mallory:four", "flood"));
    let bytes = vec![refused.json().clone()];
    let received = scene.world.rooms.receive(server_name!("four"), &scene.room_id, bytes).await.remove(0);
    assert!(matches!(received.result, Err(ReceiveError::Rejected(_))), "{received:?}");
    assert!(scene.stored(&refused).await.is_none());
    let behind = scene.go_on(&Act::say(BOB, "behind it"));
    scene.take(&behind).await;
    assert!(scene.stored(&refused).await.unwrap().header.flags.has(EventFlags::REJECTED));
    assert!(scene.is_shown(&behind).await && !scene.is_shown(&refused).await);
    assert_eq!(scene.extremities().await, ids(&[&behind]));
    scene.world.check().await;
}

#[tokio::test]
async fn who_was_banned_does_not_get_around_it() {
    let scene = Scene::new(V).await;
    let base = scene.room().last();
    let ban = crate::MemberChange {
        room_id: scene.room_id.clone(),
        sender: user("alice"),
        target: BOB.try_into().unwrap(),
        action: MemberAction::Ban,
        content: serde_json::Map::new(),
        guest: false,
    };
    let ban = scene.world.rooms.change_member(ban).await.unwrap();
    scene.follow().await;
    // Bob writes as if he did not know.
    let late = scene.room().make(&[&base], &Act::say(BOB, "still here"));
    scene.take(&late).await;
    let stored = scene.stored(&late).await.unwrap();
    assert!(stored.header.flags.has(EventFlags::SOFT_FAILED) && !stored.accepted());
    assert!(!scene.is_shown(&late).await);
    assert_eq!(scene.extremities().await, [ban.to_string()].into(), "it is cited by nothing of ours");
    // Dan's server had it before the ban, and cites both.
    let both = scene.room().make(&[&ban, late.event_id()], &Act::say(DAN, "hm"));
    scene.take(&both).await;
    assert!(scene.is_shown(&both).await);
    assert_eq!(scene.extremities().await, ids(&[&both]));
    assert_eq!(scene.world.state(&scene.room_id, "m.room.member", BOB).await.unwrap()["membership"], "ban");
    // What follows only what Bob wrote is not shown either, if it is his, and is if it is not.
    let more = scene.room().make(&[late.event_id()], &Act::say(BOB, "and on"));
    let other = scene.room().make(&[late.event_id()], &Act::say(CARL, "what?"));
    let results = scene.send(&[&more, &other]).await;
    assert!(results.iter().all(Result::is_ok));
    assert!(!scene.is_shown(&more).await && scene.is_shown(&other).await);
    assert_eq!(scene.extremities().await, ids(&[&both, &other]));
    scene.world.check().await;
}

#[tokio::test]
async fn one_bad_event_spoils_only_itself() {
    let scene = Scene::new(V).await;
    let good = scene.go_on(&Act::say(BOB, "good"));
    let unsigned = scene.room().make(&[good.event_id()], &Act::say(BOB, "unsigned"));
    let next = scene.room().make(&[good.event_id()], &Act::say(BOB, "next"));
    let forged = tampered(&unsigned, |json| json["depth"] = json!(1_000));
    let wrong_room = tampered(&next, |json| json["room_id"] = json!("!other:two"));
    let redacted = tampered(&next, |json| json["content"]["body"] = json!("changed on the way"));
    let events = vec![
        b"{\"nonsense\":".to_vec().into(),
        good.json().clone(),
        forged,
        wrong_room,
        redacted,
        b"5".to_vec().into(),
    ];
    let results = scene.send_json(events).await;
    assert!(matches!(results[0], Err(ReceiveError::Malformed(_))), "{results:?}");
    assert!(results[1].is_ok());
    assert!(matches!(results[2], Err(ReceiveError::Signature(_))), "{results:?}");
    assert!(matches!(results[3], Err(ReceiveError::Malformed(_))), "{results:?}");
    assert!(results[4].is_ok(), "{results:?}");
    assert!(matches!(results[5], Err(ReceiveError::Malformed(_))));
    assert!(scene.stored(&unsigned).await.is_none());
    let stored = scene.stored(&next).await.unwrap();
    assert_eq!(stored.event.content_json(), "{}", "what its hash does not cover is not believed");
    assert!(scene.is_shown(&next).await);
    scene.world.check().await;
}

#[tokio::test]
async fn what_cites_events_of_another_room_is_rejected() {
    let scene = Scene::new(V).await;
    let other = scene.world.create("alice", Preset::Public).await;
    let foreign = scene.world.set(&other, "alice", "m.room.topic", "", json!({ "topic": "theirs" })).await.unwrap();
    let last = scene.room().last();
    let mut state = scene.room().get(&last).after.clone();
    state.insert(("m.room.power_levels".into(), String::new()), foreign);
    let event = scene.room().make_citing(&[&last], &state, &Act::say(BOB, "hi"));
    let result = scene.send(&[&event]).await.remove(0);
    assert!(matches!(result, Err(ReceiveError::Rejected(_))), "{result:?}");
    assert_eq!(scene.asked(), [""; 0], "nobody can help");
    // It is known as rejected: what follows it need not ask what was before it.
    let next = scene.room().make(&[event.event_id()], &Act::say(CARL, "behind it"));
    scene.take(&next).await;
    assert!(scene.is_shown(&next).await && !scene.is_shown(&event).await);
    scene.world.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_holds_up_nobody() {
    let scene = Scene::new(V).await;
    let base = scene.room().last();
    let hidden = scene.go_on(&Act::say(BOB, "hidden"));
    let behind = scene.go_on(&Act::say(BOB, "behind"));
    let fine = scene.room().make(&[&base], &Act::say(CARL, "fine"));
    *scene.script.is_silent.lock() = true;
    let events = vec![behind.json().clone(), fine.json().clone()];
    let (rooms, room_id) = (scene.world.rooms.clone(), scene.room_id.clone());
    let slow = tokio::spawn(async move { rooms.receive(server_name!("two"), &room_id, events).await });
    // Meanwhile others go on.
    let shown = async {
        while !scene.is_shown(&fine).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.expect("others go on");
    scene.world.say(&scene.room_id, "alice", "hello").await.unwrap();
    let results = slow.await.unwrap();
    assert!(matches!(results[0].result, Err(ReceiveError::Incomplete(_))), "{results:?}");
    assert!(results[1].result.is_ok());
    assert!(scene.stored(&hidden).await.is_none());
    scene.world.check().await;
}

#[tokio::test]
async fn a_request_that_goes_away_leaves_nothing_half_done() {
    use futures_util::FutureExt as _;
    let scene = Scene::new(V).await;
    open_topic(&scene).await;
    for round in 0..40 {
        let base = scene.room().last();
        let set = scene.room().make(&[&base], &topic(BOB, &round.to_string()));
        let other = scene.room().make(&[&base], &topic(CARL, &round.to_string()));
        let events: Vec<_> = [&set, &other].iter().map(|event| event.json().clone()).collect();
        let mut receiving = Box::pin(scene.world.rooms.receive(server_name!("two"), &scene.room_id, events));
        for _ in 0..round {
            if receiving.as_mut().now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(receiving);
        scene.world.say(&scene.room_id, "alice", "meanwhile").await.unwrap();
        let results = scene.send(&[&set, &other]).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        scene.world.say(&scene.room_id, "alice", "merged").await.unwrap();
        scene.follow().await;
    }
    scene.world.check().await;
}

#[tokio::test]
async fn a_redaction_waits_for_its_target() {
    for version in RoomVersion::ALL {
        let scene = Scene::new(version).await;
        let base = scene.room().last();
        let said = scene.room().make(&[&base], &Act::say(BOB, "oh no"));
        let redaction = scene.room().make(&[&base], &Act::redact(BOB, said.event_id()));
        let foreign = scene.room().make(&[&base], &Act::redact(DAN, said.event_id()));
        let results = scene.send(&[&redaction, &foreign]).await;
        let is_rule = version < RoomVersion::V3;
        assert_eq!((results[0].is_ok(), results[1].is_ok()), (true, !is_rule), "{version}: {results:?}");
        assert!(!scene.is_shown(&redaction).await, "nobody is told of it yet");
        assert!(scene.stored(&redaction).await.unwrap().header.flags.has(EventFlags::HELD));
        scene.take(&said).await;
        let stored = scene.stored(&said).await.unwrap();
        assert!(!stored.event.content_json().contains("oh no"), "{version}");
        let redacted_by = stored.header.redacted_by.unwrap();
        assert_eq!(redacted_by, scene.stored(&redaction).await.unwrap().number);
        let shown = scene.timeline().await;
        let place = |event: &Event| shown.iter().position(|id| id == event.event_id());
        assert!(place(&said) < place(&redaction) && place(&said).is_some(), "{version}");
        assert_eq!(place(&foreign), None, "Dan has no say in what Bob's server sends");
        scene.world.check().await;
    }
}

#[tokio::test]
async fn who_may_redact_does() {
    let scene = Scene::new(V).await;
    let said = scene.go_on(&Act::say(BOB, "oh no"));
    let foreign = scene.go_on(&Act::redact(DAN, said.event_id()));
    let results = scene.send(&[&said, &foreign]).await;
    assert!(results.iter().all(Result::is_ok), "the rules do not ask: {results:?}");
    assert!(!scene.is_shown(&foreign).await);
    assert!(scene.stored(&said).await.unwrap().event.content_json().contains("oh no"));
    let own = scene.go_on(&Act::redact(CARL, said.event_id()));
    scene.take(&own).await;
    assert!(scene.is_shown(&own).await, "the server may");
    assert!(!scene.stored(&said).await.unwrap().event.content_json().contains("oh no"));
    scene.world.check().await;
}

#[tokio::test]
async fn ids_that_senders_choose_are_taken_once() {
    let scene = Scene::new(RoomVersion::V2).await;
    let base = scene.room().last();
    let first = scene.go_on(&Act::say(BOB, "first"));
    scene.take(&first).await;
    // Another event of the same id, truly signed.
    let other = scene.room().build_named(&[&base], &Act::say(BOB, "second"), first.event_id());
    assert_eq!(other.event_id(), first.event_id());
    assert_ne!(other.json(), first.json());
    assert!(scene.send(&[&other]).await.remove(0).is_ok(), "it is known");
    assert!(scene.stored(&first).await.unwrap().event.content_json().contains("first"));
    // Two that each say to be behind the other.
    let (left, right) = {
        let room = scene.room();
        let (a, b) = (<&EventId>::try_from("$a:two").unwrap(), <&EventId>::try_from("$b:two").unwrap());
        (room.build_named(&[b], &Act::say(BOB, "l"), a), room.build_named(&[a], &Act::say(BOB, "r"), b))
    };
    let results = scene.send(&[&left, &right]).await;
    assert!(results.iter().all(|result| matches!(result, Err(ReceiveError::Incomplete(_)))), "{results:?}");
    scene.world.check().await;
}

#[tokio::test]
async fn rooms_without_us_and_servers_without_access_are_refused() {
    let scene = Scene::new(V).await;
    let said = scene.go_on(&Act::say(BOB, "hi"));
    let elsewhere = room_id!("!nowhere:two");
    let received = scene.world.rooms.receive(server_name!("two"), elsewhere, vec![said.json().clone()]).await;
    assert!(matches!(received[0].result, Err(ReceiveError::NotInRoom)));

    let acl = json!({ "allow": ["*"], "deny": ["two"] });
    scene.world.set(&scene.room_id, "alice", "m.room.server_acl", "", acl).await.unwrap();
    let result = scene.send(&[&said]).await.remove(0);
    assert!(matches!(result, Err(ReceiveError::Denied(_))), "{result:?}");
    // The list is about who brings an event, not whose it is.
    let brought =
        scene.world.rooms.receive(server_name!("three:8448"), &scene.room_id, vec![said.json().clone()]).await;
    assert!(brought[0].result.is_ok(), "{brought:?}");

    scene.world.act(&scene.room_id, "alice", MemberAction::Leave, "alice").await.unwrap();
    scene.follow().await;
    let said = scene.go_on(&Act::say(BOB, "anybody?"));
    let received = scene.world.rooms.receive(server_name!("three"), &scene.room_id, vec![said.json().clone()]).await;
    assert!(matches!(received[0].result, Err(ReceiveError::NotInRoom)), "nobody of ours is in it");
    scene.world.check().await;
}

#[tokio::test]
async fn servers_come_and_go_with_their_users() {
    let scene = Scene::new(V).await;
    let room = scene.world.number(&scene.room_id).await;
    let servers = async || {
        let servers = scene.world.store.servers_in_room(room).await.unwrap();
        servers.into_iter().map(|(server, joined)| (server.to_string(), joined)).collect::<Vec<_>>()
    };
    let all = |two: u32| vec![("hearth.test".to_owned(), 1), ("three".to_owned(), 1), ("two".to_owned(), two)];
    assert_eq!(servers().await, all(2));
    scene.take(&scene.go_on(&Act::member(BOB, BOB, "leave"))).await;
    assert_eq!(servers().await, all(1));
    assert_eq!(scene.world.store.rooms_of_server(server_name!("two")).await.unwrap(), [room]);
    scene.take(&scene.go_on(&Act::member(CARL, CARL, "leave"))).await;
    assert_eq!(servers().await.len(), 2);
    assert!(scene.world.store.rooms_of_server(server_name!("two")).await.unwrap().is_empty());
    scene.world.check().await;
}

/// On one branch the room closes, on the other somebody of ours comes in: resolved, they never did.
#[tokio::test]
async fn a_resolution_may_put_somebody_out() {
    let scene = Scene::new(V).await;
    let content = json!({ "users": { BOB: 100 }, "state_default": 50 });
    scene.world.set(&scene.room_id, "alice", "m.room.power_levels", "", content).await.unwrap();
    scene.follow().await;
    let base = scene.room().last();
    scene.world.join(&scene.room_id, "erin").await.unwrap();
    let rules = Act::state(BOB, "m.room.join_rules", "", json!({ "join_rule": "invite" }));
    let closed = scene.room().make(&[&base], &rules);
    scene.take(&closed).await;
    assert_eq!(scene.world.membership(&scene.room_id, "erin").await, None, "the state does not name her");
    let room = scene.world.number(&scene.room_id).await;
    let erin = scene.world.store.user_number(&user("erin")).await.unwrap().unwrap();
    let row = scene.world.store.membership(erin, room).await.unwrap().unwrap();
    assert_eq!(row.membership, crate::Membership::Leave, "she is told that she is out");
    assert_eq!(scene.world.head(&scene.room_id).await.joined, 4);
    scene.world.check().await;
}

#[tokio::test]
async fn many_branches_are_bounded() {
    let scene = Scene::new(V).await;
    let base = scene.room().last();
    let branches: Vec<Event> = (0..45).map(|n| scene.room().make(&[&base], &Act::say(BOB, &n.to_string()))).collect();
    let results = scene.send(&branches.iter().collect::<Vec<_>>()).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(scene.extremities().await.len(), 20);
    assert!(scene.extremities().await.contains(branches[44].event_id().as_str()), "what comes late is kept");
    let ours = scene.world.say(&scene.room_id, "alice", "all of you").await.unwrap();
    assert_eq!(scene.extremities().await, [ours.to_string()].into());
    scene.world.check().await;
}

/// Who sends many branches from before a ban does not undo it: they push out their own. Whether they only speak, or set states.
#[tokio::test]
async fn many_branches_of_one_server_push_out_no_other() {
    for sets_state in [false, true] {
        let scene = Scene::new(V).await;
        open_topic(&scene).await;
        let base = scene.room().last();
        let ban = crate::MemberChange {
            room_id: scene.room_id.clone(),
            sender: user("alice"),
            target: super::script::CARL.try_into().unwrap(),
            action: crate::MemberAction::Ban,
            content: serde_json::Map::new(),
            guest: false,
        };
        let ban = scene.world.rooms.change_member(ban).await.unwrap();
        scene.follow().await;
        let act = |n: u32| if sets_state { topic(BOB, &n.to_string()) } else { Act::say(BOB, &n.to_string()) };
        let branches: Vec<Event> = (0..45).map(|n| scene.room().make(&[&base], &act(n))).collect();
        let results = scene.send(&branches.iter().collect::<Vec<_>>()).await;
        assert!(results.iter().all(Result::is_ok));
        assert!(scene.extremities().await.contains(ban.as_str()), "{sets_state}");
        let member = scene.world.state(&scene.room_id, "m.room.member", super::script::CARL).await.unwrap();
        assert_eq!(member["membership"], "ban", "{sets_state}");
        scene.world.check().await;
    }
}

#[tokio::test]
async fn what_several_events_cite_is_missing_once() {
    for comes_first in [true, false] {
        let scene = Scene::new(V).await;
        let missing = scene.go_on(&Act::say(BOB, "missing"));
        scene.script.refused.lock().insert("missing_events");
        let (left, right) = {
            let mut room = scene.room();
            let cited = [missing.event_id()];
            (room.make(&cited, &Act::say(BOB, "left")), room.make(&cited, &Act::say(CARL, "right")))
        };
        if comes_first {
            scene.take(&left).await;
            scene.take(&right).await;
        } else {
            assert!(scene.send(&[&left, &right]).await.iter().all(Result::is_ok));
        }
        scene.world.check().await;
        scene.take(&missing).await;
        assert!(scene.is_shown(&missing).await);
        scene.world.check().await;
    }
}
