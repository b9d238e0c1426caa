//! Long-poll sync, through the service, up to the answer's JSON: for a user of many rooms, and of very many.

use bytes::Bytes;
use hearth_bench::{Server, Subject, Taken, reader};
use hearth_ports::mem::MemEngine;
use hearth_sync::{Reader, SyncQuery};
use ruma::OwnedRoomId;
use tokio::runtime::Runtime;

/// Rooms of the user.
const ROOMS: [usize; 2] = [100, 1_000];
/// Messages in each.
const MESSAGES: u64 = 10;
/// Others in each room, besides its creator.
const OTHERS: usize = 3;
/// The user who syncs.
const READER: usize = 1;

fn main() {
    let mut subject = Subject::new("sync");
    let runtime = Runtime::new().expect("threads can be started");
    for rooms in ROOMS {
        bench(&mut subject, &runtime, rooms);
    }
    for what in ["nothing new", "one new message"] {
        let [many, very_many] = ROOMS.map(|rooms| name(what, rooms));
        subject.ratio(&format!("{what}, ten times the rooms"), &very_many, &many);
    }
    subject.finish();
}

fn name(what: &str, rooms: usize) -> String {
    format!("{what}, {rooms} rooms")
}

fn bench(subject: &mut Subject, runtime: &Runtime, count: usize) {
    let (server, rooms) = runtime.block_on(fill(count));
    let place = Place { server: &server, reader: reader(READER) };
    let first = runtime.block_on(place.sync(None));
    assert_eq!(rooms_in(&first), count, "a first sync tells all rooms");
    let mut since = token(&first);

    assert_eq!(rooms_in(&runtime.block_on(place.sync(Some(&since)))), 0, "there is nothing new");
    subject.time(&name("nothing new", count), || runtime.block_on(place.sync(Some(&since))));
    let mut number = MESSAGES;
    subject.time_batches(&name("one new message", count), 1, |rounds| {
        let mut taken = Taken::default();
        for _ in 0..rounds {
            let room = &rooms[number as usize % count];
            runtime.block_on(server.send(room, 0, number));
            number += 1;
            let mut answer = Bytes::new();
            taken += Taken::by(|| answer = runtime.block_on(place.sync(Some(&since))));
            assert_eq!(rooms_in(&answer), 1, "one room has news");
            since = token(&answer);
        }
        taken
    });
    if count == ROOMS[0] {
        subject.time(&name("initial", count), || runtime.block_on(place.sync(None)));
    }
}

/// A server with so many rooms, all of which the reader is in.
async fn fill(count: usize) -> (Server, Vec<OwnedRoomId>) {
    let server = Server::over(MemEngine::new()).await;
    for member in READER..=READER + OTHERS {
        server.user(member).await;
    }
    let mut rooms = Vec::new();
    for _ in 0..count {
        let room = server.create(0).await;
        for member in READER..=READER + OTHERS {
            server.join(&room, member).await;
        }
        for number in 0..MESSAGES {
            server.send(&room, 0, number).await;
        }
        rooms.push(room);
    }
    (server, rooms)
}

struct Place<'a> {
    server: &'a Server,
    reader: Reader,
}

impl Place<'_> {
    /// Syncs once, without waiting: the answer's JSON.
    async fn sync(&self, since: Option<&str>) -> Bytes {
        let query = SyncQuery { since: since.map(ToOwned::to_owned), ..SyncQuery::default() };
        self.server.syncs.sync(&self.reader, &query).await.expect("the query is fine")
    }
}

/// Where an answer ends. Parsing it would take longer than making it.
fn token(answer: &Bytes) -> String {
    let answer = std::str::from_utf8(answer).expect("JSON is text");
    let (_, token) = answer.rsplit_once("\"next_batch\":\"").expect("every answer has a token");
    token.split('"').next().expect("a split has a first part").to_owned()
}

/// The rooms in an answer.
fn rooms_in(answer: &Bytes) -> usize {
    let answer = std::str::from_utf8(answer).expect("JSON is text");
    answer.matches("\"timeline\":").count()
}
