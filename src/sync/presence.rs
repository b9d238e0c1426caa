//! Presence of those with whom the reader shares a room.
//! [Presence](https://spec.matrix.org/v1.19/client-server-api/#presence)

use std::collections::{BTreeMap, HashSet};

use hearth_store::{RoomNumber, UserNumber, tables::Membership};
use hearth_users::{Presence, PresenceState};
use hearth_view::event_json::push_string;
use ruma::{OwnedUserId, UserId};

use crate::{SyncError, json, look::Look, state::Differences, view::RoomView};

/// Members of one room who are told of because the reader met them: more faces than a client shows.
const NEWCOMERS_MAX: usize = 100;

/// Of so many whose presence changed it is read one by one whether they share a room with the reader; where there are
/// more, as at a first sync, those who are active in the reader's rooms are known first.
const ASKED_ONE_BY_ONE_MAX: usize = 16;

/// So many are asked about in the store at most, so that strangers by the thousand don't slow a sync down.
const ASKED_MAX: usize = 200;

const MEMBER: &str = "m.room.member";

/// Whom the reader met since the last sync: their presence is news although it did not change.
#[derive(Default)]
pub(crate) struct Newcomers(HashSet<OwnedUserId>);

impl Newcomers {
    /// Adds those whom the reader met in this room: everybody if the reader is new there, else who joined.
    pub(crate) async fn add(
        &mut self,
        view: &RoomView<'_>,
        newly: bool,
        all_is_news: bool,
        differences: &Differences,
    ) -> Result<(), SyncError> {
        let look = view.look;
        let store = &look.syncs.store;
        if !look.syncs.users.settings().presence || !look.filter.presence.allows_type("m.presence") {
            return Ok(());
        }
        if newly {
            let members = store.current_members(view.room, None, NEWCOMERS_MAX).await?;
            let joined = members.into_iter().filter(|(_, row)| row.membership == Some(Membership::Join));
            self.0.extend(joined.filter_map(|(user, _)| OwnedUserId::try_from(user).ok()));
            return Ok(());
        }
        if all_is_news {
            return Ok(());
        }
        for (difference, pair) in differences.iter().filter(|(_, pair)| pair.kind == MEMBER).take(NEWCOMERS_MAX) {
            let Some(after) = difference.after else { continue };
            let sides: Vec<_> = difference.before.into_iter().chain([after]).collect();
            let events = store.events(view.room, &sides).await?;
            let joins: Vec<bool> = events.iter().flatten().map(|event| is_join(&event.event)).collect();
            if joins.last() == Some(&true) && (joins.len() < 2 || !joins[0]) {
                self.0.extend(UserId::parse(&*pair.state_key));
            }
        }
        Ok(())
    }
}

fn is_join(event: &hearth_core::Event) -> bool {
    hearth_view::Membership::of(Some(event)) == hearth_view::Membership::Join
}

/// Appends the section, if there is anything in it, and says so.
pub(crate) async fn write(out: &mut Vec<u8>, look: &Look<'_>, newcomers: &Newcomers) -> Result<bool, SyncError> {
    let told = gather(look, newcomers).await?;
    if told.is_empty() {
        return Ok(false);
    }
    json::name(out, "presence");
    json::push(out, "{\"events\":[");
    for (user_id, presence) in &told {
        write_event(out, user_id, presence);
    }
    json::push(out, "]}");
    Ok(true)
}

async fn gather(look: &Look<'_>, newcomers: &Newcomers) -> Result<BTreeMap<OwnedUserId, Presence>, SyncError> {
    let users = &look.syncs.users;
    let mut told = BTreeMap::new();
    if !look.filter.presence.allows_type("m.presence") {
        return Ok(told);
    }
    let serial = look.since.map_or(0, |since| since.serial_in(look.now.epoch));
    let changed = if serial == look.now.serial { Vec::new() } else { users.presence_since(serial) };
    let joined: Vec<RoomNumber> = if changed.is_empty() { Vec::new() } else { joined_rooms(look) };
    let near = if changed.len() > ASKED_ONE_BY_ONE_MAX { active_around(look, &joined) } else { HashSet::new() };
    let mut asked = 0;
    for update in changed {
        // Whoever starts takes everybody for offline.
        if look.since.is_none() && update.presence.state == PresenceState::Offline {
            continue;
        }
        let mut shares = update.user == look.user || near.contains(&update.user);
        if !shares && asked < ASKED_MAX {
            asked += 1;
            shares = shares_room(look, update.user, &joined).await?;
        }
        if shares {
            told.insert(update.user_id, update.presence);
        }
    }
    for user_id in newcomers.0.iter().filter(|user_id| **user_id != look.reader.user_id) {
        told.entry(user_id.clone()).or_insert_with(|| users.presence(user_id));
    }
    told.retain(|user_id, _| look.filter.presence.allows("m.presence", Some(user_id.as_str())));
    Ok(told)
}

/// The rooms that the reader is joined to, sorted.
pub(crate) fn joined_rooms(look: &Look<'_>) -> Vec<RoomNumber> {
    let joined = look.live.rooms().into_iter().filter(|(_, membership)| *membership == Membership::Join);
    let mut joined: Vec<RoomNumber> = joined.map(|(room, _)| room).collect();
    joined.sort_unstable();
    joined
}

/// Those in the rooms who have a sync running or had one lately.
fn active_around(look: &Look<'_>, joined: &[RoomNumber]) -> HashSet<UserNumber> {
    joined.iter().flat_map(|room| look.syncs.store.live().active_users(*room)).collect()
}

/// Whether somebody is in one of these rooms, which are sorted.
pub(crate) async fn shares_room(look: &Look<'_>, user: UserNumber, joined: &[RoomNumber]) -> Result<bool, SyncError> {
    let theirs = look.syncs.store.user_rooms(user).await?;
    Ok(theirs.iter().any(|(room, row)| row.membership == Membership::Join && joined.binary_search(room).is_ok()))
}

fn write_event(out: &mut Vec<u8>, user_id: &UserId, presence: &Presence) {
    json::comma(out);
    json::push(out, "{\"content\":{");
    if presence.state == PresenceState::Online {
        json::name(out, "currently_active");
        json::push(out, if presence.currently_active { "true" } else { "false" });
    }
    if let Some(ago_ms) = presence.last_active_ago_ms {
        json::name(out, "last_active_ago");
        json::push(out, &ago_ms.to_string());
    }
    json::name(out, "presence");
    push_string(out, presence.state.name());
    if let Some(status) = &presence.status_msg {
        json::name(out, "status_msg");
        push_string(out, status);
    }
    json::push(out, "},\"sender\":");
    push_string(out, user_id.as_str());
    json::push(out, ",\"type\":\"m.presence\"}");
}
