//! Invites and knocks: what somebody who is not in a room is told of it.
//! [Stripped state](https://spec.matrix.org/v1.19/client-server-api/#stripped-state)

use std::sync::Arc;

use hearth_core::format::stripped_json;
use hearth_store::{EventNumber, StateKeyNumber, StateVersion, StoredEvent};

use ruma::UserId;

use crate::{SyncError, json, look::Look, view::RoomView};

/// "Stripped state should contain some or all of the following state events."
const KINDS: [&str; 7] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// Appends an invite, unless the reader wants none, or ignores who sent it, or the sender's account has ended.
/// "Servers must not send room invites from ignored users to clients."
pub(crate) async fn write_invite(
    out: &mut Vec<u8>,
    view: &RoomView<'_>,
    own: &Arc<StoredEvent>,
) -> Result<(), SyncError> {
    if !is_invite_wanted(view.look, own.event.sender()).await? {
        return Ok(());
    }
    write(out, view, own, "invite_state").await
}

/// Whether the reader is to be told of invites by this user.
pub(crate) async fn is_invite_wanted(look: &Look<'_>, inviter: &UserId) -> Result<bool, SyncError> {
    if look.ignored.contains(inviter) || look.syncs.users.blocks_invites(&look.reader.user_id).await? {
        return Ok(false);
    }
    let account = look.syncs.users.account(inviter).await?;
    Ok(account.is_none_or(|account| !account.deactivated))
}

/// Appends a knock.
pub(crate) async fn write_knock(
    out: &mut Vec<u8>,
    view: &RoomView<'_>,
    own: &Arc<StoredEvent>,
) -> Result<(), SyncError> {
    write(out, view, own, "knock_state").await
}

/// Appends the room with its state as it was just after the reader's member event: what comes later is not theirs.
async fn write(out: &mut Vec<u8>, view: &RoomView<'_>, own: &Arc<StoredEvent>, section: &str) -> Result<(), SyncError> {
    let store = &view.look.syncs.store;
    let mut keys: Vec<StateKeyNumber> = Vec::with_capacity(KINDS.len() + 1);
    for kind in KINDS {
        keys.extend(store.state_key_number(view.room, kind, "").await?);
    }
    keys.extend(store.state_key_number(view.room, "m.room.member", own.event.sender().as_str()).await?);
    // Of an invite that is known only as part of a state that another server gave us, that state is all there is.
    let version = match own.header.state_after {
        StateVersion::UNKNOWN => store.head(view.room).await?.map_or(StateVersion::EMPTY, |head| head.state),
        version => version,
    };
    let numbers = store.state_get_many(view.room, version, &keys).await?;
    let mut numbers: Vec<EventNumber> = numbers.into_iter().flatten().filter(|number| *number != own.number).collect();
    numbers.push(own.number);
    let events = store.events(view.room, &numbers).await?;
    json::name(out, view.room_id.as_str());
    out.push(b'{');
    json::name(out, section);
    json::push(out, "{\"events\":[");
    for event in events.iter().flatten() {
        json::comma(out);
        out.extend_from_slice(&stripped_json(&event.event));
    }
    json::push(out, "]}}");
    Ok(())
}
