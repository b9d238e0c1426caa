use bytes::Bytes;
use hearth_core::{
    BuildError, Draft, Event, JsonError, RawEvent, References, RoomVersion, SigningKey, build, draft::cosign, redact,
};
use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use ruma::{OwnedEventId, RoomId, ServerName, UserId, room_id, server_name, user_id};
use serde_json::{Value, json, value::to_raw_value};

use crate::room::public_keys;

fn key() -> SigningKey {
    crate::room::key_of(server_name!("one"))
}

fn draft(kind: &str, content: &Value) -> Draft {
    Draft::message(kind, user_id!("@alice:one").to_owned(), content, 1_700_000_000_000).unwrap()
}

fn made(draft: &Draft, version: RoomVersion) -> Result<Event, BuildError> {
    let references = References { depth: 3, ..References::default() };
    build(draft, &references, Some(room_id!("!r:one")), version, &key(), server_name!("one"), Some("x1"))
}

fn versions() -> impl Strategy<Value = RoomVersion> {
    prop::sample::select(RoomVersion::ALL.to_vec())
}

fn ids(count: usize) -> impl Strategy<Value = Vec<OwnedEventId>> {
    let id = "[A-Za-z0-9]{43}".prop_map(|hash| OwnedEventId::try_from(format!("${hash}:one")).unwrap());
    prop::collection::vec(id, 0..count)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What we build is what we read back, what others read, and what its signature says; ruma agrees on every hash.
    #[test]
    fn built_events_read_back_and_verify(
        version in versions(),
        kind in prop_kind(),
        state_key in prop::option::of(any::<String>().prop_filter("size", |key| key.len() < 200)),
        body in any::<String>(),
        number in -1000_i64..1000,
        prev_events in ids(5),
        auth_events in ids(4),
        depth in 0_u64..1_000_000,
        redacts in prop::option::of(ids(2)),
    ) {
        let content = json!({ "body": body, "membership": "join", "ban": number, "users": { "@a:b": 1 }, "z": [null] });
        let mut draft = draft(&kind, &content);
        draft.state_key = state_key.clone();
        draft.redacts = redacts.and_then(|ids| ids.first().cloned()).filter(|_| kind == "m.room.redaction");
        let references = References { prev_events: prev_events.clone(), auth_events: auth_events.clone(), depth, ..References::default() };
        let event = build(&draft, &references, Some(room_id!("!r:one")), version, &key(), server_name!("one"), Some("x"))
            .unwrap();

        prop_assert_eq!(event.kind(), &kind);
        prop_assert_eq!(event.state_key(), state_key.as_deref());
        prop_assert_eq!(event.prev_events(), &prev_events);
        prop_assert_eq!(event.auth_events(), &auth_events);
        prop_assert_eq!(event.depth(), depth);
        prop_assert_eq!(event.redacts(), draft.redacts.as_deref());
        prop_assert_eq!(event.sender(), user_id!("@alice:one"));
        let mut wanted = content.clone();
        if let Some(target) = draft.redacts.as_ref().filter(|_| version.redacts_in_content()) {
            wanted["redacts"] = json!(target);
        }
        prop_assert_eq!(event.content_as::<Value>().unwrap(), wanted);

        let raw = RawEvent::parse(version, event.json()).unwrap();
        prop_assert_eq!(raw.event_id(), event.event_id());
        prop_assert_eq!(raw.room_id(), event.room_id());
        prop_assert_eq!(raw.unchecked().json(), event.json());
        let hashed = raw.check_hash();
        prop_assert!(!hashed.is_redacted());
        let signed = hashed.verify(&public_keys(&["one"])).unwrap();
        prop_assert_eq!(signed.event().json(), event.json());

        let object: ruma::CanonicalJsonObject = serde_json::from_slice(event.json()).unwrap();
        let reference = ruma::signatures::reference_hash(&object, version.rules()).unwrap();
        if !version.has_chosen_event_ids() {
            prop_assert_eq!(event.event_id().as_str(), format!("${reference}"));
        }
        let hash = ruma::signatures::content_hash(&object).unwrap().encode();
        prop_assert_eq!(object["hashes"].as_object().unwrap()["sha256"].as_str(), Some(&*hash));
        let rumas = ruma::canonical_json::redact(object, &version.rules().redaction, None).unwrap();
        let ours = redact(&event);
        prop_assert_eq!(ours.json_str(), serde_json::to_string(&rumas).unwrap());
        prop_assert_eq!(ours.event_id(), event.event_id());
    }
}

fn prop_kind() -> impl Strategy<Value = String> {
    let known = [
        "m.room.message",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.redaction",
        "m.room.aliases",
        "odd \"type\"\n",
    ];
    prop::sample::select(known.map(str::to_owned).to_vec())
}

#[test]
fn the_create_event_of_version_12_names_the_room() {
    let mut draft = draft("m.room.create", &json!({ "room_version": "12" }));
    draft.state_key = Some(String::new());
    let (key, server) = (key(), server_name!("one"));
    let create = build(&draft, &References::default(), None, RoomVersion::V12, &key, server, None).unwrap();
    assert_eq!(create.room_id().strip_sigil(), create.event_id().as_str().strip_prefix('$').unwrap());
    assert!(serde_json::from_slice::<Value>(create.json()).unwrap().get("room_id").is_none());
    let raw = RawEvent::parse(RoomVersion::V12, create.json()).unwrap();
    assert_eq!((raw.event_id(), raw.room_id()), (create.event_id(), create.room_id()));

    let message = self::draft("m.room.message", &json!({}));
    let refused = build(&message, &References::default(), None, RoomVersion::V12, &key, server, None);
    assert_eq!(refused.unwrap_err(), BuildError::Incomplete("room_id"));
    let refused =
        build(&message, &References::default(), Some(room_id!("!r:one")), RoomVersion::V2, &key, server, None);
    assert_eq!(refused.unwrap_err(), BuildError::Incomplete("event_id"));
}

#[test]
fn references_are_written_as_each_version_has_them() {
    let id = OwnedEventId::try_from("$a:one").unwrap();
    let references = References {
        prev_events: vec![id.clone()],
        depth: 2,
        hashes: [(id, "hash".to_owned())].into(),
        ..References::default()
    };
    let json_of = |version| {
        let draft = draft("m.room.message", &json!({}));
        let event =
            build(&draft, &references, Some(room_id!("!r:one")), version, &key(), server_name!("one"), Some("x"));
        serde_json::from_slice::<Value>(event.unwrap().json()).unwrap()["prev_events"].clone()
    };
    assert_eq!(json_of(RoomVersion::V2), json!([["$a:one", { "sha256": "hash" }]]));
    assert_eq!(json_of(RoomVersion::V3), json!(["$a:one"]));
}

#[test]
fn numbers_are_strict_in_every_version() {
    for version in RoomVersion::ALL {
        for content in [r#"{"a":1.5}"#, r#"{"a":[1e3]}"#, r#"{"a":{"b":9007199254740992}}"#, r#"{"a":-0}"#] {
            let mut draft = draft("m.room.message", &json!({}));
            draft.content = serde_json::from_str(content).unwrap();
            assert_eq!(made(&draft, version).unwrap_err(), BuildError::Content(JsonError::Number), "{content}");
        }
    }
    let mut draft = draft("m.room.message", &json!({}));
    draft.content = to_raw_value(&json!([])).unwrap();
    assert_eq!(made(&draft, RoomVersion::V12).unwrap_err(), BuildError::ContentNotObject);
}

#[test]
fn sizes_are_bounded_to_the_byte() {
    let version = RoomVersion::V12;
    let with_body = |length: usize| draft("m.room.message", &json!({ "body": "x".repeat(length) }));
    let overhead = made(&with_body(0), version).unwrap().json().len();
    let largest = made(&with_body(65_536 - overhead), version).unwrap();
    assert_eq!(largest.json().len(), 65_536);
    assert!(RawEvent::parse(version, largest.json()).is_ok());
    assert_eq!(made(&with_body(65_537 - overhead), version).unwrap_err(), BuildError::TooLarge);

    // Two bytes for each letter: sizes are bytes.
    let mut draft = draft(&"é".repeat(127), &json!({}));
    assert!(made(&draft, version).is_ok());
    draft.kind = "é".repeat(128);
    assert_eq!(made(&draft, version).unwrap_err(), BuildError::FieldTooLong("type"));
    draft.kind = "m".to_owned();
    draft.state_key = Some("x".repeat(256));
    assert_eq!(made(&draft, version).unwrap_err(), BuildError::FieldTooLong("state_key"));
    draft.state_key = None;
    draft.sender = UserId::parse(format!("@{}:one", "x".repeat(252))).unwrap();
    assert_eq!(made(&draft, version).unwrap_err(), BuildError::FieldTooLong("sender"));
    let long_room = RoomId::parse(format!("!{}:one", "x".repeat(252))).unwrap();
    draft.sender = user_id!("@a:one").to_owned();
    let refused = build(&draft, &References::default(), Some(&long_room), version, &key(), server_name!("one"), None);
    assert_eq!(refused.unwrap_err(), BuildError::FieldTooLong("room_id"));
}

#[test]
fn an_invite_is_signed_by_both_servers() {
    let event = made(&draft("m.room.message", &json!({ "body": "hi" })), RoomVersion::V12).unwrap();
    let two = <&ServerName>::try_from("two").unwrap();
    let both = cosign(&event, &crate::room::key_of(two), two).unwrap();
    assert_eq!(both.event_id(), event.event_id());
    let json: Value = serde_json::from_slice(both.json()).unwrap();
    assert_eq!(json["signatures"].as_object().unwrap().len(), 2);
    let raw = RawEvent::parse(RoomVersion::V12, both.json()).unwrap();
    assert_eq!(raw.event_id(), event.event_id());
    raw.check_hash().verify(&public_keys(&["one"])).unwrap();
}

#[test]
fn an_event_from_a_store_is_the_one_that_was_stored() {
    let ids = r#"[["$a:b",{"sha256":"x"}],["$c:d",{}]]"#;
    for (version, ids) in [(RoomVersion::V1, ids), (RoomVersion::V12, r#"["$a:b","$c:d"]"#)] {
        let text = format!(
            r#"{{"auth_events":{ids},"content":{{"a":1}},"depth":3,"origin_server_ts":1,"prev_events":{ids},"sender":"@a:b","type":"t"}}"#
        );
        let (id, room) = (OwnedEventId::try_from("$e:f").unwrap(), room_id!("!r:f").to_owned());
        let stored = Event::parse_stored(version, id.clone(), room.clone(), text.clone().into()).unwrap();
        let read = Event::from_store(version, id, room, text.into()).unwrap();
        assert_eq!(stored.auth_events(), ["$a:b", "$c:d"]);
        assert_eq!((read.prev_events(), read.auth_events()), (stored.prev_events(), stored.auth_events()));
        assert_eq!((read.kind(), read.sender(), read.depth()), ("t", stored.sender(), 3));
        assert_eq!((read.content_json(), read.json()), (r#"{"a":1}"#, stored.json()));
    }
}

#[test]
fn damaged_storage_is_an_error_and_no_panic() {
    let event = made(&draft("m.room.message", &json!({ "body": "hi" })), RoomVersion::V12).unwrap();
    let (id, room) = (event.event_id().to_owned(), event.room_id().to_owned());
    for cut in 0..event.json().len() {
        let parsed = Event::parse_stored(RoomVersion::V12, id.clone(), room.clone(), event.json().slice(..cut));
        assert!(parsed.is_err(), "cut at {cut}");
        let parsed = Event::from_store(RoomVersion::V12, id.clone(), room.clone(), event.json().slice(..cut));
        assert!(parsed.is_err(), "cut at {cut}");
    }
    let text = r#"{"auth_events":7,"content":{},"depth":1,"origin_server_ts":1,"prev_events":["$a"],"sender":"@a:b","type":"t"}"#;
    assert!(Event::parse_stored(RoomVersion::V12, id.clone(), room.clone(), Bytes::from(text)).is_err());
    let damaged = Event::from_store(RoomVersion::V12, id.clone(), room.clone(), Bytes::from(text)).unwrap();
    assert!(damaged.auth_events().is_empty() && damaged.prev_events().is_empty());
    assert!(Event::parse_stored(RoomVersion::V12, id, room, Bytes::from_static(b"\xff")).is_err());
}
