//! What a seed decides before anything happens.

use hearth_rooms::RoomsSettings;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// The size and the weather of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// Servers.
    pub servers: usize,
    /// Users of each server.
    pub users: usize,
    /// Rooms that there are from the beginning.
    pub rooms: usize,
    /// Things that users do.
    pub steps: usize,
    /// The longest pause between two steps, in milliseconds.
    pub pause_ms_max: u64,
    /// The longest that a request or an answer is on its way, in milliseconds; mostly it is much less.
    pub delay_ms_max: u64,
    /// How many of a hundred requests, and of as many answers, are lost.
    pub lost_percent: u32,
    /// How many of a hundred requests arrive a second time.
    pub twice_percent: u32,
    /// How many of a thousand steps are a server that loses its power.
    pub crash_permille: u32,
    /// How many of a thousand steps are two servers that lose sight of each other.
    pub cut_permille: u32,
    /// Events of a room that a client takes with one sync; what is more it pages back to.
    pub timeline_limit: usize,
    /// What the last server lies about.
    pub lies: Lies,
    /// People also do what is rarer: they upgrade rooms, and open them to those of other rooms.
    pub is_wide: bool,
    /// The version that all rooms have; `None`: any.
    pub version: Option<u8>,
    /// Memberships are left out of the answer to a join where there are so many.
    pub omitted_members_min: usize,
}

/// What a server lies about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    /// Nothing.
    None,
    /// What happens: honest servers agree all the same.
    OfEvents,
    /// What happens, and what the state was at some event. Who must believe it, because nobody else knows the event, may
    /// end with another state than others; but nothing forbidden is ever in it.
    OfState,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let calm = random.random_bool(0.15);
        let trouble = |value| if calm { 0 } else { value };
        Self {
            seed,
            servers: random.random_range(2..=4),
            users: random.random_range(1..=2),
            rooms: random.random_range(1..=3),
            steps: random.random_range(30..=90),
            pause_ms_max: [20, 300, 1_500][random.random_range(0..3)],
            delay_ms_max: [5, 100, 1_000, 8_000][random.random_range(0..4)],
            lost_percent: trouble([0, 3, 15][random.random_range(0..3)]),
            twice_percent: trouble([0, 5, 20][random.random_range(0..3)]),
            crash_permille: trouble([0, 20, 60][random.random_range(0..3)]),
            cut_permille: trouble([0, 30, 80][random.random_range(0..3)]),
            timeline_limit: [2, 10, 50][random.random_range(0..3)],
            lies: Lies::None,
            is_wide: false,
            version: None,
            omitted_members_min: RoomsSettings::default().omitted_members_min,
        }
    }

    /// The plan of a seed, with more people, more kinds of deeds, and joins without members.
    pub fn wide(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x7769_6465);
        let omitted_members_min = [2, 4, 100][random.random_range(0..3)];
        Self { users: random.random_range(2..=3), is_wide: true, omitted_members_min, ..Self::of(seed) }
    }

    /// The same in rooms of version 1, in which state goes back to what it was more often than one would like.
    pub fn old(seed: u64) -> Self {
        Self { version: Some(1), ..Self::wide(seed) }
    }

    /// The version of a room for which this one was drawn.
    pub(crate) fn version_for(&self, drawn: u8) -> u8 {
        self.version.unwrap_or(drawn)
    }

    /// The plan of a seed, with a server that lies.
    pub fn with_a_liar(seed: u64) -> Self {
        let lies = if seed.is_multiple_of(3) { Lies::OfState } else { Lies::OfEvents };
        let plan = Self::of(seed);
        Self { lies, servers: plan.servers.max(3), steps: plan.steps + 30, ..plan }
    }

    /// Two servers, one room, nothing goes wrong.
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            servers: 2,
            users: 1,
            rooms: 1,
            steps: 20,
            pause_ms_max: 100,
            delay_ms_max: 20,
            lost_percent: 0,
            twice_percent: 0,
            crash_permille: 0,
            cut_permille: 0,
            timeline_limit: 20,
            ..Self::of(seed)
        }
    }
}
