//! Trust as a type: what another server sent, and each check that it passed.
//! [Checks performed on receipt of a PDU](https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu).
//!
//! [`RawEvent::parse`] is check 1 (format), [`HashedEvent::verify`] is 2 (signatures), [`RawEvent::check_hash`] is 3
//! (hashes; the order of these two does not matter, as signatures cover the redacted form). Checks 4 to 6
//! (authorisation) are in [`crate::auth`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, UserId};

use crate::{
    EVENT_BYTES_MAX, Event, ID_BYTES_MAX, PublicKeys, RoomVersion, SignatureError, hash,
    json::{self, JsonError, Limits, Numbers, Object, Value},
    keys,
    policy::POLICY_KEY_ID,
    redact,
};

/// The most events that one may cite as previous. [Event format](https://spec.matrix.org/v1.19/rooms/v1/#event-format-1).
const PREV_EVENTS_MAX: usize = 20;
/// The most events that one may cite as authorising. [Event format](https://spec.matrix.org/v1.19/rooms/v1/#event-format-1).
const AUTH_EVENTS_MAX: usize = 10;

/// Keys of one server that are asked for to check one event. Servers sign with one, or two while they change it.
pub const KEY_IDS_MAX: usize = 8;

/// Why something is no event of its room version. It is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not JSON, or not as this room version wants it.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Larger than any event may be.
    #[error("event is larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge,
    /// This field is absent or of the wrong shape or size.
    #[error("`{0}` is missing or malformed")]
    Field(&'static str),
}

/// Well-formed, nothing more.
#[derive(Clone, Debug)]
pub struct RawEvent(Event);

/// Its content is what its hashes say, or has been redacted because it is not.
#[derive(Clone, Debug)]
pub struct HashedEvent {
    event: Event,
    is_redacted: bool,
}

/// Signed by all servers that have to.
#[derive(Clone, Debug)]
pub struct SignedEvent {
    event: Event,
    is_redacted: bool,
}

impl RawEvent {
    /// Parses what a server sent. `unsigned` is dropped; everything else is kept, in canonical form. In room versions
    /// 1 to 5 numbers may be of any kind and stay as written.
    pub fn parse(version: RoomVersion, bytes: &[u8]) -> Result<Self, FormatError> {
        let numbers = if version.is_strict_json() { Numbers::Strict } else { Numbers::Lenient };
        let limits = Limits { depth_max: json::RECEIVED_DEPTH_MAX, numbers };
        let Value::Object(mut object) = json::parse(bytes, &limits)? else {
            return Err(FormatError::Field("event"));
        };
        object.remove("unsigned");
        let kind = check_fields(version, &object)?;
        let hash = redact::reference_hash(&object, &kind, version.rules());
        let hash = hash::reference_base64(version, &hash);
        let event_id = match version.has_chosen_event_ids() {
            true => string(&object, "event_id")?.to_owned(),
            false => format!("${hash}"),
        };
        let room_id = match is_hashed_create(version, &kind) {
            true => format!("!{hash}"),
            false => string(&object, "room_id")?.to_owned(),
        };
        let event_id = OwnedEventId::try_from(event_id).map_err(|_| FormatError::Field("event_id"))?;
        let room_id = OwnedRoomId::try_from(room_id).map_err(|_| FormatError::Field("room_id"))?;
        check_v12_auth_events(version, &kind, &room_id, &object)?;
        let mut json = String::with_capacity(bytes.len());
        object.write(&mut json);
        if json.len() > EVENT_BYTES_MAX {
            return Err(FormatError::TooLarge);
        }
        let event = Event::parse_stored(version, event_id, room_id, Bytes::from(json))
            .map_err(|_| FormatError::Field("prev_events or auth_events"))?;
        Ok(Self(event))
    }

    /// Its id, by which duplicates are known before any costly check.
    pub fn event_id(&self) -> &EventId {
        self.0.event_id()
    }

    /// The room that it claims.
    pub fn room_id(&self) -> &RoomId {
        self.0.room_id()
    }

    /// The event, not to be believed yet.
    pub fn unchecked(&self) -> &Event {
        &self.0
    }

    /// Compares the content hash; on mismatch what is left is the redacted form.
    /// [Calculating the content hash](https://spec.matrix.org/v1.19/server-server-api/#calculating-the-content-hash-for-an-event).
    pub fn check_hash(self) -> HashedEvent {
        let event = self.0;
        let is_redacted = !is_content_hash_right(&event);
        let event = if is_redacted { redact::redact(&event) } else { event };
        HashedEvent { event, is_redacted }
    }
}

impl HashedEvent {
    /// The servers whose signatures are needed: ask for their keys.
    /// [Validating hashes and signatures](https://spec.matrix.org/v1.19/server-server-api/#validating-hashes-and-signatures-on-received-events).
    pub fn signers(&self) -> BTreeSet<OwnedServerName> {
        signers(&self.event)
    }

    /// The ids of the keys (`ed25519:…`) by which each of [`Self::signers`] says to have signed, at most
    /// [`KEY_IDS_MAX`] of one server.
    pub fn key_ids(&self) -> BTreeMap<OwnedServerName, BTreeSet<String>> {
        let tree = tree_of(&self.event);
        let signatures = tree.as_object().and_then(|object| object.get("signatures")).and_then(Value::as_object);
        let ids = |server: &OwnedServerName| {
            let signatures = signatures.and_then(|by_server| by_server.get(server.as_str())).and_then(Value::as_object);
            let ids = signatures.into_iter().flat_map(|signatures| signatures.iter()).map(|(id, _)| id.as_ref());
            let ids = ids.filter(|id| id.starts_with("ed25519:") && id.len() <= ID_BYTES_MAX);
            let mut ids: BTreeSet<String> = ids.take(KEY_IDS_MAX).map(str::to_owned).collect();
            // That of a policy server stands in the room's state; nobody publishes it.
            if ids.len() > 1 {
                ids.remove(POLICY_KEY_ID);
            }
            ids
        };
        self.signers().into_iter().map(|server| (server.clone(), ids(&server))).collect()
    }

    /// Checks the signature of each of [`Self::signers`]. Keys must have been valid at the event's time from room
    /// version 5 on.
    pub fn verify(self, keys: &PublicKeys) -> Result<SignedEvent, SignatureError> {
        let Self { event, is_redacted } = self;
        let tree = tree_of(&event);
        let object = tree.as_object().ok_or(SignatureError::Malformed("not an object"))?;
        let rules = event.version().rules();
        let text = redact::signed_text(object, event.kind(), rules);
        let at_ms = if rules.enforce_key_validity { event.origin_server_ts() } else { 0 };
        for server in signers(&event) {
            keys::verify_text(&server, keys, object, &text, at_ms)?;
        }
        drop(tree);
        Ok(SignedEvent { event, is_redacted })
    }

    /// Whether the content hash was wrong, so that only the redacted form is left.
    pub fn is_redacted(&self) -> bool {
        self.is_redacted
    }

    /// The event, not signed yet.
    pub fn unchecked(&self) -> &Event {
        &self.event
    }
}

impl SignedEvent {
    /// The event: truly said by its sender's server. Whether it was allowed is another question.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The same, owned.
    pub fn into_event(self) -> Event {
        self.event
    }

    /// Whether the content hash was wrong, so that only the redacted form is left.
    pub fn is_redacted(&self) -> bool {
        self.is_redacted
    }
}

fn is_hashed_create(version: RoomVersion, kind: &str) -> bool {
    version.has_hashed_room_id() && kind == "m.room.create"
}

fn string<'o>(object: &'o Object<'_>, key: &'static str) -> Result<&'o str, FormatError> {
    let text = object.get(key).and_then(Value::as_str).ok_or(FormatError::Field(key))?;
    if text.len() > ID_BYTES_MAX { Err(FormatError::Field(key)) } else { Ok(text) }
}

/// Presence, types and sizes of the fields that the protocol gives a meaning. Returns the event's type.
fn check_fields(version: RoomVersion, object: &Object<'_>) -> Result<String, FormatError> {
    let kind = string(object, "type")?;
    let sender = string(object, "sender")?;
    <&UserId>::try_from(sender).map_err(|_| FormatError::Field("sender"))?;
    if object.get("state_key").is_some() {
        string(object, "state_key")?;
    }
    if is_hashed_create(version, kind) {
        if object.get("room_id").is_some() {
            return Err(FormatError::Field("room_id"));
        }
    } else {
        string(object, "room_id")?;
    }
    for (key, items_max) in [("prev_events", PREV_EVENTS_MAX), ("auth_events", AUTH_EVENTS_MAX)] {
        let items = object.get(key).and_then(Value::as_array).ok_or(FormatError::Field(key))?;
        if items.len() > items_max || !items.iter().all(|item| is_reference(version, item)) {
            return Err(FormatError::Field(key));
        }
    }
    match object.get("depth") {
        Some(Value::Number(depth)) if !depth.starts_with('-') => {}
        _ => return Err(FormatError::Field("depth")),
    }
    if !matches!(object.get("origin_server_ts"), Some(Value::Number(_))) {
        return Err(FormatError::Field("origin_server_ts"));
    }
    for key in ["content", "hashes", "signatures"] {
        object.get(key).and_then(Value::as_object).ok_or(FormatError::Field(key))?;
    }
    Ok(kind.to_owned())
}

/// `[id, {…}]` in room versions 1 and 2, the id alone since.
fn is_reference(version: RoomVersion, item: &Value<'_>) -> bool {
    let id = match (version.has_chosen_event_ids(), item) {
        (true, Value::Array(pair)) => pair.first().and_then(Value::as_str),
        (false, Value::String(id)) => Some(id.as_ref()),
        _ => None,
    };
    id.is_some_and(|id| id.len() <= ID_BYTES_MAX && <&EventId>::try_from(id).is_ok())
}

/// Version 12: "m.room.create events are no longer in auth_events".
fn check_v12_auth_events(
    version: RoomVersion,
    kind: &str,
    room_id: &RoomId,
    object: &Object<'_>,
) -> Result<(), FormatError> {
    if !version.has_hashed_room_id() || is_hashed_create(version, kind) {
        return Ok(());
    }
    let create = room_id.strip_sigil();
    let items = object.get("auth_events").and_then(Value::as_array).unwrap_or_default();
    let cites_create = items.iter().filter_map(Value::as_str).any(|id| id.strip_prefix('$') == Some(create));
    if cites_create { Err(FormatError::Field("auth_events")) } else { Ok(()) }
}

fn tree_of(event: &Event) -> Value<'_> {
    let limits = Limits { depth_max: json::RECEIVED_DEPTH_MAX, numbers: Numbers::Lenient };
    json::parse(event.json(), &limits).expect("the event was parsed as JSON before")
}

fn is_content_hash_right(event: &Event) -> bool {
    let tree = tree_of(event);
    let Some(object) = tree.as_object() else { return false };
    let stated = object.get("hashes").and_then(Value::as_object).and_then(|hashes| hashes.get("sha256"));
    let Some(stated) = stated.and_then(Value::as_str).and_then(hash::from_base64) else { return false };
    let mut text = String::with_capacity(event.json().len());
    object.write_where(&mut text, |key| !matches!(key, "hashes" | "signatures" | "unsigned"));
    stated == hash::sha256(&[&text])
}

fn signers(event: &Event) -> BTreeSet<OwnedServerName> {
    #[derive(serde::Deserialize)]
    struct Member {
        membership: Option<serde_json::Value>,
        third_party_invite: Option<serde_json::Value>,
        join_authorised_via_users_server: Option<serde_json::Value>,
    }
    let rules = &event.version().rules().signatures;
    let mut servers = BTreeSet::new();
    let member = (event.kind() == "m.room.member").then(|| event.content_as::<Member>().ok()).flatten();
    // "The signature of the sender's server, unless the invite came of a third-party invite": then the identity
    // server's signature inside the content speaks, which the authorisation rules check.
    let is_third_party = member.as_ref().is_some_and(|member| {
        member.third_party_invite.as_ref().is_some_and(serde_json::Value::is_object)
            && member.membership.as_ref().is_some_and(|membership| membership == "invite")
    });
    if !is_third_party {
        servers.insert(event.sender().server_name().to_owned());
    }
    if rules.check_event_id_server {
        servers.extend(event.event_id().server_name().map(ToOwned::to_owned));
    }
    if rules.check_join_authorised_via_users_server {
        let authoriser = member.and_then(|member| member.join_authorised_via_users_server);
        let authoriser = authoriser.as_ref().and_then(serde_json::Value::as_str);
        // An id that is none authorises nothing: the authorisation rules refuse the event.
        let authoriser = authoriser.and_then(|user| <&UserId>::try_from(user).ok());
        servers.extend(authoriser.map(|user| user.server_name().to_owned()));
    }
    servers
}
