//! How a client follows its rooms: it syncs, and pages back where a sync leaves something out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    trace::note,
    world::{Person, World},
};

/// How long a client lets a sync wait, in milliseconds.
const SYNC_MS: u64 = 30_000;

/// Pages of one gap; a client that needs more is stuck.
const PAGES_MAX: usize = 200;

/// What a client was shown.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) since: Option<String>,
    /// Event ids of each room's timeline, in the order in which the client got them.
    pub(crate) rooms: BTreeMap<String, Vec<String>>,
    /// Places in these lists at which the client came into the room again: what it was then shown may be older than what
    /// it knew, of an invite that it declined, say.
    pub(crate) anew: BTreeMap<String, BTreeSet<usize>>,
    /// Rooms that the client was told to be in.
    pub(crate) joined: BTreeSet<String>,
    /// Rooms that the client was told to have left.
    left: BTreeSet<String>,
}

/// Percent-encodes what a path segment or a query must not have.
pub(crate) fn quote(text: &str) -> String {
    text.bytes().fold(String::new(), |mut quoted, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
        quoted
    })
}

/// Follows until the world is over; `index` is the person's.
pub(crate) async fn follow(world: Arc<World>, index: usize) {
    let person = &world.people[index];
    let mut is_over = world.is_over.subscribe();
    loop {
        let asked = sync(&world, person, SYNC_MS);
        let went_well = tokio::select! {
            biased;
            _ = is_over.wait_for(|over| *over) => return,
            went_well = asked => went_well,
        };
        if !went_well {
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// One sync; whether it was answered.
pub(crate) async fn sync(world: &World, person: &Person, timeout_ms: u64) -> bool {
    let limit = world.plan.timeline_limit;
    let filter = json!({ "room": { "timeline": { "limit": limit } }, "presence": { "not_types": ["*"] } });
    let since = person.seen.lock().since.clone();
    let mut path = format!("sync?timeout={timeout_ms}&filter={}", quote(&filter.to_string()));
    if let Some(since) = &since {
        path.push_str(&format!("&since={}", quote(since)));
    }
    let Some((status, answer)) = person.ask(http::Method::GET, &path, &Value::Null).await else { return false };
    if status != 200 {
        world.trace.fault(format!("{} syncs: {status} {answer}", person.id));
        return false;
    }
    let mut news = Vec::new();
    let mut left = BTreeSet::new();
    for kind in ["join", "leave"] {
        for (room, section) in answer["rooms"][kind].as_object().into_iter().flatten() {
            let Some(events) = timeline(world, person, room, &section["timeline"], since.as_deref()).await else {
                // The server went away: all of this sync is asked for once more.
                return false;
            };
            if kind == "leave" {
                left.insert(room.clone());
            }
            let begins_anew = section["timeline"]["limited"] == true && {
                let events = section["timeline"]["events"].as_array().into_iter().flatten();
                let mut own = events.filter(|event| event["type"] == "m.room.member");
                person.seen.lock().left.contains(room) || own.any(|event| event["state_key"] == person.id)
            };
            news.push((room.clone(), events, begins_anew));
        }
    }
    let mut seen = person.seen.lock();
    for (room, mut events, begins_anew) in news {
        let Seen { rooms, anew, .. } = &mut *seen;
        let known = rooms.entry(room.clone()).or_default();
        if begins_anew {
            // Who enters a room again is shown its newest events, some of which may be from the last time.
            events.retain(|event| !known.contains(event));
            anew.entry(room.clone()).or_default().insert(known.len());
        }
        if !events.is_empty() {
            note!(world.trace, "{} sees {room}: {}", person.id, events.len());
        }
        known.extend(events);
    }
    // Who left and was invited, or knocked, between two syncs is told the last of it.
    for kind in ["invite", "knock"] {
        let outside = answer["rooms"][kind].as_object().into_iter().flatten().map(|(room, _)| room);
        left.extend(outside.filter(|room| seen.joined.contains(*room)).cloned());
    }
    for (room, _) in answer["rooms"]["join"].as_object().into_iter().flatten() {
        seen.left.remove(room);
        seen.joined.insert(room.clone());
    }
    seen.joined.retain(|room| !left.contains(room));
    seen.left.extend(left);
    seen.since = answer["next_batch"].as_str().map(str::to_owned);
    true
}

fn ids(events: &Value) -> Vec<String> {
    events.as_array().into_iter().flatten().map(id).collect()
}

fn id(event: &Value) -> String {
    event["event_id"].as_str().unwrap().to_owned()
}

/// The events of a timeline, with those that it leaves out; `None`: the server does not answer.
async fn timeline(
    world: &World,
    person: &Person,
    room: &str,
    timeline: &Value,
    since: Option<&str>,
) -> Option<Vec<String>> {
    let newest = ids(&timeline["events"]);
    let (true, Some(since)) = (timeline["limited"] == true, since) else { return Some(newest) };
    let from = timeline["prev_batch"].as_str();
    let mut older = page_back(world, person, room, from, Some(since)).await?;
    let enters = !person.seen.lock().joined.contains(room);
    if enters && !has_join(&timeline["events"], person) && !older.iter().any(|event| is_join(event, person)) {
        // The room is shown long after they came in, now that its members are known.
        older = page_back(world, person, room, from, None).await?;
    }
    let mut all: Vec<String> = older.iter().rev().map(id).collect();
    all.extend(newest);
    Some(all)
}

fn is_join(event: &Value, person: &Person) -> bool {
    event["type"] == "m.room.member" && event["state_key"] == person.id && event["content"]["membership"] == "join"
}

fn has_join(events: &Value, person: &Person) -> bool {
    events.as_array().into_iter().flatten().any(|event| is_join(event, person))
}

/// The events before a place, newest first, back to another place or else to the person's own join.
async fn page_back(
    world: &World,
    person: &Person,
    room: &str,
    from: Option<&str>,
    to: Option<&str>,
) -> Option<Vec<Value>> {
    let mut older = Vec::new();
    let mut from = from.map(str::to_owned);
    let mut pages = 0;
    while let Some(place) = from {
        let to_query = to.map(|to| format!("&to={}", quote(to))).unwrap_or_default();
        let path = format!("rooms/{}/messages?dir=b&limit=20&from={}{to_query}", quote(room), quote(&place));
        let (status, page) = person.ask(http::Method::GET, &path, &Value::Null).await?;
        if status != 200 {
            // Who was thrown out meanwhile may not read on.
            note!(world.trace, "{} pages back in {room}: {status} {page}", person.id);
            break;
        }
        older.extend(page["chunk"].as_array().into_iter().flatten().cloned());
        if to.is_none()
            && let Some(join) = older.iter().position(|event| is_join(event, person))
        {
            older.truncate(join + 1);
            break;
        }
        from = page["end"].as_str().map(str::to_owned);
        pages += 1;
        if pages > PAGES_MAX {
            world.trace.fault(format!("{} pages back in {room} for ever", person.id));
            break;
        }
    }
    Some(older)
}
