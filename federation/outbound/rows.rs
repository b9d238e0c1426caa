//! What the store keeps of destinations.

use hearth_ports::{Heads, Key, KeyRange, Page, Partition, Position, Table};
use hearth_store::{
    CommitError, Corrupt, LoadError, Positions, Store, Write, decode, encode,
    tables::{
        DestinationRow, QueuedRow, all_queued_prefix, destination_key, destination_prefix, queued_key,
        queued_position_offset, queued_prefix, queued_server, server_partition,
    },
};
use ruma::{OwnedServerName, ServerName};

use super::queue::Falling;

/// Destinations whose rows are read at the start. More than there are servers.
const DESTINATIONS_MAX: usize = 1_000_000;

/// Rows of a destination that are looked at together: less than 17 MB at their largest.
const QUEUED_AT_ONCE: usize = 256;

/// As [`DestinationRow::caught_up`] has it; of another length it is the beginning.
pub(super) fn positions_of(row: &[u64]) -> Positions {
    if let [all] = row {
        return Positions::all(Position(*all));
    }
    let all: Result<[u64; Partition::COUNT], _> = row.try_into();
    all.map_or(Positions::START, |all| Positions::from(&Heads(all.map(Position))))
}

/// The reverse of [`positions_of`].
pub(super) fn positions_to_row(positions: &Positions) -> Vec<u64> {
    match positions.single() {
        Some(Position(all)) => vec![all],
        None => positions.to_array().iter().map(|position| position.0).collect(),
    }
}

/// All destinations that fail or are behind.
pub(super) async fn destinations(store: &Store) -> Result<Vec<(OwnedServerName, DestinationRow)>, LoadError> {
    let prefix = destination_prefix();
    let rows = store.scan_all(Table::Fd, KeyRange::prefix(prefix.clone()), DESTINATIONS_MAX, false).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        if let Some(server) = server_name(std::str::from_utf8(&row.key[prefix.len()..]).ok()) {
            found.push((server, decode(&row.value)?));
        }
    }
    Ok(found)
}

/// All servers for which something is queued: one read for each.
pub(super) async fn queued_servers(store: &Store) -> Result<Vec<OwnedServerName>, LoadError> {
    let mut range = KeyRange::prefix(all_queued_prefix());
    let mut found = Vec::new();
    while let Some(row) = store.scan_bytes(Table::Fd, range.clone(), Page::first(1)).await?.pop() {
        let server = server_name(queued_server(&row.key));
        range.from = match &server {
            Some(server) => match KeyRange::prefix(queued_prefix(server)).until {
                Some(behind) => behind,
                None => break,
            },
            None => [&row.key[..], &[0]].concat().into(),
        };
        found.extend(server);
    }
    Ok(found)
}

/// The oldest of what is queued for a server; each row may be damaged.
pub(super) async fn queued(
    store: &Store,
    server: &ServerName,
    rows_max: usize,
) -> Result<Vec<(Key, Result<QueuedRow, Corrupt>)>, LoadError> {
    let range = KeyRange::prefix(queued_prefix(server));
    let rows = store.scan_all(Table::Fd, range, rows_max, false).await?;
    Ok(rows.into_iter().map(|row| (row.key, decode(&row.value))).collect())
}

/// The next of what is queued for a server, oldest first, behind this key. Empty: that was all.
pub(super) async fn queued_behind(
    store: &Store,
    server: &ServerName,
    behind: Option<&Key>,
) -> Result<Vec<(Key, QueuedRow)>, LoadError> {
    let mut range = KeyRange::prefix(queued_prefix(server));
    if let Some(behind) = behind {
        range.from = [&behind[..], &[0]].concat().into();
    }
    store.scan(Table::Fd, range, Page::first(QUEUED_AT_ONCE)).await
}

/// Queues something, behind all that is queued for the server.
pub(super) async fn put_queued(store: &Store, server: &ServerName, row: &QueuedRow) -> Result<(), CommitError> {
    let mut write = Write::new(server_partition(server));
    add_queued(&mut write, server, row);
    store.commit(write).await.map(drop)
}

fn add_queued(write: &mut Write, server: &ServerName, row: &QueuedRow) {
    let at = write.position();
    let in_key = Some((queued_position_offset(server), at));
    write.put_filled(Table::Fd, queued_key(server, 0), encode(row), in_key, &[]);
}

/// Says how far a destination is that is behind, and queues what only a row would keep.
pub(super) async fn put_falling(store: &Store, server: &ServerName, falling: &Falling) -> Result<(), CommitError> {
    let mut write = Write::new(server_partition(server));
    write.put(Table::Fd, destination_key(server), &falling.row);
    let mut partings: Vec<_> = falling.partings.iter().copied().collect();
    partings.sort_unstable();
    for (room, event) in partings {
        add_queued(&mut write, server, &QueuedRow::Event { room, event });
    }
    store.commit(write).await.map(drop)
}

/// Says how far a destination is; `None`: it has everything.
pub(super) async fn put_destination(
    store: &Store,
    server: &ServerName,
    row: Option<&DestinationRow>,
    arrived: Vec<Key>,
) -> Result<(), CommitError> {
    let mut write = Write::new(server_partition(server));
    match row {
        Some(row) => write.put(Table::Fd, destination_key(server), row),
        None => write.delete(Table::Fd, destination_key(server)),
    }
    arrived.into_iter().for_each(|key| write.delete(Table::Fd, key));
    store.commit(write).await.map(drop)
}

/// Deletes what has arrived.
pub(super) async fn delete_queued(store: &Store, server: &ServerName, arrived: Vec<Key>) -> Result<(), CommitError> {
    let mut write = Write::new(server_partition(server));
    arrived.into_iter().for_each(|key| write.delete(Table::Fd, key));
    store.commit(write).await.map(drop)
}

fn server_name(text: Option<&str>) -> Option<OwnedServerName> {
    let server = text.and_then(|text| OwnedServerName::try_from(text).ok());
    if server.is_none() {
        tracing::error!("the row of a destination does not name a server");
    }
    server
}
