//! Wall-clock time that moves with the runtime's.

use hearth_ports::Clock;
use tokio::time::Instant;

/// When every simulation begins, in milliseconds since the Unix epoch.
pub(crate) const BEGIN_MS: u64 = 1_700_000_000_000;

/// A server's clock: the runtime's time, a little wrong.
pub(crate) struct SimClock {
    begun: Instant,
    /// Ahead of the true time by so many milliseconds.
    ahead_ms: u64,
}

impl SimClock {
    pub(crate) fn new(begun: Instant, ahead_ms: u64) -> Self {
        Self { begun, ahead_ms }
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        let since = u64::try_from(self.begun.elapsed().as_millis()).expect("a simulation is short");
        BEGIN_MS + self.ahead_ms + since
    }
}
