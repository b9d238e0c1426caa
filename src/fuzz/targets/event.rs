//! Events of other servers through all checks that need no store: format, hash, signatures, authorisation, redaction, in
//! every room version.
//!
//! The input is the version's number, 1 to 12 as one hexadecimal digit, and a JSON object. It is looked at as it is, then
//! with what it lacks to be an event of the room, hashed and signed by the servers that it needs. `"fill"` makes it longer.

#![no_main]

use hearth_core::{
    EVENT_BYTES_MAX, Event, FormatError, HashedEvent, ID_BYTES_MAX, INTEGER_MAX, PublicKeys, RawEvent, RoomVersion,
    auth, cosign, format, redact,
};
use hearth_fuzz::{
    Fields, canonical, object_without, raw,
    room::{ALICE, BOB, Base, DAN, base},
    sign::{KEY, Signed, US, keys_of, sign},
};
use libfuzzer_sys::fuzz_target;
use ruma::{EventId, UserId, server_name};
use serde_json::json;

fuzz_target!(|input: &[u8]| {
    let Some((digit, json)) = input.split_first() else { return };
    let number = char::from(*digit).to_digit(16).and_then(|number| u8::try_from(number).ok());
    let Some(version) = number.and_then(RoomVersion::from_number) else { return };
    if let Ok(event) = RawEvent::parse(version, json) {
        is_one_event(version, event);
    }
    let Ok(mut fields) = serde_json::from_slice::<Fields>(json) else { return };
    fill(&mut fields);
    let base = base(version);
    let Some(signed) = sign(version, &base.completed(fields)) else { return };
    match RawEvent::parse(version, signed.text.as_bytes()) {
        Ok(event) => {
            let event = is_one_event(version, event);
            if let Some(event) = is_checked(version, event, &signed) {
                is_decided(base, &event);
            }
        }
        // Signatures have made it too large.
        Err(error) => assert!(error == FormatError::TooLarge && signed.text.len() > EVENT_BYTES_MAX, "{error}"),
    }
});

/// `"fill": 60000` becomes a text of that length: the fuzzer itself makes no long ones.
fn fill(fields: &mut Fields) {
    let length = fields.remove("fill").and_then(|value| value.get().parse::<usize>().ok());
    if let Some(length) = length {
        fields.insert("filling".to_owned(), raw(&"a".repeat(length.min(2 * EVENT_BYTES_MAX))));
    }
}

/// What holds of everything that has an event's form. Returns it as it was.
fn is_one_event(version: RoomVersion, raw: RawEvent) -> RawEvent {
    let event = raw.unchecked();
    assert!(event.json().len() <= EVENT_BYTES_MAX);
    assert_eq!(canonical(event.json()).as_deref(), Some(event.json_str()), "it is canonical");
    let ids = [event.kind(), event.sender().as_str(), event.state_key().unwrap_or_default()];
    assert!(ids.iter().all(|id| id.len() <= ID_BYTES_MAX));
    assert!(event.prev_events().len() <= 20 && event.auth_events().len() <= 10);
    assert!(event.origin_server_ts() <= INTEGER_MAX, "{event:?}");

    let fields: Fields = serde_json::from_slice(event.json()).expect("an event is an object");
    assert!(!fields.contains_key("unsigned"));
    same(&reparsed(version, event.json()), event);
    let mut fields = fields;
    fields.insert("unsigned".to_owned(), hearth_fuzz::raw(&json!({ "age": 1, "redacted_because": {} })));
    let with_unsigned = object_without(&fields, &[]).expect("an event is JSON");
    same(&reparsed(version, with_unsigned.as_bytes()), event);
    let (id, room_id) = (event.event_id().to_owned(), event.room_id().to_owned());
    same(&Event::from_store(version, id, room_id, event.json().clone()).expect("it was stored"), event);
    is_redacted(version, event);
    is_shown(event);
    raw
}

fn reparsed(version: RoomVersion, json: &[u8]) -> Event {
    RawEvent::parse(version, json).expect("it was an event before").unchecked().clone()
}

fn same(one: &Event, other: &Event) {
    assert_eq!((one.event_id(), one.room_id(), one.json_str()), (other.event_id(), other.room_id(), other.json_str()));
    assert_eq!((one.prev_events(), one.auth_events()), (other.prev_events(), other.auth_events()));
    assert_eq!(
        (one.redacts(), one.depth(), one.content_json()),
        (other.redacts(), other.depth(), other.content_json())
    );
}

/// Redacting takes nothing that the id covers, and the second time nothing at all.
fn is_redacted(version: RoomVersion, event: &Event) {
    let redacted = redact(event);
    assert_eq!(redact(&redacted).json_str(), redacted.json_str(), "redacting again changes nothing");
    assert!(redacted.json().len() <= event.json().len());
    assert_eq!(reparsed(version, redacted.json()).event_id(), event.event_id(), "the id stays");
    assert_eq!(redacted.reference_hash(), event.reference_hash());
    assert_eq!(redacted.state_pair(), event.state_pair());
    assert_eq!((redacted.prev_events(), redacted.auth_events()), (event.prev_events(), event.auth_events()));
    assert_eq!(redacted.membership(), event.membership(), "who is a member stays one");
}

/// What clients are given is JSON and names the event.
fn is_shown(event: &Event) {
    let shown = [format::client_json(event, true), format::stripped_json(event)];
    for json in shown {
        let shown: Fields = serde_json::from_slice(&json).expect("clients are given JSON");
        assert_eq!(serde_json::from_str::<String>(shown["type"].get()).ok().as_deref(), Some(event.kind()));
        assert_eq!(
            serde_json::from_str::<String>(shown["sender"].get()).ok().as_deref(),
            Some(event.sender().as_str())
        );
        assert!(shown["content"].get().starts_with('{'));
    }
    let spliced = format::splice_unsigned(&format::client_json(event, true), "{\"age\":1}");
    let spliced: Fields = serde_json::from_slice(&spliced).expect("clients are given JSON");
    assert_eq!(spliced["unsigned"].get(), "{\"age\":1}");
}

/// What is hashed and signed passes; what was changed does not. Returns the event, if all that have to signed it.
fn is_checked(version: RoomVersion, event: RawEvent, signed: &Signed) -> Option<hearth_core::SignedEvent> {
    let mut fields: Fields = serde_json::from_str(&signed.text).expect("an event is an object");
    let hashed = event.check_hash();
    assert!(!hashed.is_redacted(), "its hash is right");
    assert_eq!(hashed.signers(), signed.signers);
    let keys = keys_of(signed.signers.iter().filter(|server| *server != US).cloned());
    assert!(signed.signers.is_empty() || hashed.clone().verify(&PublicKeys::default()).is_err());

    // A change of what redaction keeps breaks the signatures, any other the hash alone.
    fields.insert("origin_server_ts".to_owned(), raw(&json!(7)));
    let moved = hash_of(version, &fields);
    if moved.as_ref().is_some_and(|moved| moved.unchecked().json_str() != hashed.unchecked().json_str()) {
        let moved = moved.expect("it is there");
        assert!(moved.is_redacted(), "the hash covers everything");
        let is_signed = signed.signers.iter().any(|server| server != US);
        assert!(!is_signed || moved.verify(&keys).is_err(), "signatures cover the time");
    }
    let mut fields: Fields = serde_json::from_str(&signed.text).expect("an event is an object");
    fields.insert("net.example.extra".to_owned(), raw(&json!("added")));
    let added = hash_of(version, &fields).filter(|added| added.unchecked().event_id() == hashed.unchecked().event_id());
    let is_from_us = signed.signers.iter().any(|server| server == US);
    if let Some(added) = added {
        assert!(added.is_redacted() && !added.unchecked().json_str().contains("net.example.extra\":\"added"));
        assert_eq!(added.verify(&keys).is_ok(), !is_from_us, "signatures cover the redacted form");
    }
    match hashed.verify(&keys) {
        Ok(event) => {
            assert!(!is_from_us, "nobody signs in our name");
            Some(event)
        }
        Err(error) => {
            assert!(is_from_us, "{error}");
            None
        }
    }
}

fn hash_of(version: RoomVersion, fields: &Fields) -> Option<HashedEvent> {
    Some(RawEvent::parse(version, object_without(fields, &[])?.as_bytes()).ok()?.check_hash())
}

/// What the room's rules never allow is not allowed.
fn is_decided(base: &Base, event: &hearth_core::SignedEvent) {
    let fetch = |id: &EventId| base.events.iter().find(|event| event.event_id() == id).cloned();
    let state = |kind: &str, state_key: &str| base.state.get(&(kind.to_owned(), state_key.to_owned())).cloned();
    let decided = auth::admit_received(event.clone(), fetch, state);
    let event = event.event();
    if let Ok(with_ours) = cosign(event, &KEY, server_name!("fourth.test")) {
        assert_eq!(
            reparsed(base.version, with_ours.json()).event_id(),
            event.event_id(),
            "a signature is not in the id"
        );
    }
    if decided.is_err() || event.room_id() != base.room_id {
        return;
    }
    let sender = event.sender();
    assert_ne!(sender, ALICE, "she is ours");
    assert!(!event.is_create(), "there is one create event: {event:?}");
    if event.kind() == "m.room.aliases" && event.version() <= RoomVersion::V5 {
        assert_eq!(event.state_key(), Some(sender.server_name().as_str()));
        return;
    }
    assert_ne!(sender, DAN, "who is banned does nothing");
    let is_in = |user: &UserId| {
        let member = state("m.room.member", user.as_str());
        member.is_some_and(|event| event.membership().is_some_and(|membership| membership.as_str() == "join"))
    };
    let is_member = event.kind() == "m.room.member" && event.is_state();
    let is_own = event.state_key() == Some(sender.as_str());
    assert!(is_in(sender) || is_member, "who is not in the room says nothing in it: {event:?}");
    if event.is_state() && !is_member {
        assert_eq!(sender, BOB, "only Bob may set state: {event:?}");
        let reserved = ["m.room.power_levels", "m.room.join_rules", "m.room.history_visibility", "m.room.server_acl"];
        assert!(!reserved.contains(&event.kind()), "that is Alice's: {event:?}");
    }
    if is_member && !is_own {
        let membership = event.membership().map(|membership| membership.to_string());
        match membership.as_deref() {
            Some("invite") => assert!(event.state_key() != Some(DAN)),
            Some("leave") => assert!(sender == BOB && ![Some(ALICE), Some(DAN)].contains(&event.state_key())),
            other => panic!("nobody but Alice may do that to others: {other:?} {event:?}"),
        }
    }
}
