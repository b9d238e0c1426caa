//! Account data: global, and of rooms.

use std::collections::HashMap;

use hearth_store::RoomNumber;
use hearth_users::AccountData;

use crate::{SyncError, json, look::Look, view::RoomView};

/// What is to be told.
#[derive(Default)]
pub(crate) struct Changed {
    pub(crate) global: Vec<AccountData>,
    pub(crate) rooms: HashMap<RoomNumber, Vec<AccountData>>,
}

/// Loads what changed since the last sync; all of it for a first one.
pub(crate) async fn load(look: &Look<'_>) -> Result<Changed, SyncError> {
    let users = &look.syncs.users;
    let partition = look.user.partition();
    let all = match look.since {
        None => users.account_data_all(look.user).await?,
        Some(since) if look.live.own_since(&since.positions) => {
            users.account_data_since(look.user, since.positions.at(partition), look.now.positions.at(partition)).await?
        }
        Some(_) => Vec::new(),
    };
    let mut changed = Changed::default();
    for data in all {
        match data.room {
            None => changed.global.push(data),
            Some(room) => changed.rooms.entry(room).or_default().push(data),
        }
    }
    Ok(changed)
}

/// Appends the global section, if there is anything in it, and says so.
pub(crate) fn write(out: &mut Vec<u8>, look: &Look<'_>, global: &[AccountData]) -> bool {
    let wanted = |data: &&AccountData| look.filter.account_data.allows(&data.kind, None);
    if !global.iter().any(|data| wanted(&data)) {
        return false;
    }
    json::name(out, "account_data");
    json::push(out, "{\"events\":[");
    for data in global.iter().filter(wanted) {
        json::bare_event(out, &data.kind, &data.content);
    }
    json::push(out, "]}");
    true
}

/// Appends the section of a room; says whether there is anything in it. `newly`: the room is new to a client that had
/// other rooms before, so all that there is of it is told.
pub(crate) async fn write_room(
    out: &mut Vec<u8>,
    view: &RoomView<'_>,
    newly: bool,
    changed: &[AccountData],
) -> Result<bool, SyncError> {
    let look = view.look;
    let all = if newly { look.syncs.users.account_data_of_room(look.user, view.room).await? } else { Vec::new() };
    let told = if newly { &all } else { changed };
    json::name(out, "account_data");
    json::push(out, "{\"events\":[");
    let empty = out.len();
    let filter = &look.filter.room.account_data;
    if filter.allows_room(view.room_id.as_str()) {
        for data in told.iter().filter(|data| filter.events.allows(&data.kind, None)) {
            json::bare_event(out, &data.kind, &data.content);
        }
    }
    let has_news = out.len() > empty;
    json::push(out, "]}");
    Ok(has_news)
}
