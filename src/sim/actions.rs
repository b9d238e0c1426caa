//! What people do, and what befalls servers.

use std::{sync::Arc, time::Duration};

use http::Method;
use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    follow::quote,
    model::Room,
    trace::note,
    world::{Person, World},
};

/// The longest that a server is without power, in milliseconds.
const DOWN_MS_MAX: u64 = 40_000;

/// The longest that two servers do not reach each other, in milliseconds.
const CUT_MS_MAX: u64 = 120_000;

/// Events that people remember of a room, for redacting them.
const REMEMBERED_MAX: usize = 40;

/// How many of a wide run's deeds are of the rarer kinds.
const RARE: f64 = 0.15;

/// What a person does in a room.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Join,
    Invite,
    Leave,
    Kick,
    Ban,
    Unban,
    Knock,
    Say(u8),
    Topic,
    Colour(u8),
    Levels(i64),
    JoinRule(&'static str),
    Redact,
    Typing,
    Receipt,
    PageBack,
    /// Makes a room of this version that takes the place.
    Upgrade(u8),
    /// Lets in whoever is in another room, and perhaps knocks.
    Restrict(bool),
    /// Comes in with another name.
    Rename,
}

/// One step of a run: somebody does something, or something happens. It goes on by itself.
pub(crate) fn step(world: &Arc<World>, random: &mut StdRng) {
    let servers = world.nodes.len();
    let permille = random.random_range(0..1_000);
    let crashes = world.plan.crash_permille;
    if permille < crashes {
        let (node, down_ms) = (random.random_range(0..servers), random.random_range(0..DOWN_MS_MAX));
        tokio::spawn(crash(Arc::clone(world), node, down_ms));
        return;
    }
    if permille < crashes + world.plan.cut_permille {
        let one = random.random_range(0..servers);
        let other = (one + random.random_range(1..servers)) % servers;
        let (ms, both) = (random.random_range(0..CUT_MS_MAX), random.random_bool(0.7));
        tokio::spawn(cut(Arc::clone(world), one, other, ms, both));
        return;
    }
    let rooms = world.model.lock().rooms.len();
    let person = random.random_range(0..world.people.len());
    if rooms == 0 || random.random_bool(0.02) {
        let person = honest(world, person);
        let (version, public) = (world.plan.version_for(random.random_range(1..=12)), random.random_bool(0.8));
        tokio::spawn(create(Arc::clone(world), person, version, public));
        return;
    }
    let target = random.random_range(0..world.people.len());
    let room = random.random_range(0..rooms);
    let deed = if world.plan.is_wide && random.random_bool(RARE) { draw_rare(random) } else { draw(random) };
    // The lying server's people never get any power.
    let target = if matches!(deed, Deed::Levels(_)) { honest(world, target) } else { target };
    // The event to be redacted, and the server to be asked first.
    let luck = random.random_range(0..1_000);
    tokio::spawn(act(Arc::clone(world), person, room, deed, target, luck));
}

/// This person, or another if its server lies.
pub(crate) fn honest(world: &World, person: usize) -> usize {
    if world.is_honest(world.people[person].node.index) { person } else { 0 }
}

fn draw(random: &mut StdRng) -> Deed {
    match random.random_range(0..100) {
        0..20 => Deed::Join,
        20..26 => Deed::Invite,
        26..29 => Deed::Leave,
        29..32 => Deed::Kick,
        32..34 => Deed::Ban,
        34..37 => Deed::Unban,
        37..39 => Deed::Knock,
        39..69 => Deed::Say(random.random_range(1..=4)),
        69..76 => Deed::Topic,
        76..82 => Deed::Colour(random.random_range(0..3)),
        82..87 => Deed::Levels([0, 25, 50, 100][random.random_range(0..4)]),
        87..90 => Deed::JoinRule(["public", "public", "invite", "knock"][random.random_range(0..4)]),
        90..94 => Deed::Redact,
        94..96 => Deed::Typing,
        96..98 => Deed::Receipt,
        _ => Deed::PageBack,
    }
}

fn draw_rare(random: &mut StdRng) -> Deed {
    match random.random_range(0..10) {
        0..2 => Deed::Upgrade(random.random_range(1..=12)),
        2..7 => Deed::Restrict(random.random_bool(0.3)),
        _ => Deed::Rename,
    }
}

async fn crash(world: Arc<World>, node: usize, down_ms: u64) {
    let node = &world.nodes[node];
    if node.crash() {
        sleep(Duration::from_millis(down_ms)).await;
        node.start().await;
    }
}

async fn cut(world: Arc<World>, one: usize, other: usize, ms: u64, both: bool) {
    note!(
        world.trace,
        "{one} and {other} are cut off from each other for {ms} ms{}",
        if both { "" } else { ", one way" }
    );
    for is_cut in [true, false] {
        world.network.cut(one, other, is_cut);
        if both {
            world.network.cut(other, one, is_cut);
        }
        if is_cut {
            sleep(Duration::from_millis(ms)).await;
        }
    }
}

/// Makes a room.
pub(crate) async fn create(world: Arc<World>, person: usize, version: u8, public: bool) {
    let person = &world.people[person];
    let body = json!({
        "room_version": version.to_string(),
        "preset": if public { "public_chat" } else { "private_chat" },
        "name": "a room",
    });
    let answer = person.ask(Method::POST, "createRoom", &body).await;
    note!(world.trace, "{} makes a room of version {version}: {answer:?}", person.id);
    if let Some((200, answer)) = answer {
        enlist(&world, person, answer["room_id"].as_str().unwrap(), version);
    }
}

/// A room was made: people hear of it.
fn enlist(world: &World, person: &Person, id: &str, version: u8) {
    if let Some(liar) = world.network.liar() {
        liar.learn(id, version);
    }
    let room = Room { id: id.to_owned(), version, servers: [person.node.index].into(), sent: Vec::new() };
    world.model.lock().rooms.push(room);
}

async fn act(world: Arc<World>, person: usize, room_index: usize, deed: Deed, target: usize, luck: usize) {
    let (person, target) = (&world.people[person], &world.people[target]);
    let room = world.model.lock().rooms[room_index].clone();
    let path = format!("rooms/{}", quote(&room.id));
    let target_body = json!({ "user_id": target.id });
    let done = match deed {
        Deed::Join | Deed::Knock => enter(&world, person, &room, deed, luck).await,
        Deed::Invite => person.ask(Method::POST, &format!("{path}/invite"), &target_body).await,
        Deed::Leave => person.ask(Method::POST, &format!("{path}/leave"), &json!({})).await,
        Deed::Kick => person.ask(Method::POST, &format!("{path}/kick"), &target_body).await,
        Deed::Ban => person.ask(Method::POST, &format!("{path}/ban"), &target_body).await,
        Deed::Unban => person.ask(Method::POST, &format!("{path}/unban"), &target_body).await,
        Deed::Say(count) => {
            for _ in 1..count {
                say(&world, person, room_index).await;
            }
            say(&world, person, room_index).await
        }
        Deed::Topic => set_state(&world, person, &path, "m.room.topic", "topic").await,
        Deed::Colour(key) => set_state(&world, person, &path, &format!("sim.colour/{key}"), "colour").await,
        Deed::Levels(level) => levels(person, &path, target, level).await,
        Deed::JoinRule(rule) => {
            let body = json!({ "join_rule": if room.version < 7 && rule == "knock" { "invite" } else { rule } });
            person.ask(Method::PUT, &format!("{path}/state/m.room.join_rules"), &body).await
        }
        Deed::Redact => redact(&world, person, &room, &path, luck).await,
        Deed::Typing => {
            let body = json!({ "typing": true, "timeout": 5_000 });
            person.ask(Method::PUT, &format!("{path}/typing/{}", quote(&person.id)), &body).await
        }
        Deed::Receipt => {
            let Some(event) = room.sent.last() else { return };
            person.ask(Method::POST, &format!("{path}/receipt/m.read/{}", quote(event)), &json!({})).await
        }
        Deed::PageBack => page_back(person, &path).await,
        Deed::Upgrade(drawn) => upgrade(&world, person, &path, world.plan.version_for(drawn)).await,
        Deed::Restrict(knocks) => restrict(&world, person, &room, &path, knocks, luck).await,
        Deed::Rename => rename(&world, person, &room.id).await,
    };
    let told = done.map_or("no answer".to_owned(), |(status, answer)| {
        answer["error"].as_str().map_or(status.to_string(), |error| format!("{status} {error}"))
    });
    note!(world.trace, "{} {deed:?} in {} with {}: {told}", person.id, room.id, target.id);
}

/// Joins or knocks, through some servers that had to do with the room.
async fn enter(world: &World, person: &Person, room: &Room, deed: Deed, luck: usize) -> Option<(u16, Value)> {
    let mut via: Vec<usize> = room.servers.iter().copied().collect();
    let servers = via.len();
    via.rotate_left(luck % servers);
    let via: Vec<String> = via.iter().map(|index| format!("via={}", world.nodes[*index].name)).collect();
    let verb = if matches!(deed, Deed::Knock) { "knock" } else { "join" };
    let answer = person.ask(Method::POST, &format!("{verb}/{}?{}", quote(&room.id), via.join("&")), &json!({})).await;
    if let Some((200, _)) = &answer {
        let mut model = world.model.lock();
        if let Some(room) = model.rooms.iter_mut().find(|known| known.id == room.id) {
            room.servers.insert(person.node.index);
        }
    }
    answer
}

/// Sends one message, with a text that no other has.
pub(crate) async fn say(world: &World, person: &Person, room_index: usize) -> Option<(u16, Value)> {
    let (number, room) = {
        let mut model = world.model.lock();
        (model.next(), model.rooms[room_index].id.clone())
    };
    let body = json!({ "msgtype": "m.text", "body": format!("m{number}") });
    let path = format!("rooms/{}/send/m.room.message/t{number}", quote(&room));
    let answer = person.insist(Method::PUT, &path, &body).await;
    if let Some(event) = answer.as_ref().and_then(|(_, answer)| answer["event_id"].as_str()) {
        let sent = &mut world.model.lock().rooms[room_index].sent;
        sent.push(event.to_owned());
        if sent.len() > REMEMBERED_MAX {
            sent.remove(0);
        }
    }
    answer
}

/// Takes another name in a room; who is not in it comes in.
pub(crate) async fn rename(world: &World, person: &Person, room: &str) -> Option<(u16, Value)> {
    let number = world.model.lock().next();
    let body = json!({ "membership": "join", "displayname": format!("n{number}") });
    let path = format!("rooms/{}/state/m.room.member/{}", quote(room), quote(&person.id));
    person.ask(Method::PUT, &path, &body).await
}

async fn set_state(world: &World, person: &Person, path: &str, kind: &str, field: &str) -> Option<(u16, Value)> {
    let number = world.model.lock().next();
    person.ask(Method::PUT, &format!("{path}/state/{kind}"), &json!({ field: format!("s{number}") })).await
}

/// Gives somebody a level. Who has no answer when asking for the levels of now changes nothing.
async fn levels(person: &Person, path: &str, target: &Person, level: i64) -> Option<(u16, Value)> {
    let path = format!("{path}/state/m.room.power_levels");
    let (status, mut levels) = person.ask(Method::GET, &path, &Value::Null).await?;
    if status != 200 {
        return Some((status, levels));
    }
    if !levels["users"].is_object() {
        levels["users"] = json!({});
    }
    levels["users"][&target.id] = level.into();
    person.ask(Method::PUT, &path, &levels).await
}

async fn upgrade(world: &World, person: &Person, path: &str, version: u8) -> Option<(u16, Value)> {
    let body = json!({ "new_version": version.to_string() });
    let answer = person.ask(Method::POST, &format!("{path}/upgrade"), &body).await;
    if let Some((200, answer)) = &answer {
        enlist(world, person, answer["replacement_room"].as_str().unwrap(), version);
    }
    answer
}

async fn restrict(
    world: &World,
    person: &Person,
    room: &Room,
    path: &str,
    knocks: bool,
    luck: usize,
) -> Option<(u16, Value)> {
    let other = {
        let rooms = &world.model.lock().rooms;
        rooms[luck % rooms.len()].id.clone()
    };
    let rule = match room.version {
        ..8 => "invite",
        10.. if knocks => "knock_restricted",
        _ => "restricted",
    };
    let body = json!({ "join_rule": rule, "allow": [{ "type": "m.room_membership", "room_id": other }] });
    person.ask(Method::PUT, &format!("{path}/state/m.room.join_rules"), &body).await
}

async fn redact(world: &World, person: &Person, room: &Room, path: &str, luck: usize) -> Option<(u16, Value)> {
    let event = room.sent.get(luck % room.sent.len().max(1))?;
    let number = world.model.lock().next();
    let path = format!("{path}/redact/{}/t{number}", quote(event));
    person.insist(Method::PUT, &path, &json!({ "reason": "so" })).await
}

/// Reads far back, so that history is fetched from other servers.
async fn page_back(person: &Person, path: &str) -> Option<(u16, Value)> {
    let mut from = String::new();
    let mut last = None;
    for _ in 0..10 {
        let path = format!("{path}/messages?dir=b&limit=15{from}");
        let (status, page) = person.ask(Method::GET, &path, &Value::Null).await?;
        let end = page["end"].as_str().map(|end| format!("&from={}", quote(end)));
        last = Some((status, page));
        match end {
            Some(end) => from = end,
            None => break,
        }
    }
    last
}
