//! A write that fails is never taken for a success, and ends the writing.
//!
//! The test starts itself again under a limit on the size of files, which makes the write-ahead log fail to grow.

use std::{
    env,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::common::{self, MEMORY_BYTES, batch, put, try_commit};
use hearth_ports::{CommitError, Engine as _, Table, suite::wait};
use hearth_store_rocksdb::{Options, RocksEngine};

/// Where the child writes; the parent has none.
const FOLDER: &str = "HEARTH_TEST_FAILED_WRITE_FOLDER";
/// More than the limit holds.
const ROWS: u32 = 100;
const VALUE_BYTES: usize = 50_000;

#[test]
fn a_failed_write_is_answered_and_reported() {
    if let Some(folder) = env::var_os(FOLDER) {
        return write_until_it_fails(Path::new(&folder));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let test = env::current_exe().expect("the test has a path");
    // 1 or 2 MB, depending on the shell; the signal that comes with it is ignored so that the write itself fails.
    let script = r#"trap "" XFSZ; ulimit -f 2000; exec "$0" --exact failed_write::a_failed_write_is_answered_and_reported --nocapture"#;
    let child = Command::new("sh").arg("-c").arg(script).arg(test).env(FOLDER, folder.path()).output();
    let child = child.expect("a shell can be started");
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    let acknowledged = said.lines().find_map(|line| line.strip_prefix("acknowledged "));
    let acknowledged: u32 = acknowledged.expect("the child says how far it came").parse().expect("a number");

    let engine = common::open(folder.path());
    for row in 0..acknowledged {
        let found = wait(engine.get(Table::Ev, &row.to_be_bytes())).expect("the store can be read");
        assert_eq!(found.map(|value| value.len()), Some(VALUE_BYTES), "row {row} of {acknowledged}");
    }
    assert!(try_commit(&engine, batch(1, vec![put(Table::Ev, "after", "")])).is_ok(), "it works again");
}

fn write_until_it_fails(folder: &Path) {
    let reported = Arc::new(AtomicUsize::new(0));
    let report = reported.clone();
    let options = Options::new(MEMORY_BYTES, move |_| {
        report.fetch_add(1, Ordering::SeqCst);
    });
    let engine = RocksEngine::open(folder, options).expect("the store opens");
    let write = |row: u32| try_commit(&engine, batch(1, vec![put(Table::Ev, row.to_be_bytes(), [7; VALUE_BYTES])]));
    let acknowledged = (0..ROWS).take_while(|row| write(*row).is_ok()).count();
    assert!((1..ROWS as usize).contains(&acknowledged), "{acknowledged} rows fit into the limit");
    for _ in 0..3 {
        let small = try_commit(&engine, batch(2, vec![put(Table::Mi, "small", "")]));
        assert!(matches!(small, Err(CommitError::Unavailable(_))), "nothing is committed behind a failure: {small:?}");
    }
    let first = wait(engine.get(Table::Ev, &0_u32.to_be_bytes())).expect("reads go on");
    assert!(first.is_some());
    drop(engine);
    assert_eq!(reported.load(Ordering::SeqCst), 1, "the failure is reported once");
    eprintln!("acknowledged {acknowledged}");
}
