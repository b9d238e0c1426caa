use bytes::Bytes;
use hearth_core::RoomVersion;
use ruma::{owned_event_id, owned_room_id};

use super::*;

fn event(kind: &str, content: &str) -> Event {
    let json = format!(
        r#"{{"auth_events":[],"content":{content},"depth":1,"origin_server_ts":1,"prev_events":[],"sender":"@a:b","type":"{kind}"}}"#
    );
    let version = RoomVersion::parse("11").expect("a known version");
    Event::parse_stored(version, owned_event_id!("$e"), owned_room_id!("!r:b"), Bytes::from(json)).expect("an event")
}

#[test]
fn wrong_shapes_are_refused() {
    for filter in [
        "[]",
        "null",
        r#"{"presence":"x"}"#,
        r#"{"room":[]}"#,
        r#"{"presence":[]}"#,
        r#"{"room":{"timeline":[]}}"#,
        "{}x",
        "",
        r#"{"room":{"timeline":"x"}}"#,
        r#"{"room":{"state":7}}"#,
        r#"{"room":{"timeline":{"rooms":"x"}}}"#,
        r#"{"room":{"timeline":{"not_rooms":{}}}}"#,
        r#"{"room":{"timeline":{"senders":"x"}}}"#,
        r#"{"room":{"timeline":{"types":[0]}}}"#,
        r#"{"room":{"timeline":{"rooms":["not_a_room_id"]}}}"#,
        r#"{"room":{"timeline":{"senders":["not_a_sender_id"]}}}"#,
        r#"{"room":{"timeline":{"not_senders":["@nocolon"]}}}"#,
        r#"{"room":{"timeline":{"limit":-1}}}"#,
        r#"{"room":{"timeline":{"limit":1.5}}}"#,
        r#"{"room":{"timeline":{"limit":"10"}}}"#,
        r#"{"room":{"timeline":{"contains_url":1}}}"#,
        r#"{"room":{"state":{"lazy_load_members":"true"}}}"#,
        r#"{"room":{"state":{"lazy_load_members":1}}}"#,
        r#"{"room":{"state":{"include_redundant_members":1}}}"#,
        r#"{"room":{"include_leave":"yes"}}"#,
        r#"{"event_format":"xml"}"#,
        r#"{"event_fields":"content"}"#,
        r#"{"account_data":{"types":{"a":1}}}"#,
    ] {
        assert!(Filter::parse(filter.as_bytes()).is_err(), "{filter}");
    }
    let many = format!(r#"{{"account_data":{{"types":[{}]}}}}"#, vec!["\"a\""; LIST_ITEMS_MAX + 1].join(","));
    assert!(Filter::parse(many.as_bytes()).is_err());
}

#[test]
fn absent_and_unknown_fields_are_no_restriction() {
    for filter in ["{}", r#"{"room":{"timeline":{"types":null,"limit":null}},"m.new":{"x":[1]}}"#] {
        let filter = Filter::parse(filter.as_bytes()).expect("a filter");
        assert_eq!(filter, Filter::default(), "{filter:?}");
        assert!(filter.room.timeline.is_everything() && !filter.room.timeline.events.is_nothing());
        assert!(filter.room.allows_room("!any:where") && filter.room.timeline.allows(&event("m.any", "{}")));
    }
}

#[test]
fn exclusion_wins_over_inclusion() {
    let filter = RoomEventFilter::parse(
        br#"{"types":["m.*","org.x"],"not_types":["m.room.*"],"senders":["@a:b","@c:d"],"not_senders":["@c:d"],
            "rooms":["!r:b","!s:b"],"not_rooms":["!s:b"]}"#,
    )
    .expect("a filter");
    let types =
        [("m.reaction", true), ("m.room.member", false), ("org.x", true), ("org.xx", false), ("M.reaction", false)];
    for (kind, passes) in types {
        assert_eq!(filter.allows(&event(kind, "{}")), passes, "{kind}");
    }
    let senders = [Some("@a:b"), Some("@c:d"), Some("@e:f"), None].map(|sender| filter.events.allows("m.x", sender));
    assert_eq!(senders, [true, false, false, true]);
    assert_eq!(["!r:b", "!s:b", "!t:b"].map(|room| filter.allows_room(room)), [true, false, false]);
}

#[test]
fn empty_lists_let_nothing_pass() {
    let filter = RoomEventFilter::parse(br#"{"types":[],"rooms":[]}"#).expect("a filter");
    assert!(filter.events.is_nothing() && !filter.events.allows_type("m.x") && !filter.allows_room("!r:b"));
    let filter = RoomEventFilter::parse(br#"{"not_types":[],"not_rooms":[]}"#).expect("a filter");
    assert!(filter.allows(&event("m.x", "{}")) && filter.allows_room("!r:b"));
    // A limit of 0 still leaves the question whether there is something.
    assert!(!RoomEventFilter::parse(br#"{"limit":0}"#).expect("a filter").events.is_nothing());
}

#[test]
fn urls_are_looked_for_in_the_content_itself() {
    let cases = [
        ("{}", false),
        (r#"{"url":"mxc://a/b"}"#, true),
        (r#"{"url":null}"#, true),
        (r#"{"u\u0072l":1}"#, true),
        (r#"{"info":{"url":"x"}}"#, false),
        (r#"{"URL":"x","body":"url"}"#, false),
    ];
    for (content, has) in cases {
        for wanted in [true, false] {
            let filter =
                RoomEventFilter::parse(format!(r#"{{"contains_url":{wanted}}}"#).as_bytes()).expect("a filter");
            assert_eq!(filter.allows(&event("m.room.message", content)), has == wanted, "{content}");
        }
    }
}

#[test]
fn wildcards_match_any_sequence() {
    let cases = [
        ("*", "", true),
        ("*", "anything", true),
        ("m.*", "m.", true),
        ("m.*", "m", false),
        ("*.member", "m.room.member", true),
        ("m.*.m*r", "m.room.member", true),
        ("m.*.m*r", "m.room.members", false),
        ("**a**", "xxa", true),
        ("a*a", "a", false),
        ("ab*", "aab", false),
        ("m.?oom", "m.room", false),
    ];
    for (pattern, text, expected) in cases {
        assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} on {text}");
    }
    // Would take for ever if every star were tried again.
    let pattern = "a*".repeat(100) + "b";
    assert!(!matches(pattern.as_bytes(), "a".repeat(255).as_bytes()));
}

#[test]
fn limits_are_bounded() {
    let limit =
        |json: &str| EventFilter { limit: serde_json::from_str(json).expect("a limit"), ..EventFilter::default() };
    let limits = ["null", "0", "3", "18446744073709551615"].map(|json| limit(json).limit_or(10, 500));
    assert_eq!(limits, [10, 0, 3, 500]);
}
