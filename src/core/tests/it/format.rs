use hearth_core::{
    RoomVersion,
    format::{client_json, splice_unsigned, stripped_json},
};
use serde_json::{Value, json};

use crate::room::{Act, Room, alice};

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn clients_see_their_fields_and_no_others() {
    let mut room = Room::public(RoomVersion::V11);
    let event = room.must(&Act::state(alice(), "m.room.topic", "", json!({ "topic": "a \"b\" \\ \n" })));
    let with_room = client_json(&event, true);
    let wanted = json!({
        "content": { "topic": "a \"b\" \\ \n" },
        "event_id": event.event_id(),
        "origin_server_ts": event.origin_server_ts(),
        "room_id": event.room_id(),
        "sender": "@alice:one",
        "state_key": "",
        "type": "m.room.topic",
    });
    assert_eq!(parsed(&with_room), wanted);
    assert!(parsed(&client_json(&event, false)).get("room_id").is_none());

    let mut spliced = wanted;
    spliced["unsigned"] = json!({ "age": 5 });
    assert_eq!(parsed(&splice_unsigned(&with_room, r#"{"age":5}"#)), spliced);
    assert_eq!(splice_unsigned(&with_room, "{}"), with_room);

    let stripped = json!({
        "content": { "topic": "a \"b\" \\ \n" }, "sender": "@alice:one", "state_key": "", "type": "m.room.topic",
    });
    assert_eq!(parsed(&stripped_json(&event)), stripped);
}

#[test]
fn the_create_event_of_version_12_has_a_room_for_clients() {
    let mut room = Room::empty(RoomVersion::V12);
    let create = room.must(&Act::state(alice(), "m.room.create", "", json!({})));
    assert_eq!(parsed(&client_json(&create, true))["room_id"], json!(create.room_id()));
}

#[test]
fn a_redaction_names_its_target_twice_in_every_version() {
    for version in RoomVersion::ALL {
        let mut room = Room::public(version);
        let target = room.must(&Act::message(alice(), "m.room.message", json!({})));
        let mut act = Act::message(alice(), "m.room.redaction", json!({ "reason": "z" }));
        act.redacts = Some(target.event_id().to_owned());
        let redaction = room.must(&act);
        let seen = parsed(&client_json(&redaction, false));
        assert_eq!(seen["redacts"], json!(target.event_id()), "{version}");
        assert_eq!(seen["content"], json!({ "reason": "z", "redacts": target.event_id() }), "{version}");
    }
}
