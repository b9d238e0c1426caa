//! What other servers are given: members, those who left, strangers, latecomers, at each history visibility.

use hearth_core::RoomVersion;
use hearth_ports::{EventBytes, MissingEvents};
use ruma::{EventId, OwnedEventId, OwnedRoomId};
use serde_json::{Value, json};

use super::twin::{Town, towns};
use crate::{HandshakeError, MemberAction, Preset, ServeError};

fn ids(bytes: &[EventBytes]) -> Vec<Value> {
    bytes.iter().map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap()["content"]["body"].clone()).collect()
}

async fn given(from: &Town, to: &Town, event: &EventId) -> Result<Value, ServeError> {
    let bytes = from.world.rooms.serve_event(&to.name, event).await?;
    Ok(serde_json::from_slice(&bytes).unwrap())
}

fn missing(latest: &[&OwnedEventId], earliest: &[&OwnedEventId], limit: usize) -> MissingEvents {
    let owned = |ids: &[&OwnedEventId]| ids.iter().map(|id| (*id).clone()).collect();
    MissingEvents { earliest: owned(earliest), latest: owned(latest), limit, min_depth: 0 }
}

/// A room of a's, with a message before b's bob came, one while he was there, one after he went.
struct Story {
    room_id: OwnedRoomId,
    before: OwnedEventId,
    during: OwnedEventId,
    after: OwnedEventId,
    leave: OwnedEventId,
}

async fn story(a: &Town, b: &Town, visibility: &str) -> Story {
    let room_id = a.create("alice", Preset::Public).await;
    a.set(&room_id, "alice", "m.room.history_visibility", json!({ "history_visibility": visibility })).await;
    let before = a.say(&room_id, "alice", "before").await.unwrap();
    b.join(&room_id, "bob", &[a]).await.unwrap();
    let during = a.say(&room_id, "alice", "during").await.unwrap();
    let leave = leave(a, b, &room_id).await;
    let after = a.say(&room_id, "alice", "after").await.unwrap();
    Story { room_id, before, during, after, leave }
}

/// Bob leaves, and a is told. Time has passed since he came, or else it would be open which of the two came last.
async fn leave(a: &Town, b: &Town, room_id: &OwnedRoomId) -> OwnedEventId {
    a.world.clock.advance_ms(1_000);
    b.world.clock.advance_ms(1_000);
    let left = b.own(room_id, "bob", MemberAction::Leave, &[]).await.unwrap();
    let event = b.event(room_id, &left).await;
    a.world.rooms.accept_leave(&b.name, room_id, &left, event.json().clone()).await.unwrap();
    left
}

#[tokio::test]
async fn who_is_not_in_the_room_gets_nothing_but_the_state_where_it_was() {
    for visibility in ["world_readable", "shared", "invited", "joined"] {
        let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
        let Story { room_id, before, during, after, leave } = story(&a, &b, visibility).await;
        a.act(&room_id, "alice", MemberAction::Invite, &c.user("carol"), &[]).await.unwrap();
        for (stranger, may) in [(&b, [false, true, false, true]), (&c, [false; 4])] {
            let rooms = &a.world.rooms;
            for (event, may) in [&before, &during, &after, &leave].into_iter().zip(may) {
                let result = given(&a, stranger, event).await;
                assert!(matches!(result, Err(ServeError::Forbidden(_))), "{visibility}: {result:?}");
                let state = rooms.serve_state(&stranger.name, &room_id, event).await.err();
                let ids = rooms.serve_state_ids(&stranger.name, &room_id, event).await.err();
                let chain = rooms.serve_event_auth(&stranger.name, &room_id, event).await.err();
                for refused in [state, ids, chain] {
                    // What went to the server then, it may ask of now: the answer may be long in coming.
                    assert_eq!(matches!(refused, Some(ServeError::Forbidden(_))), !may, "{visibility}: {refused:?}");
                }
            }
            let from = [after.clone()];
            assert!(rooms.serve_backfill(&stranger.name, &room_id, &from, 10).await.is_err());
            assert!(rooms.serve_missing(&stranger.name, &room_id, &missing(&[&after], &[], 10)).await.is_err());
            assert!(rooms.serve_event_near(&stranger.name, &room_id, 0, false).await.is_err());
        }
    }
}

#[tokio::test]
async fn who_is_put_out_is_told_where_that_stands() {
    for action in [MemberAction::Kick, MemberAction::Ban] {
        let [a, b] = towns(["a.test", "b.test"]).await;
        let room_id = a.create("alice", Preset::Public).await;
        b.join(&room_id, "bob", &[&a]).await.unwrap();
        let said = a.say(&room_id, "alice", "last words").await.unwrap();
        let end = a.act(&room_id, "alice", action, &b.user("bob"), &[]).await.unwrap();
        let rooms = &a.world.rooms;
        let before = rooms.serve_missing(&b.name, &room_id, &missing(&[&end], &[], 1)).await.unwrap();
        assert_eq!(ids(&before), ["last words"]);
        assert!(!rooms.serve_state_ids(&b.name, &room_id, &end).await.unwrap().state.is_empty());
        // The same of what went to it before.
        rooms.serve_missing(&b.name, &room_id, &missing(&[&said], &[], 1)).await.unwrap();
        rooms.serve_state_ids(&b.name, &room_id, &said).await.unwrap();
        // Not what came after.
        let after = a.say(&room_id, "alice", "at last").await.unwrap();
        assert!(rooms.serve_missing(&b.name, &room_id, &missing(&[&after], &[], 9)).await.is_err());
        assert!(given(&a, &b, &after).await.is_err());
    }
}

#[tokio::test]
async fn a_latecomer_is_given_what_its_users_may_see_and_the_shape_of_the_rest() {
    // Columns: before bob came, while he was there, after he went; he is back now.
    let table = [("world_readable", "yyy"), ("shared", "yyy"), ("invited", "nyn"), ("joined", "nyn")];
    for (visibility, expected) in table {
        let [a, b] = towns(["a.test", "b.test"]).await;
        let Story { room_id, before, during, after, .. } = story(&a, &b, visibility).await;
        b.join(&room_id, "bob", &[&a]).await.unwrap();
        let mut found = String::new();
        for event in [&before, &during, &after] {
            let event = given(&a, &b, event).await.unwrap();
            assert!(event["prev_events"].is_array() && event["hashes"]["sha256"].is_string(), "the shape stays");
            found.push(if event["content"]["body"].is_string() { 'y' } else { 'n' });
        }
        assert_eq!(found, expected, "{visibility}");
        let now = a.say(&room_id, "alice", "now").await.unwrap();
        assert_eq!(given(&a, &b, &now).await.unwrap()["content"]["body"], "now");
        let walked = a.world.rooms.serve_backfill(&b.name, &room_id, std::slice::from_ref(&now), 3).await.unwrap();
        assert_eq!(ids(&walked)[0], "now");
        assert_eq!(walked.len(), 3);
    }
}

#[tokio::test]
async fn an_invite_opens_invited_history() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Private).await;
    a.set(&room_id, "alice", "m.room.history_visibility", json!({ "history_visibility": "invited" })).await;
    let early = a.say(&room_id, "alice", "early").await.unwrap();
    a.act(&room_id, "alice", MemberAction::Invite, &b.user("bob"), &[]).await.unwrap();
    let waiting = a.say(&room_id, "alice", "waiting").await.unwrap();
    b.join(&room_id, "bob", &[]).await.unwrap();
    assert!(given(&a, &b, &early).await.unwrap()["content"]["body"].is_null());
    assert_eq!(given(&a, &b, &waiting).await.unwrap()["content"]["body"], "waiting");
    // A second user of the server who came later changes nothing about what was before.
    b.join(&room_id, "bob", &[]).await.unwrap();
    assert!(given(&a, &b, &early).await.unwrap()["content"]["body"].is_null());
}

#[tokio::test]
async fn the_access_list_closes_every_door() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let said = a.say(&room_id, "alice", "x").await.unwrap();
    given(&a, &b, &said).await.unwrap();
    a.set(&room_id, "alice", "m.room.server_acl", json!({ "allow": ["*"], "deny": ["b.test"] })).await;
    let rooms = &a.world.rooms;
    let (server, from) = (&*b.name, [said.clone()]);
    assert!(matches!(given(&a, &b, &said).await, Err(ServeError::Forbidden(_))));
    assert!(matches!(rooms.serve_state(server, &room_id, &said).await, Err(ServeError::Forbidden(_))));
    assert!(matches!(rooms.serve_state_ids(server, &room_id, &said).await, Err(ServeError::Forbidden(_))));
    assert!(matches!(rooms.serve_event_auth(server, &room_id, &said).await, Err(ServeError::Forbidden(_))));
    assert!(matches!(rooms.serve_backfill(server, &room_id, &from, 1).await, Err(ServeError::Forbidden(_))));
    let wanted = missing(&[&said], &[], 1);
    assert!(matches!(rooms.serve_missing(server, &room_id, &wanted).await, Err(ServeError::Forbidden(_))));
    assert!(matches!(rooms.serve_event_near(server, &room_id, 0, false).await, Err(ServeError::Forbidden(_))));
}

#[tokio::test]
async fn walks_are_bounded_ordered_and_stay_in_their_room() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let mut said = Vec::new();
    for nth in 0..150 {
        said.push(a.say(&room_id, "alice", &nth.to_string()).await.unwrap());
    }
    let rooms = &a.world.rooms;
    let last = said.last().unwrap();
    let walked = rooms.serve_backfill(&b.name, &room_id, std::slice::from_ref(last), 1_000_000).await.unwrap();
    assert_eq!(walked.len(), 100);
    assert_eq!((&ids(&walked)[0], &ids(&walked)[99]), (&json!("149"), &json!("50")));
    assert_eq!(rooms.serve_backfill(&b.name, &room_id, std::slice::from_ref(last), 0).await.unwrap().len(), 1);
    // Between two ends, oldest first, neither end among them.
    let between = rooms.serve_missing(&b.name, &room_id, &missing(&[last], &[&said[144]], 10)).await.unwrap();
    assert_eq!(ids(&between), ["145", "146", "147", "148"]);
    let some = rooms.serve_missing(&b.name, &room_id, &missing(&[last], &[&said[100]], 2)).await.unwrap();
    assert_eq!(ids(&some), ["147", "148"], "those next to the end");
    let many = rooms.serve_missing(&b.name, &room_id, &missing(&[last], &[], usize::MAX)).await.unwrap();
    assert_eq!(many.len(), 50);
    // Who names much that is not here, as a server does that has many ends, names this one too.
    let unknown: Vec<OwnedEventId> = (0..500).map(|nth| format!("$unknown{nth}").try_into().unwrap()).collect();
    let ends: Vec<&OwnedEventId> = unknown.iter().chain([&said[144]]).collect();
    let between = rooms.serve_missing(&b.name, &room_id, &missing(&[last], &ends, 10)).await.unwrap();
    assert_eq!(ids(&between), ["145", "146", "147", "148"]);
    let depth = a.event(&room_id, &said[147]).await.depth();
    let wanted = MissingEvents { min_depth: depth, ..missing(&[last], &[], 50) };
    assert_eq!(ids(&rooms.serve_missing(&b.name, &room_id, &wanted).await.unwrap()), ["147", "148"]);
    // Events of a room that b is not in, asked for in one that it is in.
    let secret = a.create("alice", Preset::Private).await;
    let whisper = a.say(&secret, "alice", "secret").await.unwrap();
    let from = [whisper.clone(), "$nothing".try_into().unwrap()];
    assert!(rooms.serve_backfill(&b.name, &room_id, &from, 10).await.unwrap().is_empty());
    assert!(rooms.serve_missing(&b.name, &room_id, &missing(&[&whisper], &[], 9)).await.unwrap().is_empty());
    assert!(matches!(rooms.serve_state(&b.name, &room_id, &whisper).await, Err(ServeError::NotFound)));
    assert!(matches!(rooms.serve_event_auth(&b.name, &room_id, &whisper).await, Err(ServeError::NotFound)));
    assert!(matches!(given(&a, &b, &whisper).await, Err(ServeError::Forbidden(_))));
    assert!(matches!(given(&a, &b, &from[1]).await, Err(ServeError::NotFound)));
}

#[tokio::test]
async fn state_is_that_before_the_event_with_all_that_authorises_it() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let rooms = &a.world.rooms;
    let topic = a.set(&room_id, "alice", "m.room.topic", json!({ "topic": "t" })).await;
    let said = a.say(&room_id, "alice", "x").await.unwrap();
    let before = rooms.serve_state_ids(&b.name, &room_id, &topic).await.unwrap();
    assert!(!before.state.contains(&topic));
    let after = rooms.serve_state_ids(&b.name, &room_id, &said).await.unwrap();
    assert!(after.state.contains(&topic) && after.state.len() == before.state.len() + 1);
    let whole = rooms.serve_state(&b.name, &room_id, &said).await.unwrap();
    assert_eq!((whole.state.len(), whole.auth_chain.len()), (after.state.len(), after.auth_chain.len()));
    let all: std::collections::BTreeSet<_> = after.state.iter().chain(&after.auth_chain).cloned().collect();
    for event_id in &all {
        for cited in a.event(&room_id, event_id).await.auth_events() {
            assert!(after.auth_chain.contains(cited), "the chain is closed");
        }
    }
    let chain = rooms.serve_event_auth(&b.name, &room_id, &said).await.unwrap();
    assert_eq!(chain.len(), 2, "levels and member; the create event goes without saying");
    // The joining server knows these events only as state: it cannot tell the state before them.
    let create = &after.state[0];
    let at_b = b.world.rooms.serve_state(&a.name, &room_id, create).await;
    assert!(matches!(at_b, Err(ServeError::NotFound)));
    b.world.rooms.serve_event(&a.name, create).await.unwrap();
}

#[tokio::test]
async fn the_event_near_a_time_is_one_that_may_be_seen() {
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    a.set(&room_id, "alice", "m.room.history_visibility", json!({ "history_visibility": "joined" })).await;
    a.world.clock.advance_ms(1_000);
    let hidden = a.say(&room_id, "alice", "hidden").await.unwrap();
    let hidden_ts = a.event(&room_id, &hidden).await.origin_server_ts();
    a.world.clock.advance_ms(1_000);
    b.world.clock.advance_ms(2_000);
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    a.world.clock.advance_ms(1_000);
    let seen = a.say(&room_id, "alice", "seen").await.unwrap();
    let rooms = &a.world.rooms;
    let (found, ts) = rooms.serve_event_near(&b.name, &room_id, u64::MAX >> 12, true).await.unwrap();
    assert_eq!((&found, ts), (&seen, hidden_ts + 2_000));
    let (found, _) = rooms.serve_event_near(&b.name, &room_id, hidden_ts, false).await.unwrap();
    assert_ne!(found, hidden);
    let none = rooms.serve_event_near(&b.name, &room_id, u64::MAX >> 12, false).await;
    assert!(matches!(none, Err(ServeError::NotFound)));
}

#[tokio::test]
async fn erased_senders_are_cut_down_for_who_was_not_there() {
    use hearth_store::{
        Write,
        tables::users::{AccountKind, AccountRow, account_key},
    };
    let [a, b] = towns(["a.test", "b.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    let before = a.say(&room_id, "alice", "before").await.unwrap();
    b.join(&room_id, "bob", &[&a]).await.unwrap();
    let during = a.say(&room_id, "alice", "during").await.unwrap();
    let alice = a.world.store.user_number(&a.user("alice")).await.unwrap().unwrap();
    let row = AccountRow {
        user_id: a.user("alice").to_string(),
        kind: AccountKind::Full,
        password: None,
        created_ts_ms: 0,
        admin: false,
        suspended: false,
        locked: false,
        deactivated: true,
        erased: true,
    };
    let mut write = Write::new(alice.partition());
    write.put(hearth_ports::Table::Us, account_key(alice), &row);
    a.world.store.commit(write).await.unwrap();
    assert!(given(&a, &b, &before).await.unwrap()["content"]["body"].is_null());
    assert_eq!(given(&a, &b, &during).await.unwrap()["content"]["body"], "during");
}

/// One event whose previous events are nowhere makes all servers of a room ask at once.
#[tokio::test(start_paused = true)]
async fn all_who_ask_for_states_at_once_are_answered() {
    let [a, b, c, d] = towns(["a.test", "b.test", "c.test", "d.test"]).await;
    let room_id = a.create("alice", Preset::Public).await;
    for other in [&b, &c, &d] {
        other.join(&room_id, "user", &[&a]).await.unwrap();
    }
    let said = a.say(&room_id, "alice", "x").await.unwrap();
    let rooms = &a.world.rooms;
    let ask = async |town: &Town| {
        rooms.serve_state(&town.name, &room_id, &said).await.unwrap();
        rooms.serve_state_ids(&town.name, &room_id, &said).await.unwrap();
        rooms.serve_event_auth(&town.name, &room_id, &said).await.unwrap();
    };
    let all = [&b, &c, &d].repeat(3);
    futures_util::future::join_all(all.into_iter().map(ask)).await;
    // One that asks for more than its share, and never reads: the others get theirs.
    let turns = (rooms.serving.state_turn(&b.name), rooms.serving.state_turn(&b.name));
    let more =
        (rooms.serving.chain_turn(&b.name), rooms.serving.chain_turn(&b.name), rooms.serving.chain_turn(&b.name));
    let _held = (turns.0.await.unwrap(), turns.1.await.unwrap(), more.0.await.unwrap(), more.1.await.unwrap());
    let _also = (more.2.await.unwrap(), rooms.serving.chain_turn(&b.name).await.unwrap());
    let refused = tokio::join!(
        async { rooms.serve_state(&b.name, &room_id, &said).await.map(drop) },
        async { rooms.serve_event_auth(&b.name, &room_id, &said).await.map(drop) },
        tokio::time::timeout(std::time::Duration::from_secs(1), ask(&c)),
    );
    assert!(matches!(refused, (Err(ServeError::Busy), Err(ServeError::Busy), Ok(()))), "{refused:?}");
}

/// In old versions the sender of an event chooses its id.
#[tokio::test]
async fn a_join_under_the_id_of_another_event_is_told_nothing() {
    for version in [RoomVersion::V1, RoomVersion::V2] {
        let [a, b] = towns(["a.test", "b.test"]).await;
        let room_id = a.create_in("alice", Preset::Private, version).await;
        let known = a.say(&room_id, "alice", "secret").await.unwrap();
        let forged = json!({
            "event_id": known, "room_id": room_id, "type": "m.room.member", "sender": b.user("eve"),
            "state_key": b.user("eve"), "content": { "membership": "join" }, "depth": 1, "origin_server_ts": 1,
            "prev_events": [], "auth_events": [], "hashes": { "sha256": "" },
            "signatures": { "b.test": { "ed25519:1": "" } },
        });
        let rooms = &a.world.rooms;
        let told = rooms.accept_join(&b.name, &room_id, &known, forged.to_string().into(), false).await;
        assert!(matches!(told, Err(HandshakeError::Malformed(_))), "{told:?}");
    }
}
