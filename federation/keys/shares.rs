//! No domain gets all there is: who has names without number, behind one wildcard, has one share like others.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use ruma::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many turns at once for the servers of each domain.
pub(super) struct Shares {
    each: usize,
    /// Those of domains that somebody has or waits for. Held for a look-up, never while waiting.
    domains: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A turn; it ends when this is dropped.
pub(super) struct Share<'a> {
    /// Fields are dropped in the order of their declaration: this before the seat, which counts who else holds the turns.
    _turn: OwnedSemaphorePermit,
    _seat: Seat<'a>,
}

/// Removes the domain's turns when nobody has a seat any more.
struct Seat<'a> {
    shares: &'a Shares,
    domain: String,
    /// `None` only while being dropped.
    turns: Option<Arc<Semaphore>>,
}

impl Shares {
    pub(super) fn of(each: usize) -> Self {
        Self { each, domains: Mutex::new(HashMap::new()) }
    }

    /// Waits for a turn of the server's domain. Dropping the future gives up the place in the line.
    pub(super) async fn enter(&self, server: &ServerName) -> Share<'_> {
        let domain = domain(server);
        let turns = {
            let mut domains = self.domains.lock();
            let present = domains.get(&domain).and_then(Weak::upgrade);
            present.unwrap_or_else(|| {
                let turns = Arc::new(Semaphore::new(self.each));
                domains.insert(domain.clone(), Arc::downgrade(&turns));
                turns
            })
        };
        let seat = Seat { shares: self, domain, turns: Some(Arc::clone(&turns)) };
        Share { _turn: turns.acquire_owned().await.expect("it is never closed"), _seat: seat }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut domains = self.shares.domains.lock();
        self.turns = None;
        if domains.get(&self.domain).is_some_and(|turns| turns.strong_count() == 0) {
            domains.remove(&self.domain);
        }
    }
}

/// The last two labels of a name. Where a registry sells the third, strangers share. All addresses are one: whoever names
/// them need not own them.
fn domain(server: &ServerName) -> String {
    if server.is_ip_literal() {
        return String::new();
    }
    let host = server.host().trim_end_matches('.');
    let start = host.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
    host.get(start..).unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    fn name(server: &str) -> &ServerName {
        server.try_into().unwrap()
    }

    #[test]
    fn names_of_one_owner_are_one() {
        for (server, expected) in [
            ("a.b.Evil.example:8448", "evil.example"),
            ("evil.example", "evil.example"),
            ("localhost:1", "localhost"),
            ("192.0.2.1:8448", ""),
            ("[2001:db8::1]", ""),
        ] {
            assert_eq!(domain(name(server)), expected, "{server}");
        }
    }

    #[tokio::test]
    async fn each_domain_has_its_turns_and_nothing_stays_behind() {
        let shares = Shares::of(2);
        let first = shares.enter(name("a.evil.example")).await;
        let second = shares.enter(name("b.evil.example")).await;
        let other = shares.enter(name("a.example")).await;
        let mut third = pin!(shares.enter(name("c.evil.example")));
        assert!(third.as_mut().now_or_never().is_none());
        {
            // Somebody who gives up while waiting neither gets nor breaks it.
            let mut fourth = pin!(shares.enter(name("d.evil.example")));
            assert!(fourth.as_mut().now_or_never().is_none());
        }
        drop(first);
        let third = third.await;
        drop((second, third, other));
        assert!(shares.domains.lock().is_empty());
    }
}
