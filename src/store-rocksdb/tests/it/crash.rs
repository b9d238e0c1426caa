//! A process that is killed in the middle of writing leaves every batch it has acknowledged, and no part of any other.
//!
//! The test starts itself again as the process that is killed.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc::sync_channel},
};

use crate::common::{self, batch, put};
use bytes::Bytes;
use hearth_ports::{
    Batch, Engine as _, Fill, FillIn, Heads, KeyRange, LogItem, Page, Partition, Position, Requirement, Table, log_key,
    read_log_row, suite::wait,
};
use hearth_store_rocksdb::RocksEngine;
use smallvec::smallvec;

/// Where the child writes; the parent has none.
const FOLDER: &str = "HEARTH_TEST_CRASH_FOLDER";
/// Batches between submission and answer, so that groups form and a kill hits several.
const IN_FLIGHT: usize = 64;
/// Enough for flushes and compactions within the test.
const VALUE_BYTES: usize = 4_000;
const PARTITIONS: u64 = 3;
const COUNTER: &[u8] = b"counter";

#[test]
fn a_kill_loses_nothing_acknowledged_and_halves_nothing() {
    if let Some(folder) = env::var_os(FOLDER) {
        write_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for acknowledged_min in [1, 70, 400, 1_000, 30, 1_500] {
        let acknowledged = run_and_kill(folder.path(), acknowledged_min);
        let engine = common::open(folder.path());
        for partition in 0..PARTITIONS {
            let acknowledged = acknowledged.get(&partition).copied().unwrap_or_default();
            check_partition(&engine, partition, acknowledged);
        }
    }
}

/// Starts the writer, kills it after so many acknowledgements, and returns the last acknowledged step of each partition.
fn run_and_kill(folder: &Path, acknowledged_min: usize) -> BTreeMap<u64, u64> {
    let mut child = Command::new(env::current_exe().expect("the test has a path"))
        .args(["--exact", "crash::a_kill_loses_nothing_acknowledged_and_halves_nothing", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the test can start itself");
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let mut newest = BTreeMap::new();
    let mut count = 0;
    // The lines end when the child has; those written before it was killed are all read.
    for line in lines {
        let line = line.expect("the child writes text");
        let Some(numbers) = line.strip_prefix("ack ") else { panic!("the child says: {line}") };
        let (partition, step) = numbers.split_once(' ').expect("two numbers");
        let [partition, step] = [partition, step].map(|number| number.parse().expect("a number"));
        newest.insert(partition, step);
        count += 1;
        if count == acknowledged_min {
            child.kill().expect("the child runs until it is killed");
        }
    }
    assert!(!child.wait().expect("the child was started").success());
    assert!(count >= acknowledged_min);
    newest
}

fn row_key(partition: u64, step: u64) -> Vec<u8> {
    [[b'p', partition as u8].as_slice(), &step.to_be_bytes()].concat()
}

fn counter_key(partition: u64) -> Vec<u8> {
    [COUNTER, &[partition as u8]].concat()
}

fn counter(engine: &RocksEngine, partition: u64) -> u64 {
    let row = wait(engine.get(Table::Rm, &counter_key(partition))).expect("the store can be read");
    row.map_or(0, |value| u64::from_be_bytes(value[..].try_into().expect("eight bytes")))
}

/// Rows in three tables, one of them under a position, two log items; it requires the step before.
fn step_batch(partition: u64, step: u64) -> Batch {
    let mut positioned = put(Table::Tl, [b"Tpppppppp".as_slice(), &step.to_be_bytes()].concat(), b"pppppppp");
    positioned.key = [&[b'T', partition as u8][..], &positioned.key[1..]].concat().into();
    positioned.fill =
        smallvec![Fill { place: FillIn::Key, offset: 2, index: 1 }, Fill { place: FillIn::Value, offset: 0, index: 0 }];
    let rows = vec![
        put(Table::Ev, row_key(partition, step), vec![step as u8; VALUE_BYTES]),
        put(Table::Rm, counter_key(partition), step.to_be_bytes()),
        positioned,
    ];
    let before = (step > 1).then(|| Bytes::copy_from_slice(&(step - 1).to_be_bytes()));
    let require = vec![Requirement { table: Table::Rm, key: counter_key(partition).into(), value: before }];
    let item = |index| LogItem { index, body: Bytes::copy_from_slice(&step.to_be_bytes()) };
    Batch { positions: 2, require, log: vec![item(0), item(1)], ..batch(partition, rows) }
}

/// Goes on where an earlier process was killed, without end.
fn write_until_killed(folder: &Path) -> ! {
    let engine = common::open(folder);
    let mut steps: Vec<u64> = (0..PARTITIONS).map(|partition| counter(&engine, partition)).collect();
    let (enter, leave) = sync_channel(IN_FLIGHT);
    let leave = Arc::new(Mutex::new(leave));
    loop {
        for (partition, step) in (0..).zip(&mut steps) {
            *step += 1;
            enter.send(()).expect("the receiver is kept");
            let (leave, step) = (leave.clone(), *step);
            let done = move |result: Result<_, _>| {
                result.expect("nothing stands against this commit");
                // One write of a short line reaches a pipe whole.
                let line = format!("ack {partition} {step}\n");
                std::io::stderr().write_all(line.as_bytes()).expect("the parent reads");
                leave.lock().expect("nobody panics with it").recv().expect("one entered for each that leaves");
            };
            engine.submit(step_batch(partition, step), Box::new(done));
        }
    }
}

/// Every step up to the counter is there whole, none behind it at all.
fn check_partition(engine: &RocksEngine, partition: u64, acknowledged: u64) {
    let reached = counter(engine, partition);
    assert!(reached >= acknowledged, "partition {partition}: {acknowledged} was acknowledged, {reached} is there");
    let scan = |table, prefix: Vec<u8>| {
        let page = Page { bytes_max: usize::MAX, ..Page::first(usize::MAX) };
        wait(engine.scan(table, KeyRange::prefix(prefix), page)).expect("the store can be read")
    };
    let events = scan(Table::Ev, vec![b'p', partition as u8]);
    assert_eq!(events.len() as u64, reached);
    for (step, row) in (1..).zip(&events) {
        assert_eq!(row.key, row_key(partition, step));
        assert!(row.value.len() == VALUE_BYTES && row.value.iter().all(|byte| *byte == step as u8));
    }
    let positioned = scan(Table::Tl, vec![b'T', partition as u8]);
    assert_eq!(positioned.len() as u64, reached);
    let log: Vec<_> = scan(Table::Tl, log_key(Partition::of(partition), Position::ZERO)[..2].to_vec())
        .iter()
        .flat_map(|row| read_log_row(&row.value).expect("a log row can be read"))
        .collect();
    assert_eq!(log.len() as u64, 2 * reached);
    for ((step, row), items) in (1_u64..).zip(&positioned).zip(log.chunks(2)) {
        let [first, second] = [items[0].0.0, items[1].0.0];
        assert_eq!(second, first + 1);
        assert_eq!(row.key[2..10], second.to_be_bytes());
        assert_eq!(row.key[10..], step.to_be_bytes());
        assert_eq!(row.value[..], first.to_be_bytes());
        assert!(items.iter().all(|(_, body)| body[..] == step.to_be_bytes()), "the log has each step once, in order");
    }
    let Heads(heads) = wait(engine.heads()).expect("the store can be read");
    let newest = log.last().map_or(Position::ZERO, |(position, _)| *position);
    assert_eq!(heads[partition as usize], newest, "partition {partition} after {reached} steps");
}
