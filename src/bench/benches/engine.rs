//! The engines: RocksDB, durable, on the disk under `target`, next to the in-memory double.

use std::{fs::File, io::Write as _, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::try_join_all};
use hearth_bench::{RocksFolder, Subject, Taken};
use hearth_ports::{
    Batch, Engine, Fill, FillIn, Key, KeyRange, LogItem, Page, Partition, Put, Requirement, Table, commit,
    mem::MemEngine,
};
use smallvec::smallvec;
use tokio::runtime::Runtime;

/// Rows to read from. RocksDB's cache holds all of them.
const ROWS: u32 = 100_000;
const ROWS_PER_BATCH: u32 = 1_000;
/// Bytes of a row: an index entry and an event have about so many, on average.
const VALUE_BYTES: usize = 300;
/// Rows that a message in a room writes.
const ROWS_OF_A_MESSAGE: u32 = 8;
/// Spreads reads over all rows: a prime that does not divide their count.
const STRIDE: u32 = 7_919;
/// Callers who wait for one commit each, at once.
const WAITERS: [u64; 2] = [64, 256];

fn main() {
    let mut subject = Subject::new("engine");
    let runtime = Runtime::new().expect("threads can be started");
    let folder = RocksFolder::new(env!("CARGO_TARGET_TMPDIR"));
    sync_alone(&mut subject, &folder);
    let mem = MemEngine::new();
    bench(&mut subject, "mem", &runtime, || mem.clone());
    // Opened again after filling, so that reads go to files, not to the rows written last.
    bench(&mut subject, "rocksdb", &runtime, || folder.open());
    ratios(&mut subject);
    subject.finish();
}

fn bench(subject: &mut Subject, name: &str, runtime: &Runtime, open: impl Fn() -> Arc<dyn Engine>) {
    let engine = open();
    for batch in 0..ROWS / ROWS_PER_BATCH {
        let puts = (batch * ROWS_PER_BATCH..).take(ROWS_PER_BATCH as usize).map(|number| put(Table::Rm, number));
        let batch = Batch { put: puts.collect(), ..Batch::new(Partition::of(0)) };
        runtime.block_on(commit(&*engine, batch)).expect("nothing stands against this commit");
    }
    drop(engine);
    let engine = open();
    reads(subject, name, runtime, &*engine);
    commits(subject, name, runtime, &*engine);
}

fn reads(subject: &mut Subject, name: &str, runtime: &Runtime, engine: &dyn Engine) {
    // The first reading of a block is from the disk, on another thread.
    let warm = |number| runtime.block_on(engine.get(Table::Rm, &key(number))).expect("the engine is there");
    assert!((0..ROWS).all(|number| warm(number).is_some()), "all rows are there");
    let mut at = 0;
    let mut next = || {
        at = (at + STRIDE) % ROWS;
        at
    };
    subject.time(&format!("{name}/get"), || {
        let found = engine.get(Table::Rm, &key(next())).now_or_never().expect("the cache answers at once");
        found.expect("the engine is there").expect("the row is there")
    });
    subject.time(&format!("{name}/get, absent"), || {
        let found = engine.get(Table::Rm, &key(ROWS + next())).now_or_never();
        assert!(found.expect("filters answer at once").expect("the engine is there").is_none());
    });
    let keys: Vec<Key> = (0..100).map(|_| key(next())).collect();
    subject.time(&format!("{name}/multi_get 100"), || {
        engine
            .multi_get(Table::Rm, &keys)
            .now_or_never()
            .expect("the cache answers at once")
            .expect("the engine is there")
    });
    subject.time(&format!("{name}/scan 100"), || {
        let range = KeyRange { from: key(next()), until: None };
        let rows = engine.scan(Table::Rm, range, Page::first(100)).now_or_never();
        rows.expect("the cache answers at once").expect("the engine is there")
    });
}

fn commits(subject: &mut Subject, name: &str, runtime: &Runtime, engine: &dyn Engine) {
    let mut number = 0;
    let mut next = || {
        number += 1;
        message(number)
    };
    subject.time_with(&format!("{name}/commit"), &mut next, |batch| {
        runtime.block_on(commit(engine, batch)).expect("nothing stands against it")
    });
    for waiters in WAITERS {
        subject.time_batches(&format!("{name}/commit, {waiters} at once"), waiters, |rounds| {
            let batches: Vec<Vec<Batch>> = (0..rounds).map(|_| (0..waiters).map(|_| next()).collect()).collect();
            Taken::by(|| {
                for batches in batches {
                    let all = try_join_all(batches.into_iter().map(|batch| commit(engine, batch)));
                    runtime.block_on(all).expect("nothing stands against them");
                }
            })
        });
    }
}

/// What an engine has to do for a message: some rows, two of which are told their position, a condition, the log.
fn message(number: u32) -> Batch {
    let mut batch = Batch::new(Partition::of(number.into()));
    batch.positions = 1;
    let first = number * ROWS_OF_A_MESSAGE;
    batch.require.push(Requirement { table: Table::Ix, key: key(first), value: None });
    batch.put.extend((first..first + ROWS_OF_A_MESSAGE).map(|number| put(Table::Ix, number)));
    for put in &mut batch.put[..2] {
        put.fill = smallvec![Fill { place: FillIn::Value, offset: 0, index: 0 }];
    }
    batch.log.push(LogItem { index: 0, body: Bytes::from_static(&[1; 24]) });
    batch
}

fn key(number: u32) -> Key {
    format!("key-of-a-row-{number:010}").into()
}

fn put(table: Table, number: u32) -> Put {
    // Half of it text as events have it, half of it as hard to compress as hashes.
    let mut value = "{\"body\":\"All the king's men\",".repeat(VALUE_BYTES / 2 / 28).into_bytes();
    let mut random = u64::from(number);
    value.extend(
        std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random.to_be_bytes()[0]
        })
        .take(VALUE_BYTES / 2),
    );
    Put { table, key: key(number), value: value.into(), fill: smallvec![] }
}

/// The least that durable can mean on this disk.
fn sync_alone(subject: &mut Subject, folder: &RocksFolder) {
    let mut file = File::create(folder.path().join("alone")).expect("a file can be made in target");
    subject.time("fsync of 4 kB more", || {
        file.write_all(&[7; 4_096]).expect("the disk has room");
        file.sync_data().expect("the disk works");
    });
}

fn ratios(subject: &mut Subject) {
    for what in ["get", "multi_get 100", "scan 100", "commit", "commit, 64 at once", "commit, 256 at once"] {
        subject.ratio(&format!("rocksdb, to mem: {what}"), &format!("rocksdb/{what}"), &format!("mem/{what}"));
    }
    subject.ratio("a durable commit, to an fsync", "rocksdb/commit", "fsync of 4 kB more");
    subject.ratio("a commit alone, to one of 256", "rocksdb/commit", "rocksdb/commit, 256 at once");
}
