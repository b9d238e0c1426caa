//! Whether the database holds together: every rule that rows keep with each other, looked at one by one.
//!
//! It only reads, and may run beside a live server: a room that changes meanwhile is looked at again. Each problem is
//! told in words that name the row. Nothing is repaired here.

mod events;
mod history;
mod identifiers;
mod keys;
mod room;
mod state;

use std::fmt;

use hearth_ports::{Entry, Key, KeyRange, Page, Table, Unavailable};

use crate::{
    Corrupt, LoadError, RoomNumber, Row, Store,
    codec::{decode, read_u64},
    key,
    store::after,
};
use room::RoomCheck;

/// Problems that are kept in words; of more only the number is told. Who has so many restores a backup.
const PROBLEMS_MAX: usize = 1_000;

/// Rows looked at together.
const PAGE_ROWS: usize = 500;

/// A room that changes each time it is looked at is left after so many attempts.
const ATTEMPTS_MAX: usize = 5;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How much was looked at.
    pub seen: Progress,
    /// Rooms that could not be looked at in peace: they changed all the time.
    pub rooms_busy: u64,
    /// What is wrong, in words, at most 1,000.
    pub problems: Vec<String>,
    /// How much is wrong.
    pub problems_count: u64,
}

/// How far the check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rooms so far.
    pub rooms: u64,
    /// Rows so far.
    pub rows: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems_count == 0
    }

    fn add(&mut self, problem: String) {
        self.problems_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let Progress { rooms, rows } = self.seen;
        write!(f, "{} problems in {rooms} rooms and {rows} rows", self.problems_count)?;
        if self.rooms_busy > 0 {
            write!(f, "; {} rooms changed all the time and were left out", self.rooms_busy)?;
        }
        Ok(())
    }
}

/// Looks at everything; `progress` is called now and then. The error is of the engine: nothing can be said.
pub async fn fsck(store: &Store, mut progress: impl FnMut(Progress)) -> Result<Report, Unavailable> {
    let mut report = Report::default();
    let mut rooms = Pages::new(Table::Rm, KeyRange::prefix(key(b'h').build()));
    while let Some(page) = rooms.next(store).await? {
        for head in page {
            match read_u64("room head key", head.key.get(1..).unwrap_or_default()) {
                Ok(room) => check_room(store, RoomNumber(room), &mut report).await?,
                Err(error) => report.add(error.to_string()),
            }
            report.seen.rooms += 1;
            progress(report.seen);
        }
    }
    let mut counted = |report: &mut Report, rows: usize| {
        report.seen.rows += rows as u64;
        progress(report.seen);
    };
    identifiers::check_events(store, &mut report, &mut counted).await?;
    identifiers::check_names(store, &mut report, &mut counted).await?;
    identifiers::check_memberships(store, &mut report, &mut counted).await?;
    identifiers::check_servers(store, &mut report, &mut counted).await?;
    keys::check_keys(store, &mut report, &mut counted).await?;
    Ok(report)
}

async fn check_room(store: &Store, room: RoomNumber, report: &mut Report) -> Result<(), Unavailable> {
    for _ in 0..ATTEMPTS_MAX {
        let head = head_bytes(store, room).await?;
        let mut check = RoomCheck::new(store, room);
        check.run().await?;
        if head_bytes(store, room).await? != head {
            continue;
        }
        report.seen.rows += check.rows;
        check.problems.into_iter().for_each(|problem| report.add(problem));
        return Ok(());
    }
    report.rooms_busy += 1;
    Ok(())
}

async fn head_bytes(store: &Store, room: RoomNumber) -> Result<Option<bytes::Bytes>, Unavailable> {
    store.engine().get(Table::Rm, &crate::tables::head_key(room)).await
}

/// The pages of a range, one after the other.
struct Pages {
    table: Table,
    range: Option<KeyRange>,
}

impl Pages {
    fn new(table: Table, range: KeyRange) -> Self {
        Self { table, range: Some(range) }
    }

    /// The next page; it is never empty.
    async fn next(&mut self, store: &Store) -> Result<Option<Vec<Entry>>, Unavailable> {
        let Some(range) = self.range.take() else { return Ok(None) };
        let page = store.engine().scan(self.table, range.clone(), Page::first(PAGE_ROWS)).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.range = Some(KeyRange { from: after(&last.key), ..range });
        Ok(Some(page))
    }
}

/// The value, or what is wrong with it.
fn read<R: Row>(bytes: &[u8]) -> Result<R, String> {
    decode(bytes).map_err(|error: Corrupt| error.to_string())
}

/// What was loaded, or what is wrong with it; the engine's trouble is no finding.
fn loaded<T>(result: Result<T, LoadError>) -> Result<Result<T, String>, Unavailable> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(LoadError::Corrupt(error)) => Ok(Err(error.to_string())),
        Err(LoadError::Unavailable(error)) => Err(error),
    }
}

/// A part of a key as 4 bytes.
fn key_u32(key: &Key, from: usize) -> Option<u32> {
    Some(u32::from_be_bytes(key.get(from..from + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
