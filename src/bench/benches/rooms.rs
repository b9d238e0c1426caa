//! Requests that write, through the service, up to the answer: on RocksDB that is durable.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hearth_bench::{Incoming, RocksFolder, Server, Subject, Taken};
use hearth_ports::{Engine, mem::MemEngine};
use ruma::OwnedRoomId;
use tokio::{runtime::Runtime, task::JoinSet};

/// Those who send at once, each waiting for the answer before the next message.
const SENDERS: usize = 16;
/// Users who join a room, one after the other. Of the growth the first and the last tenth are compared.
const JOINERS: u64 = 1_000;
const TENTH: u64 = JOINERS / 10;

fn main() {
    let mut subject = Subject::new("rooms");
    let runtime = Runtime::new().expect("threads can be started");
    let folder = RocksFolder::new(env!("CARGO_TARGET_TMPDIR"));
    bench(&mut subject, "mem", &runtime, MemEngine::new());
    bench(&mut subject, "rocksdb", &runtime, folder.open());
    for engine in ["mem", "rocksdb"] {
        let name = |what: &str| format!("{engine}/{what}");
        subject.ratio(&name("last tenth of joins, to first"), &name(LAST_TENTH), &name(FIRST_TENTH));
        subject.ratio(&name("one room, to 16"), &name("send, in one room"), &name("send, in 16 rooms"));
    }
    subject.finish();
}

fn bench(subject: &mut Subject, engine: &str, runtime: &Runtime, over: Arc<dyn Engine>) {
    let server = runtime.block_on(Server::over(over));
    sends(subject, engine, runtime, &server);
    subject.time(&format!("{engine}/create a room"), || runtime.block_on(server.create(0)));
    joins(subject, engine, runtime, &server);
    receives(subject, engine, runtime, &server);
}

/// Events of one transaction.
const RECEIVED: u64 = 50;

/// Transactions of another server: messages in a line, and of two branches that meet each time, one of which sets state.
fn receives(subject: &mut Subject, engine: &str, runtime: &Runtime, server: &Server) {
    for (what, is_forked) in [("receive, in a line", false), ("receive, branches that meet", true)] {
        let room = runtime.block_on(server.create(0));
        let mut incoming = runtime.block_on(Incoming::into(server, &room));
        subject.time_batches(&format!("{engine}/{what}"), RECEIVED, |rounds| {
            let mut all = Taken::default();
            for _ in 0..rounds {
                let events = incoming.transaction(RECEIVED as usize, is_forked);
                all += Taken::by(|| runtime.block_on(incoming.send(server, events)));
            }
            all
        });
    }
}

fn sends(subject: &mut Subject, engine: &str, runtime: &Runtime, server: &Server) {
    let one = runtime.block_on(async {
        let room = server.create(0).await;
        for sender in 1..SENDERS {
            server.user(sender).await;
            server.join(&room, sender).await;
        }
        vec![room; SENDERS]
    });
    let many = runtime.block_on(async {
        let mut rooms = Vec::new();
        for sender in 0..SENDERS {
            rooms.push(server.create(sender).await);
        }
        rooms
    });
    let sent = Arc::new(AtomicU64::new(0));
    subject.time(&format!("{engine}/send, alone"), || {
        runtime.block_on(server.send(&many[0], 0, sent.fetch_add(1, Ordering::Relaxed)));
    });
    for (what, rooms) in [("send, in one room", &one), ("send, in 16 rooms", &many)] {
        subject.time_batches(&format!("{engine}/{what}"), SENDERS as u64, |rounds| {
            Taken::by(|| runtime.block_on(send_at_once(server, rooms, &sent, rounds)))
        });
    }
}

/// Each sender sends so many messages into their room.
async fn send_at_once(server: &Server, rooms: &[OwnedRoomId], sent: &Arc<AtomicU64>, rounds: u64) {
    let mut senders = JoinSet::new();
    for (sender, room) in rooms.iter().enumerate() {
        let (server, room, sent) = (server.clone(), room.clone(), Arc::clone(sent));
        senders.spawn(async move {
            for _ in 0..rounds {
                server.send(&room, sender, sent.fetch_add(1, Ordering::Relaxed)).await;
            }
        });
    }
    senders.join_all().await;
}

const FIRST_TENTH: &str = "join, first tenth of 1,000";
const LAST_TENTH: &str = "join, last tenth of 1,000";

/// A room that grows to its full size, then another.
fn joins(subject: &mut Subject, engine: &str, runtime: &Runtime, server: &Server) {
    runtime.block_on(async {
        for member in 1..=JOINERS {
            server.user(member as usize).await;
        }
    });
    let mut room = runtime.block_on(server.create(0));
    let mut joined = 0;
    let mut tenths = Vec::new();
    subject.time_batches(&format!("{engine}/join"), 1, |rounds| {
        let mut all = Taken::default();
        for _ in 0..rounds {
            if joined == JOINERS {
                (room, joined) = (runtime.block_on(server.create(0)), 0);
            }
            joined += 1;
            let taken = Taken::by(|| runtime.block_on(server.join(&room, joined as usize)));
            all += taken;
            match joined {
                ..=TENTH => tenths.push((FIRST_TENTH, taken)),
                joined if joined > JOINERS - TENTH => tenths.push((LAST_TENTH, taken)),
                _ => {}
            }
        }
        all
    });
    for (tenth, taken) in tenths {
        subject.note(&format!("{engine}/{tenth}"), 1, taken);
    }
}
