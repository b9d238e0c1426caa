//! Sessions that end while one of their requests is waiting.

use std::{collections::HashMap, sync::Arc};

use hearth_store::tables::users::TokenHash;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::Notify;

use crate::{Session, Users, tokens::token_id};

/// Tokens whose end is remembered for requests that were just let in: as many as can end within such a moment.
const ENDED_MAX: usize = 4_096;

/// Who waits for the end of which token.
pub(crate) struct SessionEnds {
    /// How many wait, by token. The lock is held for map operations only.
    waiting: Mutex<HashMap<u64, (usize, Arc<Notify>)>>,
    ended: Cache<u64, ()>,
}

impl SessionEnds {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::default(), ended: Cache::new(ENDED_MAX) }
    }
}

/// Held by a request that waits: tells when its session ends.
pub struct SessionEnd<'a> {
    ends: &'a SessionEnds,
    token: u64,
    notify: Arc<Notify>,
}

impl SessionEnd<'_> {
    /// Returns when the session has ended, at once if it has by now.
    pub async fn ended(&self) {
        // Subscribed before looking, so that no end is missed.
        let notified = self.notify.notified();
        if self.ends.ended.get(&self.token).is_none() {
            notified.await;
        }
    }
}

impl Drop for SessionEnd<'_> {
    fn drop(&mut self) {
        let mut waiting = self.ends.waiting.lock();
        if let Some((count, _)) = waiting.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.token);
            }
        }
    }
}

impl Users {
    /// For requests that wait: the end of their session. A request that goes on for long should stop then.
    pub fn session_end(&self, session: &Session) -> SessionEnd<'_> {
        let token = session.token_id;
        let mut waiting = self.ends.waiting.lock();
        let (count, notify) = waiting.entry(token).or_default();
        *count += 1;
        SessionEnd { ends: &self.ends, token, notify: Arc::clone(notify) }
    }

    /// Forgets tokens that have ended, and stops those who wait with them. To be called after the commit that ends them.
    pub(crate) fn end_tokens(&self, hashes: &[TokenHash]) {
        self.sessions.remove(hashes);
        for token in hashes.iter().map(token_id) {
            self.ends.ended.insert(token, ());
            let notify = self.ends.waiting.lock().get(&token).map(|(_, notify)| Arc::clone(notify));
            if let Some(notify) = notify {
                notify.notify_waiters();
            }
        }
    }
}
