//! The suite that every engine runs.

use crate::common;
use std::{cell::RefCell, sync::Arc};

use hearth_ports::{Engine, suite};

#[test]
fn conforms() {
    let folders = RefCell::new(Vec::new());
    suite::run(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engine: Arc<dyn Engine> = common::open(folder.path());
        folders.borrow_mut().push(folder);
        engine
    });
}

#[test]
fn conforms_after_reopening() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    suite::run_reopen(folder.path(), |path| common::open(path));
}
