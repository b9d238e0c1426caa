//! Whose devices or identity keys changed, as far as the reader shares a room with them, and with whom no room is shared any
//! more. [Extensions to /sync](https://spec.matrix.org/v1.19/client-server-api/#e2e-extensions-to-sync).
//!
//! Every room counts, encrypted or not, with one exception: people whom the reader meets or leaves in a large room that is
//! not encrypted are passed over. Nobody encrypts for them there, and whoever meets them where that is done, or when that
//! room becomes encrypted, is told.

use std::collections::BTreeSet;

use hearth_store::{
    EventNumber, KeyRange, LoadError, Positions, RoomNumber, StateVersion, Table, UserNumber,
    tables::{
        Membership,
        users::{DeviceListRow, own_keys_key, seen_of_own_view_key},
    },
};
use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

use crate::{
    SyncError, json,
    look::Look,
    presence::{joined_rooms, shares_room},
    state::Differences,
    view::RoomView,
};

/// A room with more members than this is large.
const LARGE_ROOM_MEMBERS: usize = 1_000;

/// Members that are read at once.
const MEMBERS_AT_ONCE: usize = 1_000;

/// People whom one user has verified. More than anybody has.
const OWN_VIEWS_MAX: usize = 50_000;

/// So many users are asked about before others have their turn.
const USERS_IN_ONE_GO: usize = 64;

const MEMBER: &str = "m.room.member";
const ENCRYPTION: &str = "m.room.encryption";

/// Whom the reader met, and from whom they parted, since the last sync.
#[derive(Default)]
pub(crate) struct Sharing {
    met: BTreeSet<OwnedUserId>,
    parted: BTreeSet<OwnedUserId>,
}

impl Sharing {
    /// Adds those whom the reader met or who left in a room that the reader is in. `everybody`: all are new to the reader;
    /// else the state came to `now` by these changes.
    pub(crate) async fn add_joined(
        &mut self,
        view: &RoomView<'_>,
        everybody: bool,
        now: StateVersion,
        changes: &Differences,
    ) -> Result<(), SyncError> {
        let Some(since) = view.look.since else { return Ok(()) };
        if everybody {
            return add_members(view, now, &mut self.met).await;
        }
        if self.add_differences(view, changes, since.positions.at(view.room.partition()).0).await? {
            add_members(view, now, &mut self.met).await?;
        }
        Ok(())
    }

    /// Adds those from whom the reader parted by leaving a room.
    pub(crate) async fn add_left(&mut self, view: &RoomView<'_>, now: StateVersion) -> Result<(), SyncError> {
        if view.look.since.is_none() {
            return Ok(());
        }
        add_members(view, now, &mut self.parted).await
    }

    /// Says whether the room became encrypted, by which everybody in it is met.
    async fn add_differences(
        &mut self,
        view: &RoomView<'_>,
        differences: &Differences,
        since: u64,
    ) -> Result<bool, LoadError> {
        let store = &view.look.syncs.store;
        let mut becomes_encrypted = false;
        for (difference, pair) in differences {
            if pair.kind == ENCRYPTION && pair.state_key.is_empty() {
                becomes_encrypted |= difference.before.is_none();
            }
            if pair.kind != MEMBER {
                continue;
            }
            let Ok(user_id) = UserId::parse(&*pair.state_key) else { continue };
            let before = membership_by(view, difference.before).await?;
            match (before, membership_by(view, difference.after).await?) {
                // Who left and came back was out of sight in between.
                (Some(MembershipState::Join), Some(MembershipState::Join)) => {
                    let row = match store.user_number(&user_id).await? {
                        Some(user) => store.membership(user, view.room).await?,
                        None => None,
                    };
                    if row.is_some_and(|row| row.joined_position > since) {
                        self.met.insert(user_id);
                    }
                }
                (_, Some(MembershipState::Join)) => _ = self.met.insert(user_id),
                (Some(MembershipState::Join), _) => _ = self.parted.insert(user_id),
                // Who encrypts may do so for those who are yet to come.
                (None | Some(MembershipState::Leave), Some(MembershipState::Invite)) => {
                    self.met.insert(user_id);
                }
                _ => {}
            }
        }
        Ok(becomes_encrypted)
    }
}

/// The membership that an event sets.
async fn membership_by(view: &RoomView<'_>, event: Option<EventNumber>) -> Result<Option<MembershipState>, LoadError> {
    let Some(event) = event else { return Ok(None) };
    let stored = view.look.syncs.store.event(view.room, event).await?;
    Ok(stored.and_then(|stored| stored.event.membership()))
}

/// Adds everybody who is joined to a room, unless it is large and at this state not encrypted.
async fn add_members(
    view: &RoomView<'_>,
    state: StateVersion,
    to: &mut BTreeSet<OwnedUserId>,
) -> Result<(), SyncError> {
    let store = &view.look.syncs.store;
    let mut behind: Option<String> = None;
    let mut first = true;
    loop {
        let members = store.current_members(view.room, behind.as_deref(), MEMBERS_AT_ONCE).await?;
        let is_full = members.len() == MEMBERS_AT_ONCE;
        const { assert!(MEMBERS_AT_ONCE <= LARGE_ROOM_MEMBERS, "one full page may be a large room") };
        if first && is_full && store.state_event(view.room, state, ENCRYPTION, "").await?.is_none() {
            return Ok(());
        }
        first = false;
        behind = members.last().map(|(last, _)| last.clone());
        let joined = members.into_iter().filter(|(_, row)| row.membership == Some(Membership::Join));
        to.extend(joined.filter_map(|(user_id, _)| OwnedUserId::try_from(user_id).ok()));
        if !is_full {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

/// What a reader is told of device lists.
#[derive(Debug, Default)]
pub(crate) struct DeviceLists {
    pub(crate) changed: BTreeSet<OwnedUserId>,
    pub(crate) left: BTreeSet<OwnedUserId>,
}

/// Gathers what changed since the last sync; nothing for a first one.
pub(crate) async fn gather(look: &Look<'_>, sharing: Sharing) -> Result<DeviceLists, SyncError> {
    let Some(since) = look.since else { return Ok(DeviceLists::default()) };
    let Sharing { mut met, parted } = sharing;
    met.remove(&look.reader.user_id);
    let store = &look.syncs.store;
    let known = store.device_lists_since(&since.positions).await?;
    // Mostly nobody's did.
    let is_asked = !parted.is_empty() || known.as_ref().is_none_or(|changed| !changed.is_empty());
    let joined = if is_asked { joined_rooms(look) } else { Vec::new() };
    let changed = match known {
        Some(changed) => changed,
        None => changed_around(look, &since.positions, &joined).await?,
    };
    let mut lists = DeviceLists { changed: met, left: BTreeSet::new() };
    for (nth, user) in changed.into_iter().enumerate() {
        if nth % USERS_IN_ONE_GO == USERS_IN_ONE_GO - 1 {
            tokio::task::yield_now().await;
        }
        if user == look.user || shares_room(look, user, &joined).await? {
            lists.changed.extend(store.user_id(user).await?);
        }
    }
    if look.live.own_since(&since.positions) {
        add_own_views(&mut lists, look, since.positions.at(look.user.partition()).0).await?;
    }
    // The reader always knows of their own devices by `changed` alone.
    for (nth, user_id) in parted.into_iter().filter(|user_id| *user_id != look.reader.user_id).enumerate() {
        if nth % USERS_IN_ONE_GO == USERS_IN_ONE_GO - 1 {
            tokio::task::yield_now().await;
        }
        let shares = match store.user_number(&user_id).await? {
            Some(user) => shares_room(look, user, &joined).await?,
            None => false,
        };
        if !shares {
            lists.changed.remove(&user_id);
            lists.left.insert(user_id);
        }
    }
    Ok(lists)
}

/// Adds those in whose keys only the reader sees a change: whom the reader's user-signing key signed.
async fn add_own_views(lists: &mut DeviceLists, look: &Look<'_>, since: u64) -> Result<(), SyncError> {
    let store = &look.syncs.store;
    let newest = store.get::<DeviceListRow>(Table::Us, &own_keys_key(look.user)).await?;
    if newest.is_none_or(|row| row.position <= since) {
        return Ok(());
    }
    let range = KeyRange::prefix(own_keys_key(look.user));
    for row in store.scan_all(Table::Us, range, OWN_VIEWS_MAX, false).await? {
        let at: DeviceListRow = hearth_store::decode(&row.value).map_err(LoadError::from)?;
        let seen = seen_of_own_view_key(&row.key).filter(|_| at.position > since);
        lists.changed.extend(seen.and_then(|user_id| OwnedUserId::try_from(user_id).ok()));
    }
    Ok(())
}

/// Appends the section, if there is anything in it, and says so.
pub(crate) async fn write(out: &mut Vec<u8>, look: &Look<'_>, sharing: Sharing) -> Result<bool, SyncError> {
    let lists = gather(look, sharing).await?;
    if lists.changed.is_empty() && lists.left.is_empty() {
        return Ok(false);
    }
    json::name(out, "device_lists");
    json::push(out, "{");
    for (name, users) in [("changed", &lists.changed), ("left", &lists.left)] {
        if users.is_empty() {
            continue;
        }
        json::name(out, name);
        json::push(out, "[");
        for user_id in users {
            json::comma(out);
            hearth_view::event_json::push_string(out, user_id.as_str());
        }
        json::push(out, "]");
    }
    json::push(out, "}");
    Ok(true)
}

/// Those in the reader's rooms whose lists changed, where it is too long ago to be known of everybody.
async fn changed_around(
    look: &Look<'_>,
    since: &Positions,
    joined: &[RoomNumber],
) -> Result<Vec<UserNumber>, SyncError> {
    let store = &look.syncs.store;
    let mut users: BTreeSet<UserNumber> = BTreeSet::from([look.user]);
    for room in joined {
        let mut behind: Option<String> = None;
        loop {
            let members = store.current_members(*room, behind.as_deref(), MEMBERS_AT_ONCE).await?;
            let Some((last, _)) = members.last() else { break };
            behind = Some(last.clone());
            for (user_id, row) in members {
                let Ok(user_id) = OwnedUserId::try_from(user_id) else { continue };
                if row.membership == Some(Membership::Join) {
                    users.extend(store.user_number(&user_id).await?);
                }
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(store.device_lists_changed(since, users.into_iter().collect()).await?)
}
