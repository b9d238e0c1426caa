//! Telling others what servers have said about their keys.
//! [Querying keys through another server](https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hearth_store::tables::{KEYS_PER_SERVER_MAX, KeyAnswerRow};
use ruma::OwnedServerName;

use super::{
    answer::key_ids,
    known::Known,
    ring::{Because, KeyRing},
};

/// Servers of one query that are looked for; further ones are left out of the answer.
pub(super) const SERVERS_MAX: usize = 250;

/// Keys of one server that are looked for: no more are known of any. Further ones are left out of the answer, as is what
/// nobody knows.
const IDS_PER_SERVER_MAX: usize = KEYS_PER_SERVER_MAX;

/// Keys that one query looks for, of all servers together. Servers sign with one or two.
pub(super) const IDS_MAX: usize = 2_000;

/// Of the servers, those that are asked because too little is known.
const FETCHES_MAX: usize = 16;

/// What is waited for those.
const FETCHES_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest answer, in bytes; what does not fit is left out.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What is asked of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Key ids, each with the time up to which it should be valid; none: all keys.
    pub(super) keys: BTreeMap<String, Option<u64>>,
    /// Up to when all keys should be valid, in milliseconds since the Unix epoch. "If not supplied, the notary server
    /// MUST use the current time"; then keys that are half over are refreshed, too.
    pub(super) valid_until_ms: Option<u64>,
}

impl Asked {
    /// Whether what is known answers it, so that the server need not be asked.
    fn is_answered(&self, known: &Known, now_ms: u64) -> bool {
        if self.keys.is_empty() {
            return known.answers.first().is_some_and(|answer| is_valid(answer, self.valid_until_ms, now_ms));
        }
        let newest = newest_with_each(known);
        self.keys
            .iter()
            .all(|(id, valid_until_ms)| newest.get(id).is_some_and(|answer| is_valid(answer, *valid_until_ms, now_ms)))
    }

    /// The answers to be passed on: the newest with each key, or the newest.
    fn pick<'a>(&self, known: &'a Known) -> Vec<&'a KeyAnswerRow> {
        let mut picked: Vec<&KeyAnswerRow> = Vec::new();
        // Without ids nothing is to be looked up.
        let newest = if self.keys.is_empty() { HashMap::new() } else { newest_with_each(known) };
        for answer in self.keys.keys().filter_map(|id| newest.get(id).copied()) {
            if !picked.iter().any(|other| std::ptr::eq(*other, answer)) {
                picked.push(answer);
            }
        }
        if picked.is_empty() { known.answers.iter().take(1).collect() } else { picked }
    }
}

/// The newest answer with each key. Each answer is read once, however many keys are asked for.
fn newest_with_each(known: &Known) -> HashMap<String, &KeyAnswerRow> {
    let mut newest = HashMap::new();
    for answer in &known.answers {
        for id in key_ids(&answer.json) {
            newest.entry(id).or_insert(answer);
        }
    }
    newest
}

/// What is looked for of a query.
fn bounded(query: BTreeMap<OwnedServerName, Asked>) -> Vec<(OwnedServerName, Asked)> {
    let mut ids_left = IDS_MAX;
    let mut bounded = Vec::new();
    for (server, mut asked) in query.into_iter().take(SERVERS_MAX) {
        if !asked.keys.is_empty() {
            if ids_left == 0 {
                continue;
            }
            asked.keys = asked.keys.into_iter().take(IDS_PER_SERVER_MAX.min(ids_left)).collect();
            ids_left -= asked.keys.len();
        }
        bounded.push((server, asked));
    }
    bounded
}

fn is_valid(answer: &KeyAnswerRow, until_ms: Option<u64>, now_ms: u64) -> bool {
    match until_ms {
        Some(until_ms) => answer.valid_until_ms >= until_ms,
        // "Cache a response for half of its lifetime to avoid serving a stale response."
        None => now_ms < answer.fetched_ms + answer.valid_until_ms.saturating_sub(answer.fetched_ms) / 2,
    }
}

impl KeyRing {
    /// What these servers have said about their keys, signed by us too. Servers that have said nothing are left out.
    pub(super) async fn notarise(self: &Arc<Self>, query: BTreeMap<OwnedServerName, Asked>) -> Vec<Bytes> {
        let (mut answers, mut known_all) = (Vec::new(), Vec::new());
        let mut missing = Vec::new();
        for (server, asked) in bounded(query) {
            if server == *self.own().server() {
                answers.push(self.own().answer());
                continue;
            }
            let known = self.load(&server).await;
            let may_ask = missing.len() < FETCHES_MAX && self.policy().allows(&server);
            if may_ask && !asked.is_answered(&known, self.now_ms()) {
                missing.push((server, asked));
            } else {
                known_all.push((asked, known));
            }
        }
        known_all.extend(self.ask_for_strangers(missing).await);
        let ring = Arc::clone(self);
        let _turn = self.notary_signing.acquire().await.expect("it is never closed");
        let signed = hearth_ports::work(move || ring.sign_all(&known_all)).await.unwrap_or_default();
        answers.extend(signed);
        answers
    }

    async fn ask_for_strangers(self: &Arc<Self>, missing: Vec<(OwnedServerName, Asked)>) -> Vec<(Asked, Arc<Known>)> {
        let find = missing.into_iter().map(|(server, asked)| async move {
            // If too much is asked of us already, what is known has to do.
            let Ok(_turn) = self.notary_fetches.try_acquire() else {
                return (asked, self.load(&server).await);
            };
            let found = self.find(&server, Because::Strangers, |known| asked.is_answered(known, self.now_ms()));
            let known = match tokio::time::timeout(FETCHES_TIMEOUT, found).await {
                Ok((known, _)) => known,
                Err(_) => self.load(&server).await,
            };
            (asked, known)
        });
        stream::iter(find).buffer_unordered(FETCHES_MAX).collect().await
    }

    fn sign_all(&self, known: &[(Asked, Arc<Known>)]) -> Vec<Bytes> {
        let mut room = ANSWER_BYTES_MAX;
        let mut signed = Vec::new();
        for answer in known.iter().flat_map(|(asked, known)| asked.pick(known)) {
            // What is no canonical JSON cannot be signed; its server must have signed something else.
            let Ok(answer) = self.own().cosign(&answer.json) else { continue };
            let Some(left) = room.checked_sub(answer.len()) else { break };
            room = left;
            signed.push(Bytes::from(answer));
        }
        signed
    }
}
