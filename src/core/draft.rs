//! Making an event of ours: canonical, hashed, signed and named, with each part serialised once.
//!
//! [Signing events](https://spec.matrix.org/v1.19/server-server-api/#signing-events).

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName};
use serde::Serialize;
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    EVENT_BYTES_MAX, Event, ID_BYTES_MAX, INTEGER_MAX, RoomVersion, SigningKey, hash,
    json::{self, JsonError, Limits, Numbers, Object, Value, write_string},
    keys, redact,
};

/// What somebody wants to say, before it has a place in the room.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The event's type.
    pub kind: String,
    /// Present on state events.
    pub state_key: Option<String>,
    /// A JSON object. Floats and integers outside ±(2^53 − 1) are refused in every room version.
    pub content: Box<RawJsonValue>,
    /// Who says it.
    pub sender: OwnedUserId,
    /// The target of an `m.room.redaction`; written where the room version wants it.
    pub redacts: Option<OwnedEventId>,
    /// Milliseconds since the Unix epoch.
    pub origin_server_ts_ms: u64,
}

impl Draft {
    /// A message-like event. Fails if `content` is no JSON.
    pub fn message(
        kind: &str,
        sender: OwnedUserId,
        content: &impl Serialize,
        now_ms: u64,
    ) -> Result<Self, serde_json::Error> {
        let content = serde_json::value::to_raw_value(content)?;
        let kind = kind.to_owned();
        Ok(Self { kind, state_key: None, content, sender, redacts: None, origin_server_ts_ms: now_ms })
    }

    /// A state event. Fails if `content` is no JSON.
    pub fn state(
        kind: &str,
        state_key: &str,
        sender: OwnedUserId,
        content: &impl Serialize,
        now_ms: u64,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self { state_key: Some(state_key.to_owned()), ..Self::message(kind, sender, content, now_ms)? })
    }
}

/// A new event's place in the room's graph.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// The events just before it.
    pub prev_events: Vec<OwnedEventId>,
    /// The state events that allow it: those in force for [`crate::auth_types`].
    pub auth_events: Vec<OwnedEventId>,
    /// One more than the deepest of `prev_events`.
    pub depth: u64,
    /// [`Event::reference_hash`] of the cited events. Room versions 1 and 2 write them beside the ids (an id without
    /// a hash here is cited with an empty object); others ignore them.
    pub hashes: BTreeMap<OwnedEventId, String>,
}

/// Why an event cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The content is no canonical JSON object: `M_BAD_JSON`.
    #[error("content: {0}")]
    Content(#[from] JsonError),
    /// The content is JSON, but no object: `M_BAD_JSON`.
    #[error("content must be an object")]
    ContentNotObject,
    /// The whole event is too large: `M_TOO_LARGE`.
    #[error("event is larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge,
    /// This field is too long: `M_TOO_LARGE`.
    #[error("{0} is longer than {ID_BYTES_MAX} bytes")]
    FieldTooLong(&'static str),
    /// Our own mistake: no room id where one is needed, no id where the version wants a chosen one.
    #[error("{0} is missing")]
    Incomplete(&'static str),
}

/// Makes the event: canonical JSON, content hash, signature by `server_name`, event id.
///
/// `room_id` is `None` only for the create event of a room whose version derives the id from that event.
/// `opaque_id` becomes `$opaque_id:server_name` in room versions 1 and 2; others ignore it.
pub fn build(
    draft: &Draft,
    references: &References,
    room_id: Option<&RoomId>,
    version: RoomVersion,
    key: &SigningKey,
    server_name: &ServerName,
    opaque_id: Option<&str>,
) -> Result<Event, BuildError> {
    let is_hashed_create = version.has_hashed_room_id() && draft.kind == "m.room.create";
    let room_id = if is_hashed_create { None } else { Some(room_id.ok_or(BuildError::Incomplete("room_id"))?) };
    let chosen_id = match (version.has_chosen_event_ids(), opaque_id) {
        (false, _) => None,
        (true, None) => return Err(BuildError::Incomplete("event_id")),
        (true, Some(opaque)) => Some(format!("${opaque}:{server_name}")),
    };
    check_lengths(draft, room_id, chosen_id.as_deref())?;

    let mut content = json::parse(draft.content.get().as_bytes(), &Limits::EVENT)?;
    let Value::Object(object) = &mut content else { return Err(BuildError::ContentNotObject) };
    if let Some(target) = draft.redacts.as_ref().filter(|_| version.redacts_in_content()) {
        object.insert(Cow::Borrowed("redacts"), Value::String(Cow::Owned(target.to_string())));
    }
    let mut whole = String::with_capacity(draft.content.get().len() + 64);
    object.write(&mut whole);
    let mut redacted = String::new();
    redact::write_redacted_content(&mut redacted, object, &draft.kind, &version.rules().redaction);

    let parts = Parts::of(draft, references, room_id, version, chosen_id.as_deref());
    let Parts { head, place, times, redacts, names, end } = &parts;
    let content_hash = hash::base64(&hash::sha256(&[head, &whole, place, times, redacts, names, end]));
    let hashes = format!(",\"hashes\":{{\"sha256\":\"{content_hash}\"}}");
    // Of the top-level fields that we write, redaction drops only `redacts`.
    let signed = [head, &*redacted, place, &hashes, times, names, end].concat();
    let mut signatures = String::with_capacity(160);
    write_signatures(&mut signatures, key, server_name, &signed);
    let json = [head, &*whole, place, &hashes, times, redacts, names, &signatures, end].concat();
    if json.len() > EVENT_BYTES_MAX {
        return Err(BuildError::TooLarge);
    }
    let (event_id, room_id) = names_of(version, chosen_id, room_id, &signed)?;
    Ok(Event::parse_stored(version, event_id, room_id, Bytes::from(json)).expect("we have just written it"))
}

/// Adds our signature to another server's event, as a server does whose user is invited.
/// [`PUT /invite`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid).
pub fn cosign(event: &Event, key: &SigningKey, server_name: &ServerName) -> Result<Event, BuildError> {
    with_signature(event, |object| {
        let signed = redact::signed_text(object, event.kind(), event.version().rules());
        keys::add_signature(object, server_name, key.id(), key.sign_bytes(signed.as_bytes()));
    })
}

/// The event with what `sign` adds to its object, which must be a signature and nothing else.
pub(crate) fn with_signature(event: &Event, sign: impl FnOnce(&mut Object<'_>)) -> Result<Event, BuildError> {
    let limits = Limits { depth_max: json::RECEIVED_DEPTH_MAX, numbers: Numbers::Lenient };
    let Value::Object(mut object) = json::parse(event.json(), &limits)? else {
        return Err(BuildError::ContentNotObject);
    };
    sign(&mut object);
    let mut json = String::with_capacity(event.json().len() + 160);
    object.write(&mut json);
    if json.len() > EVENT_BYTES_MAX {
        return Err(BuildError::TooLarge);
    }
    let (event_id, room_id) = (event.event_id().to_owned(), event.room_id().to_owned());
    Ok(Event::parse_stored(event.version(), event_id, room_id, Bytes::from(json))
        .expect("only a signature was added")
        .with_rejected(event.rejected()))
}

/// The event's fields as text, in canonical order, around what is filled in between.
struct Parts {
    /// `{"auth_events":…,"content":`; then the content.
    head: String,
    /// `,"depth":…` and, where chosen, `,"event_id":…`; then the hashes.
    place: String,
    /// `,"origin_server_ts":…,"prev_events":…`
    times: String,
    /// `,"redacts":…` or nothing.
    redacts: String,
    /// `,"room_id":…,"sender":…`; then the signatures.
    names: String,
    /// `,"state_key":…,"type":…}`
    end: String,
}

impl Parts {
    fn of(
        draft: &Draft,
        references: &References,
        room_id: Option<&RoomId>,
        version: RoomVersion,
        chosen_id: Option<&str>,
    ) -> Self {
        let mut head = String::from("{\"auth_events\":");
        write_references(&mut head, &references.auth_events, references, version);
        head.push_str(",\"content\":");

        let mut place = format!(",\"depth\":{}", references.depth.min(INTEGER_MAX));
        write_field(&mut place, "event_id", chosen_id);

        let mut times =
            format!(",\"origin_server_ts\":{},\"prev_events\":", draft.origin_server_ts_ms.min(INTEGER_MAX));
        write_references(&mut times, &references.prev_events, references, version);

        let mut redacts = String::new();
        if !version.redacts_in_content() {
            write_field(&mut redacts, "redacts", draft.redacts.as_ref().map(|id| id.as_str()));
        }

        let mut names = String::new();
        write_field(&mut names, "room_id", room_id.map(RoomId::as_str));
        write_field(&mut names, "sender", Some(draft.sender.as_str()));

        let mut end = String::new();
        write_field(&mut end, "state_key", draft.state_key.as_deref());
        write_field(&mut end, "type", Some(&draft.kind));
        end.push('}');
        Self { head, place, times, redacts, names, end }
    }
}

/// Appends `,"name":"value"`, or nothing.
fn write_field(out: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        out.push_str(",\"");
        out.push_str(name);
        out.push_str("\":");
        write_string(out, value);
    }
}

fn write_references(out: &mut String, ids: &[OwnedEventId], references: &References, version: RoomVersion) {
    out.push('[');
    for (index, id) in ids.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        if !version.has_chosen_event_ids() {
            write_string(out, id.as_str());
            continue;
        }
        out.push('[');
        write_string(out, id.as_str());
        out.push_str(",{");
        if let Some(hash) = references.hashes.get(id) {
            out.push_str("\"sha256\":");
            write_string(out, hash);
        }
        out.push_str("}]");
    }
    out.push(']');
}

fn write_signatures(out: &mut String, key: &SigningKey, server_name: &ServerName, signed: &str) {
    out.push_str(",\"signatures\":{");
    write_string(out, server_name.as_str());
    out.push_str(":{");
    write_string(out, key.id());
    out.push(':');
    write_string(out, &key.sign_bytes(signed.as_bytes()));
    out.push_str("}}");
}

/// The event's id, and the room's, which the create event of version 12 names by its own hash.
fn names_of(
    version: RoomVersion,
    chosen_id: Option<String>,
    room_id: Option<&RoomId>,
    signed: &str,
) -> Result<(OwnedEventId, OwnedRoomId), BuildError> {
    let hash = hash::reference_base64(version, &hash::sha256(&[signed]));
    let event_id = chosen_id.unwrap_or_else(|| format!("${hash}"));
    let event_id = OwnedEventId::try_from(event_id).map_err(|_| BuildError::Incomplete("event_id"))?;
    let room_id = match room_id {
        Some(room_id) => room_id.to_owned(),
        None => OwnedRoomId::try_from(format!("!{hash}")).map_err(|_| BuildError::Incomplete("room_id"))?,
    };
    Ok((event_id, room_id))
}

fn check_lengths(draft: &Draft, room_id: Option<&RoomId>, chosen_id: Option<&str>) -> Result<(), BuildError> {
    let fields = [
        ("sender", draft.sender.as_str()),
        ("type", &draft.kind),
        ("state_key", draft.state_key.as_deref().unwrap_or_default()),
        ("room_id", room_id.map(RoomId::as_str).unwrap_or_default()),
        ("event_id", chosen_id.unwrap_or_default()),
    ];
    match fields.into_iter().find(|(_, value)| value.len() > ID_BYTES_MAX) {
        Some((name, _)) => Err(BuildError::FieldTooLong(name)),
        None => Ok(()),
    }
}
