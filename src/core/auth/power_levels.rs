//! Power levels as the services need them.
//! [`m.room.power_levels`](https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels).

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use crate::{Event, RoomVersion};

/// How much a user may do. Creators from room version 12 on stand above every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// An ordinary level.
    Number(i64),
    /// A creator's, from room version 12 on.
    Creator,
}

/// The power levels in force in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerLevels {
    creators: BTreeSet<OwnedUserId>,
    creators_are_above: bool,
    users: BTreeMap<OwnedUserId, i64>,
    users_default: i64,
    events: BTreeMap<String, i64>,
    events_default: i64,
    state_default: i64,
    ban: i64,
    invite: i64,
    kick: i64,
    redact: i64,
    notifications: BTreeMap<String, i64>,
}

impl PowerLevels {
    /// From the create event and, if there is one, the power levels event. Values that are no levels in this room
    /// version count as absent; the authorisation rules do not let such events in.
    pub fn of(create: &Event, power_levels: Option<&Event>, version: RoomVersion) -> Self {
        let rules = &version.rules().authorization;
        let create_content: Value = create.content_as().unwrap_or_default();
        let mut creators = BTreeSet::new();
        match create_content["creator"].as_str().filter(|_| !rules.use_room_create_sender) {
            Some(creator) => creators.extend(OwnedUserId::try_from(creator)),
            None => creators.extend([create.sender().to_owned()]),
        }
        if rules.additional_room_creators {
            let more = create_content["additional_creators"].as_array().into_iter().flatten();
            creators.extend(more.filter_map(|user| OwnedUserId::try_from(user.as_str()?).ok()));
        }
        let content: Value = power_levels.and_then(|event| event.content_as().ok()).unwrap_or_default();
        let level = |value: &Value| level(value, rules.integer_power_levels);
        let number = |field: &str, default: i64| level(&content[field]).unwrap_or(default);
        let map = |field: &str| {
            let entries = content[field].as_object().into_iter().flatten();
            entries.filter_map(|(key, value)| Some((key.clone(), level(value)?))).collect::<BTreeMap<_, _>>()
        };
        let mut users: BTreeMap<_, _> =
            map("users").into_iter().filter_map(|(user, level)| Some((user.try_into().ok()?, level))).collect();
        if power_levels.is_none() && !rules.explicitly_privilege_room_creators {
            // "If the room has no power levels event, the creator has 100 and all others 0."
            users.extend(creators.iter().map(|creator| (creator.clone(), 100)));
        }
        Self {
            creators,
            creators_are_above: rules.explicitly_privilege_room_creators,
            users,
            users_default: number("users_default", 0),
            events: map("events"),
            events_default: number("events_default", 0),
            state_default: number("state_default", 50),
            ban: number("ban", 50),
            invite: number("invite", 0),
            kick: number("kick", 50),
            redact: number("redact", 50),
            notifications: map("notifications"),
        }
    }

    /// The user's level.
    pub fn user_level(&self, user: &UserId) -> Level {
        if self.creators_are_above && self.creators.contains(user) {
            return Level::Creator;
        }
        Level::Number(self.users.get(user).copied().unwrap_or(self.users_default))
    }

    /// The level needed to send an event of this type.
    pub fn level_for(&self, kind: &str, is_state: bool) -> Level {
        let default = if is_state { self.state_default } else { self.events_default };
        Level::Number(self.events.get(kind).copied().unwrap_or(default))
    }

    /// Whether the user's level suffices to send an event of this type. Membership is another question.
    pub fn can_send(&self, user: &UserId, kind: &str, is_state: bool) -> bool {
        self.user_level(user) >= self.level_for(kind, is_state)
    }

    /// Whether the user's level suffices to invite.
    pub fn can_invite(&self, user: &UserId) -> bool {
        self.user_level(user) >= Level::Number(self.invite)
    }

    /// Whether the user's level suffices to kick this target (or take back its ban or invite).
    pub fn can_kick(&self, user: &UserId, target: &UserId) -> bool {
        let level = self.user_level(user);
        level >= Level::Number(self.kick) && level > self.user_level(target)
    }

    /// Whether the user's level suffices to ban this target.
    pub fn can_ban(&self, user: &UserId, target: &UserId) -> bool {
        let level = self.user_level(user);
        level >= Level::Number(self.ban) && level > self.user_level(target)
    }

    /// Whether the user's level suffices to redact others' events. Everybody may redact their own.
    pub fn can_redact(&self, user: &UserId) -> bool {
        self.user_level(user) >= Level::Number(self.redact)
    }

    /// The level needed to notify by this key; `room` is the one in use.
    pub fn notification_level(&self, key: &str) -> Level {
        Level::Number(self.notifications.get(key).copied().unwrap_or(50))
    }

    /// All that the event says of notifications.
    pub fn notifications(&self) -> &BTreeMap<String, i64> {
        &self.notifications
    }

    /// The users with a level of their own.
    pub fn users(&self) -> &BTreeMap<OwnedUserId, i64> {
        &self.users
    }

    /// The level of users without one of their own.
    pub fn users_default(&self) -> i64 {
        self.users_default
    }

    /// The room's creators: one, or from version 12 on possibly more.
    pub fn creators(&self) -> &BTreeSet<OwnedUserId> {
        &self.creators
    }
}

/// A level as the room version reads it: before version 10 also a string of digits or a float, cut off.
fn level(value: &Value, integers_only: bool) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            // `as` saturates.
            number.as_f64().filter(|_| !integers_only).map(|float| float as i64)
        }),
        Value::String(text) if !integers_only => {
            let text = text.trim();
            match text.strip_prefix('+') {
                Some(digits) => digits.parse::<u32>().ok().map(i64::from),
                None => text.parse().ok(),
            }
        }
        _ => None,
    }
}
