//! State resolution: two lines of history that parted. In one the creator bans members, who in the other, not knowing
//! it, change their names: each of them is a conflict of the kind that the algorithm exists for.

use hearth_bench::{Subject, World};
use hearth_core::{EventIds, RoomVersion, StateMap, resolve, state::conflicted_subgraph};
use ruma::EventId;

/// Members and conflicts.
const SIZES: [(usize, usize); 3] = [(1_000, 10), (1_000, 100), (10_000, 100)];

fn main() {
    let mut subject = Subject::new("resolution");
    // State resolution v2 and v2.1, which begins with less and so replays more.
    for (algorithm, version) in [("v2", RoomVersion::V11), ("v2.1", RoomVersion::V12)] {
        for (members, conflicts) in SIZES {
            bench(&mut subject, &name(algorithm, members, conflicts), &Fork::new(version, members, conflicts));
        }
        let ratio = |text: &str| format!("{algorithm}: {text}");
        let [few, many, large] = SIZES.map(|(members, conflicts)| name(algorithm, members, conflicts));
        subject.ratio(&ratio("ten times the conflicts"), &many, &few);
        subject.ratio(&ratio("ten times the members"), &large, &many);
    }
    let [v2, v21] = ["v2", "v2.1"].map(|algorithm| name(algorithm, 1_000, 100));
    subject.ratio("v2.1, to v2", &v21, &v2);
    subject.finish();
}

fn name(algorithm: &str, members: usize, conflicts: usize) -> String {
    format!("{algorithm}: {members} members, {conflicts} conflicts")
}

fn bench(subject: &mut Subject, name: &str, fork: &Fork) {
    let resolved = fork.resolve(fork.chains.to_vec());
    let banned = fork.lines[0].state();
    assert_eq!(&resolved, banned, "who is banned stays banned, whatever they called themselves meanwhile");
    subject.time_with(name, || fork.chains.to_vec(), |chains| fork.resolve(chains));
}

/// Two lines of a room's history.
struct Fork {
    version: RoomVersion,
    lines: [World; 2],
    states: [StateMap; 2],
    chains: [EventIds; 2],
}

impl Fork {
    fn new(version: RoomVersion, members: usize, conflicts: usize) -> Self {
        let base = World::public(version, members);
        let mut lines = [base.clone(), base];
        for member in 1..=conflicts {
            lines[0].ban(member);
            lines[1].join(member, "new name");
        }
        let states = lines.each_ref().map(|line| line.state().clone());
        let chains = lines.each_ref().map(World::auth_chain);
        Self { version, lines, states, chains }
    }

    fn resolve(&self, chains: Vec<EventIds>) -> StateMap {
        let event = |id: &EventId| self.lines.iter().find_map(|line| line.event(id));
        let auths = |id: &EventId| Some(event(id)?.auth_events().to_vec());
        let subgraph = |conflicted: &EventIds| Some(conflicted_subgraph(conflicted, auths));
        resolve(self.version, &self.states, chains, |id| event(id).cloned(), subgraph).expect("all events are there")
    }
}
