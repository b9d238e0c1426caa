//! The queue by itself: what is held, released and stored.

use hearth_store::Position;

use super::*;

fn page(at: u64) -> Arc<Page> {
    Arc::new(Page { after: Positions::all(Position(at)) })
}

fn outgoing(event: u32, page: &Arc<Page>, parting: bool) -> Outgoing {
    Outgoing { room: RoomNumber(1), event: EventNumber(event), parting, page: Some(page.clone()) }
}

const NOW: Positions = Positions::START;

/// Composes all that the step allows into a transaction.
fn compose(queue: &mut Queue, now_ms: u64) {
    let Step::Compose(compose) = queue.step(now_ms, &NOW) else { panic!("there is something to send") };
    let taken = Taken { events: compose.events.len(), ..Taken::default() };
    let transaction = || Transaction { id: "a".to_owned(), body: "{}".into(), items: compose.events.len() };
    queue.composed(taken, Parts::new(compose.size), |_| Some(transaction()));
}

fn unreachable() -> PeerError {
    PeerError::Unreachable("no".to_owned())
}

#[test]
fn a_page_is_held_until_its_event_arrives_or_a_row_is_stored() {
    let mut queue = Queue::default();
    let (first, second) = (page(5), page(9));
    queue.push(outgoing(1, &first, false));
    compose(&mut queue, 0);
    queue.push(outgoing(2, &second, false));
    assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (2, 2));
    queue.delivered();
    assert_eq!(Arc::strong_count(&first), 1);
    compose(&mut queue, 0);
    queue.failed(0, &unreachable(), None, 0);
    assert_eq!(Arc::strong_count(&second), 2, "nothing is stored yet");
    let falling = queue.falling(&NOW);
    assert_eq!(falling.row.caught_up, [9]);
    queue.fell(&falling);
    assert_eq!(Arc::strong_count(&second), 1);
    let third = page(12);
    queue.push(outgoing(3, &third, false));
    assert_eq!(Arc::strong_count(&third), 1, "the row speaks for it");
}

#[test]
fn a_parting_event_that_came_while_the_row_was_stored_is_not_forgotten() {
    let mut queue = Queue::default();
    let (first, second) = (page(5), page(9));
    queue.push(outgoing(1, &first, true));
    compose(&mut queue, 0);
    for _ in 0..ABSENT_AFTER {
        queue.failed(0, &unreachable(), None, 0);
    }
    let falling = queue.falling(&NOW);
    assert_eq!(falling.partings.len(), 1);
    queue.push(outgoing(2, &second, true));
    queue.fell(&falling);
    assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2));
    assert_eq!(queue.push(outgoing(3, &second, true)), Pushed::MustStore);
}

#[test]
fn a_full_queue_says_from_where_events_are_missing() {
    let mut queue = Queue::default();
    let (early, late) = (page(5), page(9));
    for event in 0..EVENTS_MAX {
        queue.push(outgoing(event as u32, &early, false));
    }
    assert_eq!(queue.push(outgoing(9_000, &late, false)), Pushed::Done);
    assert_eq!(queue.push(outgoing(9_001, &late, true)), Pushed::MustStore);
    assert!(matches!(queue.step(0, &NOW), Step::FallBehind));
    let falling = queue.falling(&NOW);
    assert_eq!((falling.row.caught_up.clone(), falling.row.failures), (vec![5], 0));
    queue.fell(&falling);
    while !queue.events.is_empty() {
        compose(&mut queue, 0);
        queue.delivered();
    }
    let Step::Compose(Compose { catch_up: Some(catch_up), .. }) = queue.step(0, &NOW) else { panic!() };
    assert_eq!(catch_up.from, Positions::all(Position(9)));
}

#[test]
fn a_clock_that_was_put_back_does_not_silence_a_server() {
    let row = DestinationRow {
        failing_since_ms: 1,
        retry_at_ms: u64::MAX / 2,
        failures: 3,
        caught_up: vec![4],
        last_error: String::new(),
    };
    assert_eq!(Queue::from_row(row, 1_000).due_at_ms(), Some(1_000 + PAUSE_MS_MAX));
}

#[test]
fn what_is_given_up_does_not_make_the_rest_wait() {
    let mut queue = Queue::default();
    let page = page(5);
    let refused = PeerError::Refused {
        status: 400,
        errcode: "M_BAD_JSON".to_owned(),
        error: String::new(),
        body: bytes::Bytes::new(),
    };
    let mut now_ms = 0;
    for event in 0..5 {
        queue.push(outgoing(event, &page, false));
        let began_ms = now_ms;
        compose(&mut queue, now_ms);
        while !queue.failed(now_ms, &refused, None, 0) {
            now_ms = queue.due_at_ms().unwrap();
            assert!(matches!(queue.step(now_ms, &NOW), Step::Send(_)));
        }
        let Standing::Failing { failures, .. } = queue.status().standing else { panic!("it was refused") };
        assert_eq!(failures, 1, "it answers: it is not absent");
        assert!(now_ms - began_ms < 120_000, "each costs as much as the first");
        now_ms += 10_000;
    }
}
