//! The order in which the places of an SRV record are tried.

use hearth_ports::Entropy;

/// An SRV record. [RFC 2782](https://www.rfc-editor.org/rfc/rfc2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SrvRecord {
    pub(crate) priority: u16,
    pub(crate) weight: u16,
    pub(crate) port: u16,
    pub(crate) host: String,
}

/// Lower priorities first; among equals, each place in the order is drawn with chances as the weights are.
///
/// > The following order SHOULD be used: […] compute the sum of the weights of those RRs, and with each RR associate the
/// > running sum in the selected order. Then choose a uniform random number between 0 and the sum computed (inclusive),
/// > and select the RR whose running sum value is the first in the selected order which is greater than or equal to the
/// > random number selected.
pub(crate) fn in_order(mut records: Vec<SrvRecord>, entropy: &dyn Entropy) -> Vec<SrvRecord> {
    // Those of weight 0 stand first in the running sum, which gives them a small chance.
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.first().map(|record| record.priority) {
        let end = records.partition_point(|record| record.priority == priority);
        let mut equals: Vec<_> = records.drain(..end).collect();
        while !equals.is_empty() {
            let sum: u64 = equals.iter().map(|record| u64::from(record.weight)).sum();
            let mut left = draw(entropy, sum);
            let chosen = equals.iter().position(|record| {
                let reached = u64::from(record.weight) >= left;
                left = left.saturating_sub(record.weight.into());
                reached
            });
            ordered.push(equals.remove(chosen.unwrap_or(0)));
        }
    }
    ordered
}

/// A number from 0 to `max`, itself included. The remainder's bias is below 2^-40: sums of weights are below 2^24.
fn draw(entropy: &dyn Entropy, max: u64) -> u64 {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    u64::from_le_bytes(bytes) % (max + 1)
}

#[cfg(test)]
mod tests {
    use hearth_ports::SeededEntropy;

    use super::*;

    fn record(priority: u16, weight: u16, port: u16) -> SrvRecord {
        SrvRecord { priority, weight, port, host: "h.example".to_owned() }
    }

    fn first_ports(records: Vec<SrvRecord>, draws: usize) -> impl Fn(u16) -> usize {
        let entropy = SeededEntropy::new(1);
        let first = (0..draws).map(|_| in_order(records.clone(), &entropy)[0].port).collect::<Vec<_>>();
        move |port| first.iter().filter(|first| **first == port).count()
    }

    #[test]
    fn priorities_are_never_mixed_and_nothing_is_lost() {
        let records = vec![record(20, 9, 5), record(10, 0, 1), record(10, 60, 2), record(0, 0, 0), record(20, 0, 4)];
        let entropy = SeededEntropy::new(3);
        for _ in 0..200 {
            let mut ports: Vec<_> = in_order(records.clone(), &entropy).iter().map(|record| record.port).collect();
            assert_eq!(ports[0], 0);
            ports[1..3].sort_unstable();
            ports[3..5].sort_unstable();
            assert_eq!(ports, [0, 1, 2, 4, 5]);
        }
    }

    #[test]
    fn weights_are_chances() {
        let count = first_ports(vec![record(1, 10, 1), record(1, 30, 3), record(1, 0, 0)], 4_000);
        // 0 is drawn once in 41, and with it the record of weight 0. Bounds of five standard deviations.
        assert!((50..=150).contains(&count(0)), "{}", count(0));
        assert!((830..=1_120).contains(&count(1)), "{}", count(1));
        assert!((2_780..=3_080).contains(&count(3)), "{}", count(3));
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let records = vec![record(u16::MAX, u16::MAX, u16::MAX); 300];
        assert_eq!(in_order(records, &SeededEntropy::new(1)).len(), 300);
    }
}
