//! A run from its first step to its last question.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};

use crate::{
    actions, check,
    follow::{self, follow},
    plan::Plan,
    trace::{Trace, note},
    world::World,
};

/// So long nothing is on its way before the network counts as quiet.
const QUIET: Duration = Duration::from_secs(90);

/// So long is waited for it at most: back-off after the troubles of a run ends before.
const QUIET_AFTER_MAX: Duration = Duration::from_secs(6 * 3_600);

/// How often servers are nudged before they must agree.
const NUDGES_MAX: usize = 4;

/// From this round on people who are nudged take another name before they say anything.
const NAMES_FROM: usize = 3;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What must not be; empty if all is well.
    pub faults: Vec<String>,
    /// What happened, line by line.
    pub trace: Vec<String>,
    /// The same seed has the same.
    pub hash: String,
}

/// Runs a plan. Must be called on a current-thread runtime whose time is paused.
pub async fn run(plan: Plan) -> Outcome {
    let trace = Trace::new();
    note!(trace, "{plan:?}");
    let mut random = StdRng::seed_from_u64(plan.seed ^ 0x0073_7465_7073);
    let world = World::new(plan, trace.clone()).await;
    let followers: Vec<_> =
        world.people.iter().map(|person| tokio::spawn(follow(Arc::clone(&world), person.index))).collect();
    for _ in 0..world.plan.rooms {
        let (person, version) = (random.random_range(0..world.people.len()), random.random_range(1..=12));
        let person = actions::honest(&world, person);
        actions::create(Arc::clone(&world), person, world.plan.version_for(version), true).await;
    }
    for _ in 0..world.plan.steps {
        actions::step(&world, &mut random);
        sleep(Duration::from_millis(random.random_range(0..=world.plan.pause_ms_max))).await;
    }
    settle(&world).await;
    world.is_over.send_replace(true);
    for follower in followers {
        if let Err(error) = follower.await {
            trace.fault(format!("a client panicked: {error}"));
        }
    }
    for person in &world.people {
        follow::sync(&world, person, 0).await;
    }
    check::check(&world).await;
    outcome(&trace)
}

/// The network heals, and servers tell each other what they missed.
async fn settle(world: &Arc<World>) {
    world.network.heal();
    if let Some(liar) = world.network.liar() {
        liar.repent();
    }
    note!(world.trace, "the network heals");
    quiet(world).await;
    for node in &world.nodes {
        // Those that are about to start by themselves have done so by now.
        if !node.has_power() {
            node.start().await;
        }
    }
    for round in 1..=NUDGES_MAX {
        let rooms = world.model.lock().rooms.len();
        let undoubted = check::undoubted(world).await;
        for room in 0..rooms {
            for node in &world.nodes {
                nudge(world, room, (node.index, round), &undoubted).await;
            }
        }
        quiet(world).await;
        let differing = check::differing(world).await;
        note!(world.trace, "after nudge {round}: {} rooms differ", differing.len());
        if differing.is_empty() {
            return;
        }
        sleep(Duration::from_secs(3_600)).await;
    }
}

/// The first of a server's people who may says something in a room; another one in each round, as others may not hear the
/// first. Where none may, the first of whom nobody there doubts
/// that they are in it takes another name, which nobody is forbidden: that, too, joins the branches that their server
/// knows. Who is out without knowing it would only part further from the others.
///
/// In the last rounds all of them do so: in room version 1 old power levels come back where branches meet, by which
/// somebody may speak whom those that have kept the new ones do not hear.
async fn nudge(
    world: &World,
    room: usize,
    (node, round): (usize, usize),
    undoubted: &HashMap<String, BTreeSet<String>>,
) {
    let mut people: Vec<_> = world.people_of(node).collect();
    if !people.is_empty() {
        let count = people.len();
        people.rotate_left((round - 1) % count);
    }
    if round >= NAMES_FROM && take_name(world, room, node, undoubted).await {
        return;
    }
    for person in people {
        if let Some((200, _)) = actions::say(world, person, room).await {
            return;
        }
    }
    if round < NAMES_FROM {
        take_name(world, room, node, undoubted).await;
    }
}

/// The first of a server's people who may, and of whom nobody in a room doubts that they are in it, takes another name
/// there. `false`: there is nobody.
async fn take_name(world: &World, room: usize, node: usize, undoubted: &HashMap<String, BTreeSet<String>>) -> bool {
    let id = world.model.lock().rooms[room].id.clone();
    let Some(undoubted) = undoubted.get(&id) else { return false };
    for person in world.people_of(node).filter(|person| undoubted.contains(&person.id)) {
        if let Some((200, _)) = actions::rename(world, person, &id).await {
            return true;
        }
    }
    false
}

/// Waits until nothing has been on its way for a while.
async fn quiet(world: &World) {
    let begun = Instant::now();
    while world.network.quiet_for() < QUIET && begun.elapsed() < QUIET_AFTER_MAX {
        sleep(Duration::from_secs(5)).await;
    }
}

fn outcome(trace: &Trace) -> Outcome {
    let lines = trace.lines();
    let mut hasher = blake3::Hasher::new();
    for line in &lines {
        hasher.update(line.as_bytes());
    }
    Outcome { faults: trace.faults(), trace: lines, hash: hasher.finalize().to_hex()[..16].to_owned() }
}
