//! What an engine still knows when it is opened again.

use std::sync::mpsc;

use super::{Batch, Make, Position, Table, all_rows, batch, bytes, get, heads, log_after, logged, must_commit, put};

pub(super) fn rows_log_and_heads_stay(open: Make<'_>) {
    let engine = open();
    for (index, table) in (0_u64..).zip(Table::ALL) {
        let row = put(table, "key", table.name());
        must_commit(&*engine, Batch { put: vec![row], ..logged(index, 2, table.name()) });
    }
    must_commit(&*engine, Batch { delete: vec![(Table::Ev, bytes("key"))], ..batch(0, vec![]) });
    let before = heads(&*engine);
    let log: Vec<_> = (0..8).map(|partition| log_after(&*engine, partition, Position::ZERO)).collect();
    drop(engine);

    let engine = open();
    assert_eq!(heads(&*engine), before);
    for table in Table::ALL {
        let expected = (table != Table::Ev).then(|| bytes(table.name()));
        assert_eq!(get(&*engine, table, "key"), expected, "{table:?}");
    }
    for (partition, log) in (0..).zip(&log) {
        assert_eq!(log.len(), 2);
        assert_eq!(&log_after(&*engine, partition, Position::ZERO), log);
    }
}

pub(super) fn positions_never_fall(open: Make<'_>) {
    let mut last = Position::ZERO;
    for round in 0..4 {
        let engine = open();
        let committed = must_commit(&*engine, logged(11, 3, "logged"));
        assert_eq!(committed.prev, last, "round {round}");
        assert!(committed.first > last, "round {round}");
        last = committed.last;
        // Positions must not depend on the log: trim it to nothing.
        let keys = all_rows(&*engine, Table::Tl).into_iter().map(|row| (Table::Tl, row.key)).collect();
        must_commit(&*engine, Batch { delete: keys, ..batch(11, vec![]) });
    }
}

pub(super) fn dropping_answers_every_batch(open: Make<'_>) {
    let engine = open();
    let (sender, receiver) = mpsc::channel();
    for step in 0..100_u32 {
        let sender = sender.clone();
        let row = put(Table::Us, step.to_be_bytes(), "");
        let done = move |result| sender.send((step, result)).expect("the suite waits");
        engine.submit(Batch { put: vec![row], ..batch(u64::from(step), vec![]) }, Box::new(done));
    }
    drop((engine, sender));
    let results: Vec<_> = receiver.into_iter().collect();
    assert_eq!(results.len(), 100, "each result is delivered");
    let engine = open();
    for (step, result) in results {
        if result.is_ok() {
            assert!(get(&*engine, Table::Us, step.to_be_bytes()).is_some(), "{step} was acknowledged");
        }
    }
}
