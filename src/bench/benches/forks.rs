//! Two branches of a room meet again: what a resolution costs in a large room, read from the state tree and the auth graph
//! as they are stored, with everything that an event of another server goes through besides.
//!
//! In each branch the same members have changed their names: each of them is a conflict. What is timed is one more event
//! of the second branch, so that the states of both, which nobody has seen together before, are resolved anew.

use hearth_bench::{Incoming, RocksFolder, Server, Subject, Taken};
use tokio::{runtime::Runtime, task::JoinSet};

/// Members of the rooms.
const SIZES: [usize; 2] = [1_000, 100_000];

/// Members where nothing is measured.
const TEST_SIZES: [usize; 2] = [110, 120];

/// Members who have another name in each branch.
const CONFLICTS: [usize; 2] = [10, 100];

/// Members who join at once: so many share a batch.
const JOINERS: usize = 128;

fn main() {
    let mut subject = Subject::new("forks");
    let runtime = Runtime::new().expect("threads can be started");
    let folder = RocksFolder::new(env!("CARGO_TARGET_TMPDIR"));
    let server = runtime.block_on(Server::over(folder.open()));
    let sizes = if subject.is_test() { TEST_SIZES } else { SIZES };
    for size in sizes {
        for conflicts in CONFLICTS {
            bench(&mut subject, &runtime, &server, size, conflicts);
        }
    }
    let [small, large] = sizes;
    subject.ratio("hundred times the members", &name(large, CONFLICTS[1]), &name(small, CONFLICTS[1]));
    subject.ratio("ten times the conflicts", &name(large, CONFLICTS[1]), &name(large, CONFLICTS[0]));
    subject.finish();
}

fn name(members: usize, conflicts: usize) -> String {
    format!("{members} members, {conflicts} conflicts")
}

fn bench(subject: &mut Subject, runtime: &Runtime, server: &Server, members: usize, conflicts: usize) {
    let room = runtime.block_on(async {
        let room = server.create(0).await;
        for first in (1..members).step_by(JOINERS) {
            let mut joins = JoinSet::new();
            for member in first..members.min(first + JOINERS) {
                let (server, room) = (server.clone(), room.clone());
                joins.spawn(async move {
                    server.user(member).await;
                    server.join(&room, member).await;
                });
            }
            joins.join_all().await;
        }
        room
    });
    let mut incoming = runtime.block_on(Incoming::into(server, &room));
    let mut branch = runtime.block_on(incoming.fork(server, conflicts));
    subject.time_batches(&name(members, conflicts), 1, |rounds| {
        let mut all = Taken::default();
        for _ in 0..rounds {
            let event = incoming.rename(&mut branch);
            all += Taken::by(|| runtime.block_on(incoming.send(server, vec![event])));
        }
        all
    });
}
