//! Profiles, account data, tags, push rules, filters.

use hearth_store::{Position, Write};
use ruma::{
    RoomId,
    push::{Action, NewPatternedPushRule, NewPushRule, NewSimplePushRule, RuleKind, Ruleset},
};
use serde_json::{Value, json};

use super::{World, world};
use crate::{
    AccountDataError, NewRule, PROFILE_BYTES_MAX, ProfileError, PushRuleError, RulePlace, TagError, rules_json,
};

fn room_id(id: &str) -> &RoomId {
    id.try_into().unwrap()
}

/// Makes a room known, without any event.
async fn name_room(world: &World, id: &str) {
    let number = world.store.assign_room_number(room_id(id)).await.unwrap();
    let mut write = Write::new(number.partition());
    write.name_room(number, room_id(id));
    world.store.commit(write).await.unwrap();
}

#[tokio::test]
async fn a_profile_keeps_its_grammar_and_its_size() {
    let world = world().await;
    let alice = world.account("alice").await;
    let set = async |name: &str, value: Value| world.users.set_profile_field(&alice, name, Some(&value)).await;
    assert!(matches!(set("displayname", "Alice".into()).await, Ok(true)));
    assert!(matches!(set("displayname", "Alice".into()).await, Ok(false)), "nothing changed");
    assert!(matches!(set("displayname", 3.into()).await, Err(ProfileError::BadValue)));
    assert!(matches!(set("avatar_url", "x".repeat(1_025).into()).await, Err(ProfileError::TooLarge)));
    assert!(matches!(set("m.tz", json!({})).await, Err(ProfileError::BadValue)));
    assert!(matches!(set("org.example.pronouns", json!([{ "a": null }])).await, Ok(true)));
    for bad in ["", "Upper.case", "nodots", "9.a", "a.ü", ".a"] {
        assert!(matches!(set(bad, 1.into()).await, Err(ProfileError::BadKey)), "{bad}");
    }
    assert!(matches!(set(&format!("a.{}", "b".repeat(254)), 1.into()).await, Err(ProfileError::KeyTooLarge)));
    let large = "x".repeat(PROFILE_BYTES_MAX - 200);
    assert!(matches!(set("org.example.large", large.into()).await, Ok(true)));
    assert!(matches!(set("org.example.more", "x".repeat(200).into()).await, Err(ProfileError::TooLarge)));
    assert!(world.users.set_profile_field(&alice, "org.example.large", None).await.unwrap());
    let profile = Value::Object(world.users.profile(&alice).await.unwrap());
    assert_eq!(profile, json!({ "displayname": "Alice", "org.example.pronouns": [{ "a": null }] }));
}

#[tokio::test]
async fn account_data_is_found_by_position() {
    let world = world().await;
    let alice = world.account("alice").await;
    let user = world.users.number(&alice).await.unwrap().unwrap();
    name_room(&world, "!a:b.c").await;
    let room = Some(room_id("!a:b.c"));
    let put = async |room: Option<&RoomId>, kind: &str, content: &str| {
        world.users.put_account_data(&alice, room, kind, content).await.unwrap();
        world.store.live().positions().at(user.partition())
    };
    let since = async |since: Position, until: Position| {
        let changed = world.users.account_data_since(user, since, until).await.unwrap();
        changed.into_iter().map(|data| (data.room.is_some(), data.kind, data.content)).collect::<Vec<_>>()
    };
    let first = put(None, "a", "{\"n\":1}").await;
    let second = put(room, "a", "{\"n\":2}").await;
    let third = put(None, "a", "{\"n\":3}").await;
    assert_eq!(since(Position::ZERO, first).await, [], "it changed again behind the end");
    assert_eq!(since(Position::ZERO, second).await, [(true, "a".to_owned(), "{\"n\":2}".to_owned())]);
    assert_eq!(since(second, third).await, [(false, "a".to_owned(), "{\"n\":3}".to_owned())]);
    assert_eq!(since(third, Position::MAX).await, []);
    let all = world.users.account_data_all(user).await.unwrap();
    assert_eq!(all.iter().filter(|data| data.kind == "a").count(), 2);
    assert!(all.iter().any(|data| data.kind == "m.push_rules"), "the default rules are there unasked");
    let unknown = world.users.put_account_data(&alice, Some(room_id("!un:known")), "a", "{}").await;
    assert!(matches!(unknown, Err(AccountDataError::NotFound)));
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(80_000));
    assert!(matches!(world.users.put_account_data(&alice, None, "a", &large).await, Err(AccountDataError::TooLarge)));
    assert!(matches!(
        world.users.put_account_data(&alice, None, &"t".repeat(256), "{}").await,
        Err(AccountDataError::TooLarge)
    ));
}

#[tokio::test]
async fn ignoring_somebody_takes_effect_at_once() {
    let world = world().await;
    let alice = world.account("alice").await;
    let user = world.users.number(&alice).await.unwrap().unwrap();
    assert!(world.users.ignored(user).await.unwrap().is_empty());
    let content = json!({ "ignored_users": { "@eve:b.c": {}, "nonsense": {} } }).to_string();
    world.users.put_account_data(&alice, None, "m.ignored_user_list", &content).await.unwrap();
    let ignored = world.users.ignored(user).await.unwrap();
    assert_eq!(ignored.iter().map(ToString::to_string).collect::<Vec<_>>(), ["@eve:b.c"]);
    world.users.put_account_data(&alice, None, "m.ignored_user_list", "{\"ignored_users\":[]}").await.unwrap();
    assert!(world.users.ignored(user).await.unwrap().is_empty());
}

#[tokio::test]
async fn tags_come_and_go_in_a_race() {
    let world = world().await;
    let alice = world.account("alice").await;
    name_room(&world, "!a:b.c").await;
    let room = room_id("!a:b.c");
    let order = json!({ "order": 0.5 });
    let (one, two) = tokio::join!(
        world.users.put_tag(&alice, room, "u.one", &order),
        world.users.put_tag(&alice, room, "m.favourite", &order),
    );
    one.unwrap();
    two.unwrap();
    assert_eq!(
        Value::Object(world.users.tags(&alice, room).await.unwrap()),
        json!({ "u.one": order, "m.favourite": order })
    );
    world.users.delete_tag(&alice, room, "u.one").await.unwrap();
    world.users.delete_tag(&alice, room, "u.never").await.unwrap();
    assert_eq!(Value::Object(world.users.tags(&alice, room).await.unwrap()), json!({ "m.favourite": order }));
    assert!(matches!(world.users.put_tag(&alice, room, &"t".repeat(256), &order).await, Err(TagError::TooLarge)));
}

/// The rules as the specification has them, version 1.19, "Predefined Rules", in its order.
const DEFAULT_RULES: &str = include_str!("default_push_rules.json");

#[test]
fn the_default_rules_are_the_specifications() {
    let expected: Vec<Value> = serde_json::from_str(DEFAULT_RULES).unwrap();
    let rules = rules_json(&Ruleset::server_default("@alice:hearth.test".try_into().unwrap()));
    let kinds = ["override", "content", "room", "sender", "underride"];
    let ours: Vec<Value> = kinds.iter().flat_map(|kind| rules[kind].as_array().unwrap().clone()).collect();
    for (ours, expected) in ours.iter().zip(&expected) {
        assert_eq!(normalised(ours), normalised(expected));
    }
    assert_eq!(ours.len(), expected.len());
}

/// `highlight` without a value means `true`, in either writing.
fn normalised(rule: &Value) -> Value {
    let mut rule = rule.clone();
    for action in rule["actions"].as_array_mut().unwrap() {
        if action["set_tweak"] == "highlight" && action["value"] == true {
            action.as_object_mut().unwrap().remove("value");
        }
    }
    if rule["conditions"] == json!([]) {
        rule.as_object_mut().unwrap().remove("conditions");
    }
    rule
}

fn keyword(id: &str, before: Option<&str>, after: Option<&str>) -> NewRule {
    let rule = NewPushRule::Content(NewPatternedPushRule::new(id.to_owned(), id.to_owned(), vec![Action::Notify]));
    NewRule { rule, place: RulePlace { before: before.map(str::to_owned), after: after.map(str::to_owned) } }
}

#[tokio::test]
async fn push_rules_stand_where_they_are_put() {
    let world = world().await;
    let alice = world.account("alice").await;
    let put = async |rule: NewRule| world.users.put_push_rule(&alice, &rule).await;
    let order = async || {
        let rules = world.users.push_rules(&alice).await.unwrap();
        rules.content.iter().map(|rule| rule.rule_id.clone()).collect::<Vec<_>>().join(" ")
    };
    for id in ["a", "b", "c"] {
        put(keyword(id, None, None)).await.unwrap();
    }
    assert_eq!(order().await, "c b a");
    world.users.enable_push_rule(&alice, &RuleKind::Content, "c", false).await.unwrap();
    put(keyword("c", None, Some("a"))).await.unwrap();
    assert_eq!(order().await, "b a c");
    put(keyword("c", Some("b"), None)).await.unwrap();
    assert_eq!(order().await, "c b a");
    let rules = world.users.push_rules(&alice).await.unwrap();
    assert!(!rules.content.get("c").unwrap().enabled, "a rule that moves stays switched off");
    for place in [(Some("a"), None), (None, Some("a"))] {
        assert!(matches!(put(keyword("a", place.0, place.1)).await, Err(PushRuleError::Invalid(_))));
    }
    assert!(matches!(put(keyword("x", None, Some("nowhere"))).await, Err(PushRuleError::NotFound)));
    assert!(matches!(put(keyword("x", None, Some(".m.rule.master"))).await, Err(PushRuleError::Invalid(_))));
    assert!(matches!(put(keyword(".m.mine", None, None)).await, Err(PushRuleError::ServerDefault)));
    assert!(matches!(put(keyword("a/b", None, None)).await, Err(PushRuleError::Invalid(_))));
    assert_eq!(order().await, "c b a");
    let gone = world.users.delete_push_rule(&alice, &RuleKind::Override, ".m.rule.master").await;
    assert!(matches!(gone, Err(PushRuleError::ServerDefault)));
    world.users.enable_push_rule(&alice, &RuleKind::Override, ".m.rule.master", true).await.unwrap();
    assert!(world.users.push_rules(&alice).await.unwrap().override_.get(".m.rule.master").unwrap().enabled);
    world.users.delete_push_rule(&alice, &RuleKind::Content, "c").await.unwrap();
    let gone = world.users.delete_push_rule(&alice, &RuleKind::Content, "c").await;
    assert!(matches!(gone, Err(PushRuleError::NotFound)));
}

#[tokio::test]
async fn settings_follow_a_room_to_its_successor() {
    let world = world().await;
    let alice = world.account("alice").await;
    name_room(&world, "!old:b.c").await;
    name_room(&world, "!new:b.c").await;
    let (old, new) = (room_id("!old:b.c"), room_id("!new:b.c"));
    let rule = NewPushRule::Room(NewSimplePushRule::new(old.to_owned(), vec![]));
    world.users.put_push_rule(&alice, &NewRule { rule, place: RulePlace::default() }).await.unwrap();
    world.users.put_tag(&alice, old, "m.favourite", &json!({})).await.unwrap();
    let direct = json!({ "@bob:b.c": ["!old:b.c"], "@eve:b.c": ["!else:b.c"], "nonsense": 3 }).to_string();
    world.users.put_account_data(&alice, None, "m.direct", &direct).await.unwrap();
    world.users.copy_room_settings(&alice, old, new).await.unwrap();
    world.users.copy_room_settings(&alice, old, new).await.unwrap();
    let direct: Value =
        serde_json::from_str(&world.users.account_data(&alice, None, "m.direct").await.unwrap().unwrap()).unwrap();
    assert_eq!(direct, json!({ "@bob:b.c": ["!old:b.c", "!new:b.c"], "@eve:b.c": ["!else:b.c"], "nonsense": 3 }));
    assert!(world.users.tags(&alice, new).await.unwrap().contains_key("m.favourite"));
    let rules = world.users.push_rules(&alice).await.unwrap();
    assert!(rules.room.contains("!new:b.c") && rules.room.contains("!old:b.c"));
}

#[tokio::test]
async fn a_filter_has_one_id() {
    let world = world().await;
    let alice = world.account("alice").await;
    let id = world.users.put_filter(&alice, "{\"room\":{}}").await.unwrap();
    assert_eq!(world.users.put_filter(&alice, "{\"room\":{}}").await.unwrap(), id);
    assert_eq!(world.users.filter(&alice, &id).await.unwrap().as_deref(), Some("{\"room\":{}}"));
    let bob = world.account("bob").await;
    assert_eq!(world.users.filter(&bob, &id).await.unwrap(), None, "filters are their owner's");
    assert!(!id.starts_with('{'));
}
