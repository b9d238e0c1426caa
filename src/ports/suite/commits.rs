//! Requirements, atomicity, fills and limits.

use std::sync::mpsc;

use smallvec::smallvec;

use super::{
    Batch, CommitError, Committed, Engine, Fill, FillIn, LogItem, Make, Partition, Position, Put, Table, absent,
    all_rows, batch, bytes, get, head, holds, log_after, logged, must_commit, put, try_commit,
};
use crate::BatchError;

pub(super) fn requirements_decide(make: Make<'_>) {
    let engine = make();
    must_commit(&*engine, batch(1, vec![put(Table::Rm, "there", "one"), put(Table::Rm, "empty", "")]));
    let cases = [
        (absent(Table::Rm, "nowhere"), true),
        (absent(Table::Rm, "there"), false),
        (absent(Table::Rm, "empty"), false),
        (absent(Table::Us, "there"), true),
        (holds(Table::Rm, "there", "one"), true),
        (holds(Table::Rm, "there", "on"), false),
        (holds(Table::Rm, "there", "one "), false),
        (holds(Table::Rm, "there", ""), false),
        (holds(Table::Rm, "empty", ""), true),
        (holds(Table::Rm, "nowhere", ""), false),
    ];
    for (required, fits) in cases {
        let mut write = batch(1, vec![put(Table::Rm, "mark", "written")]);
        // The requirement that decides is neither the first nor the last.
        write.require = vec![holds(Table::Rm, "there", "one"), required.clone(), absent(Table::Rm, "nowhere")];
        let result = try_commit(&*engine, write);
        assert_eq!(result.is_ok(), fits, "{required:?}");
        assert_eq!(get(&*engine, Table::Rm, "mark").is_some(), fits, "{required:?}");
        let reset = Batch { delete: vec![(Table::Rm, bytes("mark"))], ..Batch::new(Partition::of(1)) };
        must_commit(&*engine, reset);
    }
}

/// Submits all of them at once and waits for their results.
fn commit_together(engine: &dyn Engine, batches: Vec<Batch>) -> Vec<Result<Committed, CommitError>> {
    let (sender, receiver) = mpsc::channel();
    let count = batches.len();
    for (index, batch) in batches.into_iter().enumerate() {
        let sender = sender.clone();
        let done = move |result| sender.send((index, result)).expect("the suite waits for every result");
        engine.submit(batch, Box::new(done));
    }
    let mut results: Vec<_> = receiver.into_iter().take(count).collect();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

pub(super) fn requirements_see_the_group(make: Make<'_>) {
    let engine = make();
    // The first ones keep the engine busy, so that the others gather behind them.
    let mut batches: Vec<_> = (0..20).map(|n| batch(1, vec![put(Table::Ev, format!("busy{n}"), "")])).collect();
    let first = batches.len();
    let conditional = |require, puts| Batch { require: vec![require], ..batch(1, puts) };
    let k = |value: &str| put(Table::Rm, "k", value);
    batches.push(conditional(absent(Table::Rm, "k"), vec![k("1")]));
    batches.push(conditional(absent(Table::Rm, "k"), vec![k("2"), put(Table::Rm, "loser", "")]));
    batches.push(conditional(holds(Table::Rm, "k", "1"), vec![k("3"), put(Table::Rm, "winner", "")]));
    batches.push(conditional(absent(Table::Rm, "loser"), vec![put(Table::Rm, "after the loser", "")]));
    batches.push(conditional(holds(Table::Rm, "k", "1"), vec![k("4")]));
    let delete = (Table::Rm, bytes("k"));
    batches.push(Batch { delete: vec![delete], ..conditional(holds(Table::Rm, "k", "3"), vec![]) });
    batches.push(conditional(holds(Table::Rm, "k", "3"), vec![k("5")]));
    batches.push(conditional(absent(Table::Rm, "k"), vec![k("6")]));

    let results = commit_together(&*engine, batches);
    let fits: Vec<bool> = results[first..].iter().map(Result::is_ok).collect();
    assert_eq!(fits, [true, false, true, true, false, true, false, true]);
    for result in &results[first..] {
        assert!(matches!(result, Ok(_) | Err(CommitError::Conflict)), "{result:?}");
    }
    assert_eq!(get(&*engine, Table::Rm, "k"), Some(bytes("6")));
    assert_eq!(get(&*engine, Table::Rm, "loser"), None);
    assert_eq!(get(&*engine, Table::Rm, "winner"), Some(bytes("")));
}

pub(super) fn a_refused_batch_leaves_nothing(make: Make<'_>) {
    let engine = make();
    must_commit(&*engine, batch(9, vec![put(Table::Us, "kept", "old")]));
    let before = head(&*engine, 9);
    let mut refused = logged(9, 3, "refused");
    refused.require = vec![absent(Table::Us, "nowhere"), absent(Table::Us, "kept")];
    refused.put = vec![put(Table::Us, "kept", "new"), put(Table::Ev, "other table", "")];
    refused.delete = vec![(Table::Us, bytes("kept"))];
    assert!(matches!(try_commit(&*engine, refused), Err(CommitError::Conflict)));
    assert_eq!(get(&*engine, Table::Us, "kept"), Some(bytes("old")));
    assert_eq!(all_rows(&*engine, Table::Ev), []);
    assert_eq!(log_after(&*engine, 9, Position::ZERO), []);
    assert_eq!(head(&*engine, 9), before);
}

pub(super) fn deletes_come_before_puts(make: Make<'_>) {
    let engine = make();
    must_commit(&*engine, batch(1, vec![put(Table::Mi, "both", "old"), put(Table::Mi, "gone", "old")]));
    let mut change = batch(1, vec![put(Table::Mi, "both", "new")]);
    change.delete = ["both", "gone", "never there"].map(|key| (Table::Mi, bytes(key))).to_vec();
    must_commit(&*engine, change);
    assert_eq!(get(&*engine, Table::Mi, "both"), Some(bytes("new")));
    assert_eq!(all_rows(&*engine, Table::Mi).len(), 1);
}

pub(super) fn the_last_of_equal_keys_wins(make: Make<'_>) {
    let engine = make();
    must_commit(&*engine, batch(1, ["1", "2", "3"].map(|value| put(Table::Mi, "same", value)).to_vec()));
    assert_eq!(get(&*engine, Table::Mi, "same"), Some(bytes("3")));
    // Keys that are equal only once positions are filled in.
    let at = |value: &str, before: u8| Put {
        key: bytes([before; 8]),
        fill: smallvec![Fill { place: FillIn::Key, offset: 0, index: 0 }],
        ..put(Table::Fd, "", value)
    };
    let first = must_commit(&*engine, Batch { positions: 1, ..batch(1, vec![at("4", 0), at("5", 0xff)]) }).first;
    assert_eq!(get(&*engine, Table::Fd, first.0.to_be_bytes()), Some(bytes("5")));
    assert_eq!(all_rows(&*engine, Table::Fd).len(), 1);
    // A group must see filled keys too.
    let requires = Batch { require: vec![holds(Table::Fd, first.0.to_be_bytes(), "5")], ..batch(1, vec![]) };
    must_commit(&*engine, requires);
}

pub(super) fn positions_are_filled_in(make: Make<'_>) {
    let engine = make();
    let fill = |place, offset, index| Fill { place, offset, index };
    let row = Put {
        fill: smallvec![
            fill(FillIn::Key, 1, 2),
            fill(FillIn::Value, 0, 0),
            fill(FillIn::Value, 10, 1),
            fill(FillIn::Value, 20, 2)
        ],
        ..put(Table::Tl, b"Tpppppppp.", b"pppppppp--pppppppp..pppppppp")
    };
    for round in 0..2 {
        let committed = must_commit(&*engine, Batch { positions: 3, ..batch(7, vec![row.clone()]) });
        let [first, second, third] = [0, 1, 2].map(|index| (committed.first.0 + index).to_be_bytes());
        assert_eq!(third, committed.last.0.to_be_bytes());
        let value = get(&*engine, Table::Tl, [b"T", &third[..], b"."].concat());
        assert_eq!(value, Some([&first[..], b"--", &second, b"..", &third].concat().into()), "round {round}");
    }
    assert_eq!(all_rows(&*engine, Table::Tl).len(), 2);
}

pub(super) fn malformed_batches_are_refused(make: Make<'_>) {
    let engine = make();
    let row = |key: &[u8], value: &[u8]| batch(1, vec![put(Table::Ix, key, value)]);
    let filled = |place, offset, index, positions| {
        let fill = smallvec![Fill { place, offset, index }];
        Batch { positions, ..batch(1, vec![Put { fill, ..put(Table::Ix, [0; 10], [0; 12]) }]) }
    };
    let item = |index, length| LogItem { index, body: vec![0; length].into() };
    let large = (0..100).map(|n: u8| put(Table::Ix, [n], vec![0; Batch::VALUE_BYTES_MAX])).collect();
    let cases = [
        (row(b"", b"v"), BatchError::Key),
        (row(&[1; Batch::KEY_BYTES_MAX + 1], b"v"), BatchError::Key),
        (Batch { delete: vec![(Table::Ix, bytes(""))], ..row(b"k", b"v") }, BatchError::Key),
        (Batch { require: vec![absent(Table::Ix, "")], ..row(b"k", b"v") }, BatchError::Key),
        (row(b"k", &[0; Batch::VALUE_BYTES_MAX + 1]), BatchError::Value),
        (Batch { log: vec![item(0, 50_000), item(0, 50_000)], positions: 1, ..row(b"k", b"v") }, BatchError::Value),
        (filled(FillIn::Key, 3, 0, 1), BatchError::Fill),
        (filled(FillIn::Value, 5, 0, 1), BatchError::Fill),
        (filled(FillIn::Value, u16::MAX, 0, 1), BatchError::Fill),
        (filled(FillIn::Key, 0, 0, 0), BatchError::Fill),
        (filled(FillIn::Key, 0, 2, 2), BatchError::Fill),
        (Batch { log: vec![item(1, 0)], positions: 1, ..row(b"k", b"v") }, BatchError::Fill),
        (batch(1, large), BatchError::TooLarge),
    ];
    for (malformed, expected) in cases {
        match try_commit(&*engine, malformed) {
            Err(CommitError::Malformed(error)) => assert_eq!(error, expected),
            other => panic!("expected {expected:?}, got {other:?}"),
        }
    }
    assert_eq!(all_rows(&*engine, Table::Ix), [], "nothing of a malformed batch is written");
    assert_eq!(head(&*engine, 1), Position::ZERO);
}

pub(super) fn limits_are_reachable(make: Make<'_>) {
    let engine = make();
    let key = [0xab; Batch::KEY_BYTES_MAX];
    let mut large = batch(1, vec![put(Table::Ix, key, vec![1; Batch::VALUE_BYTES_MAX])]);
    large.put.extend((0..90).map(|n: u8| put(Table::Ix, [n], vec![n; Batch::VALUE_BYTES_MAX])));
    assert!(large.size_bytes() > Batch::BATCH_BYTES_MAX - 256 * 1_024, "close to the limit");
    must_commit(&*engine, large);
    assert_eq!(get(&*engine, Table::Ix, key).map(|value| value.len()), Some(Batch::VALUE_BYTES_MAX));
    assert_eq!(get(&*engine, Table::Ix, [89]), Some(vec![89; Batch::VALUE_BYTES_MAX].into()));
    let all = logged(1, u16::MAX, "many");
    let committed = must_commit(&*engine, all);
    assert_eq!(committed.last.0 - committed.first.0, u64::from(u16::MAX) - 1);
    assert_eq!(log_after(&*engine, 1, Position::ZERO).len(), usize::from(u16::MAX));
}
