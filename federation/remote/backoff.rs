//! How long a server is left alone that was not reached.

/// After the first failure, in milliseconds; it doubles with each one that follows.
const FIRST_MS: u64 = 1_000;

/// At most, in milliseconds: a day.
const MAX_MS: u64 = 24 * 60 * 60 * 1_000;

/// The longest that a server may ask to be left alone, in milliseconds: longer than limits on requests last, and what a
/// person can wait for who wants something of it.
const ASKED_MS_MAX: u64 = 60 * 60 * 1_000;

/// Somebody who waits for an answer may try a server that is left alone, but so often only, in milliseconds.
const PERSON_EVERY_MS: u64 = 30_000;

/// How well a server was reached lately. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// So many failures in a row.
    pub failures: u32,
    /// When the first of them was; 0 for none.
    pub failing_since_ms: u64,
    /// When the last of them was.
    pub last_failure_ms: u64,
    /// It is left alone until then.
    pub retry_at_ms: u64,
    /// It asked to be left alone until then, though it is well. That it speaks to us takes nothing of it back.
    pub asked_until_ms: u64,
}

/// For whom a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// For nobody in particular: not while the server is left alone.
    Routine,
    /// For somebody who waits for the answer: now and then also while it is left alone.
    Person,
    /// The caller decides when a server is left alone.
    Always,
}

impl Backoff {
    /// Whether it may be asked now; else when it may.
    pub(super) fn check(&self, urgency: Urgency, now_ms: u64) -> Result<(), u64> {
        let until_ms = match urgency {
            Urgency::Routine => self.retry_at_ms.max(self.asked_until(now_ms)),
            Urgency::Person => {
                let at_ms = self.retry_at_ms.min(self.last_failure_ms.saturating_add(PERSON_EVERY_MS));
                at_ms.max(self.asked_until(now_ms))
            }
            Urgency::Always => 0,
        };
        // A clock that was put back must not make the pause longer than any.
        let until_ms = until_ms.min(now_ms.saturating_add(MAX_MS));
        if now_ms < until_ms { Err(until_ms) } else { Ok(()) }
    }

    /// A request that was sent at `sent_ms` came to nothing. `random` makes the pause up to a quarter shorter, so that
    /// servers that were lost together are not tried together.
    pub(super) fn failed(&mut self, sent_ms: u64, now_ms: u64, random: u16) {
        if self.failures > 0 && sent_ms <= self.last_failure_ms {
            // It was on its way when another one failed: that is the same outage.
            return;
        }
        let longest = FIRST_MS.saturating_mul(1 << self.failures.min(32)).min(MAX_MS);
        let pause_ms = longest - longest / 4 * u64::from(random) / u64::from(u16::MAX);
        *self = Self {
            failures: self.failures.saturating_add(1),
            failing_since_ms: if self.failures == 0 { now_ms } else { self.failing_since_ms },
            last_failure_ms: now_ms,
            retry_at_ms: now_ms.saturating_add(pause_ms),
            asked_until_ms: self.asked_until_ms,
        };
    }

    /// It was reached, or is there. Gives how it stood before.
    pub(super) fn reached(&mut self) -> Self {
        let asked_until_ms = self.asked_until_ms;
        std::mem::replace(self, Self { asked_until_ms, ..Self::default() })
    }

    /// It asks to be left alone until then, though it is well.
    pub(super) fn asked_to_wait(&mut self, until_ms: u64, now_ms: u64) {
        self.asked_until_ms = self.asked_until(now_ms).max(until_ms.min(now_ms.saturating_add(ASKED_MS_MAX)));
    }

    /// Until when it asked to be left alone; 0: it did not, or that is over.
    pub(super) fn asked_until(&self, now_ms: u64) -> u64 {
        // A clock that was put back must not make it longer.
        let is_asked = now_ms < self.asked_until_ms && self.asked_until_ms - now_ms <= ASKED_MS_MAX;
        if is_asked { self.asked_until_ms } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_day() {
        let (mut backoff, mut now_ms) = (Backoff::default(), 1_000_000);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            assert_eq!(backoff.check(Urgency::Routine, now_ms), Ok(()));
            backoff.failed(now_ms, now_ms, 0);
            assert_eq!(backoff.check(Urgency::Routine, now_ms), Err(backoff.retry_at_ms));
            assert_eq!(backoff.check(Urgency::Always, now_ms), Ok(()));
            pauses.push(backoff.retry_at_ms - now_ms);
            now_ms = backoff.retry_at_ms;
        }
        assert_eq!((pauses[0], pauses[1], pauses[2], pauses[39]), (1_000, 2_000, 4_000, MAX_MS));
        assert_eq!(backoff.failing_since_ms, 1_000_000);
        let until_ms = backoff.check(Urgency::Routine, 0).unwrap_err();
        assert_eq!(until_ms, MAX_MS, "also after the clock was put back");
    }

    #[test]
    fn one_outage_counts_once() {
        let mut backoff = Backoff::default();
        backoff.failed(100, 200, 0);
        let after_first = backoff;
        backoff.failed(150, 300, 0);
        backoff.failed(200, 300, 0);
        assert_eq!(backoff, after_first);
        backoff.failed(201, 300, u16::MAX);
        assert_eq!((backoff.failures, backoff.retry_at_ms), (2, 300 + 1_500));
    }

    #[test]
    fn a_person_may_try_now_and_then() {
        let mut backoff = Backoff { failures: 12, last_failure_ms: 1_000_000, ..Backoff::default() };
        backoff.failed(1_000_001, 1_000_001, 0);
        assert_eq!(backoff.check(Urgency::Person, 1_000_002), Err(1_030_001));
        assert_eq!(backoff.check(Urgency::Person, 1_030_001), Ok(()));
        let young =
            Backoff { failures: 1, last_failure_ms: 500, retry_at_ms: 1_500, failing_since_ms: 500, asked_until_ms: 0 };
        assert_eq!(young.check(Urgency::Person, 1_500), Ok(()));
    }

    #[test]
    fn who_asks_for_time_gets_it_from_all() {
        let mut backoff = Backoff::default();
        backoff.asked_to_wait(7_000, 1_000);
        for urgency in [Urgency::Routine, Urgency::Person] {
            assert_eq!(backoff.check(urgency, 6_999), Err(7_000));
            assert_eq!(backoff.check(urgency, 7_000), Ok(()));
        }
        assert_eq!(backoff.check(Urgency::Always, 1_000), Ok(()));
        backoff.reached();
        assert_eq!(backoff.check(Urgency::Person, 6_999), Err(7_000), "that it is there does not say that it has time");
        backoff.asked_to_wait(3_000, 2_000);
        assert_eq!(backoff.asked_until(2_000), 7_000);
        backoff.asked_to_wait(u64::MAX, 8_000);
        assert_eq!(backoff.asked_until(8_000), 8_000 + ASKED_MS_MAX);
        assert_eq!(backoff.check(Urgency::Person, 0), Ok(()), "also after the clock was put back");
    }
}
