//! The server that lies: a real one, whose words are changed on their way out, and signed anew where that needs its key.
//!
//! Its people have no power in any room, so whatever it says in their name beyond messages is forbidden, and what it says
//! in the name of others is not signed by them. Such events are [`Liar::is_forbidden`]: nobody may ever take them for
//! state, or show them.

mod forge;

use std::collections::{BTreeMap, BTreeSet};

use hearth_core::{RoomVersion, SigningKey};
use hearth_federation::xmatrix::{self, Signed};
use hearth_ports::{HttpAnswer, HttpRequest};
use http::{HeaderValue, StatusCode, header::AUTHORIZATION};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use ruma::{OwnedServerName, ServerName};
use serde_json::{Value, json};

use crate::{
    node,
    plan::{Lies, Plan},
    trace::{Trace, note},
};

/// Events of others that are remembered, to be told again.
const REMEMBERED_MAX: usize = 100;

/// Events of one transaction, and some more than are allowed.
const FLOOD: usize = 60;

/// What becomes of the words of the lying server.
pub(crate) struct Liar {
    node: usize,
    name: OwnedServerName,
    key: SigningKey,
    lies: Lies,
    /// Servers that are lied about.
    servers: usize,
    trace: Trace,
    inside: Mutex<Inside>,
}

struct Inside {
    random: StdRng,
    /// From now on it tells the truth.
    repents: bool,
    versions: BTreeMap<String, RoomVersion>,
    /// An event of ours in each room, after which others are modelled.
    models: BTreeMap<String, Value>,
    /// What others said.
    heard: Vec<Value>,
    forbidden: BTreeSet<String>,
    forged: u64,
}

impl Liar {
    /// The last server of a plan, if it lies.
    pub(crate) fn of(plan: &Plan, trace: Trace) -> Option<Self> {
        let node = plan.servers - 1;
        (plan.lies != Lies::None).then(|| Self {
            node,
            name: node::name(node),
            key: node::signing_key(node),
            lies: plan.lies,
            servers: plan.servers,
            trace,
            inside: Mutex::new(Inside {
                random: StdRng::seed_from_u64(plan.seed ^ 0x6c69_6172),
                repents: false,
                versions: BTreeMap::new(),
                models: BTreeMap::new(),
                heard: Vec::new(),
                forbidden: BTreeSet::new(),
                forged: 0,
            }),
        })
    }

    pub(crate) fn is(&self, node: usize) -> bool {
        self.node == node
    }

    /// A room's version: events look accordingly.
    pub(crate) fn learn(&self, room: &str, version: u8) {
        let version = RoomVersion::from_number(version).unwrap();
        self.inside.lock().versions.insert(room.to_owned(), version);
    }

    /// From now on it tells the truth.
    pub(crate) fn repent(&self) {
        self.inside.lock().repents = true;
    }

    /// Whether it is a lie that nobody may believe.
    pub(crate) fn is_forbidden(&self, event: &str) -> bool {
        self.inside.lock().forbidden.contains(event)
    }

    /// What somebody asks of the liar. A join that it asked for must be a join, whatever its template said.
    pub(crate) fn hear(&self, request: &HttpRequest) {
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else { return };
        if request.path.contains("/send_join/") {
            let is_join = body["type"] == "m.room.member"
                && body["content"]["membership"] == "join"
                && body["state_key"] == body["sender"]
                && body["content"].get("lie").is_none();
            if !is_join {
                self.trace.fault(format!("the liar was given, signed: {body}"));
            }
        }
        let mut inside = self.inside.lock();
        let events = body["pdus"].as_array().into_iter().flatten();
        inside.heard.extend(events.cloned());
        let extra = inside.heard.len().saturating_sub(REMEMBERED_MAX);
        inside.heard.drain(..extra);
    }

    /// What it sends. Transactions are lied in; their signature is then the right one for the lie.
    pub(crate) fn bend_request(&self, request: &mut HttpRequest) {
        if !request.path.starts_with("/_matrix/federation/v1/send/") {
            return;
        }
        let Ok(mut body) = serde_json::from_slice::<Value>(&request.body) else { return };
        let mut inside = self.inside.lock();
        inside.learn_from(&body);
        if inside.repents || inside.random.random_bool(0.3) {
            return;
        }
        let what = self.bend_transaction(&mut inside, &mut body);
        note!(self.trace, "the liar: {what}");
        request.body = body.to_string().into();
        let destination = request.host.split(':').next().unwrap_or_default();
        let destination = ServerName::parse(destination).unwrap();
        let signed = Signed {
            method: request.method.as_str(),
            uri: &request.path,
            destination: &destination,
            content: Some(&request.body),
        };
        // What is no JSON that can be signed goes out with the old signature.
        if let Ok(header) = xmatrix::sign(&self.key, &self.name, &signed) {
            request.headers.insert(AUTHORIZATION, HeaderValue::try_from(header).unwrap());
        }
    }

    fn bend_transaction(&self, inside: &mut Inside, body: &mut Value) -> &'static str {
        let kind = inside.random.random_range(0..9);
        let forged = self.forge_some(inside, if kind == 5 { FLOOD } else { 3 });
        let heard = inside.heard.clone();
        let Some(events) = body["pdus"].as_array_mut() else { return "nothing" };
        match kind {
            0 => {
                events.iter_mut().for_each(break_signature);
                "signatures are wrong"
            }
            1 => {
                events.iter_mut().for_each(|event| event["content"]["lie"] = json!(true));
                "hashes are wrong"
            }
            2..=4 => {
                events.extend(forged);
                "forged events"
            }
            5 => {
                *events = forged;
                "a flood of forged events"
            }
            6 => {
                let twice = events.clone();
                events.extend(twice);
                events.reverse();
                events.extend(heard);
                "events of others, and ours twice, newest first"
            }
            7 => {
                let altered = heard.into_iter().map(|mut event| {
                    event["content"]["lie"] = json!(true);
                    event
                });
                events.extend(altered);
                "events of others, altered"
            }
            _ => {
                *events = vec![json!(1), json!("x"), json!({}), json!([[]]), json!({ "room_id": 7, "type": [] })];
                events.extend(inside.versions.keys().map(|room| json!({ "room_id": room, "type": "m.room.create" })));
                body["edus"] = json!([1, { "edu_type": 7 }, { "edu_type": "m.typing", "content": { "room_id": [] } },
                    { "edu_type": "m.receipt", "content": { "x": { "m.read": { "@u0:s0.sim": { "event_ids": [7] } } } } }]);
                "nonsense"
            }
        }
    }

    /// What it answers.
    pub(crate) fn bend_answer(&self, path: &str, answer: &mut HttpAnswer) {
        let asked = |name: &str| path.contains(&format!("/{name}/"));
        let is_state = asked("state") || asked("state_ids") || asked("send_join");
        let is_history = ["get_missing_events", "backfill", "event", "event_auth", "make_join"].into_iter().any(asked);
        let mut inside = self.inside.lock();
        if inside.repents || !(is_history || is_state && self.lies == Lies::OfState) || inside.random.random_bool(0.5) {
            return;
        }
        let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) else { return };
        match inside.random.random_range(0..8) {
            0 => answer.status = StatusCode::INTERNAL_SERVER_ERROR,
            1 => answer.body = "<html>".into(),
            _ => {
                if asked("make_join") {
                    self.bend_template(&mut inside, &mut body);
                } else {
                    self.bend_lists(&mut inside, &mut body);
                }
                answer.body = body.to_string().into();
            }
        }
        note!(self.trace, "the liar answers {path} with a lie");
    }

    /// A template that is not what was asked for.
    fn bend_template(&self, inside: &mut Inside, body: &mut Value) {
        let event = &mut body["event"];
        match inside.random.random_range(0..5) {
            0 => event["type"] = json!("m.room.power_levels"),
            1 => event["content"] = json!({ "membership": "ban", "lie": true }),
            2 => event["sender"] = json!(format!("@u0:{}", self.name)),
            3 => event["state_key"] = json!(""),
            _ => event["content"]["lie"] = json!(true),
        }
    }

    /// Lists of events or of ids: some left out, some forged, in another order.
    fn bend_lists(&self, inside: &mut Inside, body: &mut Value) {
        let forged = self.forge_some(inside, 2);
        for field in ["events", "pdus", "auth_chain", "state"] {
            let Some(events) = body[field].as_array_mut() else { continue };
            events.retain(|_| inside.random.random_bool(0.8));
            for event in events.iter_mut().filter(|_| inside.random.random_bool(0.1)) {
                break_signature(event);
            }
            events.extend(forged.clone());
            events.reverse();
        }
        for field in ["pdu_ids", "auth_chain_ids"] {
            let Some(ids) = body[field].as_array_mut() else { continue };
            ids.retain(|_| inside.random.random_bool(0.8));
            ids.extend(inside.forbidden.iter().take(3).map(|id| json!(id)));
            ids.push(json!("$nothing"));
        }
    }
}

impl Inside {
    /// Events after which others are modelled.
    fn learn_from(&mut self, body: &Value) {
        for event in body["pdus"].as_array().into_iter().flatten() {
            if let Some(room) = event["room_id"].as_str() {
                self.models.insert(room.to_owned(), event.clone());
            }
        }
    }
}

fn break_signature(event: &mut Value) {
    for signatures in event["signatures"].as_object_mut().into_iter().flat_map(|servers| servers.values_mut()) {
        for signature in signatures.as_object_mut().into_iter().flat_map(|keys| keys.values_mut()) {
            let text: String = signature.as_str().unwrap_or_default().chars().rev().collect();
            *signature = json!(text);
        }
    }
}
