//! How long a server is left alone that was not reached.

/// After the first failure, in milliseconds: long enough for a restart.
const FIRST_MS: u64 = 10_000;

/// At most, in milliseconds: one day.
pub(super) const PAUSE_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// The longest pause that a server may wish for, in milliseconds.
pub(super) const WISHED_PAUSE_MS_MAX: u64 = 60 * 60 * 1_000;

/// How long to wait after so many failures in a row, in milliseconds: twice as long with each, less up to a quarter by
/// chance, so that servers that were lost together are not tried together.
pub(super) fn pause_ms(failures: u32, random: u16) -> u64 {
    let doublings = failures.saturating_sub(1).min(32);
    let longest = FIRST_MS.saturating_mul(1 << doublings).min(PAUSE_MS_MAX);
    longest - longest / 4 * u64::from(random) / u64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_day_and_differ_by_a_quarter() {
        assert_eq!([1, 2, 3].map(|failures| pause_ms(failures, 0)), [10_000, 20_000, 40_000]);
        assert_eq!(pause_ms(1, u16::MAX), 7_500);
        assert_eq!((pause_ms(40, 0), pause_ms(u32::MAX, 0)), (PAUSE_MS_MAX, PAUSE_MS_MAX));
    }
}
