//! Following the log: what happened after a position, and how far a reader is.

use bytes::Bytes;
use hearth_ports::{CommitError, KeyRange, Page, Partition, Position, Table, log_key, read_log_row};

use crate::{
    Corrupt, LoadError, LogEntry, Positions, Store, Write,
    codec::{decode, encode, read_u64},
    store::after,
    tables::{CursorRow, cursor_key, cursor_partition},
};

/// Rows of the log read at once.
const LOG_ROWS: usize = 64;

/// Entries of the log applied at once where memory has fallen behind.
const CATCH_UP_ENTRIES: usize = 100_000;

/// A part of the log.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// In order within a partition.
    pub entries: Vec<(Partition, Position, LogEntry)>,
    /// Who has dealt with the entries goes on from here. It is past `after` even where there were no entries.
    pub next: Positions,
}

/// How far a reader of the log is, as stored.
#[derive(Clone, Debug)]
pub struct Cursor {
    name: String,
    /// All up to here is done.
    pub positions: Positions,
    /// The row as it was read.
    stored: Option<Bytes>,
}

impl Cursor {
    /// No reader of this name has stored how far it is.
    pub fn is_new(&self) -> bool {
        self.stored.is_none()
    }
}

impl Store {
    /// What the log has after these positions, up to V. At least `limit` entries if there are so many: it stops at the
    /// first position behind them.
    ///
    /// A reader deals with the entries, then stores [`LogPage::next`]: it may see an entry twice, never not at all.
    pub async fn read_log(&self, after: &Positions, limit: usize) -> Result<LogPage, LoadError> {
        let known = self.live.positions();
        let mut page = LogPage { entries: Vec::new(), next: after.clone() };
        for partition in partitions() {
            let (from, up_to) = (after.at(partition), known.at(partition));
            if from >= up_to {
                continue;
            }
            if page.entries.len() >= limit {
                return Ok(page);
            }
            let room = limit - page.entries.len();
            let reached = self.read_partition_log(partition, from, up_to, room, &mut page.entries).await?;
            page.next = page.next.raised(partition, reached);
        }
        Ok(page)
    }

    /// Reads the log of a partition behind `from`, up to `up_to`; returns up to where it was read.
    async fn read_partition_log(
        &self,
        partition: Partition,
        from: Position,
        up_to: Position,
        limit: usize,
        entries: &mut Vec<(Partition, Position, LogEntry)>,
    ) -> Result<Position, LoadError> {
        let full = entries.len().saturating_add(limit);
        // Rows are named by their last position: the first one behind `from` may begin before it.
        let mut range = KeyRange::prefix(vec![b'L', partition.index()]);
        range.from = log_key(partition, Position(from.0.saturating_add(1)));
        loop {
            let rows = self.engine.scan(Table::Tl, range.clone(), Page::first(LOG_ROWS)).await?;
            let Some(last) = rows.last() else { return Ok(up_to) };
            range.from = after(&last.key);
            for row in rows {
                let items = read_log_row(&row.value).ok_or_else(|| corrupt("it does not read"))?;
                for (position, body) in items.into_iter().filter(|(position, _)| *position > from) {
                    if position > up_to {
                        return Ok(up_to);
                    }
                    if let Some((.., before)) = entries.last().map(|(p, position, _)| (p, *position))
                        && entries.len() >= full
                        && before != position
                    {
                        return Ok(before);
                    }
                    entries.push((partition, position, LogEntry::decode(&body)?));
                }
                if read_u64("log key", row.key.get(2..).unwrap_or_default())? >= up_to.0 {
                    return Ok(up_to);
                }
            }
        }
    }

    /// Brings what is known in memory up to the engine's heads. Commits do it by themselves; this is for commits whose
    /// outcome was not known and for those of other nodes, to be called about twice a second where there are any.
    pub async fn catch_up(&self) -> Result<(), LoadError> {
        let heads = self.engine.heads().await?;
        let known = self.live.positions();
        let is_behind = |partition: &Partition| {
            self.live.is_behind(*partition) || known.at(*partition) < heads.0[usize::from(partition.index())]
        };
        if !partitions().any(|partition| is_behind(&partition)) {
            return Ok(());
        }
        metrics::counter!("hearth_live_catch_ups_total").increment(1);
        let mut all = Vec::new();
        for partition in partitions() {
            let (from, up_to) = (known.at(partition), heads.0[usize::from(partition.index())]);
            let reached = if from < up_to {
                self.read_partition_log(partition, from, up_to, CATCH_UP_ENTRIES, &mut all).await?
            } else {
                from
            };
            if !self.live.single_counter() {
                self.live.apply_log(partition, &all, reached);
                all.clear();
            } else if reached < up_to {
                return Err(corrupt("memory is too far behind it").into());
            }
        }
        if self.live.single_counter() {
            all.sort_by_key(|(_, position, _)| *position);
            let up_to = heads.0.into_iter().max().unwrap_or_default();
            self.live.apply_log(Partition::of(0), &all, up_to);
        }
        Ok(())
    }

    /// How far the reader of this name is; a new one begins at the log's beginning.
    pub async fn cursor(&self, name: &str) -> Result<Cursor, LoadError> {
        let stored = self.get_bytes(Table::Mi, &cursor_key(name)).await?;
        let positions = match &stored {
            Some(bytes) => positions_of(&decode(bytes)?)?,
            None => Positions::START,
        };
        Ok(Cursor { name: name.to_owned(), positions, stored })
    }

    /// Stores that the reader is done with all up to `to`. A conflict: another reader of this name was faster.
    pub async fn advance_cursor(&self, cursor: &Cursor, to: &Positions) -> Result<Cursor, CommitError> {
        let row = CursorRow { positions: to.to_array().iter().map(|position| position.0).collect() };
        let bytes = encode(&row);
        let mut write = Write::new(cursor_partition(&cursor.name));
        write.require(Table::Mi, cursor_key(&cursor.name), cursor.stored.clone());
        write.put_bytes(Table::Mi, cursor_key(&cursor.name), bytes.clone());
        self.commit(write).await?;
        Ok(Cursor { name: cursor.name.clone(), positions: to.clone(), stored: Some(bytes) })
    }
}

fn partitions() -> impl Iterator<Item = Partition> {
    (0..Partition::COUNT as u64).map(Partition::of)
}

fn positions_of(row: &CursorRow) -> Result<Positions, Corrupt> {
    let all: Option<[u64; Partition::COUNT]> = row.positions.as_slice().try_into().ok();
    let all =
        all.ok_or_else(|| Corrupt { what: "cursor", reason: "it has not one position a partition".to_owned() })?;
    Ok(Positions::from(&hearth_ports::Heads(all.map(Position))))
}

fn corrupt(reason: &str) -> Corrupt {
    Corrupt { what: "log row", reason: reason.to_owned() }
}
