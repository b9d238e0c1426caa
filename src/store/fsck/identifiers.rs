//! Rows that are found from outside a room: the index of events, the names of users and rooms, memberships.

use hearth_ports::{Key, KeyRange, Table, Unavailable};

use super::{
    Pages, Report,
    events::{has_id, index_parts},
    loaded, read,
};
use crate::{
    EventNumber, RoomNumber, Store, UserNumber,
    codec::{read_u32, read_u64},
    key,
    tables::{
        CurrentStateRow, Head, Membership, MembershipRow, RoomIdRow, ServerRoomRow, UserIdRow, current_state_key,
        event_key, head_key, room_name_key, room_server_key, server_room_key, user_name_key,
    },
};
use ruma::OwnedServerName;

type Counted<'a> = &'a mut dyn FnMut(&mut Report, usize);

/// Every id of an event leads to an event of this id.
pub(super) async fn check_events(store: &Store, report: &mut Report, counted: Counted<'_>) -> Result<(), Unavailable> {
    let mut pages = Pages::new(Table::Ix, KeyRange::prefix(key(b'e').build()));
    while let Some(page) = pages.next(store).await? {
        let mut wanted = Vec::with_capacity(page.len());
        for row in &page {
            match (index_parts(&row.key), read_u32("event number", &row.value)) {
                (Some((hash, room)), Ok(number)) => wanted.push((hash, RoomNumber(room), EventNumber(number))),
                (None, _) => report.add("a key of the index of events does not read".to_owned()),
                (_, Err(error)) => report.add(format!("the index of events: {error}")),
            }
        }
        let keys: Vec<Key> = wanted.iter().map(|(_, room, number)| event_key(*room, *number)).collect();
        let rows = store.engine().multi_get(Table::Ev, &keys).await?;
        for ((hash, room, number), row) in wanted.into_iter().zip(rows) {
            if !row.is_some_and(|row| has_id(&row, hash)) {
                let (room, number) = (room.0, number.0);
                report.add(format!(
                    "room number {room:016x}: an id leads to event {number}, which has another or is not there"
                ));
            }
        }
        counted(report, page.len());
    }
    Ok(())
}

/// Ids and numbers of rooms and users name each other.
pub(super) async fn check_names(store: &Store, report: &mut Report, counted: Counted<'_>) -> Result<(), Unavailable> {
    for (kind, what) in [(b'r', "room"), (b'n', "user")] {
        let mut pages = Pages::new(Table::Ix, KeyRange::prefix(key(kind).build()));
        while let Some(page) = pages.next(store).await? {
            for row in &page {
                let name = String::from_utf8_lossy(row.key.get(1..).unwrap_or_default()).into_owned();
                let number = match read_u64("number", &row.value) {
                    Ok(number) => number,
                    Err(error) => {
                        report.add(format!("{what} {name:?}: {error}"));
                        continue;
                    }
                };
                let back = match kind {
                    b'r' => {
                        named(store.get::<RoomIdRow>(Table::Ix, &room_name_key(RoomNumber(number))).await, |row| {
                            row.room_id
                        })?
                    }
                    _ => named(store.get::<UserIdRow>(Table::Ix, &user_name_key(UserNumber(number))).await, |row| {
                        row.user_id
                    })?,
                };
                // Of very long ids the key has a hash.
                let is_hash = row.key.get(1) == Some(&0);
                if back.as_ref().is_none_or(|back| *back != name && !is_hash) {
                    report.add(format!("{what} {name:?} has a number that is not its own"));
                }
            }
            counted(report, page.len());
        }
    }
    Ok(())
}

fn named<R>(
    row: Result<Option<R>, crate::LoadError>,
    name: impl Fn(R) -> String,
) -> Result<Option<String>, Unavailable> {
    Ok(loaded(row)?.ok().flatten().map(name))
}

/// Every membership is that of the room's current state.
pub(super) async fn check_memberships(
    store: &Store,
    report: &mut Report,
    counted: Counted<'_>,
) -> Result<(), Unavailable> {
    let mut pages = Pages::new(Table::Rm, KeyRange::prefix(key(b'U').build()));
    while let Some(page) = pages.next(store).await? {
        for row in &page {
            let number = |from: usize| row.key.get(from..from + 8).and_then(|bytes| read_u64("", bytes).ok());
            let (Some(user), Some(room)) = (number(1).map(UserNumber), number(9).map(RoomNumber)) else {
                report.add("the key of a membership does not read".to_owned());
                continue;
            };
            if check_membership(store, user, room, &row.value).await?.is_none() {
                continue;
            }
            // The room may have changed between the two reads: look once more.
            let Some(value) = store.engine().get(Table::Rm, &row.key).await? else { continue };
            if let Some(problem) = check_membership(store, user, room, &value).await? {
                report.add(format!("room number {:016x}: {problem}", room.0));
            }
        }
        counted(report, page.len());
    }
    Ok(())
}

async fn check_membership(
    store: &Store,
    user: UserNumber,
    room: RoomNumber,
    row: &[u8],
) -> Result<Option<String>, Unavailable> {
    let membership: MembershipRow = match read(row) {
        Ok(membership) => membership,
        Err(problem) => return Ok(Some(problem)),
    };
    let Ok(Some(user_id)) = loaded(store.user_id(user).await)? else {
        return Ok(Some(format!("the membership of user number {:016x}, who has no id", user.0)));
    };
    let Ok(Some(head)) = loaded(store.get::<Head>(Table::Rm, &head_key(room)).await)? else {
        return Ok(Some(format!("the membership of {user_id} is of a room without a head")));
    };
    if head.purged || head.loading || head.partial {
        return Ok(None);
    }
    let key = current_state_key(room, "m.room.member", user_id.as_str());
    let Ok(current) = loaded(store.get::<CurrentStateRow>(Table::Rm, &key).await)? else {
        // Told where the current state is looked at.
        return Ok(None);
    };
    let same = current.is_some_and(|current| match current.event {
        // Who is no longer named by the state has left.
        None => membership.membership == Membership::Leave,
        Some(event) => {
            (event, current.membership, current.user) == (membership.event, Some(membership.membership), Some(user))
        }
    });
    Ok((!same).then(|| format!("the membership of {user_id} is not that of the room's state")))
}

/// Every room of a server has the server among its own.
pub(super) async fn check_servers(store: &Store, report: &mut Report, counted: Counted<'_>) -> Result<(), Unavailable> {
    let mut pages = Pages::new(Table::Rm, KeyRange::prefix(key(b'S').build()));
    while let Some(page) = pages.next(store).await? {
        for row in &page {
            // A room that changes while it is looked at is looked at once more.
            if check_server(store, &row.key, Some(&row.value)).await?.is_none() {
                continue;
            }
            let value = store.engine().get(Table::Rm, &row.key).await?;
            if let Some(problem) = check_server(store, &row.key, value.as_deref()).await? {
                report.add(problem);
            }
        }
        counted(report, page.len());
    }
    Ok(())
}

async fn check_server(store: &Store, key: &Key, value: Option<&[u8]>) -> Result<Option<String>, Unavailable> {
    let Some(value) = value else { return Ok(None) };
    let Ok(room) = read_u64("", key.get(9..).unwrap_or_default()).map(RoomNumber) else {
        return Ok(Some("the key of a server's room does not read".to_owned()));
    };
    let server = match read::<ServerRoomRow>(value) {
        Ok(row) => OwnedServerName::try_from(row.server).ok(),
        Err(problem) => return Ok(Some(problem)),
    };
    let Some(server) = server.filter(|server| server_room_key(server, room) == *key) else {
        return Ok(Some(format!("room number {:016x}: a server's row does not have its name", room.0)));
    };
    let of_room = store.engine().get(Table::Rm, &room_server_key(room, &server)).await?;
    let head = loaded(store.get::<Head>(Table::Rm, &head_key(room)).await)?.ok().flatten();
    let is_whole = head.is_some_and(|head| !head.purged && !head.loading);
    Ok((of_room.is_none() && is_whole)
        .then(|| format!("room number {:016x}: {server} is not in it, but told so", room.0)))
}
