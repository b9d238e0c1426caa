//! Nothing is skipped and nothing is told twice: the union of a reader's answers, gaps filled by paging back from
//! `prev_batch`, is each room's timeline.

use std::{collections::BTreeMap, sync::Arc};

use hearth_store::{Order, tables::Membership};
use hearth_view::{RoomEventFilter, SyncToken};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::{Person, Room, World, following, ids};
use crate::{
    SyncQuery,
    read::{Direction, MessagesQuery},
};

/// A client that keeps what it was told.
struct Client {
    person: Person,
    last: Option<Value>,
    seen: BTreeMap<String, Vec<String>>,
}

impl Client {
    fn new(person: &Person) -> Self {
        Self { person: person.clone(), last: None, seen: BTreeMap::new() }
    }

    async fn sync(&mut self, world: &World, rooms: &[Room], limit: u64, timeout_ms: u64) {
        let filter = json!({"room": {"timeline": {"limit": limit}}});
        let query = self.last.as_ref().map_or_else(SyncQuery::default, |last| following(last, filter.clone()));
        let query = SyncQuery { filter: Some(filter.to_string()), timeout_ms, ..query };
        let answer = world.sync(&self.person, &query).await;
        for room in rooms {
            let told = &answer["rooms"]["join"][room.id.as_str()];
            if told.is_null() {
                continue;
            }
            let mut events = ids(told, "timeline");
            if told["timeline"]["limited"] == true {
                let mut older = self.page_back(world, room, told).await;
                older.append(&mut events);
                events = older;
            }
            self.seen.entry(room.id.to_string()).or_default().extend(events);
        }
        self.last = Some(answer);
    }

    /// What lies between the last answer and the start of this one's timeline, oldest first.
    async fn page_back(&self, world: &World, room: &Room, told: &Value) -> Vec<String> {
        let token = |text: &Value| text.as_str().expect("a token").parse().expect("a token of ours");
        let to = self.last.as_ref().map(|last| token(&last["next_batch"]));
        let reader = crate::read::Reader {
            user_id: self.person.reader.user_id.clone(),
            device_id: Some(self.person.reader.device_id.clone()),
        };
        let mut from = told["timeline"]["prev_batch"].clone();
        let mut newest_first = Vec::new();
        loop {
            let query = MessagesQuery {
                from: Some(token(&from)),
                to: to.clone(),
                direction: Direction::Backward,
                limit: 2,
                filter: RoomEventFilter::default(),
            };
            let page = world.reads.messages(&reader, &room.id, &query, None).await.expect("a member may read");
            let page: Value = serde_json::from_slice(&page).expect("a page is JSON");
            let events = page["chunk"].as_array().expect("a page has events");
            newest_first.extend(events.iter().map(|event| event["event_id"].as_str().expect("an id").to_owned()));
            match page.get("end") {
                Some(end) => from = end.clone(),
                None => break,
            }
        }
        newest_first.reverse();
        newest_first
    }

    async fn check(&self, world: &World, rooms: &[Room]) {
        for room in rooms {
            let rows = world.store.timeline(room.number, ..Order::END, usize::MAX, false).await.expect("memory reads");
            let mut ledger = Vec::new();
            for (_, row) in rows {
                let number = row.event.expect("every row has an event");
                let event = world.store.event(room.number, number).await.expect("memory reads").expect("it is stored");
                ledger.push(event.event.event_id().to_string());
            }
            assert_eq!(self.seen.get(room.id.as_str()), Some(&ledger), "{} in {}", self.person.id(), room.id);
        }
    }
}

/// Three people in three rooms of different partitions.
async fn meeting(world: &World) -> (Vec<Person>, Vec<Room>) {
    let mut people = Vec::new();
    for name in ["alice", "bob", "carol"] {
        people.push(world.person(name).await);
    }
    let mut rooms = Vec::new();
    for name in ["one", "two", "three"] {
        let room = world.room(name, &people[0]).await;
        for person in &people[1..] {
            room.member(person, person, Membership::Join).await;
        }
        rooms.push(room);
    }
    (people, rooms)
}

#[derive(Clone, Debug)]
enum Step {
    Say {
        room: usize,
        person: usize,
    },
    State {
        room: usize,
        person: usize,
    },
    /// Joined already: another member event, no news of the membership.
    Rename {
        room: usize,
        person: usize,
    },
    Sync {
        person: usize,
        limit: u64,
    },
    /// A client forgets its token and keeps nothing.
    Restart {
        person: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let place = (0..3_usize, 0..3_usize);
    prop_oneof![
        4 => place.clone().prop_map(|(room, person)| Step::Say { room, person }),
        1 => place.clone().prop_map(|(room, person)| Step::State { room, person }),
        1 => place.prop_map(|(room, person)| Step::Rename { room, person }),
        3 => (0..3_usize, 0..6_u64).prop_map(|(person, limit)| Step::Sync { person, limit }),
        1 => (0..3_usize).prop_map(|person| Step::Restart { person }),
    ]
}

async fn play(steps: Vec<Step>) {
    let world = World::new().await;
    let (people, rooms) = meeting(&world).await;
    let mut clients: Vec<Client> = people.iter().map(Client::new).collect();
    for step in steps {
        match step {
            Step::Say { room, person } => drop(rooms[room].message(&people[person], "x").await),
            Step::State { room, person } => drop(rooms[room].send(&people[person], "topic", Some(""), json!({})).await),
            Step::Rename { room, person } => {
                drop(rooms[room].member(&people[person], &people[person], Membership::Join).await);
            }
            Step::Sync { person, limit } => clients[person].sync(&world, &rooms, limit, 0).await,
            Step::Restart { person } => clients[person] = Client::new(&people[person]),
        }
    }
    for client in &mut clients {
        client.sync(&world, &rooms, 2, 0).await;
        client.check(&world, &rooms).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn each_event_comes_exactly_once_and_in_order(steps in prop::collection::vec(step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(play(steps));
    }
}

/// Writers and readers at the same time, on several threads. Positions of partitions rise independently, so whoever took
/// one for another would lose something here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_and_readers_agree() {
    const MESSAGES: usize = 60;
    let world = Arc::new(World::new().await);
    let (people, rooms) = meeting(&world).await;
    let rooms = Arc::new(rooms);
    let writers: Vec<_> = people
        .iter()
        .cloned()
        .enumerate()
        .map(|(nth, person)| {
            let rooms = rooms.clone();
            tokio::spawn(async move {
                for message in 0..MESSAGES {
                    rooms[(nth + message) % rooms.len()].message(&person, &message.to_string()).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let readers: Vec<_> = people
        .iter()
        .map(|person| {
            let (world, rooms, mut client) = (world.clone(), rooms.clone(), Client::new(person));
            tokio::spawn(async move {
                // Create, join of three people, and the messages.
                let all = rooms.len() * 4 + 3 * MESSAGES;
                for round in 0.. {
                    let seen: usize = client.seen.values().map(Vec::len).sum();
                    if seen >= all {
                        break;
                    }
                    client.sync(&world, &rooms, round % 4, 20_000).await;
                }
                client.check(&world, &rooms).await;
            })
        })
        .collect();
    for task in writers.into_iter().chain(readers) {
        task.await.expect("no task fails");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_several_partitions_is_short_and_reads_back() {
    let world = World::new().await;
    let (people, _) = meeting(&world).await;
    let answer = world.first(&people[0], json!({})).await;
    let token = answer["next_batch"].as_str().expect("a token");
    assert!(token.len() < 100, "{token}");
    assert_eq!(token.parse::<SyncToken>().map(|token| token.to_string()), Ok(token.to_owned()));
}
