//! Rate limits: one bucket per class and per account or address.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, Reference as _},
    middleware::NoOpMiddleware,
    state::keyed::DashMapStateStore,
};

use crate::{Error, address};

/// What is counted together. Each class has its own rate in the configuration, under its [`Limit::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Not limited: what the specification does not limit, and cheap reads.
    None,
    /// Everything that the specification limits and no class below names. By account, else by address.
    Default,
    /// Attempts to log in, by address.
    Login,
    /// Attempts to log in, by the account that is named. Handlers ask for it: [`crate::Call::limit`].
    LoginAccount,
    /// Registrations, and questions whether a name is free. By address.
    Registration,
    /// Events sent, by account.
    Message,
    /// Joins and knocks, by account.
    Join,
    /// Invites, by account.
    Invite,
    /// Rooms created or upgraded, by account.
    CreateRoom,
    /// Searches in the user and room directories, by account, else by address.
    Search,
    /// Profile, presence and typing changes, by account.
    Profile,
    /// Requests of other servers, by server; of nobody in particular, by address.
    Federation,
    /// Requests in the name of other servers before it is known who sent them, by address. The kit asks for it.
    FederationAddress,
}

impl Limit {
    /// All but [`Limit::None`].
    pub const ALL: [Self; 12] = [
        Self::Default,
        Self::Login,
        Self::LoginAccount,
        Self::Registration,
        Self::Message,
        Self::Join,
        Self::Invite,
        Self::CreateRoom,
        Self::Search,
        Self::Profile,
        Self::Federation,
        Self::FederationAddress,
    ];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Default => "default",
            Self::Login => "login",
            Self::LoginAccount => "login_account",
            Self::Registration => "registration",
            Self::Message => "message",
            Self::Join => "join",
            Self::Invite => "invite",
            Self::CreateRoom => "create_room",
            Self::Search => "search",
            Self::Profile => "profile",
            Self::Federation => "federation",
            Self::FederationAddress => "federation_address",
        }
    }

    /// The rate without configuration: far above what a person, or a server that is well, does, far below what hurts.
    pub const fn default_rate(self) -> LimitRate {
        let (per_second, burst) = match self {
            Self::None | Self::Default => (50.0, 500),
            Self::Login => (0.5, 30),
            Self::LoginAccount => (0.2, 10),
            Self::Registration => (0.1, 10),
            Self::Message => (20.0, 200),
            Self::Join => (1.0, 50),
            Self::Invite => (1.0, 50),
            Self::CreateRoom => (0.5, 30),
            Self::Search => (5.0, 50),
            Self::Profile => (5.0, 50),
            Self::Federation => (50.0, 1_000),
            // Many servers may share an address, that of a proxy that nobody has named as trusted for one.
            Self::FederationAddress => (200.0, 5_000),
        };
        LimitRate { per_second, burst }
    }
}

/// A bucket of `burst` requests that refills at `per_second`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitRate {
    /// Requests a second over long times; more than 0.
    pub per_second: f64,
    /// Requests at once; at least 1.
    pub burst: u32,
}

/// The rates of all classes.
#[derive(Clone, Debug)]
pub struct LimitSettings {
    /// `false` switches every limit off.
    pub enabled: bool,
    /// Rates that differ from [`Limit::default_rate`].
    pub rates: Vec<(Limit, LimitRate)>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { enabled: true, rates: Vec::new() }
    }
}

/// Buckets of their own that a class has: some 40 bytes each, so 40 MB when a million addresses ask within one refill.
const BUCKETS_MAX: usize = 1 << 20;

/// Buckets that all further keys share while a class is crowded.
const SHARED_BUCKETS: u64 = 1 << 16;

/// After so many checks of a class the full buckets are thrown away, which changes nothing for their owners.
const SWEEP_EVERY: u32 = 1 << 14;

/// The buckets of all classes.
pub struct Limits {
    /// By the order of [`Limit::ALL`]; empty if limits are off.
    classes: Vec<Class>,
    /// Keys are stored as hashes under a secret of this process, so that no two can be made to collide.
    hasher: RandomState,
}

struct Class {
    limiter: RateLimiter<u64, DashMapStateStore<u64>, Monotonic, NoOpMiddleware<Duration>>,
    checks: AtomicU32,
    /// More keys at once than [`BUCKETS_MAX`]: keys share buckets until the next sweep finds room.
    crowded: AtomicBool,
}

impl Limits {
    /// Empty buckets. Time is the machine's monotonic clock.
    pub fn new(settings: &LimitSettings) -> Self {
        let rate = |limit: Limit| {
            let set = settings.rates.iter().find(|(name, _)| *name == limit);
            set.map_or(limit.default_rate(), |(_, rate)| *rate)
        };
        let classes = if settings.enabled {
            Limit::ALL.iter().map(|limit| Class::new(rate(*limit))).collect()
        } else {
            Vec::new()
        };
        Self { classes, hasher: RandomState::new() }
    }

    /// Takes one from the bucket of this account, device or word; `M_LIMIT_EXCEEDED` if it is empty.
    pub fn check(&self, limit: Limit, key: impl Hash) -> Result<(), Error> {
        let Some(index) = Limit::ALL.iter().position(|class| *class == limit) else { return Ok(()) };
        let Some(class) = self.classes.get(index) else { return Ok(()) };
        class.check(self.hasher.hash_one(key))
    }

    /// Takes one from the bucket of this address. IPv6 addresses count by their /64, which one household has.
    pub fn check_address(&self, limit: Limit, address: IpAddr) -> Result<(), Error> {
        self.check(limit, address::household(address))
    }
}

impl Class {
    fn new(rate: LimitRate) -> Self {
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        // A rate below one in a day is meant as "never again"; the bound keeps the arithmetic in range.
        let per_second = rate.per_second.clamp(1.0 / 86_400.0, 1e9);
        let quota = Quota::with_period(Duration::from_secs_f64(1.0 / per_second))
            .expect("the period of a clamped rate is at least a nanosecond");
        let limiter = RateLimiter::dashmap_with_clock(quota.allow_burst(burst), Monotonic(Instant::now()));
        Self { limiter, checks: AtomicU32::new(0), crowded: AtomicBool::new(false) }
    }

    fn check(&self, key: u64) -> Result<(), Error> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.sweep();
        }
        let key = if self.crowded.load(Ordering::Relaxed) { key % SHARED_BUCKETS } else { key };
        self.limiter.check_key(&key).map_err(|until| Error::limit_exceeded(self.wait_ms(&until)))
    }

    /// Throws full buckets away, and decides whether the rest are too many.
    fn sweep(&self) {
        self.limiter.retain_recent();
        let crowded = self.limiter.len() > BUCKETS_MAX;
        if crowded != self.crowded.swap(crowded, Ordering::Relaxed) {
            tracing::warn!(crowded, "the number of addresses or accounts under a rate limit changed much");
        }
    }

    fn wait_ms(&self, until: &NotUntil<Duration>) -> u64 {
        let wait = until.earliest_possible().duration_since(self.limiter.clock().now());
        u64::try_from(Duration::from(wait).as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

/// The machine's monotonic clock, as time since the start.
#[derive(Clone, Copy, Debug)]
struct Monotonic(Instant);

impl Clock for Monotonic {
    type Instant = Duration;

    fn now(&self) -> Duration {
        // The first bucket of a class would start before the clock's zero without this head start.
        self.0.elapsed() + Duration::from_secs(1 << 20)
    }
}
