//! What lies in a folder: formats, the lock, copies, reading beside a server, reading from disk.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::common::{self, batch, options, put, try_commit};
use hearth_ports::{Batch, CommitError, Engine as _, Entry, Key, KeyRange, Page, Partition, Table, suite::wait};
use hearth_store_rocksdb::{OpenError, RocksEngine};

fn refused(path: &Path) -> OpenError {
    match RocksEngine::open(path, options()) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

#[test]
fn one_engine_at_a_time() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = common::open(folder.path());
    assert!(matches!(refused(folder.path()), OpenError::InUse(path) if path == folder.path()));
    drop(engine);
    common::open(folder.path());
}

#[test]
fn foreign_and_newer_folders_are_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let list = || {
        let mut names: Vec<_> =
            fs::read_dir(path).expect("a folder").map(|file| file.expect("a file").path()).collect();
        names.sort();
        names
    };
    drop(common::open(path));
    let ours = fs::read_to_string(path.join("hearth.format")).expect("a marker");
    let before = list();
    for (marker, newer) in [("hearth-store-rocksdb 2\n", true), ("hearth-store-rocksdb 0\n", false), ("", false)] {
        fs::write(path.join("hearth.format"), marker).expect("a file can be written");
        match refused(path) {
            OpenError::Newer { found, .. } => assert!(newer && found == 2, "{marker}"),
            OpenError::Unrecognised(_) => assert!(!newer, "{marker}"),
            other => panic!("{marker}: {other}"),
        }
    }
    fs::remove_file(path.join("hearth.format")).expect("it was there");
    assert!(matches!(refused(path), OpenError::Unrecognised(_)), "somebody else's database");
    fs::write(path.join("hearth.format"), ours).expect("a file can be written");
    assert_eq!(list(), before, "nothing was changed");
    common::open(path);
}

#[test]
fn an_absent_store_is_not_made_by_reading() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("nothing here");
    assert!(matches!(RocksEngine::open_read_only(&path, &options()), Err(OpenError::Absent(_))));
    assert!(!path.exists());
}

/// Ten thousand rows that hardly compress, two of each batch in different tables.
fn fill(engine: &RocksEngine, from: u32, until: u32) {
    for step in from..until {
        let mut number = u64::from(step) + 1;
        let noise = std::iter::repeat_with(|| {
            // A xorshift generator.
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            number as u8
        });
        let noise: Vec<u8> = noise.take(500).collect();
        let rows = (0..100_u8).map(|n| put(Table::Ev, [&step.to_be_bytes()[..], &[n]].concat(), &noise));
        let rows = rows.chain([put(Table::Rm, "newest", step.to_be_bytes())]).collect();
        try_commit(engine, Batch { positions: 1, ..batch(1, rows) }).expect("nothing stands against this commit");
    }
}

fn all_events(engine: &RocksEngine) -> Vec<Entry> {
    let page = Page { bytes_max: usize::MAX, ..Page::first(usize::MAX) };
    wait(engine.scan(Table::Ev, KeyRange::prefix(Key::new()), page)).expect("the store can be read")
}

fn newest(engine: &RocksEngine) -> u32 {
    let row = wait(engine.get(Table::Rm, b"newest")).expect("the store can be read").expect("it was written");
    u32::from_be_bytes(row[..].try_into().expect("four bytes"))
}

#[test]
fn reads_reach_the_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = common::open(folder.path());
    fill(&engine, 0, 100);
    let rows = all_events(&engine);
    assert_eq!(rows.len(), 10_000);
    drop(engine);
    // Nothing is cached now, and the cache is smaller than the rows.
    let engine = common::open(folder.path());
    thread::scope(|scope| {
        for thread in 0..4 {
            let (engine, rows) = (&engine, &rows);
            scope.spawn(move || {
                for row in rows.iter().skip(thread).step_by(97) {
                    let found = wait(engine.get(Table::Ev, &row.key)).expect("the store can be read");
                    assert_eq!(found.as_ref(), Some(&row.value));
                }
                let mut keys: Vec<Key> = rows.iter().skip(thread).step_by(61).map(|row| row.key.clone()).collect();
                keys.insert(3, Key::from_static(b"not there"));
                let found = wait(engine.multi_get(Table::Ev, &keys)).expect("the store can be read");
                assert_eq!(found.len(), keys.len());
                assert_eq!(found[3], None);
                assert_eq!(found.iter().flatten().count(), keys.len() - 1);
            });
        }
    });
    let page = Page { rows_max: 3, ..Page::last(3) };
    let last = wait(engine.scan(Table::Ev, KeyRange::prefix(Key::new()), page)).expect("the store can be read");
    assert!(last.iter().eq(rows.iter().rev().take(3)));
    assert_eq!(all_events(&engine), rows);
}

/// Bytes of write-ahead log in a folder.
fn log_bytes(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file"));
    let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
    logs.map(|file| file.metadata().expect("it is there").len()).sum()
}

#[test]
fn nothing_is_replayed_after_a_flush() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = common::open(folder.path());
    fill(&engine, 0, 3);
    assert!(!engine.flush(Instant::now()).expect("the disk is well"), "there is no time");
    assert!(log_bytes(folder.path()) > 0, "the log is all there is");
    let in_time = Instant::now() + Duration::from_secs(60);
    assert!(engine.flush(in_time).expect("the disk is well"));
    assert_eq!(log_bytes(folder.path()), 0);
    drop(engine);

    let engine = common::open(folder.path());
    assert_eq!(all_events(&engine).len(), 300);
    assert_eq!(newest(&engine), 2);
    fill(&engine, 3, 4);
    let heads = wait(engine.heads()).expect("heads are known").0;
    assert_eq!(heads.into_iter().max().expect("there are partitions").0, 4, "positions go on");
}

#[test]
fn a_copy_is_whole_while_commits_go_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = folder.path().join("copy");
    let engine = common::open(&folder.path().join("store"));
    fill(&engine, 0, 20);
    thread::scope(|scope| {
        scope.spawn(|| fill(&engine, 20, 120));
        engine.checkpoint(&copy).expect("a copy can be made");
    });
    assert!(engine.checkpoint(&copy).is_err(), "no copy is overwritten");
    let copied = common::open(&copy);
    let steps = newest(&copied) + 1;
    assert!((20..=120).contains(&steps));
    assert_eq!(all_events(&copied).len() as u32, 100 * steps, "each batch is in the copy with all of its rows");
    // Both go on by themselves.
    fill(&copied, steps, steps + 1);
    assert_eq!(newest(&copied), steps);
    assert_eq!(newest(&engine), 119);
}

#[test]
fn a_restored_copy_is_ahead_of_all_that_was_handed_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = folder.path().join("copy");
    let engine = common::open(&folder.path().join("store"));
    fill(&engine, 0, 3);
    engine.checkpoint(&copy).expect("a copy can be made");
    fill(&engine, 3, 20);
    let handed_out = wait(engine.heads()).expect("heads are known").0.into_iter().max().expect("there are partitions");
    assert_eq!(handed_out.0, 20);

    for times in 1..=2_u64 {
        RocksEngine::raise_positions(&copy, &options(), 1_000).expect("the copy can be changed");
        let copied = common::open(&copy);
        let heads = wait(copied.heads()).expect("heads are known");
        assert!(heads.0.iter().all(|head| head.0 == 3 + times * 1_000), "{heads:?}");
        assert!(matches!(RocksEngine::raise_positions(&copy, &options(), 1), Err(OpenError::InUse(_))));
    }
    let copied = common::open(&copy);
    for (partition, position) in [(1, 2_004), (7, 2_005), (1, 2_006)] {
        let one = Batch { positions: 1, ..batch(partition, Vec::new()) };
        let committed = try_commit(&copied, one).expect("nothing stands against this commit");
        assert_eq!(committed.first.0, position, "positions go on from there, whichever partition");
        assert!(committed.prev.0 >= 2_003, "no partition was left behind");
    }
    drop(copied);
    assert!(RocksEngine::raise_positions(&copy, &options(), u64::MAX).is_err(), "there are not so many");
    let reopened = wait(common::open(&copy).heads()).expect("heads are known");
    assert_eq!(reopened.0.into_iter().max().expect("there are partitions").0, 2_006, "nothing was changed");

    let absent = folder.path().join("nothing here");
    assert!(matches!(RocksEngine::raise_positions(&absent, &options(), 1), Err(OpenError::Absent(_))));
    assert!(!absent.exists());
}

#[test]
fn a_reader_stands_beside_the_server() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = common::open(folder.path());
    fill(&engine, 0, 30);
    let reader = RocksEngine::open_read_only(folder.path(), &options()).expect("a second process may read");
    // The server goes on, until files that the reader has open are replaced.
    fill(&engine, 30, 130);
    assert_eq!(newest(&reader), 29, "it reads the store as it was");
    assert_eq!(all_events(&reader).len(), 3_000);
    let heads = wait(reader.heads()).expect("heads are known");
    assert_eq!(heads.0[usize::from(Partition::of(1).index())].0, 30);
    let refused = try_commit(&reader, batch(1, vec![put(Table::Rm, "newest", "")]));
    assert!(matches!(refused, Err(CommitError::Unavailable(_))));
    drop(reader);
    assert_eq!(newest(&engine), 129);
}

/// Tables are written out one by one, so there are always logs that one table needs no more and another one does.
#[test]
fn a_reader_opens_at_any_moment_of_the_servers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = common::open(folder.path());
    for step in (0..130).step_by(10) {
        fill(&engine, step, step + 10);
        let reader = RocksEngine::open_read_only(folder.path(), &options()).expect("a second process may read");
        assert_eq!(newest(&reader), step + 9, "it reads all that was committed");
        assert_eq!(all_events(&reader).len(), 100 * (step as usize + 10));
    }
}
