//! Events, state and history.

use hearth_rooms::Preset;
use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn a_server_in_the_room_reads_and_others_do_not() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    let first = world.say(&room_id, "first").await;
    let (_, join) = world.join(&room_id, &far("bob")).await;
    let last = world.say(&room_id, "last").await;

    let (_, event) = world.get(FAR, &format!("v1/event/{first}")).await;
    assert_eq!((&event["origin"], &event["origin_server_ts"]), (&json!(US), &json!(NOW_MS)));
    assert_eq!(event["pdus"][0]["content"]["body"], "first");
    let (_, ids) = world.get(FAR, &format!("v1/state_ids/{room_id}?event_id={last}")).await;
    let (_, state) = world.get(FAR, &format!("v1/state/{room_id}?event_id={last}")).await;
    assert!(ids["pdu_ids"].as_array().unwrap().contains(&json!(join)));
    assert_eq!(ids["pdu_ids"].as_array().unwrap().len(), state["pdus"].as_array().unwrap().len());
    assert_eq!(ids["auth_chain_ids"].as_array().unwrap().len(), state["auth_chain"].as_array().unwrap().len());
    let (_, auth) = world.get(FAR, &format!("v1/event_auth/{room_id}/{last}")).await;
    assert!(kinds(&auth["auth_chain"]).contains(&"m.room.power_levels"));

    let (_, back) = world.get(FAR, &format!("v1/backfill/{room_id}?v={last}&v={first}&limit=3")).await;
    assert_eq!(kinds(&back["pdus"]), ["m.room.message", "m.room.member", "m.room.message"]);
    let ends = json!({ "limit": 10, "earliest_events": [first], "latest_events": [last] });
    let (_, missing) =
        world.request(FAR, "POST", &format!("v1/get_missing_events/{room_id}"), ends.to_string().into()).await;
    assert_eq!(kinds(&missing["events"]), ["m.room.member"]);
    let (_, near) = world.get(FAR, &format!("v1/timestamp_to_event/{room_id}?ts={}&dir=b", NOW_MS + 5)).await;
    assert_eq!(near, json!({ "event_id": last, "origin_server_ts": NOW_MS }));

    for path in [
        format!("v1/event/{first}"),
        format!("v1/state/{room_id}?event_id={last}"),
        format!("v1/state_ids/{room_id}?event_id={last}"),
        format!("v1/event_auth/{room_id}/{last}"),
        format!("v1/backfill/{room_id}?v={last}&limit=3"),
        format!("v1/timestamp_to_event/{room_id}?ts=1&dir=f"),
    ] {
        assert_eq!(world.refused("else.test", "GET", &path, &Value::Null).await, expect(403, "M_FORBIDDEN"), "{path}");
    }
    world.deny(&room_id, FAR).await;
    let path = format!("v1/backfill/{room_id}?v={last}&limit=3");
    assert_eq!(world.refused(FAR, "GET", &path, &Value::Null).await, expect(403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn requests_that_make_no_sense() {
    let world = World::new().await;
    let room_id = world.create(Preset::Public).await;
    world.join(&room_id, &far("bob")).await;
    for (path, expected) in [
        ("v1/event/x".to_owned(), expect(400, "M_INVALID_PARAM")),
        ("v1/event/$none".to_owned(), expect(404, "M_NOT_FOUND")),
        (format!("v1/state/{room_id}"), expect(400, "M_MISSING_PARAM")),
        (format!("v1/backfill/{room_id}?limit=1"), expect(400, "M_MISSING_PARAM")),
        (format!("v1/backfill/{room_id}?v=$x"), expect(400, "M_MISSING_PARAM")),
        (format!("v1/backfill/{room_id}?v=$x&limit=-1"), expect(400, "M_INVALID_PARAM")),
        (format!("v1/timestamp_to_event/{room_id}?ts=1&dir=x"), expect(400, "M_INVALID_PARAM")),
        (format!("v1/timestamp_to_event/{room_id}?dir=f"), expect(400, "M_MISSING_PARAM")),
    ] {
        assert_eq!(world.refused(FAR, "GET", &path, &Value::Null).await, expected, "{path}");
    }
    let path = format!("v1/get_missing_events/{room_id}");
    assert_eq!(world.refused(FAR, "POST", &path, &json!({})).await.0, 200, "nothing is before nothing");
    for body in [json!({ "earliest_events": [1], "latest_events": [] }), json!([])] {
        assert_eq!(world.refused(FAR, "POST", &path, &body).await, expect(400, "M_BAD_JSON"), "{body}");
    }
    let many = json!({ "earliest_events": vec!["$x"; 1_001], "latest_events": [] });
    assert_eq!(world.refused(FAR, "POST", &path, &many).await, expect(400, "M_BAD_JSON"));
}
