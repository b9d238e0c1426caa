use hearth_ports::mem::{Failure, MemEngine};
use ruma::UserId;

use super::*;
use crate::{
    EventNumber, Write,
    tables::{ReceiptPlaceRow, ReceiptRow, put_receipt},
    testing::{OneCounter, TestRoom, open, store, wait},
};

/// Runs a test over an engine with a counter for each partition, and over one with a single counter.
fn both(test: impl Fn(&Arc<MemEngine>, &dyn Fn() -> Arc<Store>)) {
    let engine = MemEngine::new();
    test(&engine, &|| open(engine.clone()));
    let engine = MemEngine::with_gaps(2);
    test(&engine, &|| open(Arc::new(OneCounter::new(engine.clone()))));
}

fn user(store: &Store, name: &str) -> UserNumber {
    let id = <&UserId>::try_from(name).expect("a user id");
    wait(store.ensure_user_number(id)).expect("memory writes")
}

fn join(room: &TestRoom, user: UserNumber, name: &str) -> EventNumber {
    room.send_with("m.room.member", Some(name), Some((user, Membership::Join)))
}

fn receipt(store: &Store, room: &TestRoom, user: UserNumber, private: bool) {
    let place = ReceiptPlaceRow { user, private, thread: String::new() };
    let row =
        ReceiptRow { position: 0, event_id: "$event1".to_owned(), event: None, ts_ms: 1, user_id: "@a:b.c".to_owned() };
    let mut write = Write::new(room.number.partition());
    put_receipt(&mut write, room.number, &place, &row, None);
    wait(store.commit(write)).expect("nothing stands against this commit");
}

fn is_woken(changed: &Changed) -> bool {
    changed.is_changed()
}

#[test]
fn a_commit_reaches_the_active_members_of_its_room() {
    both(|_, open| {
        let store = open();
        let (a, b, c) = (user(&store, "@a:b.c"), user(&store, "@b:b.c"), user(&store, "@c:b.c"));
        let (room, other) = (TestRoom::new(&store, "!one:b.c"), TestRoom::new(&store, "!two:b.c"));
        join(&room, a, "@a:b.c");
        join(&room, b, "@b:b.c");
        join(&other, c, "@c:b.c");
        let (live_a, live_c) = (wait(store.attach(a)).expect("it reads"), wait(store.attach(c)).expect("it reads"));
        assert_eq!(store.live().active_users(room.number), [a], "{b:?} does not look");
        let since = store.live().positions();
        assert!(!live_a.news_since(&since) && live_a.rooms_since(&since).is_empty() && !live_a.own_since(&since));
        let (changed_a, changed_c) = (live_a.changed(), live_c.changed());
        room.send("m.room.message", None);
        assert!(is_woken(&changed_a) && !is_woken(&changed_c));
        assert!(live_a.news_since(&since) && !live_c.news_since(&since));
        assert_eq!(live_a.rooms_since(&since), [room.number]);
        assert!(!live_a.own_since(&since));
        let now = store.live().positions();
        assert!(!since.covers(&now));
        assert!(!live_a.news_since(&now) && live_a.rooms_since(&now).is_empty());
    });
}

#[test]
fn what_happened_before_attaching_is_known() {
    both(|_, open| {
        let store = open();
        let a = user(&store, "@a:b.c");
        let rooms: Vec<_> = (0..5).map(|nth| TestRoom::new(&store, &format!("!r{nth}:b.c"))).collect();
        for room in &rooms {
            join(room, a, "@a:b.c");
        }
        let since = store.live().positions();
        rooms[1].send("m.room.message", None);
        receipt(&store, &rooms[3], a, false);
        rooms[4].send_with("m.room.member", Some("@a:b.c"), Some((a, Membership::Leave)));
        let left = store.live().positions();
        rooms[4].send("m.room.message", None);
        // Another process: nothing is in memory.
        let store = open();
        let live = wait(store.attach(a)).expect("it reads");
        let mut found = live.rooms_since(&since);
        let mut expected = vec![rooms[1].number, rooms[3].number, rooms[4].number];
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(live.rooms_since(&left).is_empty(), "what happens after leaving is not told");
        let now = store.live().positions();
        assert!(live.news_since(&since) && !live.news_since(&now));
    });
}

#[test]
fn joining_and_leaving_while_active() {
    both(|_, open| {
        let store = open();
        let a = user(&store, "@a:b.c");
        let live = wait(store.attach(a)).expect("it reads");
        let room = TestRoom::new(&store, "!r:b.c");
        assert!(live.rooms().is_empty());
        let since = store.live().positions();
        room.send_with("m.room.member", Some("@a:b.c"), Some((a, Membership::Invite)));
        assert_eq!(
            (live.rooms_since(&since), live.rooms()),
            (vec![room.number], vec![(room.number, Membership::Invite)])
        );
        let invited = store.live().positions();
        room.send("m.room.message", None);
        assert!(live.rooms_since(&invited).is_empty(), "the invited don't see messages");
        join(&room, a, "@a:b.c");
        let joined = store.live().positions();
        room.send("m.room.message", None);
        assert_eq!(live.rooms_since(&joined), [room.number]);
        let before = store.live().positions();
        room.send_with("m.room.member", Some("@a:b.c"), Some((a, Membership::Ban)));
        let after = store.live().positions();
        room.send("m.room.message", None);
        assert_eq!((live.rooms_since(&before), live.rooms_since(&after)), (vec![room.number], vec![]));
        assert!(store.live().active_users(room.number).is_empty());
    });
}

#[test]
fn private_receipts_concern_their_user_only() {
    both(|_, open| {
        let store = open();
        let (a, b) = (user(&store, "@a:b.c"), user(&store, "@b:b.c"));
        let room = TestRoom::new(&store, "!r:b.c");
        join(&room, a, "@a:b.c");
        join(&room, b, "@b:b.c");
        let (live_a, live_b) = (wait(store.attach(a)).expect("it reads"), wait(store.attach(b)).expect("it reads"));
        let since = store.live().positions();
        receipt(&store, &room, a, true);
        assert_eq!((live_a.rooms_since(&since), live_b.news_since(&since)), (vec![room.number], false));
        receipt(&store, &room, a, false);
        assert_eq!(live_b.rooms_since(&since), [room.number]);
    });
}

#[test]
fn own_news_and_device_lists() {
    both(|_, open| {
        let store = open();
        let users = ["@a:b.c", "@b:b.c", "@c:b.c"].map(|name| user(&store, name));
        let room = TestRoom::new(&store, "!r:b.c");
        join(&room, users[0], "@a:b.c");
        join(&room, users[1], "@b:b.c");
        // What was before the process began is not remembered.
        let store = open();
        let [a, b, c] = users.map(|user| wait(store.attach(user)).expect("it reads"));
        let since = store.live().positions();
        let log = |entry: LogEntry| {
            let mut write = Write::new(users[1].partition());
            let at = write.position();
            write.log(at, entry);
            wait(store.commit(write)).expect("nothing stands against this commit");
        };
        log(LogEntry::AccountData { user: users[1], room: Some(room.number) });
        assert!(b.own_since(&since) && !a.news_since(&since));
        assert_eq!((b.rooms_since(&since), a.rooms_since(&since)), (vec![room.number], vec![]));
        let since = store.live().positions();
        log(LogEntry::DeviceList { user: users[1] });
        // Those who share a room with the user are told, others not.
        assert!(a.news_since(&since) && b.own_since(&since) && !c.news_since(&since));
        assert_eq!(store.live().device_lists_since(&since), Some(vec![users[1]]));
        assert_eq!(store.live().device_lists_since(&store.live().positions()), Some(vec![]));
        assert_eq!(store.live().device_lists_since(&Positions::START), None);
    });
}

#[test]
fn a_commit_of_unknown_outcome_is_found_in_the_log() {
    let (engine, store) = store();
    let a = user(&store, "@a:b.c");
    let room = TestRoom::new(&store, "!r:b.c");
    join(&room, a, "@a:b.c");
    let live = wait(store.attach(a)).expect("it reads");
    let since = store.live().positions();
    let changed = live.changed();
    engine.fail_next(Failure::After);
    let mut write = Write::new(room.number.partition());
    let at = write.position();
    write.log(at, LogEntry::Event(EventNote { room: room.number, event: None, member: None }));
    wait(store.commit(write)).expect_err("it is made to fail");
    assert!(is_woken(&changed), "it did happen");
    assert_eq!(live.rooms_since(&since), [room.number]);
    // The queue's way of committing does not read the log; nothing is told until the next commit does.
    let since = store.live().positions();
    engine.fail_next(Failure::After);
    let mut write = Write::new(room.number.partition());
    let at = write.position();
    write.log(at, LogEntry::Event(EventNote { room: room.number, event: None, member: None }));
    store.submit(write, |result| assert!(result.is_err()));
    assert!(!live.news_since(&since));
    let mut write = Write::new(room.number.partition());
    write.position();
    let committed = wait(store.commit(write)).expect("nothing stands against this commit");
    assert_eq!(store.live().position(room.number.partition()), committed.last);
    assert_eq!(live.rooms_since(&since), [room.number]);
}

#[test]
fn a_commit_is_applied_before_it_is_answered() {
    let (engine, store) = store();
    let a = user(&store, "@a:b.c");
    let room = TestRoom::new(&store, "!r:b.c");
    join(&room, a, "@a:b.c");
    let live = wait(store.attach(a)).expect("it reads");
    let since = store.live().positions();
    engine.pause();
    let mut write = Write::new(room.number.partition());
    let at = write.position();
    write.log(at, LogEntry::Event(EventNote { room: room.number, event: None, member: None }));
    // Nobody waits for the answer.
    let (seen, room_number) = (live.clone(), room.number);
    store.submit(write, move |result| {
        assert!(result.is_ok());
        assert_eq!(seen.rooms_since(&since), [room_number]);
    });
    engine.resume();
    assert_eq!(Arc::strong_count(&live), 2, "the answer was given");
}

#[test]
fn who_is_gone_is_forgotten_after_a_while() {
    let (_, store) = store();
    let a = user(&store, "@a:b.c");
    let room = TestRoom::new(&store, "!r:b.c");
    join(&room, a, "@a:b.c");
    let live = wait(store.attach(a)).expect("it reads");
    let now = |minutes: u64| minutes * 60_000;
    store.live().sweep(now(0));
    store.live().sweep(now(60));
    assert_eq!(store.live().active_users_count(), 1, "it is held");
    drop(live);
    store.live().sweep(now(61));
    store.live().sweep(now(61) + IDLE_MS - 1);
    assert_eq!(store.live().active_users_count(), 1, "it may come back");
    let live = wait(store.attach(a)).expect("it reads");
    drop(live);
    store.live().sweep(now(70));
    store.live().sweep(now(70) + IDLE_MS);
    assert_eq!((store.live().active_users_count(), store.live().active_users(room.number).len()), (0, 0));
    let since = store.live().positions();
    room.send("m.room.message", None);
    let live = wait(store.attach(a)).expect("it reads");
    assert_eq!(live.rooms_since(&since), [room.number]);
}

/// While a writer goes on, users attach again and again: whatever was committed is news for each of them.
#[test]
fn attaching_misses_nothing_while_others_write() {
    let (_, store) = store();
    let a = user(&store, "@a:b.c");
    let rooms: Vec<_> = (0..3).map(|nth| TestRoom::new(&store, &format!("!r{nth}:b.c"))).collect();
    for room in &rooms {
        join(room, a, "@a:b.c");
    }
    let numbers: Vec<_> = rooms.iter().map(|room| room.number).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for room in &rooms {
                    room.send("m.room.message", None);
                }
            }
        });
        for round in 0..300u64 {
            let since = store.live().positions();
            let at = |store: &Store, room: RoomNumber| store.live().position(room.partition());
            let live = wait(store.attach(a)).expect("it reads");
            let reached: Vec<_> = numbers.iter().map(|room| (*room, at(&store, *room))).collect();
            let found = live.rooms_since(&since);
            for (room, reached) in reached {
                // The partitions hold nothing else, so a raised position is an event.
                assert!(reached <= since.at(room.partition()) || found.contains(&room), "round {round}");
            }
            drop(live);
            store.live().sweep(round * 10 * IDLE_MS);
            store.live().sweep((round * 10 + 5) * IDLE_MS);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
