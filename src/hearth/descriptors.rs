//! File descriptors. Every connection and every open file takes one, and a database that gets none ends the process:
//! connections have a share of what the system allows, and no more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than this the server never uses. Where the system says "no limit", it is told this one.
const WANTED: u64 = 65_536;

/// What is kept from connections where there is enough: the database's files and logs, the search index, name queries.
const RESERVE: u64 = 1_024;

/// How many descriptors connections may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Connections that others opened, on each listener.
    pub(crate) inbound_per_listener: usize,
    /// Connections that we open, busy and idle ones together.
    pub(crate) outbound: usize,
}

/// Asks the system for as many as the server may use. Shells and containers begin with 1,024, of which the process may make
/// more. A system that refuses leaves what there is.
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(WANTED).min(WANTED);
    if current.is_some_and(|current| current < wanted) {
        // `budget` asks what has come of it.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// Divides what the system allows now.
pub(crate) fn budget(listeners: usize) -> Budget {
    divide(getrlimit(Resource::Nofile).current.unwrap_or(WANTED), listeners)
}

/// At most half is kept; of the rest a third is for connections that we open.
fn divide(limit: u64, listeners: usize) -> Budget {
    let rest = limit - RESERVE.min(limit / 2);
    let outbound = usize::try_from(rest / 3).unwrap_or(usize::MAX);
    let inbound = usize::try_from(rest).unwrap_or(usize::MAX) - outbound;
    Budget { inbound_per_listener: (inbound / listeners.max(1)).max(1), outbound }
}

#[cfg(test)]
mod tests {
    use super::{Budget, divide};

    #[test]
    fn something_is_always_kept_for_files() {
        assert_eq!(divide(1_024, 1), Budget { inbound_per_listener: 342, outbound: 170 });
        assert_eq!(divide(1_024, 2), Budget { inbound_per_listener: 171, outbound: 170 });
        assert_eq!(divide(65_536, 2), Budget { inbound_per_listener: 21_504, outbound: 21_504 });
        for limit in [0, 1, 10, 256, 4_096, 1 << 20] {
            let Budget { inbound_per_listener, outbound } = divide(limit, 1);
            assert!((inbound_per_listener + outbound) as u64 <= (limit - limit.min(2_048) / 2).max(1), "{limit}");
        }
    }
}
