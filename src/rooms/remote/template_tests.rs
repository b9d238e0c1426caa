use bytes::Bytes;
use ruma::{room_id, server_name, user_id};
use serde_json::json;

use super::*;

fn template(version: RoomVersion, change: impl FnOnce(&mut Value)) -> Template {
    let cite = |id: &str| if version.has_chosen_event_ids() { json!([id, { "sha256": "aGFzaA" }]) } else { json!(id) };
    let mut event = json!({
        "room_id": "!room:there", "sender": "@me:here", "state_key": "@me:here", "type": "m.room.member",
        "content": { "membership": "join" }, "depth": 7, "origin": "there", "origin_server_ts": 1,
        "prev_events": [cite("$prev:there")], "auth_events": [cite("$create:there"), cite("$levels:there")],
    });
    change(&mut event);
    Template { version, event: Bytes::from(event.to_string()) }
}

fn place(template: &Template) -> Result<Place, BadTemplate> {
    place_of(template, Handshake::Join, room_id!("!room:there"), user_id!("@me:here"), server_name!("there"))
}

#[track_caller]
fn refused(version: RoomVersion, field: &str, change: impl FnOnce(&mut Value)) {
    let error = place(&template(version, change)).expect_err("a template that lies");
    assert!(error.to_string().ends_with(field), "{error}");
}

#[test]
fn a_place_is_taken_and_nothing_else() {
    let forged = |event: &mut Value| {
        event["content"]["displayname"] = "root".into();
        event["unsigned"] = json!({ "x": 1 });
    };
    let found = place(&template(RoomVersion::V11, forged)).unwrap();
    assert_eq!((found.references.depth, found.references.prev_events.len()), (7, 1));
    assert!(found.references.hashes.is_empty() && found.voucher.is_none());
    let found = place(&template(RoomVersion::V1, |_| {})).unwrap();
    assert_eq!(found.references.hashes.len(), 3);
}

#[test]
fn whoever_lies_about_what_was_asked_gets_no_signature() {
    let version = RoomVersion::V11;
    refused(version, "room_id", |event| event["room_id"] = "!other:there".into());
    refused(version, "sender", |event| event["sender"] = "@you:here".into());
    refused(version, "state_key", |event| event["state_key"] = "@you:here".into());
    refused(version, "type", |event| event["type"] = "m.room.power_levels".into());
    refused(version, "content.membership", |event| event["content"]["membership"] = "ban".into());
    refused(version, "content.membership", |event| event["content"] = json!({}));
    refused(version, "missing", |event| drop(event.as_object_mut().unwrap().remove("state_key")));
    refused(version, "prev_events", |event| event["prev_events"] = json!([]));
    refused(version, "prev_events", |event| event["prev_events"] = json!(vec!["$x"; 2]));
    let many: Vec<String> = (0..21).map(|nth| format!("${nth}")).collect();
    refused(version, "prev_events", |event| event["prev_events"] = json!(many));
    refused(version, "auth_events", |event| event["auth_events"] = json!(many[..11]));
    refused(version, "auth_events", |event| event["auth_events"] = json!([format!("${}", "x".repeat(300))]));
    refused(version, "auth_events", |event| event["auth_events"] = json!([["$x", {}]]));
    refused(RoomVersion::V2, "prev_events", |event| event["prev_events"] = json!(["$x:there"]));
    refused(version, "depth", |event| event["depth"] = json!(-1));
    refused(version, "too large", |event| event["content"]["x"] = "x".repeat(EVENT_BYTES_MAX).into());
    assert!(place(&Template { version, event: Bytes::from_static(b"[]") }).is_err());
}

#[test]
fn who_vouches_is_of_the_resident_server() {
    let by = |user: &'static str| {
        move |event: &mut Value| event["content"]["join_authorised_via_users_server"] = user.into()
    };
    let found = place(&template(RoomVersion::V8, by("@admin:there"))).unwrap();
    assert_eq!(found.voucher.unwrap(), "@admin:there");
    refused(RoomVersion::V8, "server", by("@admin:elsewhere"));
    refused(RoomVersion::V8, "server", by("@me:here"));
    refused(RoomVersion::V8, "server", by("there"));
    assert!(place(&template(RoomVersion::V7, by("@admin:elsewhere"))).unwrap().voucher.is_none());
}
