use std::sync::Arc;

use hearth_ports::mem::MemEngine;
use ruma::UserId;

use super::*;
use crate::{
    EventNumber, Order, StateKeyNumber, StateVersion, UserNumber, Write, encode,
    tables::{
        CurrentStateRow, EventFlags, Head, Membership, MembershipRow, StateKeyRow, TimelineRow, current_state_key,
        event_index_key, event_key, head_key, member_rooms_key, room_index_key, state_key_key, state_version_key,
        timeline_key, user_name_key,
    },
    testing::{TestRoom, event, open, store, wait},
};

struct World {
    engine: Arc<MemEngine>,
    store: Arc<Store>,
    room: TestRoom,
    user: UserNumber,
}

const USER: &str = "@a:b.c";

/// A room with a joined user, an invited one, a topic that changed and messages.
fn world() -> World {
    let (engine, store) = store();
    let room = TestRoom::new(&store, "!r:b.c");
    let user = |name: &str| wait(store.ensure_user_number(<&UserId>::try_from(name).expect("a user id")));
    let (user, invited) = (user(USER).expect("it writes"), user("@b:b.c").expect("it writes"));
    room.send_with("m.room.member", Some(USER), Some((user, Membership::Join)));
    room.send("m.room.topic", Some(""));
    room.send("m.room.message", None);
    room.send_with("m.room.member", Some("@b:b.c"), Some((invited, Membership::Invite)));
    room.send("m.room.topic", Some(""));
    room.send("m.room.message", None);
    World { engine, store, room, user }
}

fn problems(world: &World) -> Vec<String> {
    // Nothing cached: what is on disk counts.
    let store = open(world.engine.clone());
    let report = wait(fsck(&store, |_| {})).expect("the engine reads");
    assert_eq!(report.problems.len() as u64, report.problems_count);
    report.problems
}

/// Damages a healthy room and expects a problem with these words, in every one of its sentences about the damage.
#[track_caller]
fn check(damage: impl FnOnce(&World, &mut Write), expected: &str) {
    let world = world();
    let mut write = Write::new(world.room.number.partition());
    damage(&world, &mut write);
    wait(world.store.commit(write)).expect("nothing stands against this commit");
    let problems = problems(&world);
    assert!(problems.iter().any(|problem| problem.contains(expected)), "{problems:#?}");
}

fn change<R: Row>(world: &World, write: &mut Write, table: Table, key: Key, change: impl FnOnce(&mut R)) {
    let mut row: R = wait(world.store.get(table, &key)).expect("it reads").expect("it is there");
    change(&mut row);
    write.put_bytes(table, key, encode(&row));
}

fn change_head(world: &World, write: &mut Write, by: impl FnOnce(&mut Head)) {
    change(world, write, Table::Rm, head_key(world.room.number), by);
}

fn last_order(world: &World) -> Order {
    wait(world.store.timeline(world.room.number, .., 1, true)).expect("it reads")[0].0
}

const MESSAGE: EventNumber = EventNumber(4);
const TOPIC: EventNumber = EventNumber(6);

#[test]
fn a_healthy_database_has_no_problems() {
    let world = world();
    assert_eq!(problems(&world), [""; 0]);
    let mut told = Vec::new();
    let report = wait(fsck(&world.store, |progress| told.push(progress))).expect("the engine reads");
    assert!(report.is_clean() && report.seen.rooms == 1 && report.seen.rows > 20, "{report}");
    assert_eq!(told.last(), Some(&report.seen));
}

#[test]
fn damaged_events_are_found() {
    let rewrite = |world: &World, write: &mut Write, by: &dyn Fn(&mut crate::tables::EventHeader)| {
        let room = world.room.number;
        let stored = wait(world.store.event(room, MESSAGE)).expect("it reads").expect("it is there");
        let mut header = stored.header.clone();
        by(&mut header);
        write.rewrite_event(room, MESSAGE, &header, stored.event.json());
    };
    check(|w, write| write.delete(Table::Ev, event_key(w.room.number, MESSAGE)), "event 4, which is not stored");
    check(|w, write| write.put_bytes(Table::Ev, event_key(w.room.number, MESSAGE), &b"\x01"[..]), "event 4: a stored");
    check(|w, write| rewrite(w, write, &|header| header.auths = vec![EventNumber(9)]), "which is not before it");
    check(|w, write| rewrite(w, write, &|header| header.prevs = vec![EventNumber(9)]), "event 9, which is not stored");
    check(|w, write| rewrite(w, write, &|header| header.state_after = StateVersion(99)), "has not given out");
    check(
        |w, write| rewrite(w, write, &|header| header.state_before = StateVersion::UNKNOWN),
        "before it is not known",
    );
    check(|w, write| rewrite(w, write, &|header| header.position += 1), "not in the timeline where it says");
    check(|w, write| rewrite(w, write, &|header| header.flags = EventFlags::SOFT_FAILED), "was not accepted, but");
    check(
        |w, write| rewrite(w, write, &|header| header.flags = EventFlags::REDACTED),
        "not sure whether it is redacted",
    );
    check(
        |w, write| {
            let stored = wait(w.store.event(w.room.number, MESSAGE)).expect("it reads").expect("it is there");
            let (_, json) = event(&w.room.id, "m.room.other", None, MESSAGE);
            write.rewrite_event(w.room.number, MESSAGE, &stored.header, json.as_bytes());
        },
        "is not its hash",
    );
    check(
        |w, write| {
            let stored = wait(w.store.event(w.room.number, MESSAGE)).expect("it reads").expect("it is there");
            write.delete(Table::Ix, event_index_key(&stored.header.event_id, w.room.number));
        },
        "does not lead to it",
    );
    check(
        |w, write| write.put_bytes(Table::Ix, event_index_key("$other", w.room.number), vec![0, 0, 0, 4]),
        "an id leads to event 4, which has another",
    );
}

#[test]
fn damaged_timelines_are_found() {
    check(|w, write| write.delete(Table::Tl, timeline_key(w.room.number, last_order(w))), "not in the timeline where");
    check(
        |w, write| {
            let key = timeline_key(w.room.number, last_order(w));
            change(w, write, Table::Tl, key, |row: &mut TimelineRow| row.event = Some(MESSAGE));
        },
        "has event 4 at another place",
    );
    check(
        |w, write| {
            let key = timeline_key(w.room.number, last_order(w));
            change(w, write, Table::Tl, key, |row: &mut TimelineRow| row.state = StateVersion(3));
        },
        "the timeline ends with state version 3",
    );
    check(
        |w, write| {
            let row = TimelineRow { event: None, state: StateVersion::FIRST };
            write.put(Table::Tl, timeline_key(w.room.number, Order { position: 900, within: 1 }), &row);
        },
        "behind the head's position",
    );
    check(
        |w, write| {
            let partition = w.room.number.partition();
            let key = hearth_ports::log_key(partition, w.store.live().position(partition));
            write.delete(Table::Tl, key);
        },
        "is not in the log",
    );
}

#[test]
fn damaged_states_are_found() {
    let version =
        |world: &World| wait(world.store.head(world.room.number)).expect("it reads").expect("it is there").state;
    check(|w, write| write.delete(Table::St, state_version_key(w.room.number, version(w), 0)), "which is not stored");
    check(
        |w, write| write.delete(Table::St, state_version_key(w.room.number, StateVersion(3), 0)),
        "which is not stored",
    );
    check(
        |w, write| {
            let key = state_version_key(w.room.number, version(w), 0);
            let mut row = wait(w.store.get_bytes(Table::St, &key)).expect("it reads").expect("it is there").to_vec();
            *row.last_mut().expect("it is not empty") ^= 1;
            write.put_bytes(Table::St, key, row);
        },
        "has another count or hash than it says",
    );
    check(
        |w, write| {
            let row = StateKeyRow { kind: "m.room.topic".to_owned(), state_key: "other".to_owned() };
            write.put(Table::St, state_key_key(w.room.number, StateKeyNumber(3)), &row);
        },
        "does not lead back",
    );
    check(
        |w, write| {
            let key = current_state_key(w.room.number, "m.room.topic", "");
            change(w, write, Table::Rm, key, |row: &mut CurrentStateRow| row.event = Some(EventNumber(3)));
        },
        "another \"m.room.topic\"",
    );
    check(
        |w, write| write.delete(Table::Rm, current_state_key(w.room.number, "m.room.topic", "")),
        "the current state has not",
    );
    check(
        |w, write| write.delete(Table::St, crate::tables::auth_run_key(w.room.number, TOPIC)),
        "event 6: the auth graph has []",
    );
}

#[test]
fn damaged_heads_are_found() {
    check(|w, write| change_head(w, write, |head| head.next_event = TOPIC), "the head has not given out");
    check(|w, write| change_head(w, write, |head| head.next_state = StateVersion(4)), "not given out by the head");
    check(|w, write| change_head(w, write, |head| head.next_state_key = StateKeyNumber(2)), "has not given out");
    check(|w, write| change_head(w, write, |head| head.joined = 2), "2 joined and 1 invited");
    check(|w, write| change_head(w, write, |head| head.create.version = "x".to_owned()), "version \"x\" is not known");
    check(|w, write| change_head(w, write, |head| head.extremities[0].event = EventNumber(50)), "extremity 50");
    check(|w, write| write.delete(Table::Ix, room_index_key(&w.room.id)), "does not lead back to it");
}

#[test]
fn damaged_memberships_are_found() {
    check(
        |w, write| {
            let key = member_rooms_key(w.user, w.room.number);
            change(w, write, Table::Rm, key, |row: &mut MembershipRow| row.membership = Membership::Ban);
        },
        "is not that of the room's state",
    );
    check(|w, write| write.delete(Table::Rm, member_rooms_key(w.user, w.room.number)), "has no membership");
    check(|w, write| write.delete(Table::Ix, user_name_key(w.user)), "who has no id");
    check(
        |w, write| {
            let key = current_state_key(w.room.number, "m.room.member", USER);
            change(w, write, Table::Rm, key, |row: &mut CurrentStateRow| row.user = None);
        },
        "has no number",
    );
}

#[test]
fn damaged_servers_are_found() {
    let server = <&ruma::ServerName>::try_from("b.c").expect("a server name");
    let (of_room, of_server) = (crate::tables::room_server_key, crate::tables::server_room_key);
    check(|w, write| write.delete(Table::Rm, of_room(w.room.number, server)), "users of b.c are joined, but it is not");
    check(|w, write| write.delete(Table::Rm, of_room(w.room.number, server)), "b.c is not in it, but told so");
    check(|w, write| write.delete(Table::Rm, of_server(server, w.room.number)), "is not among those of b.c");
    check(
        |w, write| crate::tables::put_room_server(write, w.room.number, server, 2),
        "2 users of b.c are said to be joined",
    );
}

#[test]
fn damaged_gaps_and_waiting_redactions_are_found() {
    use crate::tables::{BackwardRow, GapRow, HeldRow, backward_key, gap_key, held_key};
    let missing = "$missing";
    let gap = |w: &World, write: &mut Write, order, missing: &[&str]| {
        let row = GapRow { missing: missing.iter().map(|id| (*id).to_owned()).collect() };
        write.put(Table::Tl, gap_key(w.room.number, order), &row);
    };
    let backward = |w: &World, write: &mut Write, id: &str, cited_by| {
        let row = BackwardRow { event_id: id.to_owned(), cited_by };
        write.put(Table::Tl, backward_key(w.room.number, id), &row);
    };
    let world = world();
    let mut write = Write::new(world.room.number.partition());
    gap(&world, &mut write, last_order(&world), &[missing]);
    backward(&world, &mut write, missing, MESSAGE);
    wait(world.store.commit(write)).expect("nothing stands against this commit");
    assert_eq!(problems(&world), [""; 0], "a gap is no problem");

    check(|w, write| gap(w, write, last_order(w), &[]), "nothing is missing in the gap");
    check(|w, write| gap(w, write, Order { position: 900, within: 1 }, &[missing]), "is in front of no event");
    check(|w, write| gap(w, write, last_order(w), &[missing]), "but not among what is missing");
    check(|w, write| backward(w, write, missing, EventNumber(90)), "is missing and cited by event 90, which is not");
    check(
        |w, write| {
            let stored = wait(w.store.event(w.room.number, MESSAGE)).expect("it reads").expect("it is there");
            backward(w, write, &stored.header.event_id, TOPIC);
        },
        "is said to be missing",
    );
    check(
        |w, write| {
            let row = HeldRow { redactions: vec![MESSAGE] };
            write.put(Table::Tl, held_key(w.room.number, missing), &row);
        },
        "event 4 is said to wait for its target",
    );
}

#[test]
fn keys_without_a_device_are_found() {
    use crate::tables::users::{ClaimableKey, ClaimableKeysRow, claimable_keys_key};
    let key = |value: &str| ClaimableKey { algorithm: "a".into(), id: "1".into(), json: value.into() };
    let world = world();
    let mut write = Write::new(world.user.partition());
    let row = ClaimableKeysRow { one_time: vec![key("\"x\""), key("\"y\"")], fallback: Vec::new() };
    write.put(Table::Us, claimable_keys_key(world.user, "GONE"), &row);
    wait(world.store.commit(write)).expect("nothing stands against this commit");
    let problems = problems(&world);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("two one-time keys have one name"), "{problems:?}");
    assert!(problems[1].contains("there is no such device"), "{problems:?}");
}
