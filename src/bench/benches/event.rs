//! An event's life in memory: made, decided on, read back, shown, redacted. And the check that every body goes through.

use ed25519_dalek::{Signer as _, SigningKey as BareKey};
use hearth_bench::{Subject, World};
use hearth_core::{Event, Limits, RoomVersion, admit, check_json, format::client_json, redact};
use serde_json::{json, value::RawValue};

fn main() {
    let mut subject = Subject::new("event");
    let world = World::public(RoomVersion::DEFAULT, 16);
    let (draft, references) = world.message(7, &"All the king's horses and all the king's men. ".repeat(4));
    let event = world.build(&draft, &references);

    let bare = BareKey::from_bytes(&[7; 32]);
    subject.time("a bare signature", || bare.sign(event.json()));
    subject.time("build", || world.build(&draft, &references));
    subject.ratio("build, to a bare signature", "build", "a bare signature");

    // Each time a new one, whose content nobody has looked at: an event is admitted once.
    let fresh = || parse(&event);
    subject
        .time_with("admit", fresh, |event| admit(&event, |kind, key| world.get(kind, key).cloned()).expect("allowed"));
    subject.time("parse_stored", fresh);
    subject.time("from_store", || from_store(&event));
    subject.ratio("from_store, to parse_stored", "from_store", "parse_stored");
    subject.time("client_json", || client_json(&event, true));
    subject.time("redact", || redact(&event));

    bodies(&mut subject);
    subject.finish();
}

fn parse(event: &Event) -> Event {
    let (id, room_id) = (event.event_id().to_owned(), event.room_id().to_owned());
    Event::parse_stored(event.version(), id, room_id, event.json().clone()).expect("it was built just before")
}

/// What a reader of old events pays for each.
fn from_store(event: &Event) -> Event {
    let (id, room_id) = (event.event_id().to_owned(), event.room_id().to_owned());
    Event::from_store(event.version(), id, room_id, event.json().clone()).expect("it was built just before")
}

/// Bodies of requests: a message, a large event, and what somebody sends who means harm.
fn bodies(subject: &mut Subject) {
    let message = json!({ "msgtype": "m.text", "body": "Humpty Dumpty sat on a wall." }).to_string();
    let large = json!({ "body": "Humpty Dumpty \"sat\" on a wäll.\n".repeat(1_500) }).to_string();
    let numbers = json!({ "numbers": vec![9_007_199_254_740_991_u64; 3_000] }).to_string();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let deep = format!("[{}]", vec![nested(Limits::BODY.depth_max - 1); 200].join(","));
    for (what, body) in [("message", &message), ("large text", &large), ("numbers", &numbers), ("nesting", &deep)] {
        let name = format!("check_json: {what}, {} kB", body.len().div_ceil(1_000));
        subject.time(&name, || check_json(body.as_bytes(), &Limits::BODY).expect("it is within the limits"));
    }
    let other = "serde_json: the large text, skipped";
    subject.time(other, || serde_json::from_str::<&RawValue>(&large).expect("JSON").get().len());
    subject.ratio(
        "large text, to serde_json",
        &format!("check_json: large text, {} kB", large.len().div_ceil(1_000)),
        other,
    );
}
