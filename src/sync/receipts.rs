//! Typing and receipts of a room.

use hearth_store::{Order, Position};
use hearth_view::{
    delta::{Receipt, Receipts},
    event_json::push_string,
};

use crate::{SyncError, json, view::RoomView};

/// Receipts told of one room at once; a room has one or two for each member who reads.
const RECEIPTS_MAX: usize = 10_000;

/// Appends the `ephemeral` section; says whether there is anything in it. `since`: what the client knows already, `None`
/// where the room is new to it.
pub(crate) async fn write(out: &mut Vec<u8>, view: &RoomView<'_>, since: Option<Order>) -> Result<bool, SyncError> {
    json::name(out, "ephemeral");
    json::push(out, "{\"events\":[");
    let empty = out.len();
    if view.look.filter.room.ephemeral.allows_room(view.room_id.as_str()) {
        write_typing(out, view, since);
        write_receipts(out, view, since).await?;
    }
    let has_news = out.len() > empty;
    json::push(out, "]}");
    Ok(has_news)
}

fn write_typing(out: &mut Vec<u8>, view: &RoomView<'_>, since: Option<Order>) {
    let look = view.look;
    if !look.filter.room.ephemeral.events.allows("m.typing", None) {
        return;
    }
    let serial = match (since, look.since) {
        (Some(_), Some(since)) => since.serial_in(look.now.epoch),
        _ => 0,
    };
    let Some(typing) = look.syncs.users.typing_since(view.room, serial) else { return };
    json::comma(out);
    json::push(out, "{\"content\":{\"user_ids\":[");
    for user in typing.users.iter().filter(|user| !look.ignored.contains(*user)) {
        json::comma(out);
        push_string(out, user.as_str());
    }
    json::push(out, "]},\"type\":\"m.typing\"}");
}

async fn write_receipts(out: &mut Vec<u8>, view: &RoomView<'_>, since: Option<Order>) -> Result<(), SyncError> {
    let look = view.look;
    if !look.filter.room.ephemeral.events.allows("m.receipt", None) {
        return Ok(());
    }
    let since = Position(since.map_or(0, |since| since.position));
    let until = look.now.positions.at(view.room.partition());
    let found = look.syncs.users.receipts_since(view.room, look.user, since, until, RECEIPTS_MAX).await?;
    let mut receipts = Receipts::default();
    for receipt in &found {
        receipts.push(Receipt {
            event_id: receipt.event_id.as_str(),
            kind: receipt.kind.name(),
            user_id: receipt.user_id.as_str(),
            ts_ms: receipt.ts_ms,
            thread: receipt.thread.as_deref(),
        });
    }
    for event in receipts.events() {
        json::comma(out);
        out.extend_from_slice(&event);
    }
    Ok(())
}
