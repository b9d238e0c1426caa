//! The form in which one reader gets an event: bytes that all readers share, with the reader's own `unsigned` put in.
//!
//! [Client-server API, room event format](https://spec.matrix.org/v1.19/client-server-api/#room-event-format).
//! Everything is appended to the buffer that becomes the answer; nothing is parsed unless a filter asks for single
//! fields.

use std::collections::BTreeMap;

use hearth_core::{Event, json::write_string};
use serde_json::value::RawValue;

use crate::Membership;

/// What a server adds to an event for the one who reads it. What is absent is not written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsigned<'a> {
    /// Milliseconds since the event was sent; negative if clocks disagree. See [`age_ms`].
    pub age_ms: Option<i64>,
    /// The transaction id, only for the device that sent the event.
    pub transaction_id: Option<&'a str>,
    /// The reader's membership at the event, its own effect included.
    pub membership: Option<Membership>,
    /// The redaction that took effect, as a client event: a JSON object.
    pub redacted_because: Option<&'a [u8]>,
    /// The redaction's id. The specification has it within `redacted_because` only; clients of old look for it here.
    pub redacted_by: Option<&'a str>,
    /// The content of the state event that this one took the place of, for readers who may see that one: JSON.
    pub prev_content: Option<&'a str>,
    /// Who sent the state event that this one took the place of, with `prev_content`.
    pub prev_sender: Option<&'a str>,
    /// The id of the state event that this one took the place of, whoever may see it.
    pub replaces_state: Option<&'a str>,
    /// What other events say of this one, as a JSON object: the value of `m.relations`.
    pub relations: Option<&'a [u8]>,
}

impl Unsigned<'_> {
    /// Appends the object; `{}` if there is nothing in it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        let begin = out.len();
        let name = |out: &mut Vec<u8>, name: &str| {
            if out.len() > begin {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
        };
        if let Some(age_ms) = self.age_ms {
            name(out, "age");
            push_integer(out, age_ms);
        }
        if let Some(relations) = self.relations {
            name(out, "m.relations");
            out.extend_from_slice(relations);
        }
        if let Some(membership) = self.membership {
            name(out, "membership");
            push_string(out, membership.as_str());
        }
        if let Some(content) = self.prev_content {
            name(out, "prev_content");
            out.extend_from_slice(content.as_bytes());
        }
        if let Some(sender) = self.prev_sender {
            name(out, "prev_sender");
            push_string(out, sender);
        }
        if let Some(redaction) = self.redacted_because {
            name(out, "redacted_because");
            out.extend_from_slice(redaction);
        }
        if let Some(event_id) = self.redacted_by {
            name(out, "redacted_by");
            push_string(out, event_id);
        }
        if let Some(event_id) = self.replaces_state {
            name(out, "replaces_state");
            push_string(out, event_id);
        }
        if let Some(transaction_id) = self.transaction_id {
            name(out, "transaction_id");
            push_string(out, transaction_id);
        }
        out.push(b'}');
    }
}

/// The age of an event at `now_ms`, both in milliseconds since the Unix epoch.
pub fn age_ms(event: &Event, now_ms: u64) -> i64 {
    // Neither is above 2^53 by far, so the cast keeps the value.
    (now_ms as i64).saturating_sub(event.origin_server_ts() as i64)
}

/// The form of every event in an answer: `event_format` and `event_fields` of a filter, and what the answer needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventFormat {
    /// `federation`: the event as servers see it.
    pub federation: bool,
    /// The only fields to be sent; `None` is all.
    pub fields: Option<Fields>,
    /// Events have their `room_id`: their place in the answer does not name the room.
    pub names_room: bool,
}

impl EventFormat {
    /// The form without any filter, where events name their room.
    pub const CLIENT: Self = Self { federation: false, fields: None, names_room: true };

    /// Appends one event. `client_json` is what [`hearth_core::format::client_json`] made of it without `room_id`, shared
    /// by all readers.
    pub fn write(&self, out: &mut Vec<u8>, event: &Event, client_json: &[u8], unsigned: &Unsigned<'_>) {
        let Some(fields) = &self.fields else {
            self.write_whole(out, event, client_json, unsigned);
            return;
        };
        let mut whole = Vec::with_capacity(client_json.len() + 256);
        self.write_whole(&mut whole, event, client_json, unsigned);
        // "A server may include more fields than were requested": a text that does not parse is sent as it is.
        match std::str::from_utf8(&whole).ok().and_then(|text| fields.project(text)) {
            Some(projected) => out.extend_from_slice(projected.as_bytes()),
            None => out.extend_from_slice(&whole),
        }
    }

    fn write_whole(&self, out: &mut Vec<u8>, event: &Event, client_json: &[u8], unsigned: &Unsigned<'_>) {
        if !self.federation {
            let room_id = self.names_room.then(|| ("room_id", event.room_id().as_str()));
            write_spliced(out, client_json, room_id, unsigned);
            return;
        }
        // From room version 3 on the event does not hold its id; a client can't know it otherwise.
        let event_id = (!event.version().has_chosen_event_ids()).then(|| ("event_id", event.event_id().as_str()));
        write_spliced(out, event.json(), event_id, unsigned);
    }
}

/// Appends `object` with one more field and `unsigned` put in at its end.
fn write_spliced(out: &mut Vec<u8>, object: &[u8], field: Option<(&str, &str)>, unsigned: &Unsigned<'_>) {
    let Some(open) = object.strip_suffix(b"}") else {
        debug_assert!(false, "an event is a JSON object without white space behind it");
        out.extend_from_slice(object);
        return;
    };
    out.extend_from_slice(open);
    let comma = |out: &mut Vec<u8>| {
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
    };
    if let Some((name, value)) = field {
        comma(out);
        push_string(out, name);
        out.push(b':');
        push_string(out, value);
    }
    let before = out.len();
    comma(out);
    out.extend_from_slice(b"\"unsigned\":");
    let begin = out.len();
    unsigned.write(out);
    if out.len() == begin + 2 {
        out.truncate(before);
    }
    out.push(b'}');
}

/// Appends a text as a JSON string, in quotes.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    // Every byte is looked at, many at a time: nearly all texts are plain.
    let escapes = text.bytes().fold(false, |found, byte| found | (byte < 0x20) | (byte == b'"') | (byte == b'\\'));
    if !escapes {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    write_string(&mut escaped, text);
    out.extend_from_slice(escaped.as_bytes());
}

/// Appends an integer in decimal digits.
pub fn push_integer(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    // 2^63 has 19 digits.
    let (mut digits, mut at, mut rest) = ([b'0'; 19], 19, number.unsigned_abs());
    while rest > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

/// `event_fields` of a filter: [dot-separated paths](https://spec.matrix.org/v1.19/appendices/#dot-separated-property-paths).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(Vec<Vec<String>>);

impl Fields {
    /// The most steps of a path that are followed; what lies deeper comes with its ancestor.
    const STEPS_MAX: usize = 16;

    /// Reads paths. "Any literal dot or backslash found in a property name should be escaped with a backslash"; other
    /// escapes are taken literally.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        Self(paths.into_iter().map(steps).collect())
    }

    /// The object with these fields only; `None` if the text is no JSON object.
    pub fn project(&self, object: &str) -> Option<String> {
        let paths: Vec<&[String]> = self.0.iter().map(|path| &path[..path.len().min(Self::STEPS_MAX)]).collect();
        project(object, &paths)
    }
}

fn steps(path: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = character == '\\' && matches!(characters.peek(), Some('.' | '\\'));
        match (character, steps.last_mut()) {
            ('.', _) => steps.push(String::new()),
            (_, Some(step)) if escaped => step.extend(characters.next()),
            (_, Some(step)) => step.push(character),
            (_, None) => {}
        }
    }
    steps
}

fn project(object: &str, paths: &[&[String]]) -> Option<String> {
    let entries: BTreeMap<String, &RawValue> = serde_json::from_str(object).ok()?;
    let mut out = String::from("{");
    for (name, value) in entries {
        let below: Vec<&[String]> = paths
            .iter()
            .filter_map(|path| path.split_first())
            .filter(|(first, _)| **first == name)
            .map(|(_, rest)| rest)
            .collect();
        if below.is_empty() {
            continue;
        }
        let value = if below.iter().any(|rest| rest.is_empty()) {
            value.get().to_owned()
        } else {
            match project(value.get(), &below) {
                Some(inner) if inner != "{}" => inner,
                _ => continue,
            }
        };
        if out.len() > 1 {
            out.push(',');
        }
        write_string(&mut out, &name);
        out.push(':');
        out.push_str(&value);
    }
    out.push('}');
    Some(out)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hearth_core::RoomVersion;
    use ruma::{owned_event_id, owned_room_id};

    use super::*;

    fn event() -> Event {
        let json = br#"{"auth_events":[],"content":{"body":"a \"b\"","m.relates_to":{"event_id":"$x","rel_type":"y"}},"depth":1,"origin_server_ts":1000,"prev_events":[],"sender":"@a:b","type":"m.room.message"}"#;
        let version = RoomVersion::parse("11").expect("a known version");
        Event::parse_stored(version, owned_event_id!("$event"), owned_room_id!("!room:b"), Bytes::from_static(json))
            .expect("an event")
    }

    fn written(format: &EventFormat, unsigned: &Unsigned<'_>) -> serde_json::Value {
        let event = event();
        let mut out = b"[".to_vec();
        format.write(&mut out, &event, &hearth_core::format::client_json(&event, false), unsigned);
        serde_json::from_slice(&out[1..]).expect("valid JSON")
    }

    #[test]
    fn unsigned_is_complete_and_nothing_else_changes() {
        let all = Unsigned {
            age_ms: Some(age_ms(&event(), 900)),
            transaction_id: Some("a\"\u{1}"),
            membership: Some(Membership::Knock),
            redacted_because: Some(br#"{"type":"m.room.redaction"}"#),
            redacted_by: Some("$r"),
            prev_content: Some(r#"{"n":1}"#),
            prev_sender: Some("@p:q"),
            replaces_state: Some("$old"),
            relations: Some(br#"{"m.thread":{}}"#),
        };
        let mut value = written(&EventFormat::CLIENT, &all);
        let unsigned = value.as_object_mut().and_then(|event| event.remove("unsigned")).expect("it was put in");
        assert_eq!(
            unsigned,
            serde_json::json!({
                "age": -100, "transaction_id": "a\"\u{1}", "membership": "knock",
                "redacted_because": {"type": "m.room.redaction"}, "redacted_by": "$r",
                "prev_content": {"n": 1}, "prev_sender": "@p:q", "replaces_state": "$old", "m.relations": {"m.thread": {}},
            })
        );
        assert_eq!(value, written(&EventFormat::CLIENT, &Unsigned::default()));
        assert!(value.get("unsigned").is_none());
    }

    #[test]
    fn an_event_names_its_room_where_asked() {
        let value = written(&EventFormat::CLIENT, &Unsigned::default());
        assert_eq!(value["room_id"], "!room:b");
        let unnamed = written(&EventFormat::default(), &Unsigned::default());
        assert_eq!((unnamed.get("room_id"), &unnamed["event_id"]), (None, &value["event_id"]));
    }

    #[test]
    fn integers_are_written_as_everywhere() {
        for number in [0, 1, -1, 9, 10, -100, 1_234_567_890, i64::MAX, i64::MIN] {
            let mut out = b"x".to_vec();
            push_integer(&mut out, number);
            assert_eq!(String::from_utf8(out).expect("digits"), format!("x{number}"));
        }
    }

    #[test]
    fn federation_format_is_the_stored_event_with_its_id() {
        let format = EventFormat { federation: true, ..EventFormat::default() };
        let value = written(&format, &Unsigned { age_ms: Some(5), ..Unsigned::default() });
        assert_eq!(
            (&value["depth"], &value["event_id"], &value["unsigned"]["age"]),
            (&1.into(), &"$event".into(), &5.into())
        );
    }

    #[test]
    fn fields_are_chosen_by_path() {
        let fields = |paths: &[&str]| {
            let format = EventFormat { fields: Some(Fields::new(paths.iter().copied())), ..EventFormat::default() };
            written(&format, &Unsigned { age_ms: Some(5), ..Unsigned::default() }).to_string()
        };
        assert_eq!(fields(&["type", "content.body"]), r#"{"content":{"body":"a \"b\""},"type":"m.room.message"}"#);
        assert_eq!(fields(&["content.m\\.relates_to.rel_type"]), r#"{"content":{"m.relates_to":{"rel_type":"y"}}}"#);
        assert_eq!(fields(&["content.m.relates_to"]), "{}");
        assert_eq!(fields(&["content.body.x", "sender.x", "", "unsigned"]), r#"{"unsigned":{"age":5}}"#);
        assert_eq!(fields(&[]), "{}");
        let deep = vec!["a"; 100_000].join(".");
        assert_eq!(fields(&[&deep]), "{}");
    }

    #[test]
    fn paths_unescape_only_dots_and_backslashes() {
        assert_eq!(steps(r"content.m\.a.b\\c.\x"), ["content", "m.a", r"b\c", r"\x"]);
        assert_eq!(steps(r"a\"), [r"a\"]);
    }
}
