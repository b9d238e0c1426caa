//! Paging back through a room, through the service, up to the answer's JSON: right after its history was written, and in
//! a process that has none of it in memory but what the engine caches.

use bytes::Bytes;
use hearth_bench::{RocksFolder, Server, Subject, reader};
use hearth_sync::read::{Direction, MessagesQuery, Reader};
use hearth_view::{PlaceToken, RoomEventFilter};
use ruma::OwnedRoomId;
use tokio::runtime::Runtime;

/// Messages in the room.
const MESSAGES: u64 = 5_000;
/// Events of a page, as clients ask for at most.
const PAGE: usize = 100;

fn main() {
    let mut subject = Subject::new("history");
    let runtime = Runtime::new().expect("threads can be started");
    let folder = RocksFolder::new(env!("CARGO_TARGET_TMPDIR"));
    let engine = folder.open();
    let server = runtime.block_on(Server::over(engine.clone()));
    let room = runtime.block_on(fill(&server));
    let other = runtime.block_on(Server::over(engine));
    for (name, server) in [("a page just written", &server), ("a page read from the engine", &other)] {
        let mut pages = Pages { server, room: &room, from: None };
        subject.time(name, || runtime.block_on(pages.next()));
    }
    subject.ratio("read, to just written", "a page read from the engine", "a page just written");
    subject.finish();
}

async fn fill(server: &Server) -> OwnedRoomId {
    let room = server.create(0).await;
    for number in 0..MESSAGES {
        server.send(&room, 0, number).await;
    }
    room
}

/// The pages of a room's history, newest first, round and round.
struct Pages<'a> {
    server: &'a Server,
    room: &'a OwnedRoomId,
    from: Option<PlaceToken>,
}

impl Pages<'_> {
    async fn next(&mut self) -> Bytes {
        let hearth_sync::Reader { user_id, device_id } = reader(0);
        let query = MessagesQuery {
            from: self.from.take(),
            to: None,
            direction: Direction::Backward,
            limit: PAGE,
            filter: RoomEventFilter::default(),
        };
        let reader = Reader { user_id, device_id: Some(device_id) };
        let page = self.server.reads.messages(&reader, self.room, &query, None).await.expect("a member may read");
        // The last page is short; after it comes the first again.
        let (events, end) = events_and_end(&page);
        self.from = end.filter(|_| events == PAGE);
        page
    }
}

/// How many events a page has, and where the next one begins. Parsing it would take longer than making it.
fn events_and_end(page: &Bytes) -> (usize, Option<PlaceToken>) {
    let page = std::str::from_utf8(page).expect("JSON is text");
    let (_, end) = page.rsplit_once("\"end\":\"").expect("a page with events has a token");
    let end = end.split('"').next().expect("a split has a first part");
    (page.matches("\"event_id\":").count(), Some(end.parse().expect("our own token")))
}
