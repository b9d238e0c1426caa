//! Seeds. `HEARTH_SIM_SEEDS=0..1000 cargo test -p hearth-sim --test seeds -- --nocapture many` runs as many as wanted
//! (in place of `many`, `a_liar`: with a server that lies; `wide`: with rarer deeds, and joins without members; `old`: the
//! same in rooms of version 1); with `HEARTH_SIM_LOUD=1` everything is shown as it happens, with the bodies of requests and
//! the servers' logs.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{
    cell::Cell,
    fs,
    ops::Range,
    panic,
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use hearth_sim::{Lies, Outcome, Plan, run};

/// Seeds of an ordinary test run: as many as fit well into a minute.
const SEEDS: Range<u64> = 0..24;

/// How a plan is made of a seed, the seed, and what it found.
type Mended = (fn(u64) -> Plan, u64, &'static str);

/// Seeds that failed once, and what they found. What a seed leads to depends on every request that servers make: a seed
/// may come to mean something else. The stories of the crates say the same for good.
const MENDED: [Mended; 29] = [
    (Plan::of, 176, "who came back through a server that had not heard of the leave was out, and nobody said so"),
    (Plan::of, 262, "who came in by join rules that had changed elsewhere was out, and nobody said so"),
    (Plan::of, 518, "history that came by two ways at once was said to be missing"),
    (Plan::of, 720, "who was banned where nobody had heard of the join was not told that they were out"),
    (Plan::of, 1096, "a server that was put out was refused what it needed to see that"),
    (Plan::of, 1127, "a leave was forgotten where another user came back through a server that had not heard of it"),
    (Plan::of, 1212, "the same in a room of version 1"),
    (Plan::of, 1230, "the same in a room of version 12"),
    (Plan::of, 1249, "who was kicked was not shown what branches had said that did not know them yet"),
    (Plan::of, 1719, "clients that come in after they declined are shown what is older: no fault"),
    (Plan::of, 2866, "a server that had its room to itself again did not look whose joins its next event undid"),
    (Plan::of, 3135, "a declined invite is told again when its event comes: no fault"),
    (
        Plan::of,
        4452,
        "a join was not told to who had come in meanwhile, and a repeated transaction was refused from memory",
    ),
    (Plan::of, 40627, "who left and knocked in vain was told of all of the room once more"),
    (Plan::of, 21384, "a server that lost power in its first second forgot whom it had told nothing"),
    (Plan::of, 80023, "who got out by two devices at once was told so twice"),
    (Plan::wide, 22, "a server that was put out asked only about events in its absence, and was refused"),
    (Plan::wide, 36, "a room that was joined without its members is shown long after: clients must read back"),
    (Plan::wide, 518, "who may say nothing can still join branches: clients must change a name, no fault of hearth"),
    (Plan::wide, 572, "who left a room before its members had come was told of the leave alone"),
    (Plan::wide, 20526, "who came in without the members was not told them once the join was undone"),
    (
        Plan::wide,
        30081,
        "who speaks while its join is undone is heard by nobody, and in version 12 may stay in: no fault",
    ),
    (
        Plan::wide,
        50123,
        "in version 1 old power levels came back for a server whose people others did not hear: a name is heard, no fault",
    ),
    (Plan::wide, 70314, "in version 1 a join was refused for good for a state that was a guess"),
    (Plan::with_a_liar, 30093, "who left and was invited between two syncs is told of the invite: no fault"),
    (Plan::with_a_liar, 82835, "an invite that had ended came back when its request was repeated"),
    (Plan::with_a_liar, 83513, "a wrong event in place of one of a state left a hole in it for good"),
    (Plan::with_a_liar, 141, "the liar's first message, which cites what it should, was taken for a lie: no fault"),
    (Plan::with_a_liar, 483, "who was banned where nobody had heard of the join was not told that they were out"),
];

/// The last lines of a trace that a failure shows; all of it is in a file.
const LINES_SHOWN: usize = 40;

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Panics of tasks and handlers are caught where they happen; here they are counted.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("HEARTH_SIM_LOUD").is_some() {
            let filter = tracing_subscriber::EnvFilter::new("hearth=debug,warn");
            tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
        }
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
}

fn simulate(plan: Plan) -> Outcome {
    count_panics();
    PANICS.set(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut outcome = runtime.block_on(run(plan));
    drop(runtime);
    if PANICS.get() > 0 {
        outcome.faults.push(format!("{} panics", PANICS.get()));
    }
    outcome
}

/// Runs a plan; `Err`: what was wrong, with the way to see it again.
fn attempt(plan: Plan) -> Result<Outcome, String> {
    let seed = plan.seed;
    let name = match plan.lies {
        Lies::None if plan.version.is_some() => "old",
        Lies::None if plan.is_wide => "wide",
        Lies::None => "many",
        Lies::OfEvents | Lies::OfState => "a_liar",
    };
    let outcome = simulate(plan);
    if outcome.faults.is_empty() {
        return Ok(outcome);
    }
    let file = std::env::temp_dir().join(format!("hearth-sim-{seed}.log"));
    fs::write(&file, outcome.trace.join("\n")).unwrap();
    let from = outcome.trace.len().saturating_sub(LINES_SHOWN);
    Err(format!(
        "seed {seed}: {}\nthe end of its trace, all of which is in {}:\n{}\n\
         run it again: HEARTH_SIM_SEEDS={seed}..{} cargo test -p hearth-sim --test seeds -- --nocapture {name}",
        outcome.faults.join("\n"),
        file.display(),
        outcome.trace[from..].join("\n"),
        seed + 1,
    ))
}

/// Runs plans on two threads, in order; the problems.
fn attempt_all(seeds: Range<u64>, shows_progress: bool, plan: impl Fn(u64) -> Plan + Sync) -> Vec<String> {
    let next = AtomicU64::new(seeds.start);
    let problems = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let result = attempt(plan(seed));
                    if shows_progress {
                        let line = result.as_ref().map_or_else(
                            |error| error.lines().next().unwrap().to_owned(),
                            |outcome| {
                                let Outcome { trace, hash, .. } = outcome;
                                // Pairs of servers that need not agree, each time that they were asked.
                                let apart = trace.iter().filter(|line| line.ends_with("and cannot know")).count();
                                format!("seed {seed}: fine, {} lines, {hash}, {apart} apart", trace.len())
                            },
                        );
                        eprintln!("{line}");
                    }
                    problems.lock().unwrap().extend(result.err());
                }
            });
        }
    });
    problems.into_inner().unwrap()
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} seeds failed\n{}", problems.len(), problems.join("\n\n"));
}

#[test]
fn two_servers_and_a_quiet_room() {
    assert_none(&attempt_all(0..4, false, Plan::calm));
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 5] {
        let (one, other) = (simulate(Plan::of(seed)), simulate(Plan::of(seed)));
        let differing = one.trace.iter().zip(&other.trace).enumerate().find(|(_, (one, other))| one != other);
        assert_eq!((differing, &one.hash), (None, &other.hash), "seed {seed}");
    }
}

#[test]
fn a_liar() {
    assert_none(&attempt_all(seeds().unwrap_or(SEEDS), seeds().is_some(), Plan::with_a_liar));
}

#[test]
fn many() {
    assert_none(&attempt_all(seeds().unwrap_or(SEEDS), seeds().is_some(), Plan::of));
}

#[test]
fn wide() {
    assert_none(&attempt_all(seeds().unwrap_or(SEEDS), seeds().is_some(), Plan::wide));
}

#[test]
fn old() {
    assert_none(&attempt_all(seeds().unwrap_or(SEEDS), seeds().is_some(), Plan::old));
}

#[test]
fn what_was_mended_stays_mended() {
    for (plan, seed, found) in MENDED {
        let problem = attempt(plan(seed)).err();
        assert_eq!(problem, None, "again, as once with seed {seed}: {found}");
    }
}

/// What the environment asks for: `from..to`.
fn seeds() -> Option<Range<u64>> {
    let text = std::env::var("HEARTH_SIM_SEEDS").ok()?;
    let (from, to) = text.split_once("..").unwrap();
    Some(from.parse().unwrap()..to.parse().unwrap())
}
