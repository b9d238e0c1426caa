//! Events that nobody may take.

use hearth_core::{Draft, References, RoomVersion, build};
use rand::RngExt as _;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use super::{Inside, Liar};
use crate::node;

/// How events cite what authorises them, or what was before them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cites {
    /// As an honest event would.
    Right,
    /// What allows it: an event of ours that nobody takes.
    OwnPower,
    /// Nothing.
    Nothing,
    /// Events that do not exist.
    Strangers,
}

impl Liar {
    /// At most so many events for rooms that the liar has to do with, not all of them forbidden.
    pub(super) fn forge_some(&self, inside: &mut Inside, count_max: usize) -> Vec<Value> {
        let rooms: Vec<_> = inside.models.keys().cloned().collect();
        if rooms.is_empty() {
            return Vec::new();
        }
        let count = inside.random.random_range(1..=count_max);
        (0..count)
            .filter_map(|_| {
                let room = &rooms[inside.random.random_range(0..rooms.len())];
                self.forge(inside, room)
            })
            .collect()
    }

    fn forge(&self, inside: &mut Inside, room: &str) -> Option<Value> {
        let version = *inside.versions.get(room)?;
        let model = inside.models.get(room)?.clone();
        inside.forged += 1;
        let (us, victim) = (format!("@u0:{}", self.name), self.victim(inside));
        let power = json!({ "users": { &us: 100, &victim: 0 }, "lie": true });
        let words = json!({ "msgtype": "m.text", "body": "a lie", "lie": true });
        let (sender, kind, state_key, content) = match inside.random.random_range(0..9) {
            0 => (&us, "m.room.power_levels", Some(""), power),
            1 => (&us, "m.room.member", Some(&*victim), json!({ "membership": "ban", "lie": true })),
            2 => (&us, "m.room.topic", Some(""), json!({ "topic": "a lie", "lie": true })),
            3 => (&victim, "m.room.message", None, words),
            4 => (&victim, "m.room.power_levels", Some(""), power),
            5 => (&victim, "m.room.member", Some(&*victim), json!({ "membership": "leave", "lie": true })),
            6 => (&us, "m.room.join_rules", Some(""), json!({ "join_rule": "public", "lie": true })),
            7 => (
                &us,
                "m.room.create",
                Some(""),
                json!({ "creator": us, "room_version": version.as_str(), "lie": true }),
            ),
            _ => (&us, "m.room.message", None, words),
        };
        let cites = match inside.random.random_range(0..6) {
            0 => Cites::OwnPower,
            1 => Cites::Nothing,
            2 => Cites::Strangers,
            _ => Cites::Right,
        };
        // Nothing that nobody takes is there yet: it would cite what it should.
        let cites = if cites == Cites::OwnPower && inside.forbidden.is_empty() { Cites::Right } else { cites };
        let draft = Draft {
            kind: kind.to_owned(),
            state_key: state_key.map(str::to_owned),
            content: serde_json::value::to_raw_value(&content).ok()?,
            sender: OwnedUserId::try_from(sender.as_str()).ok()?,
            redacts: None,
            origin_server_ts_ms: model["origin_server_ts"].as_u64()? + inside.forged,
        };
        let references = references(inside, &model, version, cites);
        let room_id = OwnedRoomId::try_from(room).ok();
        let opaque = format!("lie{}", inside.forged);
        let event =
            build(&draft, &references, room_id.as_deref(), version, &self.key, &self.name, Some(&opaque)).ok()?;
        // A message of one of our own people is no crime where it cites what it should.
        let is_innocent = kind == "m.room.message" && *sender == us && cites != Cites::OwnPower;
        if !is_innocent {
            inside.forbidden.insert(event.event_id().to_string());
        }
        serde_json::from_slice(event.json()).ok()
    }

    /// Somebody of another server.
    fn victim(&self, inside: &mut Inside) -> String {
        let server = inside.random.random_range(0..self.servers - 1);
        format!("@u0:{}", node::name(server))
    }
}

fn references(inside: &mut Inside, model: &Value, version: RoomVersion, cites: Cites) -> References {
    let cited = |field: &str| -> Vec<OwnedEventId> {
        let events = model[field].as_array().into_iter().flatten();
        // Versions 1 and 2 have pairs of an id and hashes.
        let ids = events.filter_map(|event| event.as_str().or_else(|| event[0].as_str()));
        ids.filter_map(|id| OwnedEventId::try_from(id).ok()).collect()
    };
    let stranger = |number: u64| {
        let id = if version.has_chosen_event_ids() {
            format!("$stranger{number}:s0.sim")
        } else {
            format!("$stranger{number:035}")
        };
        OwnedEventId::try_from(id).unwrap()
    };
    let depth = model["depth"].as_u64().unwrap_or(1);
    let (mut prev_events, mut auth_events) = (cited("prev_events"), cited("auth_events"));
    match cites {
        Cites::Right => {}
        Cites::OwnPower => {
            let own = inside.forbidden.iter().next_back().and_then(|id| OwnedEventId::try_from(id.as_str()).ok());
            auth_events.extend(own);
        }
        Cites::Nothing => auth_events.clear(),
        Cites::Strangers => {
            prev_events = vec![stranger(inside.forged)];
            if inside.random.random_bool(0.3) {
                auth_events.push(stranger(inside.forged + 1));
            }
        }
    }
    References { prev_events, auth_events, depth, hashes: Default::default() }
}
