//! Events as clients see them. [Room event format](https://spec.matrix.org/v1.19/client-server-api/#room-event-format).
//!
//! The content's bytes are copied as they are. `unsigned` is the reader's own, so it is spliced in last.

use bytes::Bytes;

use crate::{
    Event,
    json::{self, Limits, Numbers, Value, write_string},
};

/// The client event without `unsigned`: `{"content":…,"event_id":…,…}`. `room_id` is left out where the place in the
/// answer names the room. The target of a redaction stands both at top level and in `content`, whatever the version.
pub fn client_json(event: &Event, with_room_id: bool) -> Bytes {
    let mut out = String::with_capacity(event.content_json().len() + 256);
    out.push_str("{\"content\":");
    write_content(&mut out, event);
    write_field(&mut out, "event_id", event.event_id().as_str());
    out.push_str(",\"origin_server_ts\":");
    out.push_str(&event.origin_server_ts().to_string());
    if let Some(target) = event.redacts() {
        write_field(&mut out, "redacts", target.as_str());
    }
    if with_room_id {
        write_field(&mut out, "room_id", event.room_id().as_str());
    }
    write_field(&mut out, "sender", event.sender().as_str());
    if let Some(state_key) = event.state_key() {
        write_field(&mut out, "state_key", state_key);
    }
    write_field(&mut out, "type", event.kind());
    out.push('}');
    Bytes::from(out)
}

/// Puts `"unsigned":…` into what [`client_json`] wrote. `unsigned_json` is an object; an empty one is left out.
pub fn splice_unsigned(client_json: &Bytes, unsigned_json: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(client_json.len() + unsigned_json.len() + 16);
    let Some(open) = client_json.strip_suffix(b"}").filter(|_| !matches!(unsigned_json, "" | "{}")) else {
        out.extend_from_slice(client_json);
        return out;
    };
    out.extend_from_slice(open);
    out.extend_from_slice(b",\"unsigned\":");
    out.extend_from_slice(unsigned_json.as_bytes());
    out.push(b'}');
    out
}

/// The stripped form for those who are invited or knock: content, sender, state key, type.
/// [Stripped state](https://spec.matrix.org/v1.19/client-server-api/#stripped-state).
pub fn stripped_json(event: &Event) -> Bytes {
    let mut out = String::with_capacity(event.content_json().len() + 128);
    out.push_str("{\"content\":");
    out.push_str(event.content_json());
    write_field(&mut out, "sender", event.sender().as_str());
    write_field(&mut out, "state_key", event.state_key().unwrap_or_default());
    write_field(&mut out, "type", event.kind());
    out.push('}');
    Bytes::from(out)
}

fn write_content(out: &mut String, event: &Event) {
    let target = event.redacts().filter(|_| !event.version().redacts_in_content());
    let Some(target) = target else {
        out.push_str(event.content_json());
        return;
    };
    let limits = Limits { depth_max: json::RECEIVED_DEPTH_MAX, numbers: Numbers::Lenient };
    match json::parse(event.content_json().as_bytes(), &limits) {
        Ok(Value::Object(mut content)) => {
            content.insert("redacts".into(), Value::String(target.to_string().into()));
            content.write(out);
        }
        _ => out.push_str(event.content_json()),
    }
}

fn write_field(out: &mut String, name: &str, value: &str) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    write_string(out, value);
}
