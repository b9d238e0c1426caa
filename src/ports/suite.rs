//! The conformance suite: what every [`Engine`] must do, as plain functions that panic where it does not.
//!
//! An engine's tests call [`run`], and [`run_reopen`] too if it is durable. Nothing here needs an async runtime.

mod commits;
mod durable;
mod order;
mod reads;

use std::{
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use bytes::Bytes;

use crate::{
    Batch, CommitError, Committed, Engine, Entry, Fill, FillIn, Heads, Key, KeyRange, LogItem, Page, Partition,
    Position, Put, Requirement, Table, commit, read_log_row,
};

/// Makes a fresh, empty engine.
type Make<'a> = &'a dyn Fn() -> Arc<dyn Engine>;

/// What it shows, and the function that panics if it is not so.
type Case = (&'static str, fn(Make<'_>));

/// Everything but durability. `make` gives a fresh, empty engine each time.
pub fn run(make: impl Fn() -> Arc<dyn Engine>) {
    let cases: [Case; 22] = [
        ("keys are ordered as bytes", reads::keys_are_ordered_as_bytes),
        ("prefixes end where they should", reads::prefixes_end_where_they_should),
        ("odd ranges are empty", reads::odd_ranges_are_empty),
        ("pages resume in both directions", reads::pages_resume_in_both_directions),
        ("multi_get keeps the order", reads::multi_get_keeps_the_order),
        ("tables are separate", reads::tables_are_separate),
        ("requirements decide", commits::requirements_decide),
        ("requirements see batches of the same group", commits::requirements_see_the_group),
        ("a refused batch leaves nothing", commits::a_refused_batch_leaves_nothing),
        ("deletes come before puts", commits::deletes_come_before_puts),
        ("the last of equal keys wins", commits::the_last_of_equal_keys_wins),
        ("positions are filled in", commits::positions_are_filled_in),
        ("malformed batches are refused", commits::malformed_batches_are_refused),
        ("limits are reachable", commits::limits_are_reachable),
        ("positions rise and chain", order::positions_rise_and_chain),
        ("a batch without positions moves nothing", order::a_batch_without_positions_moves_nothing),
        ("the log is what was committed", order::the_log_is_what_was_committed),
        ("a long log row can be read", order::a_long_log_row_can_be_read),
        ("results come in commit order", order::results_come_in_commit_order),
        ("a result may submit again", order::a_result_may_submit_again),
        ("a commit is readable before its result", order::a_commit_is_readable_before_its_result),
        ("racing commits lose nothing", order::racing_commits_lose_nothing),
    ];
    for (name, case) in cases {
        named(name, || case(&make));
    }
}

/// What remains when an engine is dropped and opened again. `root` is an empty folder; `make` opens the engine whose
/// files lie in the folder that it is given, which does not exist at first.
pub fn run_reopen(root: &Path, make: impl Fn(&Path) -> Arc<dyn Engine>) {
    named("rows, log and heads stay", || durable::rows_log_and_heads_stay(&|| make(&root.join("rows"))));
    named("positions never fall", || durable::positions_never_fall(&|| make(&root.join("positions"))));
    named("dropping answers every batch", || durable::dropping_answers_every_batch(&|| make(&root.join("drop"))));
}

/// Says which case it was when one panics.
fn named(name: &str, case: impl FnOnce()) {
    struct Name<'a>(&'a str);
    impl Drop for Name<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("the case that failed: {}", self.0);
            }
        }
    }
    let name = Name(name);
    case();
    drop(name);
}

/// Runs a future on this thread, which sleeps while it waits.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn bytes(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

fn put(table: Table, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Put {
    Put { table, key: bytes(key), value: bytes(value), fill: smallvec::SmallVec::new() }
}

fn absent(table: Table, key: impl AsRef<[u8]>) -> Requirement {
    Requirement { table, key: bytes(key), value: None }
}

fn holds(table: Table, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Requirement {
    Requirement { table, key: bytes(key), value: Some(bytes(value)) }
}

fn batch(partition: u64, put: Vec<Put>) -> Batch {
    Batch { put, ..Batch::new(Partition::of(partition)) }
}

/// A batch with so many positions and a log item, naming itself, at each.
fn logged(partition: u64, positions: u16, name: &str) -> Batch {
    let item = |index| LogItem { index, body: bytes(format!("{name}/{index}")) };
    Batch { positions, log: (0..positions).map(item).collect(), ..Batch::new(Partition::of(partition)) }
}

fn try_commit(engine: &dyn Engine, batch: Batch) -> Result<Committed, CommitError> {
    wait(commit(engine, batch))
}

fn must_commit(engine: &dyn Engine, batch: Batch) -> Committed {
    try_commit(engine, batch).expect("nothing stands against this commit")
}

fn get(engine: &dyn Engine, table: Table, key: impl AsRef<[u8]>) -> Option<Bytes> {
    wait(engine.get(table, key.as_ref())).expect("the engine can be read")
}

fn scan(engine: &dyn Engine, table: Table, range: KeyRange, page: Page) -> Vec<Entry> {
    wait(engine.scan(table, range, page)).expect("the engine can be read")
}

fn all_rows(engine: &dyn Engine, table: Table) -> Vec<Entry> {
    scan(engine, table, KeyRange::prefix(Bytes::new()), Page { bytes_max: usize::MAX, ..Page::first(usize::MAX) })
}

fn heads(engine: &dyn Engine) -> Heads {
    wait(engine.heads()).expect("the engine can be read")
}

fn head(engine: &dyn Engine, partition: u64) -> Position {
    heads(engine).0[usize::from(Partition::of(partition).index())]
}

/// The items in a partition's log after a position.
fn log_after(engine: &dyn Engine, partition: u64, after: Position) -> Vec<(Position, Bytes)> {
    let partition = Partition::of(partition);
    let mut range = KeyRange::prefix(vec![b'L', partition.index()]);
    range.from = crate::log_key(partition, Position(after.0 + 1));
    let rows = scan(engine, Table::Tl, range, Page { bytes_max: usize::MAX, ..Page::first(usize::MAX) });
    let items = rows.iter().flat_map(|row| {
        let items = read_log_row(&row.value).expect("a log row can be read");
        let key_position = row.key.get(2..).expect("a log key has a position");
        let newest = items.last().expect("a log row is never empty").0;
        assert!(key_position >= newest.0.to_be_bytes().as_slice(), "a log row stands under its last position");
        items
    });
    items.filter(|(position, _)| *position > after).collect()
}
