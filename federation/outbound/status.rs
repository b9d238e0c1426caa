//! How destinations stand: for the operator and for metrics.

use ruma::OwnedServerName;

/// How a destination stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationStatus {
    /// Its name.
    pub server: OwnedServerName,
    /// Whether it is reached.
    pub standing: Standing,
    /// Events that wait in memory.
    pub queued_events: usize,
    /// Typing, receipts and presences that wait.
    pub queued_ephemeral: usize,
    /// A transaction was made for it that it has not answered.
    pub in_flight: bool,
    /// Events were not queued: it catches up, or will when it is back.
    pub behind: bool,
}

/// Whether a destination is reached, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is wrong.
    Healthy,
    /// It is reached again and is told what it missed.
    CatchingUp,
    /// It was not reached.
    Failing {
        /// Since then, in milliseconds since the Unix epoch.
        since_ms: u64,
        /// When it is tried again, in milliseconds since the Unix epoch.
        retry_at_ms: u64,
        /// So many attempts in a row failed.
        failures: u32,
        /// What went wrong last.
        last_error: String,
    },
}

/// [`DestinationStatus`] without the name.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) standing: Standing,
    pub(super) queued_events: usize,
    pub(super) queued_ephemeral: usize,
    pub(super) in_flight: bool,
    pub(super) behind: bool,
}

impl Status {
    pub(super) fn of(self, server: OwnedServerName) -> DestinationStatus {
        let Self { standing, queued_events, queued_ephemeral, in_flight, behind } = self;
        DestinationStatus { server, standing, queued_events, queued_ephemeral, in_flight, behind }
    }
}

/// What the gauges show.
#[derive(Debug, Default)]
pub(super) struct Totals {
    destinations: usize,
    failing: usize,
    behind: usize,
    events: usize,
    ephemeral: usize,
}

impl Totals {
    pub(super) fn add(&mut self, status: &Status) {
        self.destinations += 1;
        self.failing += usize::from(matches!(status.standing, Standing::Failing { .. }));
        self.behind += usize::from(status.behind);
        self.events += status.queued_events;
        self.ephemeral += status.queued_ephemeral;
    }

    pub(super) fn publish(&self) {
        metrics::gauge!("hearth_federation_destinations").set(self.destinations as f64);
        metrics::gauge!("hearth_federation_destinations_failing").set(self.failing as f64);
        metrics::gauge!("hearth_federation_destinations_behind").set(self.behind as f64);
        metrics::gauge!("hearth_federation_queued_events").set(self.events as f64);
        metrics::gauge!("hearth_federation_queued_ephemeral").set(self.ephemeral as f64);
    }
}
