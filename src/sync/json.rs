//! Writing the answer: JSON appended to one buffer, with nothing in between.

use hearth_view::event_json::push_string;

/// Begins a further entry of an object or array, or a named value: a comma, unless it is the first. No value ends with
/// an opening bracket or a colon, so the last byte tells.
pub(crate) fn comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[' | b':') | None) {
        out.push(b',');
    }
}

/// Begins a further entry of an object: comma, name, colon.
pub(crate) fn name(out: &mut Vec<u8>, name: &str) {
    comma(out);
    push_string(out, name);
    out.push(b':');
}

/// Appends text that is JSON already.
pub(crate) fn push(out: &mut Vec<u8>, json: &str) {
    out.extend_from_slice(json.as_bytes());
}

/// Appends an event that has only a type and a content: account data, ephemeral events. `content` is JSON.
pub(crate) fn bare_event(out: &mut Vec<u8>, kind: &str, content: &str) {
    comma(out);
    push(out, "{\"content\":");
    push(out, content);
    push(out, ",\"type\":");
    push_string(out, kind);
    out.push(b'}');
}
