//! Messages to the reader's device.
//! [Extensions to /sync](https://spec.matrix.org/v1.19/client-server-api/#extensions-to-sync).

use hearth_store::UserNumber;
use hearth_view::event_json::push_string;

use crate::{Reader, SyncError, Syncs, json, look::Look, place::Place};

/// Messages of one answer: "100 messages is recommended as a reasonable limit".
const MESSAGES_MAX: usize = 100;

/// Before every message, as [`Place::to_device`].
pub(crate) const NONE: u64 = 1;

/// Who comes with a token has what was handed out with it.
pub(crate) async fn note_delivered(syncs: &Syncs, user: UserNumber, reader: &Reader, since: &Place) {
    let until = since.to_device_until(user);
    if let Err(fault) = syncs.users.delivered_to_device(user, &reader.device_id, until).await {
        // The next sync does it.
        tracing::warn!(%fault, "messages that a device has were not deleted");
    }
}

/// Appends the section, if there is anything in it. `None`: there is not; else where the answer ends before the last
/// message that waits.
pub(crate) async fn write(out: &mut Vec<u8>, look: &Look<'_>) -> Result<Option<Option<u64>>, SyncError> {
    let after = match look.since {
        Some(since) if since.to_device == 0 && !look.live.own_since(&since.positions) => return Ok(None),
        Some(since) => since.to_device_until(look.user),
        None => 0,
    };
    let until = look.now.positions.at(look.user.partition()).0;
    let users = &look.syncs.users;
    let waiting = users.messages_to_device(look.user, &look.reader.device_id, (after, until), MESSAGES_MAX).await?;
    if waiting.messages.is_empty() {
        return Ok(None);
    }
    json::name(out, "to_device");
    json::push(out, "{\"events\":[");
    for message in &waiting.messages {
        json::comma(out);
        json::push(out, "{\"content\":");
        json::push(out, &message.content);
        json::push(out, ",\"sender\":");
        push_string(out, &message.sender);
        json::push(out, ",\"type\":");
        push_string(out, &message.kind);
        json::push(out, "}");
    }
    json::push(out, "]}");
    Ok(Some(waiting.more_behind))
}
