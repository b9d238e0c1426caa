//! Rooms that this server is not in: invites and knocks of which the reader was told from outside, and that they ended.

use hearth_core::{
    Event, RoomVersion,
    format::{client_json, stripped_json},
};
use hearth_store::{
    LoadError, RoomNumber,
    tables::{Membership, OutsideRow},
};
use hearth_users::Fault;
use hearth_view::{PageToken, Unsigned, event_json::age_ms};
use ruma::{EventId, RoomId};

use crate::{
    SyncError, json,
    look::{Look, Sections},
    stripped::is_invite_wanted,
};

/// What the reader was told of a room from outside, if that is what counts: they are not joined, and it is newer than
/// their membership in the room as it is kept here.
pub(crate) async fn load(look: &Look<'_>, room: RoomNumber) -> Result<Option<OutsideRow>, LoadError> {
    if look.live.membership(room) == Some(Membership::Join) {
        return Ok(None);
    }
    let store = &look.syncs.store;
    let Some(row) = store.outside(look.user, room).await? else { return Ok(None) };
    let known = store.membership(look.user, room).await?;
    Ok(Some(row).filter(|row| known.is_none_or(|known| known.position < row.position)))
}

/// Appends the room to its section, if the row is news to the client.
pub(crate) async fn write(
    look: &Look<'_>,
    sections: &mut Sections,
    room: RoomNumber,
    room_id: &RoomId,
    row: &OutsideRow,
) -> Result<(), SyncError> {
    let partition = room.partition();
    // What is above the end of this answer is told by the next one.
    let is_new = look.since.is_none_or(|since| since.positions.at(partition).0 < row.position);
    if row.position > look.now.positions.at(partition).0 || !(is_new || look.wish.full_state) {
        return Ok(());
    }
    let event = event_of(row, room_id).map_err(|reason| Fault::Broken(reason.to_owned()))?;
    match row.membership {
        Membership::Invite => {
            if is_invite_wanted(look, event.sender()).await? {
                write_stripped(&mut sections.invite, room_id, "invite_state", row, &event);
            }
        }
        Membership::Knock => write_stripped(&mut sections.knock, room_id, "knock_state", row, &event),
        // Who syncs for the first time has seen no invite that could have ended.
        Membership::Leave | Membership::Ban if look.since.is_some() => {
            write_leave(look, &mut sections.leave, room_id, row, &event);
        }
        Membership::Leave | Membership::Ban | Membership::Join => {}
    }
    Ok(())
}

fn event_of(row: &OutsideRow, room_id: &RoomId) -> Result<Event, &'static str> {
    let version = RoomVersion::parse(&row.version).ok_or("an invite is of an unknown room version")?;
    let id = EventId::parse(&row.event_id).map_err(|_| "an invite has no id")?;
    let json = row.event.clone().into_bytes().into();
    Event::parse_stored(version, id, room_id.to_owned(), json).map_err(|_| "an invite does not read")
}

/// The state that came along, and the reader's own member event.
fn write_stripped(out: &mut Vec<u8>, room_id: &RoomId, section: &str, row: &OutsideRow, own: &Event) {
    json::name(out, room_id.as_str());
    out.push(b'{');
    json::name(out, section);
    json::push(out, "{\"events\":[");
    for stripped in &row.stripped {
        json::comma(out);
        json::push(out, stripped);
    }
    json::comma(out);
    out.extend_from_slice(&stripped_json(own));
    json::push(out, "]}}");
}

/// The end of an invite or knock: the event by which it ended, and nothing else of the room.
fn write_leave(look: &Look<'_>, out: &mut Vec<u8>, room_id: &RoomId, row: &OutsideRow, event: &Event) {
    let filter = &look.filter.room.timeline;
    let place = PageToken { position: row.position, within: u32::MAX };
    json::name(out, room_id.as_str());
    json::push(out, "{\"timeline\":{\"events\":[");
    if filter.allows(event) && !filter.events.is_nothing() {
        let unsigned = Unsigned { age_ms: Some(age_ms(event, look.now_ms)), ..Unsigned::default() };
        json::comma(out);
        look.format.write(out, event, &client_json(event, false), &unsigned);
    }
    json::push(out, &format!("],\"limited\":false,\"prev_batch\":\"{place}\"}},\"state\":{{\"events\":[]}}}}"));
}
