//! Tests of the store as its users see it.

use std::ops::Bound;

use hearth_ports::{Table, mem::MemEngine};
use ruma::{EventId, RoomId, UserId};

use crate::{
    CommitError, EventNumber, LoadError, LogEntry, OpenError, Order, Positions, RoomNumber, SCHEMA_VERSION,
    StateVersion, Store, StoreSettings, UserNumber, Write,
    tables::{EventFlags, SchemaRow, UserIdRow, room_name_key, schema_key, schema_partition, user_name_key},
    testing::{TestRoom, open, store, wait},
};

fn room_id(id: &str) -> &RoomId {
    id.try_into().expect("a room id")
}

fn user_id(id: &str) -> &UserId {
    id.try_into().expect("a user id")
}

#[test]
fn another_layout_is_not_opened() {
    let opened = |version| {
        let engine = MemEngine::new();
        let store = open(engine.clone());
        let mut write = Write::new(schema_partition());
        write.put(Table::Mi, schema_key(), &SchemaRow { version });
        wait(store.commit(write)).expect("nothing stands against this commit");
        wait(Store::open(engine, StoreSettings::default()))
    };
    let (newer, older) = (SCHEMA_VERSION + 1, SCHEMA_VERSION - 1);
    assert!(matches!(opened(newer), Err(OpenError::Newer { found, known: SCHEMA_VERSION }) if found == newer));
    assert!(matches!(opened(older), Err(OpenError::Older { found, known: SCHEMA_VERSION }) if found == older));
    assert!(opened(SCHEMA_VERSION).is_ok());
}

#[test]
fn users_keep_their_numbers() {
    let (engine, store) = store();
    let long = format!("@{}:b.c", "x".repeat(60_000));
    for name in ["@a:b.c", &long] {
        let id = user_id(name);
        assert_eq!(wait(store.user_number(id)).expect("it reads"), None);
        let number = wait(store.ensure_user_number(id)).expect("it writes");
        for store in [&store, &open(engine.clone())] {
            assert_eq!(wait(store.ensure_user_number(id)).expect("it writes"), number);
            assert_eq!(wait(store.user_number(id)).expect("it reads"), Some(number));
            assert_eq!(wait(store.user_id(number)).expect("it reads").as_deref(), Some(id));
        }
    }
}

#[test]
fn a_taken_number_is_passed_over() {
    let (_, store) = store();
    let taken = UserNumber::first_candidate("@a:b.c");
    let mut write = Write::new(taken.partition());
    write.put(Table::Ix, user_name_key(taken), &UserIdRow { user_id: "@other:b.c".to_owned() });
    wait(store.commit(write)).expect("nothing stands against this commit");
    let number = wait(store.ensure_user_number(user_id("@a:b.c"))).expect("it writes");
    assert_eq!((number, number.partition()), (taken.next_candidate(), taken.partition()));
    let room = RoomNumber::first_candidate("!a:b.c");
    let mut write = Write::new(room.partition());
    write.name_room(room, room_id("!other:b.c"));
    wait(store.commit(write)).expect("nothing stands against this commit");
    let number = wait(store.assign_room_number(room_id("!a:b.c"))).expect("it reads");
    assert_eq!(number, room.next_candidate());
    // Who was as far but later must look again.
    for expected in [true, false] {
        let mut write = Write::new(number.partition());
        write.name_room(number, room_id("!a:b.c"));
        let result = wait(store.commit(write));
        assert_eq!(result.is_ok(), expected);
        assert!(expected || matches!(result, Err(CommitError::Conflict)));
    }
    assert_eq!(wait(store.assign_room_number(room_id("!a:b.c"))).expect("it reads"), number);
    assert_eq!(wait(store.room_id(number)).expect("it reads").as_deref(), Some(room_id("!a:b.c")));
}

#[test]
fn events_are_found_by_number_and_by_id() {
    let (engine, store) = store();
    let room = TestRoom::new(&store, "!r:b.c");
    let message = room.send("m.room.message", None);
    for store in [&store, &open(engine)] {
        let event = wait(store.event(room.number, message)).expect("it reads").expect("it is there");
        assert_eq!(
            (event.event.kind(), event.header.order().within, event.accepted()),
            ("m.room.message", u32::MAX, true)
        );
        assert_eq!(event.event.room_id(), &*room.id);
        let by_id =
            wait(store.event_by_id(room.number, event.event.event_id())).expect("it reads").expect("it is there");
        assert!(std::sync::Arc::ptr_eq(&event, &by_id), "it is read once");
        assert!(!std::str::from_utf8(event.client_json()).expect("JSON is text").contains("room_id"));
        let numbers = [EventNumber(9), message, EventNumber::FIRST];
        let events = wait(store.events(room.number, &numbers)).expect("it reads");
        let found: Vec<_> = events.iter().map(|event| event.as_ref().map(|event| event.number)).collect();
        assert_eq!(found, [None, Some(message), Some(EventNumber::FIRST)]);
        let unknown = EventId::parse("$unknown").expect("an event id");
        assert_eq!(wait(store.event_number(room.number, &unknown)).expect("it reads"), None);
    }
}

#[test]
fn a_rewritten_event_is_read_anew() {
    let (_, store) = store();
    let room = TestRoom::new(&store, "!r:b.c");
    let message = room.send("m.room.message", None);
    let before = wait(store.event(room.number, message)).expect("it reads").expect("it is there");
    let mut header = before.header.clone();
    header.flags = header.flags.with(EventFlags::REDACTED);
    let (_, json) = crate::testing::event(&room.id, "m.room.redacted", None, message);
    let mut write = Write::new(room.number.partition());
    write.rewrite_event(room.number, message, &header, json.as_bytes());
    wait(store.commit(write)).expect("nothing stands against this commit");
    let after = wait(store.event(room.number, message)).expect("it reads").expect("it is there");
    assert_eq!((after.event.kind(), &after.header), ("m.room.redacted", &header));
    assert_eq!(after.header.order(), before.header.order());
}

#[test]
fn an_old_form_read_meanwhile_is_not_kept() {
    let (_, store) = store();
    let room = TestRoom::new(&store, "!r:b.c");
    let forgotten = store.caches.forgotten();
    let old = wait(store.event(room.number, EventNumber::FIRST)).expect("it reads").expect("it is there");
    // The redaction is applied between the read and the keeping.
    store.forget_event(room.number, EventNumber::FIRST);
    store.caches.insert_events(room.number, std::slice::from_ref(&old), forgotten);
    let read = wait(store.event(room.number, EventNumber::FIRST)).expect("it reads").expect("it is there");
    assert!(!std::sync::Arc::ptr_eq(&old, &read));
}

#[test]
fn a_damaged_event_is_an_error() {
    let (_, store) = store();
    let room = TestRoom::new(&store, "!r:b.c");
    let mut write = Write::new(room.number.partition());
    write.put_bytes(Table::Ev, crate::tables::event_key(room.number, EventNumber::FIRST), &b"\x01nonsense"[..]);
    wait(store.commit(write)).expect("nothing stands against this commit");
    let read = wait(store.event(room.number, EventNumber::FIRST));
    assert!(matches!(read, Err(LoadError::Corrupt(_))));
}

#[test]
fn timelines_are_ranges() {
    let (_, store) = store();
    let room = TestRoom::new(&store, "!r:b.c");
    let sent: Vec<_> = (0..5).map(|_| room.send("m.room.message", None)).collect();
    let read = |range: (Bound<Order>, Bound<Order>), limit, reverse| -> Vec<u32> {
        let rows = wait(store.timeline(room.number, range, limit, reverse)).expect("it reads");
        rows.iter().map(|(_, row)| row.event.expect("each has an event").0).collect()
    };
    let all = wait(store.timeline(room.number, .., 100, false)).expect("it reads");
    assert_eq!(all.iter().filter_map(|(_, row)| row.event).skip(1).collect::<Vec<_>>(), sent);
    let order = |at: usize| all[at].0;
    assert_eq!(read((Bound::Excluded(order(1)), Bound::Included(order(3))), 100, false), [3, 4]);
    assert_eq!(read((Bound::Included(order(1)), Bound::Excluded(order(3))), 100, false), [2, 3]);
    assert_eq!(read((Bound::Unbounded, Bound::Included(order(4))), 2, true), [5, 4]);
    assert_eq!(read((Bound::Excluded(order(2)), Bound::Unbounded), 2, false), [4, 5]);
    assert!(read((Bound::Excluded(order(3)), Bound::Included(order(2))), 2, false).is_empty());
}

#[test]
fn the_state_at_a_place_is_that_of_the_last_event_before_it() {
    let (_, store) = store();
    let room = TestRoom::new(&store, "!r:b.c");
    let topics: Vec<_> = (0..2)
        .map(|_| {
            room.send("m.room.message", None);
            room.send("m.room.topic", Some(""))
        })
        .collect();
    let topic_at = |order| {
        let version = wait(store.state_at(room.number, order)).expect("it reads");
        let event = wait(store.state_event(room.number, version, "m.room.topic", "")).expect("it reads");
        event.map(|event| event.number)
    };
    let all = wait(store.timeline(room.number, .., 100, false)).expect("it reads");
    assert_eq!(wait(store.state_at(room.number, Order::START)).expect("it reads"), StateVersion::EMPTY);
    let found: Vec<_> = all.iter().map(|(order, _)| topic_at(*order)).collect();
    assert_eq!(found, [None, None, Some(topics[0]), Some(topics[0]), Some(topics[1])]);
    assert_eq!(topic_at(Order::END), Some(topics[1]));
}

#[test]
fn long_scans_are_paged() {
    let (_, store) = store();
    let mut write = Write::new(RoomNumber(1).partition());
    for nth in 0..2_500u64 {
        write.put_bytes(Table::Ix, room_name_key(RoomNumber(nth)), vec![0; 500]);
    }
    wait(store.commit(write)).expect("nothing stands against this commit");
    let range = crate::KeyRange::prefix(&b"R"[..]);
    for (limit, expected) in [(10_000, 2_500), (1_500, 1_500), (0, 0)] {
        for reverse in [false, true] {
            let rows = wait(store.scan_all(Table::Ix, range.clone(), limit, reverse)).expect("it reads");
            assert_eq!(rows.len(), expected);
            let sorted = rows.is_sorted_by(|a, b| if reverse { a.key > b.key } else { a.key < b.key });
            assert!(sorted, "in order, each once");
        }
    }
}

#[test]
fn a_reader_of_the_log_sees_everything_once_in_order() {
    let (engine, store) = store();
    let rooms: Vec<_> = (0..3).map(|nth| TestRoom::new(&store, &format!("!r{nth}:b.c"))).collect();
    let read_all = |store: &Store, mut from: Positions, limit| {
        let mut seen = Vec::new();
        loop {
            let page = wait(store.read_log(&from, limit)).expect("it reads");
            seen.extend(page.entries);
            if from == page.next {
                return (seen, from);
            }
            from = page.next;
        }
    };
    let (first, reached) = read_all(&store, Positions::START, 1);
    assert_eq!((first.len(), &reached), (3, &store.live().positions()));
    for room in rooms.iter().cycle().take(200) {
        room.send("m.room.message", None);
    }
    let store = open(engine);
    for limit in [1, 7, 1_000] {
        let (seen, _) = read_all(&store, reached.clone(), limit);
        for room in &rooms {
            let of_room = seen.iter().filter_map(|(_, position, entry)| match entry {
                LogEntry::Event(note) if note.room == room.number => Some((*position, note.event?.0)),
                _ => None,
            });
            let of_room: Vec<_> = of_room.collect();
            assert!(of_room.is_sorted() && of_room.len() >= 66, "{} with limit {limit}", of_room.len());
        }
        assert_eq!(seen.len(), 200);
    }
}

#[test]
fn a_cursor_moves_by_one_reader_at_a_time() {
    let (engine, store) = store();
    TestRoom::new(&store, "!r:b.c");
    let cursor = wait(store.cursor("push")).expect("it reads");
    assert_eq!(cursor.positions, Positions::START);
    let to = store.live().positions();
    let moved = wait(store.advance_cursor(&cursor, &to)).expect("nothing stands against this commit");
    assert!(matches!(wait(store.advance_cursor(&cursor, &to)), Err(CommitError::Conflict)));
    assert_eq!(wait(open(engine).cursor("push")).expect("it reads").positions, to);
    wait(store.advance_cursor(&moved, &store.live().positions())).expect("it is where it was left");
}
