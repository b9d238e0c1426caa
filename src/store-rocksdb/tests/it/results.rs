//! Results that are slow, that are too many, that hold the engine.

use std::sync::mpsc::{self, channel};

use hearth_ports::{CommitError, Committed, Engine as _, Table, suite::wait};

use crate::common::{self, batch, put};

/// More than may be between submission and answer.
const BATCHES: usize = 70_000;

#[test]
fn too_many_commits_are_refused_and_the_others_stand() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = common::open(folder.path());
    let (open_gate, gate) = channel::<()>();
    let (sender, receiver) = channel();
    // Until the gate opens this result keeps all others waiting.
    let slow = move |_: Result<Committed, CommitError>| gate.recv().expect("the test opens the gate");
    engine.submit(batch(0, vec![]), Box::new(slow));
    for number in 0..BATCHES {
        let sender = sender.clone();
        let mut numbered = batch(number as u64, vec![]);
        if number % 1_000 == 0 {
            numbered.put = vec![put(Table::Mi, number.to_be_bytes(), "")];
        }
        engine.submit(numbered, Box::new(move |result| sender.send((number, result)).expect("the test waits")));
    }
    drop(sender);
    assert!(matches!(receiver.try_recv(), Err(mpsc::TryRecvError::Empty)), "no result overtakes the slow one");
    open_gate.send(()).expect("the slow result waits");
    let (stood, refused): (Vec<_>, Vec<_>) = receiver.into_iter().partition(|(_, result)| result.is_ok());
    assert_eq!(stood.len() + refused.len(), BATCHES, "each has one result");
    assert_eq!(stood.len(), 65_535, "the slow one is the other under way");
    for (number, result) in refused {
        assert!(matches!(result, Err(CommitError::Unavailable(_))), "{result:?}");
        let row = wait(engine.get(Table::Mi, &number.to_be_bytes())).expect("the store can be read");
        assert_eq!(row, None, "nothing of a refused batch is written");
    }
    assert!(common::try_commit(&engine, batch(0, vec![])).is_ok(), "the overload is over");
}

#[test]
fn the_engine_may_be_dropped_by_a_result() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = common::open(folder.path());
    let (open_gate, gate) = channel::<()>();
    let (sender, receiver) = channel();
    let last = engine.clone();
    let done = move |result: Result<Committed, CommitError>| {
        gate.recv().expect("the test opens the gate");
        drop(last);
        sender.send(result.is_ok()).expect("the test waits");
    };
    engine.submit(batch(0, vec![put(Table::Mi, "key", "value")]), Box::new(done));
    drop(engine);
    open_gate.send(()).expect("the result waits");
    assert_eq!(receiver.recv(), Ok(true));
}
