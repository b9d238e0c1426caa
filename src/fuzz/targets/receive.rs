//! A room of ours and what other servers send into it: any graph of properly signed events, in any order, with parts that
//! they keep back, tell wrongly or not at all. Nobody changes what only Alice may, Alice can always talk, every event has an
//! answer, and the database holds together; a restart changes nothing.

#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use bytes::Bytes;
use hearth_core::{Draft, Event};
use hearth_fuzz::{
    peers::{Known, Manner, Others},
    raw,
    room::{ALICE, BOB, Base, CAROL, DAN, ERIN, NOW_MS, STRANGER, Server, State, base, user, version_of},
    run,
};
use libfuzzer_sys::fuzz_target;
use ruma::{EventId, OwnedEventId, ServerName};
use serde_json::{Value, json};

/// Acts of one story.
const ACTS_MAX: usize = 40;

#[derive(Arbitrary, Debug)]
struct Story {
    version: u8,
    manner: u8,
    acts: Vec<Act>,
}

/// One event, and how it comes.
#[derive(Arbitrary, Debug)]
struct Act {
    who: u8,
    what: u8,
    whom: u8,
    /// Which events it follows, counted from the newest.
    prevs: [u8; 2],
    cites: u8,
    sent: u8,
}

fuzz_target!(|story: Story| {
    let base = base(version_of(story.version));
    run(tell(base, &story));
});

/// What is known elsewhere.
struct Far<'a> {
    base: &'a Base,
    others: Arc<Others>,
    /// All events, sent or not.
    events: Vec<Event>,
    /// What the newest event sees.
    state: State,
    /// What is not sent yet.
    waiting: Vec<Bytes>,
}

async fn tell(base: &Base, story: &Story) {
    let others = Arc::new(Others { manner: Manner(story.manner), ..Others::default() });
    let server = Server::over(base.engine.fork(), others.clone(), 2).await;
    let (events, state) = (base.events.clone(), base.state.clone());
    let mut far = Far { base, others, events, state, waiting: Vec::new() };
    base.events.iter().for_each(|event| far.learn(event));
    for (index, act) in story.acts.iter().take(ACTS_MAX).enumerate() {
        if act.who % 8 == 7 {
            far.flush(&server, act.sent).await;
            far.alice(&server, act, index).await;
        } else if let Some(event) = far.make(act, index) {
            far.send(&server, act.sent, &event).await;
        }
    }
    far.flush(&server, 0).await;
    server.check(base).await;
    server.say(&base.room_id, "still here").await;
    server.check(base).await;
    restart(base, &server, far.others.clone()).await;
}

/// The same database under another process.
async fn restart(base: &Base, server: &Server, others: Arc<Others>) {
    let room = server.number(&base.room_id).await;
    let head = server.store.head(room).await.expect("memory reads");
    let again = Server::over(server.engine.fork(), others, 3).await;
    assert_eq!(again.store.head(room).await.expect("memory reads"), head);
    again.say(&base.room_id, "here again").await;
    again.check(base).await;
}

impl Far<'_> {
    /// An event of ours is known elsewhere.
    fn learn(&mut self, event: &Event) {
        let state = self.state.values().map(|event| event.event_id().to_owned()).collect();
        self.others.events.lock().insert(event.event_id().to_owned(), Known::new(event, state));
    }

    /// What somebody does, whether or not it is allowed.
    fn make(&mut self, act: &Act, index: usize) -> Option<Event> {
        let draft = draft(act, index, &self.events)?;
        let picked = |back: u8| self.events.iter().rev().nth(usize::from(back) % self.events.len());
        let prevs: Vec<&Event> = match act.prevs {
            [0, 0] => picked(0).into_iter().collect(),
            [0, one] => picked(one).into_iter().collect(),
            [one, other] => picked(one).into_iter().chain(picked(other).filter(|_| one != other)).collect(),
        };
        let base_state = &self.base.state;
        let (state, cited) = match act.cites % 8 {
            0..=4 => (&self.state, None),
            5 => (base_state, None),
            6 => (&self.state, Some(prevs.iter().map(|event| event.event_id().to_owned()).collect())),
            _ => {
                let mut cited = self.base.auth_events(&self.state, &draft);
                cited.push(unknown(self.base, act.whom));
                (&self.state, Some(cited))
            }
        };
        let event = self.base.build(state, &prevs, cited, &draft, &format!("e{index}")).ok()?;
        self.learn(&event);
        if let Some((kind, state_key)) = event.state_pair().filter(|_| act.cites & 8 == 0) {
            self.state.insert((kind.to_owned(), state_key.to_owned()), event.clone());
        }
        self.events.push(event.clone());
        Some(event)
    }

    /// Sends an event, or keeps it back, or changes it on its way.
    async fn send(&mut self, server: &Server, how: u8, event: &Event) {
        let json = match (how >> 2) % 8 {
            // It is known elsewhere only.
            1 => return,
            // It is known nowhere else.
            2 => {
                self.others.events.lock().remove(event.event_id());
                event.json().clone()
            }
            3 => changed(event, "content", json!({ "body": "changed", "membership": "join" })),
            4 => changed(event, "depth", json!(0)),
            5 => changed(event, "unsigned", json!({ "age": -1 })),
            6 => {
                self.waiting.push(event.json().clone());
                event.json().clone()
            }
            _ => event.json().clone(),
        };
        self.waiting.push(json);
        if how & 3 != 1 {
            self.flush(server, how).await;
        }
    }

    /// Sends what waits, perhaps backwards.
    async fn flush(&mut self, server: &Server, how: u8) {
        let mut events = std::mem::take(&mut self.waiting);
        if how & 3 == 2 {
            events.reverse();
        }
        let origin: &ServerName = if how & 128 == 0 { "far.test" } else { "third.test" }.try_into().expect("a name");
        let count = events.len();
        let received = server.rooms.receive(origin, &self.base.room_id, events).await;
        assert_eq!(received.len(), count, "every event has an answer");
        let failed = received.iter().filter_map(|received| received.result.as_ref().err());
        failed.for_each(|error| assert!(!matches!(error, hearth_rooms::ReceiveError::Unavailable(_)), "{error}"));
    }

    /// Something happens here, and is known elsewhere or not.
    async fn alice(&mut self, server: &Server, act: &Act, index: usize) {
        let room_id = &self.base.room_id;
        let id = match act.what % 4 {
            0 => server.set(room_id, "m.room.topic", &json!({ "topic": format!("{index}") })).await,
            _ => server.say(room_id, &format!("{index}")).await,
        };
        let event = server.event(server.number(room_id).await, &id).await;
        if act.cites & 1 == 0 {
            self.learn(&event);
            if let Some((kind, state_key)) = event.state_pair() {
                self.state.insert((kind.to_owned(), state_key.to_owned()), event.clone());
            }
            self.events.push(event);
        }
    }
}

/// The id of an event that there is not, or that is the create event's.
fn unknown(base: &Base, salt: u8) -> OwnedEventId {
    if salt & 1 == 0 {
        return base.events[0].event_id().to_owned();
    }
    let id =
        if base.version.has_chosen_event_ids() { format!("$none{salt}:far.test") } else { format!("${salt:0>43}") };
    EventId::parse(id).expect("an event id")
}

fn changed(event: &Event, key: &str, value: Value) -> Bytes {
    let mut json: Value = serde_json::from_slice(event.json()).expect("an event is JSON");
    json[key] = value;
    json.to_string().into()
}

fn draft(act: &Act, index: usize, events: &[Event]) -> Option<Draft> {
    let sender = [BOB, CAROL, DAN, ERIN, STRANGER, BOB, CAROL][usize::from(act.who % 8)];
    let target = [ALICE, BOB, CAROL, DAN, ERIN, STRANGER, sender][usize::from(act.whom % 7)];
    let member = |membership: &str| ("m.room.member", Some(target), json!({ "membership": membership }));
    let own = |membership: &str| ("m.room.member", Some(sender), json!({ "membership": membership }));
    let text = format!("{}", act.whom);
    let (kind, state_key, content) = match act.what % 24 {
        0..=3 => ("m.room.message", None, json!({ "body": text })),
        4 => own("join"),
        5 => own("leave"),
        6 => own("knock"),
        7 => member("invite"),
        8 => member("leave"),
        9 => member("ban"),
        10 => member("join"),
        11..=13 => ("m.room.topic", Some(""), json!({ "topic": text })),
        14 => ("m.room.name", Some(""), json!({ "name": text })),
        15 => ("m.room.power_levels", Some(""), json!({ "users": { sender: 100 }, "users_default": 100 })),
        16 => ("m.room.join_rules", Some(""), json!({ "join_rule": "invite" })),
        17 => ("m.room.history_visibility", Some(""), json!({ "history_visibility": "world_readable" })),
        18 => ("m.room.server_acl", Some(""), json!({ "allow": [], "deny": ["*"] })),
        19 => ("m.room.create", Some(""), json!({ "creator": sender, "room_version": "1" })),
        20 => ("m.room.tombstone", Some(""), json!({ "replacement_room": "!other:far.test" })),
        21 => ("m.room.topic", Some(target), json!({ "topic": { "nested": [1, 2, { "": null }] } })),
        22 => ("m.room.aliases", Some("far.test"), json!({ "aliases": ["#a:far.test"] })),
        _ => ("m.room.redaction", None, json!({ "reason": text })),
    };
    let target = events.iter().rev().nth(usize::from(act.whom) % events.len())?;
    let redacts = (kind == "m.room.redaction").then(|| target.event_id().to_owned());
    Some(Draft {
        kind: kind.to_owned(),
        state_key: state_key.map(str::to_owned),
        content: raw(&content),
        sender: user(sender),
        redacts,
        origin_server_ts_ms: NOW_MS + 100 + index as u64,
    })
}
