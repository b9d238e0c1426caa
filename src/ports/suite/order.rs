//! Positions, the log, and the order of results.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Waker},
    thread,
};

use super::{
    Batch, Bytes, CommitError, Committed, Engine, LogItem, Make, Partition, Position, Table, absent, all_rows, batch,
    bytes, commit, get, head, heads, holds, log_after, logged, must_commit, put, try_commit, wait,
};

/// The items of each partition.
type Logs = BTreeMap<u64, Vec<(Position, Bytes)>>;

pub(super) fn positions_rise_and_chain(make: Make<'_>) {
    let engine = make();
    assert!(heads(&*engine).0.iter().all(|head| *head == Position::ZERO), "an empty engine has committed nothing");
    let mut newest: BTreeMap<u64, Position> = BTreeMap::new();
    for step in 0..60_u16 {
        let partition = [3, 63, 0][usize::from(step % 3)];
        let positions = 1 + step % 4;
        let committed = must_commit(&*engine, Batch { positions, ..batch(partition, vec![]) });
        let before = newest.insert(partition, committed.last).unwrap_or_default();
        assert_eq!(committed.prev, before, "prev is the head of this partition, whatever others do");
        assert!(committed.first > committed.prev, "{committed:?}");
        assert_eq!(committed.last.0 - committed.first.0 + 1, u64::from(positions), "positions are consecutive");
    }
    for (index, head) in heads(&*engine).0.into_iter().enumerate() {
        assert_eq!(head, newest.get(&(index as u64)).copied().unwrap_or_default(), "partition {index}");
    }
}

pub(super) fn a_batch_without_positions_moves_nothing(make: Make<'_>) {
    let engine = make();
    let none = Committed { prev: Position::ZERO, first: Position::ZERO, last: Position::ZERO };
    assert_eq!(must_commit(&*engine, batch(4, vec![put(Table::Mi, "k", "v")])), none);
    let last = must_commit(&*engine, Batch { positions: 2, ..batch(4, vec![]) }).last;
    must_commit(&*engine, Batch { positions: 2, ..batch(5, vec![]) });
    let unmoved = Committed { prev: last, first: last, last };
    assert_eq!(must_commit(&*engine, batch(4, vec![put(Table::Mi, "k", "w")])), unmoved);
    assert_eq!(head(&*engine, 4), last);
    assert_eq!(get(&*engine, Table::Mi, "k"), Some(bytes("w")));
}

pub(super) fn the_log_is_what_was_committed(make: Make<'_>) {
    let engine = make();
    let expected: Arc<Mutex<Logs>> = Arc::default();
    let (sender, receiver) = mpsc::channel::<()>();
    for step in 0..120_u16 {
        let partition = u64::from(step % 3);
        let name = format!("batch {step}");
        // Some have positions without items, some lose against a requirement; both leave no trace.
        let mut batch = logged(partition, 1 + step % 3, &name);
        if step % 7 == 0 {
            batch.log.clear();
        }
        if step % 5 == 0 {
            batch.require = vec![holds(Table::Mi, "never there", "")];
        }
        let items = batch.log.clone();
        let (expected, sender) = (expected.clone(), sender.clone());
        let done = move |result: Result<Committed, CommitError>| {
            if let Ok(committed) = result {
                let position = |item: &LogItem| Position(committed.first.0 + u64::from(item.index));
                let items = items.iter().map(|item| (position(item), item.body.clone()));
                expected.lock().expect("no case panics in here").entry(partition).or_default().extend(items);
            }
            drop(sender);
        };
        engine.submit(batch, Box::new(done));
    }
    drop(sender);
    assert!(receiver.recv().is_err(), "only the end of the last result is waited for");
    for (partition, expected) in &*expected.lock().expect("no case panics in here") {
        assert_eq!(&log_after(&*engine, *partition, Position::ZERO), expected);
        // Reading on from any item, even from within a row, gives exactly the rest.
        for (index, (position, _)) in expected.iter().enumerate() {
            assert_eq!(log_after(&*engine, *partition, *position), expected[index + 1..]);
        }
    }
}

pub(super) fn a_long_log_row_can_be_read(make: Make<'_>) {
    let engine = make();
    const BODY_BYTES: usize = 16_000;
    // Twenty items of this size need more than one value; several share a position; order in the batch differs.
    let body = |n: u16| Bytes::from(vec![n as u8; BODY_BYTES]);
    let mut long = Batch { positions: 10, ..Batch::new(Partition::of(8)) };
    long.log = (0..20).map(|n| LogItem { index: 9 - n % 10, body: body(n) }).collect();
    let first = must_commit(&*engine, long).first;
    let expected: Vec<_> =
        (0..20_u16).map(|n| (Position(first.0 + u64::from(n / 2)), body(9 - n / 2 + 10 * (n % 2)))).collect();
    assert_eq!(log_after(&*engine, 8, Position::ZERO), expected);
    assert_eq!(log_after(&*engine, 8, first), expected[2..]);
    for row in all_rows(&*engine, Table::Tl) {
        assert!(row.value.len() <= Batch::VALUE_BYTES_MAX, "a log row is no longer than other values");
    }
}

pub(super) fn results_come_in_commit_order(make: Make<'_>) {
    let engine = make();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (engine, sender) = (&engine, sender.clone());
            scope.spawn(move || {
                for step in 0..50_u64 {
                    // A caller that gives up at once: what it has submitted stands, and takes its place in the order.
                    let mut given_up = pin!(commit(&**engine, logged(step % 2, 1, "given up")));
                    // It may be ready or not; both are fine.
                    let _ = given_up.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    let sender = sender.clone();
                    let batch = logged(step % 2, 1 + (thread % 2) as u16, "waited for");
                    let done = move |result| sender.send((step % 2, result)).expect("the suite waits");
                    engine.submit(batch, Box::new(done));
                }
            });
        }
    });
    drop(sender);
    let mut newest = [Position::ZERO; 2];
    let mut count = 0;
    for (partition, result) in receiver {
        let committed: Committed = result.expect("nothing stands against this commit");
        let newest = &mut newest[partition as usize];
        assert!(committed.prev >= *newest, "{committed:?} came after {newest:?}");
        assert!(committed.last > *newest, "{committed:?} came after {newest:?}");
        *newest = committed.last;
        count += 1;
    }
    assert_eq!(count, 200, "every result is delivered");
    // What was given up may still be under way behind the last result; a commit of each partition is behind it in turn.
    for partition in [0, 1] {
        must_commit(&*engine, batch(partition, vec![]));
    }
    let items = log_after(&*engine, 0, Position::ZERO).len() + log_after(&*engine, 1, Position::ZERO).len();
    assert_eq!(items, 4 * 50 + 2 * 50 + 2 * 50 * 2, "given up or not, each batch was committed once");
}

pub(super) fn a_result_may_submit_again(make: Make<'_>) {
    /// Submits the next of a chain of batches from within the result of the one before.
    fn chain(engine: Arc<dyn Engine>, left: u32, end: mpsc::Sender<Committed>) {
        let next = engine.clone();
        let done = move |result: Result<Committed, CommitError>| match left {
            0 => end.send(result.expect("nothing stands against this commit")).expect("the suite waits"),
            _ => chain(next, left - 1, end),
        };
        let row = put(Table::Mi, left.to_be_bytes(), "");
        engine.submit(Batch { positions: 1, ..batch(6, vec![row]) }, Box::new(done));
    }
    let engine = make();
    let (sender, receiver) = mpsc::channel();
    chain(engine.clone(), 40, sender);
    let last = receiver.recv().expect("the chain ends").last;
    assert_eq!(head(&*engine, 6), last);
    assert_eq!(all_rows(&*engine, Table::Mi).len(), 41);
}

pub(super) fn a_commit_is_readable_before_its_result(make: Make<'_>) {
    let engine = make();
    let (sender, receiver) = mpsc::channel();
    for step in 0..50_u32 {
        let (reader, sender) = (engine.clone(), sender.clone());
        let done = move |result: Result<Committed, CommitError>| {
            let committed = result.expect("nothing stands against this commit");
            let seen = wait(reader.get(Table::Ev, &step.to_be_bytes())).expect("the engine can be read");
            let head = head(&*reader, 2);
            drop(reader);
            sender.send((step, seen, head >= committed.last)).expect("the suite waits");
        };
        let row = put(Table::Ev, step.to_be_bytes(), "seen");
        engine.submit(Batch { positions: 1, ..batch(2, vec![row]) }, Box::new(done));
    }
    drop(sender);
    for (step, seen, reached) in receiver {
        assert_eq!(seen, Some(bytes("seen")), "batch {step}");
        assert!(reached, "the head is at least as far as batch {step}");
    }
}

pub(super) fn racing_commits_lose_nothing(make: Make<'_>) {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 25;
    let engine = make();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..ROUNDS).for_each(|_| increment(&*engine)));
        }
    });
    let total = get(&*engine, Table::Rm, "counter").expect("it was counted");
    assert_eq!(total[..], (THREADS * ROUNDS).to_be_bytes());
    assert_eq!(log_after(&*engine, 1, Position::ZERO).len() as u64, THREADS * ROUNDS);
}

/// Adds one to a row by compare and swap, as often as it takes.
fn increment(engine: &dyn Engine) {
    loop {
        let old = get(engine, Table::Rm, "counter");
        let number = old.as_deref().map_or(0, |old| u64::from_be_bytes(old.try_into().expect("we wrote 8 bytes")));
        let mut change = logged(1, 1, "count");
        change.put = vec![put(Table::Rm, "counter", (number + 1).to_be_bytes())];
        change.require = vec![match old {
            Some(old) => holds(Table::Rm, "counter", old),
            None => absent(Table::Rm, "counter"),
        }];
        match try_commit(engine, change) {
            Ok(_) => return,
            Err(CommitError::Conflict) => {}
            Err(other) => panic!("a race ends in a conflict or a commit, not in {other}"),
        }
    }
}
