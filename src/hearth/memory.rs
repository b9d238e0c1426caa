//! How much memory the caches may have.

use std::fs;

use crate::config::Config;

/// The share of the machine that caches take without configuration.
const SHARE: u64 = 4;

/// More than this helps only servers whose operator knows that it does.
const DEFAULT_BYTES_MAX: u64 = 1 << 30;

/// A cache below this is mostly misses.
const BYTES_MIN: u64 = 16 << 20;

/// What is assumed where neither the control group nor the machine tells.
const UNKNOWN_BYTES: u64 = 1 << 30;

/// The caches' budgets, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// For the storage engine: blocks and write buffers.
    pub(crate) engine: usize,
    /// For decoded rows.
    pub(crate) rows: usize,
}

/// Divides the budget: half to the engine, half to what is decoded.
pub(crate) fn budget(config: &Config) -> Budget {
    let total = match config.memory.cache_mib {
        Some(mib) => mib.saturating_mul(1 << 20),
        None => (available() / SHARE).min(DEFAULT_BYTES_MAX),
    };
    let half = usize::try_from(total.max(BYTES_MIN) / 2).unwrap_or(usize::MAX);
    Budget { engine: half, rows: half }
}

/// The control group's limit, or the machine's memory.
fn available() -> u64 {
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| group_limit(&text, |path| fs::read_to_string(format!("/sys/fs/cgroup{path}")).ok()));
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine_total(&text));
    match (group, machine) {
        (Some(group), Some(machine)) => group.min(machine),
        (one, other) => one.or(other).unwrap_or(UNKNOWN_BYTES),
    }
}

/// The least limit among the process's group and those around it.
fn group_limit(membership: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let number = |text: String| text.trim().parse::<u64>().ok();
    // Version 2 has one line, `0::/path`; version 1 one for each controller.
    let limits = membership.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.is_empty() {
            let around = ancestors(path).filter_map(|path| number(read(&format!("{path}/memory.max"))?));
            around.min()
        } else if controllers.split(',').any(|controller| controller == "memory") {
            let around =
                ancestors(path).filter_map(|path| number(read(&format!("/memory{path}/memory.limit_in_bytes"))?));
            around.min()
        } else {
            None
        }
    });
    limits.min()
}

/// `/a/b` → `/a/b`, `/a`, ``.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let path = path.trim_end_matches('/');
    std::iter::successors(Some(path), |path| path.rfind('/').map(|slash| path.split_at(slash).0))
}

fn machine_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::{group_limit, machine_total};

    fn check(membership: &str, files: &[(&str, &str)], limit: Option<u64>) {
        let read = |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
        assert_eq!(group_limit(membership, read), limit, "{membership}");
    }

    #[test]
    fn the_least_limit_around_us_counts() {
        check("0::/a/b\n", &[("/a/b/memory.max", "max\n"), ("/a/memory.max", "1000\n")], Some(1000));
        check("0::/a/b\n", &[("/a/b/memory.max", "500\n"), ("/a/memory.max", "1000\n")], Some(500));
        check("0::/\n", &[("/memory.max", "7\n")], Some(7));
        check("0::/\n", &[], None);
        check("3:cpu:/x\n2:memory:/y\n", &[("/memory/y/memory.limit_in_bytes", "9\n")], Some(9));
    }

    #[test]
    fn the_machine_says_what_it_has() {
        assert_eq!(machine_total("MemFree: 1 kB\nMemTotal:       24000 kB\n"), Some(24_576_000));
        assert_eq!(machine_total("MemFree: 1 kB\n"), None);
    }
}
