//! What remains of a redacted event. [Client-server API, redactions](https://spec.matrix.org/v1.19/client-server-api/#redactions).
//!
//! The redacted form is also what reference hashes and signatures cover.

use bytes::Bytes;
use ruma::room_version_rules::{RedactionRules, RoomVersionRules};

use crate::{
    Event, hash,
    json::{self, Limits, Numbers, Object, Value},
};

/// The event without all that its room version lets a redaction remove. Id, hashes and signatures stay as they are, so
/// the result verifies like the original; `unsigned.redacted_because` is the business of whoever shows it.
pub fn redact(event: &Event) -> Event {
    let limits = Limits { depth_max: json::RECEIVED_DEPTH_MAX, numbers: Numbers::Lenient };
    let tree = json::parse(event.json(), &limits).expect("the event was parsed as JSON before");
    let object = tree.as_object().expect("the event was parsed as an object before");
    let mut out = String::with_capacity(event.json().len());
    write_redacted(&mut out, object, event.kind(), &event.version().rules().redaction, &[]);
    Event::parse_stored(event.version(), event.event_id().to_owned(), event.room_id().to_owned(), Bytes::from(out))
        .expect("redaction keeps every field that an event needs")
        .with_rejected(event.rejected())
}

/// SHA-256 of the redacted form without signatures. Room versions 1 and 2 hash the same, but name events otherwise.
pub(crate) fn reference_hash(event: &Object<'_>, kind: &str, rules: &RoomVersionRules) -> [u8; 32] {
    hash::sha256(&[&signed_text(event, kind, rules)])
}

/// What servers sign: the redacted form without signatures (and `unsigned`, which redaction drops).
pub(crate) fn signed_text(event: &Object<'_>, kind: &str, rules: &RoomVersionRules) -> String {
    let mut out = String::with_capacity(1024);
    write_redacted(&mut out, event, kind, &rules.redaction, &["signatures"]);
    out
}

/// Appends the redacted form, without the keys in `skip`.
pub(crate) fn write_redacted(out: &mut String, event: &Object<'_>, kind: &str, rules: &RedactionRules, skip: &[&str]) {
    event.write_with(out, |key, value, out| {
        if skip.contains(&key) || !is_key_kept(key, rules) {
            return false;
        }
        match (key, value) {
            ("content", Value::Object(content)) => write_redacted_content(out, content, kind, rules),
            _ => value.write(out),
        }
        true
    });
}

fn is_key_kept(key: &str, rules: &RedactionRules) -> bool {
    match key {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "content" | "hashes" | "signatures" | "depth"
        | "prev_events" | "auth_events" | "origin_server_ts" => true,
        "origin" | "membership" | "prev_state" => rules.keep_origin_membership_prev_state,
        _ => false,
    }
}

/// Appends what a redaction leaves of `content`.
pub(crate) fn write_redacted_content(out: &mut String, content: &Object<'_>, kind: &str, rules: &RedactionRules) {
    content.write_with(out, |key, value, out| match (kind, key) {
        // "third_party_invite: the signed key" and no other, from version 11 on.
        ("m.room.member", "third_party_invite") if rules.keep_room_member_third_party_invite_signed => {
            let Value::Object(invite) = value else { return false };
            invite.write_where(out, |key| key == "signed");
            true
        }
        _ if is_content_key_kept(kind, key, rules) => {
            value.write(out);
            true
        }
        _ => false,
    });
}

fn is_content_key_kept(kind: &str, key: &str, rules: &RedactionRules) -> bool {
    match (kind, key) {
        ("m.room.member", "membership")
        | ("m.room.join_rules", "join_rule")
        | ("m.room.history_visibility", "history_visibility")
        | (
            "m.room.power_levels",
            "ban" | "events" | "events_default" | "kick" | "redact" | "state_default" | "users" | "users_default",
        ) => true,
        ("m.room.member", "join_authorised_via_users_server") => {
            rules.keep_room_member_join_authorised_via_users_server
        }
        ("m.room.create", key) => rules.keep_room_create_content || key == "creator",
        ("m.room.join_rules", "allow") => rules.keep_room_join_rules_allow,
        ("m.room.power_levels", "invite") => rules.keep_room_power_levels_invite,
        ("m.room.redaction", "redacts") => rules.keep_room_redaction_redacts,
        ("m.room.aliases", "aliases") => rules.keep_room_aliases_aliases,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_version_rules::RoomVersionRules, server_name};

    use crate::{
        PublicKey, PublicKeys, hash,
        json::{self, Limits},
        keys::verify_text,
    };

    /// The second example of <https://spec.matrix.org/v1.19/appendices/#event-signing>, which as it stands is too small
    /// to be an event of any room.
    #[test]
    fn the_example_with_redactable_content_verifies() {
        let text = r#"{"content": {"body": "Here is the message content"}, "event_id": "$0:domain",
            "hashes": {"sha256": "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"}, "origin": "domain",
            "origin_server_ts": 1000000, "type": "m.room.message", "room_id": "!r:domain", "sender": "@u:domain",
            "signatures": {"domain": {
                "ed25519:1": "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"
            }}, "unsigned": {"age_ts": 1000000}}"#;
        let tree = json::parse(text.as_bytes(), &Limits::EVENT).unwrap();
        let object = tree.as_object().unwrap();
        let signed = super::signed_text(object, "m.room.message", &RoomVersionRules::V1);
        assert!(!signed.contains("body"));
        let mut keys = PublicKeys::default();
        let key = PublicKey::from_base64("XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI", u64::MAX).unwrap();
        keys.insert(server_name!("domain").to_owned(), "ed25519:1".to_owned(), key);
        verify_text(server_name!("domain"), &keys, object, &signed, 0).unwrap();

        let mut hashed = String::new();
        object.write_where(&mut hashed, |key| !matches!(key, "hashes" | "signatures" | "unsigned"));
        assert_eq!(hash::base64(&hash::sha256(&[&hashed])), "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g");
    }
}
