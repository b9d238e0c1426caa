use hearth_core::{Event, Level, PowerLevels, RawEvent, RoomVersion};
use ruma::{UserId, user_id};
use serde_json::{Value, json};

use crate::room::{Act, Room, alice, bob};

fn levels(version: RoomVersion, create: Value, levels: Option<Value>) -> PowerLevels {
    let mut room = Room::empty(version);
    let create = room.must(&Act::state(alice(), "m.room.create", "", create));
    let levels = levels.map(|content| room.build(&Act::state(alice(), "m.room.power_levels", "", content)));
    PowerLevels::of(&create, levels.as_ref(), version)
}

#[test]
fn without_an_event_the_creator_has_100() {
    let levels_11 = levels(RoomVersion::V11, json!({}), None);
    assert_eq!(levels_11.user_level(alice()), Level::Number(100));
    assert_eq!(levels_11.user_level(bob()), Level::Number(0));
    assert_eq!(levels_11.level_for("m.room.topic", true), Level::Number(50));
    assert_eq!(levels_11.level_for("m.room.message", false), Level::Number(0));
    assert!(levels_11.can_invite(bob()) && !levels_11.can_redact(bob()) && !levels_11.can_kick(bob(), alice()));
    // With an event that does not name them, creators have what others have.
    let demoted = levels(RoomVersion::V11, json!({}), Some(json!({})));
    assert_eq!(demoted.user_level(alice()), Level::Number(0));
}

#[test]
fn the_creator_is_named_by_content_before_version_11() {
    let content = json!({ "creator": "@x:y", "no_creator": "keeps the helper from writing its own" });
    for (version, creator) in [(RoomVersion::V10, "@x:y"), (RoomVersion::V11, "@alice:one")] {
        let levels = levels(version, content.clone(), None);
        assert_eq!(levels.creators().iter().map(|user| user.as_str()).collect::<Vec<_>>(), [creator]);
        assert_eq!(levels.user_level(<&UserId>::try_from(creator).unwrap()), Level::Number(100));
    }
}

#[test]
fn creators_of_version_12_stand_above_every_number() {
    let content = json!({ "users": { "@bob:two": 9_007_199_254_740_991_i64 }, "ban": 60 });
    let levels = levels(RoomVersion::V12, json!({ "additional_creators": ["@carl:two"] }), Some(content));
    let carl = user_id!("@carl:two");
    assert_eq!(levels.user_level(alice()), Level::Creator);
    assert_eq!(levels.user_level(carl), Level::Creator);
    assert!(levels.user_level(bob()) < Level::Creator);
    assert!(levels.can_ban(alice(), bob()) && !levels.can_ban(bob(), alice()) && !levels.can_ban(carl, alice()));
}

#[test]
fn levels_are_read_as_the_version_allows() {
    let content =
        json!({ "users": { "@bob:two": " +0050 " }, "kick": "-7", "redact": "1.5", "notifications": { "room": 20 } });
    let old = levels(RoomVersion::V9, json!({}), Some(content.clone()));
    assert_eq!(old.user_level(bob()), Level::Number(50));
    assert!(old.can_kick(bob(), user_id!("@c:d")) && old.can_redact(bob()));
    assert_eq!(old.notification_level("room"), Level::Number(20));
    assert_eq!(old.notification_level("other"), Level::Number(50));
    let new = levels(RoomVersion::V10, json!({}), Some(content));
    assert_eq!(new.user_level(bob()), Level::Number(0));
}

/// Floats and integers out of range, as only other servers can send them.
fn received(version: RoomVersion, room: &mut Room, sender: &UserId, content: &str) -> Event {
    let event = room.build(&Act::state(sender, "m.room.power_levels", "", json!({ "placeholder": 1 })));
    let text = event.json_str().replace(r#"{"placeholder":1}"#, content);
    RawEvent::parse(version, text.as_bytes()).unwrap().unchecked().clone()
}

#[test]
fn old_rooms_cut_floats_off() {
    for version in [RoomVersion::V1, RoomVersion::V5] {
        let mut room = Room::public(version);
        room.must(&Act::member(bob(), bob(), "join"));
        let content = r#"{"events_default":1e400,"users":{"@alice:one":100}}"#;
        let event = received(version, &mut room, alice(), content);
        assert!(room.admit(&event).is_err(), "no double holds that");

        let content = r#"{"kick":99999999999999999999,"users":{"@alice:one":10.057e1,"@bob:two":50.57}}"#;
        let event = received(version, &mut room, alice(), content);
        room.admit(&event).unwrap_err();
        let content = r#"{"kick":5.099e1,"users":{"@alice:one":10.057e1,"@bob:two":50.57}}"#;
        let event = received(version, &mut room, alice(), content);
        let event = room.admit(&event).unwrap().into_event();
        room.append(event);
        let levels =
            PowerLevels::of(room.get("m.room.create", "").unwrap(), room.get("m.room.power_levels", ""), version);
        assert_eq!((levels.user_level(alice()), levels.user_level(bob())), (Level::Number(100), Level::Number(50)));
        assert!(levels.can_kick(bob(), user_id!("@c:d")));
        // The rules agree: at 50 Bob may set the topic, and nothing higher.
        room.must(&Act::state(bob(), "m.room.topic", "", json!({})));
        assert!(
            room.act(&Act::state(bob(), "m.room.power_levels", "", json!({ "users": { "@bob:two": 51 } }))).is_err()
        );
    }
}
