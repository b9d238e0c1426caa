//! Which events a new room begins with, in the specification's order. Pure.

use hearth_core::RoomVersion;
use ruma::{RoomAliasId, ServerName};
use serde_json::{Map, Value, json};

use super::{Creation, Preset};

/// One of a new room's first events, all of which its creator sends.
#[derive(Clone, Debug)]
pub(crate) struct FirstEvent {
    pub(crate) kind: String,
    pub(crate) state_key: String,
    pub(crate) content: Map<String, Value>,
}

impl FirstEvent {
    pub(crate) fn new(kind: &str, state_key: &str, content: Value) -> Self {
        let Value::Object(content) = content else { unreachable!("first events have objects as content") };
        Self { kind: kind.to_owned(), state_key: state_key.to_owned(), content }
    }
}

/// The create event's content: the client's keys, under those that are the server's to say.
pub(crate) fn create_content(creation: &Creation, version: RoomVersion) -> Map<String, Value> {
    let mut content = creation.creation_content.clone();
    content.insert("room_version".to_owned(), version.as_str().into());
    content.remove("creator");
    let rules = &version.rules().authorization;
    if !rules.use_room_create_sender {
        content.insert("creator".to_owned(), creation.creator.to_string().into());
    }
    // "The server SHOULD combine additional_creators and the invite array, deduplicating."
    if rules.additional_room_creators && creation.preset == Preset::TrustedPrivate && !creation.invite.is_empty() {
        let given = content.entry("additional_creators").or_insert_with(|| json!([]));
        if let Value::Array(creators) = given {
            for (user, _) in &creation.invite {
                let name = Value::from(user.as_str());
                if *user != creation.creator && !creators.contains(&name) {
                    creators.push(name);
                }
            }
        }
    }
    content
}

/// All events after the create event. Users of other servers than `own_server` are invited once the room is there.
pub(crate) fn first_events(
    creation: &Creation,
    version: RoomVersion,
    alias: Option<&RoomAliasId>,
    own_server: &ServerName,
) -> Vec<FirstEvent> {
    let creator = creation.creator.as_str();
    let mut join = creation.profile.clone();
    join.insert("membership".to_owned(), "join".into());
    let mut events = vec![
        FirstEvent { kind: "m.room.member".to_owned(), state_key: creator.to_owned(), content: join },
        FirstEvent {
            content: power_levels(creation, version),
            ..FirstEvent::new("m.room.power_levels", "", json!({}))
        },
    ];
    if let Some(alias) = alias {
        events.push(FirstEvent::new("m.room.canonical_alias", "", json!({ "alias": alias })));
    }
    let is_given =
        |kind: &str| creation.initial_state.iter().any(|given| given.kind == kind && given.state_key.is_empty());
    events.extend(preset_events(creation.preset).into_iter().filter(|event| !is_given(&event.kind)));
    let given = creation.initial_state.iter().cloned();
    events.extend(given.map(|given| FirstEvent {
        kind: given.kind,
        state_key: given.state_key,
        content: given.content,
    }));
    if let Some(name) = &creation.name {
        events.push(FirstEvent::new("m.room.name", "", json!({ "name": name })));
    }
    if let Some(topic) = &creation.topic {
        let content = json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic }] } });
        events.push(FirstEvent::new("m.room.topic", "", content));
    }
    let invited = creation.invite.iter().filter(|(user, _)| user.server_name() == own_server);
    events.extend(invited.map(|(user, profile)| {
        let mut content = profile.clone();
        content.insert("membership".to_owned(), "invite".into());
        if creation.is_direct {
            content.insert("is_direct".to_owned(), true.into());
        }
        FirstEvent { kind: "m.room.member".to_owned(), state_key: user.to_string(), content }
    }));
    events
}

fn preset_events(preset: Preset) -> [FirstEvent; 3] {
    let (join_rule, guest_access) = match preset {
        Preset::Private | Preset::TrustedPrivate => ("invite", "can_join"),
        Preset::Public => ("public", "forbidden"),
    };
    [
        FirstEvent::new("m.room.join_rules", "", json!({ "join_rule": join_rule })),
        FirstEvent::new("m.room.history_visibility", "", json!({ "history_visibility": "shared" })),
        FirstEvent::new("m.room.guest_access", "", json!({ "guest_access": guest_access })),
    ]
}

/// The level of those who created a room, before version 12 put them above all numbers.
const CREATOR_LEVEL: i64 = 100;

/// From version 12 on: "The power level for sending m.room.tombstone events MUST explicitly be higher than
/// state_default. For example, set to 150 instead of 100."
const TOMBSTONE_LEVEL: i64 = 150;

fn power_levels(creation: &Creation, version: RoomVersion) -> Map<String, Value> {
    let are_creators_above = version.rules().authorization.explicitly_privilege_room_creators;
    let mut users = Map::new();
    if !are_creators_above {
        users.insert(creation.creator.to_string(), CREATOR_LEVEL.into());
        if creation.preset == Preset::TrustedPrivate {
            users.extend(creation.invite.iter().map(|(user, _)| (user.to_string(), CREATOR_LEVEL.into())));
        }
    }
    let invite = if creation.preset == Preset::Public { 50 } else { 0 };
    let tombstone = if are_creators_above { TOMBSTONE_LEVEL } else { CREATOR_LEVEL };
    let content = json!({
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.encryption": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": tombstone,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": invite,
    });
    let Value::Object(mut content) = content else { unreachable!("it was written as an object") };
    content.extend(creation.power_levels.clone());
    content
}
