use hearth_core::{FormatError, JsonError, RawEvent, RoomVersion, SignatureError, keys::verify_json};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use ruma::server_name;
use serde_json::{Value, json};

use crate::room::{Act, Room, alice, bob, key_of, public_keys};

/// A message of Alice's in a public room of this version, as JSON to tamper with.
fn message(version: RoomVersion) -> Value {
    let mut room = Room::public(version);
    let event = room.must(&Act::message(alice(), "m.room.message", json!({ "body": "hi" })));
    serde_json::from_slice(event.json()).unwrap()
}

fn parse(version: RoomVersion, json: &Value) -> Result<RawEvent, FormatError> {
    RawEvent::parse(version, json.to_string().as_bytes())
}

#[test]
fn the_examples_of_the_specification_verify() {
    // <https://spec.matrix.org/v1.19/appendices/#cryptographic-test-vectors>
    let event = json!({
        "auth_events": [], "content": {}, "depth": 3,
        "hashes": { "sha256": "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos" },
        "origin": "domain", "origin_server_ts": 1_000_000, "prev_events": [], "room_id": "!x:domain",
        "sender": "@a:domain",
        "signatures": { "domain": {
            "ed25519:1": "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"
        } },
        "type": "X", "unsigned": { "age_ts": 1_000_000 }
    });
    let mut keys = hearth_core::PublicKeys::default();
    let key = hearth_core::PublicKey::from_base64("XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI", 2_000_000).unwrap();
    keys.insert(server_name!("domain").to_owned(), "ed25519:1".to_owned(), key);
    let hashed = parse(RoomVersion::V5, &event).unwrap().check_hash();
    assert!(!hashed.is_redacted());
    let signed = hashed.verify(&keys).unwrap();
    assert!(!signed.event().json_str().contains("unsigned"));
}

#[test]
fn a_wrong_content_hash_leaves_the_redacted_form() {
    for version in RoomVersion::ALL {
        let mut json = message(version);
        json["content"]["body"] = json!("changed on the way");
        json["extra"] = json!(1);
        let raw = parse(version, &json).unwrap();
        let hashed = raw.check_hash();
        assert!(hashed.is_redacted());
        assert_eq!(hashed.unchecked().content_json(), "{}");
        let signed = hashed.verify(&public_keys(&["one"])).unwrap();
        assert!(signed.is_redacted() && !signed.event().json_str().contains("extra"));

        json["hashes"] = json!({});
        assert!(parse(version, &json).unwrap().check_hash().is_redacted());
    }
}

#[test]
fn signatures_cover_what_redaction_keeps() {
    let version = RoomVersion::V12;
    let keys = public_keys(&["one", "two"]);
    let verdict = |json: &Value| parse(version, json).unwrap().check_hash().verify(&keys).map(|_| ());
    let wrong = Err(SignatureError::Wrong(server_name!("one").to_owned()));
    let missing = Err(SignatureError::Missing(server_name!("one").to_owned()));

    let json = message(version);
    assert_eq!(verdict(&json), Ok(()));
    let mut changed = json.clone();
    changed["depth"] = json!(99);
    assert_eq!(verdict(&changed), wrong);
    let mut changed = json.clone();
    changed["signatures"]["one"]["ed25519:k1"] = json!("AAAA");
    assert_eq!(verdict(&changed), wrong);
    let mut changed = json.clone();
    changed["signatures"] = json!({ "two": json["signatures"]["one"] });
    assert_eq!(verdict(&changed), missing);
    let mut changed = json.clone();
    changed["signatures"]["one"] = json!({ "ed25519:other": json["signatures"]["one"]["ed25519:k1"] });
    assert_eq!(verdict(&changed), missing);
    // Signatures that we cannot check do not count, for or against.
    let mut more = json.clone();
    more["signatures"]["one"]["ed25519:other"] = json!("AAAA");
    more["signatures"]["one"]["rsa:x"] = json!(5);
    more["signatures"]["three"] = json!("nonsense");
    assert_eq!(verdict(&more), Ok(()));
}

#[test]
fn keys_count_only_in_their_time_from_version_5() {
    for version in RoomVersion::ALL {
        let json = message(version);
        let mut keys = public_keys(&["one"]);
        for key in keys.0.values_mut().flat_map(|keys| keys.values_mut()) {
            key.valid_until_ms = json["origin_server_ts"].as_u64().unwrap() - 1;
        }
        let verdict = parse(version, &json).unwrap().check_hash().verify(&keys);
        assert_eq!(verdict.is_ok(), version < RoomVersion::V5, "version {version}");
    }
}

#[test]
fn the_servers_that_must_sign_depend_on_the_event() {
    let signers = |version, json: &Value| {
        let hashed = parse(version, json).unwrap().check_hash();
        hashed.signers().into_iter().map(|server| server.to_string()).collect::<Vec<_>>()
    };
    let mut chosen = message(RoomVersion::V2);
    chosen["event_id"] = json!("$x:three");
    assert_eq!(signers(RoomVersion::V2, &chosen), ["one", "three"]);

    let mut join = message(RoomVersion::V10);
    join["type"] = json!("m.room.member");
    join["state_key"] = json!("@alice:one");
    join["content"] = json!({ "membership": "join", "join_authorised_via_users_server": "@bob:two" });
    assert_eq!(signers(RoomVersion::V10, &join), ["one", "two"]);
    let mut old = message(RoomVersion::V7);
    old["type"] = json!("m.room.member");
    old["state_key"] = json!("@alice:one");
    old["content"] = join["content"].clone();
    assert_eq!(signers(RoomVersion::V7, &old), ["one"]);
}

#[test]
fn a_third_party_invite_needs_no_signature_of_its_sender() {
    let mut room = Room::public(RoomVersion::V11);
    let content =
        json!({ "membership": "invite", "third_party_invite": { "signed": { "mxid": bob(), "token": "t" } } });
    let event = room.build(&Act::state(alice(), "m.room.member", bob().as_str(), content));
    let hashed = RawEvent::parse(RoomVersion::V11, event.json()).unwrap().check_hash();
    assert!(hashed.signers().is_empty());
    // Something that only looks like one does.
    let content = json!({ "membership": "join", "third_party_invite": {} });
    let event = room.build(&Act::state(alice(), "m.room.member", alice().as_str(), content));
    let hashed = RawEvent::parse(RoomVersion::V11, event.json()).unwrap().check_hash();
    assert_eq!(hashed.signers().len(), 1);
}

#[test]
fn the_format_is_checked_field_by_field() {
    let version = RoomVersion::V11;
    let json = message(version);
    let many = |count: usize| Value::from(vec![json!("$abc"); count]);
    let bad: [(&str, Value); 18] = [
        ("type", Value::Null),
        ("type", json!("x".repeat(256))),
        ("sender", json!("alice")),
        ("sender", json!(format!("@{}:one", "x".repeat(255)))),
        ("state_key", Value::Null),
        ("state_key", json!(7)),
        ("room_id", json!("")),
        ("room_id", json!("#a:b")),
        ("depth", json!(-1)),
        ("depth", json!("1")),
        ("origin_server_ts", json!("now")),
        ("prev_events", json!({})),
        ("prev_events", many(21)),
        ("auth_events", many(11)),
        ("auth_events", json!([["$a", {}]])),
        ("auth_events", json!(["no id"])),
        ("content", json!([])),
        ("hashes", json!("x")),
    ];
    for (field, value) in bad {
        let mut changed = json.clone();
        changed[field] = value;
        let verdict = parse(version, &changed).map(|_| ());
        assert_eq!(
            verdict.map_err(|error| matches!(error, FormatError::Field(name) if name == field)),
            Err(true),
            "{field}"
        );
    }
    for field in ["type", "sender", "room_id", "depth", "origin_server_ts", "prev_events", "auth_events", "signatures"]
    {
        let mut changed = json.clone();
        changed.as_object_mut().unwrap().remove(field);
        assert!(parse(version, &changed).is_err(), "{field}");
    }
    assert!(parse(version, &json!([])).is_err());
    let mut large = json.clone();
    large["content"]["body"] = json!("x".repeat(65_536));
    assert_eq!(parse(version, &large).unwrap_err(), FormatError::TooLarge);
}

#[test]
fn version_12_keeps_the_create_event_out() {
    let mut json = message(RoomVersion::V12);
    let create = json["room_id"].as_str().unwrap().replacen('!', "$", 1);
    json["auth_events"].as_array_mut().unwrap().push(json!(create));
    assert_eq!(parse(RoomVersion::V12, &json).unwrap_err(), FormatError::Field("auth_events"));

    let mut room = Room::empty(RoomVersion::V12);
    let create = room.must(&Act::state(alice(), "m.room.create", "", json!({})));
    let mut json: Value = serde_json::from_slice(create.json()).unwrap();
    json["room_id"] = json!("!x:one");
    assert_eq!(parse(RoomVersion::V12, &json).unwrap_err(), FormatError::Field("room_id"));
}

#[test]
fn old_rooms_keep_numbers_as_received() {
    let event = |version| {
        let text = message(version).to_string();
        text.replace(r#""body":"hi""#, r#""body":"hi","f":1.50,"big":123456789012345678901234567890,"z":-0"#)
    };
    for version in [RoomVersion::V1, RoomVersion::V3, RoomVersion::V5] {
        let raw = RawEvent::parse(version, event(version).as_bytes()).unwrap();
        let kept = r#"{"big":123456789012345678901234567890,"body":"hi","f":1.50,"z":-0}"#;
        assert_eq!(raw.unchecked().content_json(), kept);
    }
    let refused = RawEvent::parse(RoomVersion::V6, event(RoomVersion::V6).as_bytes()).unwrap_err();
    assert_eq!(refused, FormatError::Json(JsonError::Number));

    let odd = message(RoomVersion::V4).to_string();
    let odd = odd.replace(r#""origin_server_ts":1700000000005"#, r#""origin_server_ts":-1.5e3"#);
    let raw = RawEvent::parse(RoomVersion::V4, odd.as_bytes()).unwrap();
    assert_eq!(raw.unchecked().origin_server_ts(), 0);
}

#[test]
fn signed_json_is_as_the_specification_shows() {
    // <https://spec.matrix.org/v1.19/appendices/#json-signing>
    let seed = hearth_core::PublicKey::from_base64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1", 0).unwrap().bytes;
    let key = hearth_core::SigningKey::from_seed(&seed, "1");
    let domain = server_name!("domain");
    assert_eq!(
        key.sign_json(domain, b"{}").unwrap(),
        r#"{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}"#
    );
    assert_eq!(
        key.sign_json(domain, br#"{ "two": "Two", "one": 1 }"#).unwrap(),
        r#"{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}"#
    );
}

#[test]
fn signing_json_keeps_what_others_signed_and_what_nobody_signs() {
    let (one, two) = (server_name!("one"), server_name!("two"));
    let first = key_of(one).sign_json(one, br#"{"a":1,"unsigned":{"b":2}}"#).unwrap();
    let both = key_of(two).sign_json(two, first.as_bytes()).unwrap();
    let keys = public_keys(&["one", "two"]);
    assert_eq!(verify_json(one, &keys, both.as_bytes(), 0), Ok(()));
    assert_eq!(verify_json(two, &keys, both.as_bytes(), 0), Ok(()));
    assert_eq!(verify_json(two, &keys, both.replace("\"b\":2", "\"b\":3").as_bytes(), 0), Ok(()));
    let changed = both.replace("\"a\":1", "\"a\":2");
    assert_eq!(verify_json(two, &keys, changed.as_bytes(), 0), Err(SignatureError::Wrong(two.to_owned())));
    assert_eq!(verify_json(two, &keys, first.as_bytes(), 0), Err(SignatureError::Missing(two.to_owned())));
}

/// Values that somebody hostile would try.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!([])),
        Just(json!({})),
        Just(json!([["$a:b", {}], ["$a:b"], []])),
        Just(json!({ "membership": [], "users": { "": "9e9" }, "creator": 1, "signed": {} })),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[!@$#]?[a-z:\u{0}]{0,5}".prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever arrives, every stage answers.
    #[test]
    fn nothing_received_panics(
        version in prop::sample::select(RoomVersion::ALL.to_vec()),
        kind in prop::sample::select(vec!["m.room.message", "m.room.member", "m.room.create", "m.room.power_levels",
            "m.room.redaction", "m.room.join_rules", "m.room.third_party_invite", "m.room.aliases"]),
        changes in prop::collection::vec((prop::sample::select(vec!["type", "sender", "state_key", "room_id", "depth",
            "origin_server_ts", "prev_events", "auth_events", "content", "hashes", "signatures", "event_id", "redacts",
            "unsigned"]), odd_value()), 0..3),
        content in prop::collection::vec((prop::sample::select(vec!["membership", "users", "ban", "creator",
            "third_party_invite", "join_authorised_via_users_server", "additional_creators", "room_version",
            "join_rule", "redacts", "events", "notifications"]), odd_value()), 0..4),
        byte in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut room = Room::public(version);
        let act = Act::state(alice(), kind, "", json!({ "membership": "join", "room_version": version.as_str() }));
        let event = room.build(&act);
        let mut json: Value = serde_json::from_slice(event.json()).unwrap();
        for (key, value) in content {
            json["content"][key] = value;
        }
        for (key, value) in changes {
            json[key] = value;
        }
        let mut bytes = json.to_string().into_bytes();
        if let Some((index, byte)) = byte {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        let Ok(raw) = RawEvent::parse(version, &bytes) else { return Ok(()) };
        let hashed = raw.check_hash();
        let event = hashed.unchecked().clone();
        let _ = hashed.verify(&public_keys(&["one"]));
        let _ = room.admit(&event);
        let _ = event.membership();
        let _ = hearth_core::redact(&event);
        let _ = hearth_core::PowerLevels::of(&event, Some(&event), version);
        let seen = hearth_core::format::client_json(&event, true);
        serde_json::from_slice::<Value>(&seen).unwrap();
        serde_json::from_slice::<Value>(&hearth_core::format::stripped_json(&event)).unwrap();
    }
}
