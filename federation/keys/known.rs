//! What is known of a server's keys, and what becomes of it when the server is heard again. Pure.
//!
//! Nothing that a server says takes away what was good when it was said: a key that it no longer names stays good for
//! what it has signed before.

use std::collections::{BTreeMap, BTreeSet};

use hearth_core::PublicKey;
use hearth_store::tables::{
    KEY_ANSWER_BYTES_MAX, KEY_ANSWERS_MAX, KEYS_PER_SERVER_MAX, KeyAnswerRow, ServerKeyRow, ServerKeysRow,
};

use super::answer::{KeyAnswer, key_ids};

/// "Servers MUST use the lesser of this field and 7 days into the future when determining if a key is valid."
const VALID_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;

/// What is known of a server's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) keys: BTreeMap<String, Key>,
    /// What the server said, newest first: for those who ask us for it.
    pub(super) answers: Vec<KeyAnswerRow>,
    /// When the server itself was last heard; 0: never.
    pub(super) heard_ms: u64,
}

/// A key. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) bytes: [u8; 32],
    /// What it signs later is not valid.
    pub(super) valid_until_ms: u64,
    /// The server no longer signs with it.
    pub(super) is_old: bool,
    pub(super) fetched_ms: u64,
    /// By another server than its own.
    pub(super) from_notary: bool,
}

/// What somebody needs of a server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need<'a> {
    /// All of these keys, valid at this time; none named: any key.
    ForEvents(&'a BTreeSet<String>, u64),
    /// One of these keys, in use at this time.
    ForRequest(&'a [String], u64),
}

impl Known {
    /// Takes in what a server said. `from_notary`: another server says that it did.
    pub(super) fn learn(&mut self, answer: &KeyAnswer, from_notary: bool, now_ms: u64) {
        let valid_until_ms = answer.valid_until_ms.min(now_ms.saturating_add(VALID_MS_MAX));
        for (id, bytes) in &answer.current {
            let new = Key { bytes: *bytes, valid_until_ms, is_old: false, fetched_ms: now_ms, from_notary };
            self.learn_key(id, new);
        }
        for (id, (bytes, expired_ms)) in &answer.old {
            // It cannot have been old since a time to come.
            let valid_until_ms = (*expired_ms).min(now_ms);
            let new = Key { bytes: *bytes, valid_until_ms, is_old: true, fetched_ms: now_ms, from_notary };
            self.learn_key(id, new);
        }
        if !from_notary {
            self.heard_ms = now_ms;
            for (id, key) in &mut self.keys {
                // What the server no longer names it no longer uses.
                if !answer.current.contains_key(id) && !answer.old.contains_key(id) {
                    key.valid_until_ms = key.valid_until_ms.min(now_ms);
                    key.is_old = true;
                }
            }
        }
        self.keep_answer(answer, now_ms);
        self.drop_beyond_bound(answer);
    }

    fn learn_key(&mut self, id: &str, new: Key) {
        let Some(known) = self.keys.get_mut(id) else {
            self.keys.insert(id.to_owned(), new);
            return;
        };
        if !new.from_notary {
            // The server itself, over TLS: it knows best. But a key that only calls itself old does not take the place of
            // one that we have seen in use.
            if known.bytes == new.bytes || !new.is_old || known.is_old {
                *known = new;
            }
        } else if known.bytes == new.bytes {
            // A notary may tell old news: it makes valid for longer, or old, but not current again.
            if new.is_old && !known.is_old {
                *known = Key { valid_until_ms: known.valid_until_ms.min(new.valid_until_ms), ..new };
            } else if known.is_old == new.is_old && known.valid_until_ms < new.valid_until_ms {
                (known.valid_until_ms, known.fetched_ms) = (new.valid_until_ms, new.fetched_ms);
            }
        } else if known.from_notary {
            *known = new;
        }
    }

    /// Keeps the answer, and of those before it the ones with keys that it does not name.
    fn keep_answer(&mut self, answer: &KeyAnswer, now_ms: u64) {
        if answer.json.len() > KEY_ANSWER_BYTES_MAX {
            return;
        }
        let row = KeyAnswerRow { json: answer.json.clone(), valid_until_ms: answer.valid_until_ms, fetched_ms: now_ms };
        self.answers.insert(0, row);
        let mut seen = BTreeSet::new();
        self.answers.retain(|answer| {
            let before = seen.len();
            seen.extend(key_ids(&answer.json));
            seen.len() > before
        });
        self.answers.truncate(KEY_ANSWERS_MAX);
    }

    /// Those go first that the server no longer names and that have been useless for longest.
    fn drop_beyond_bound(&mut self, answer: &KeyAnswer) {
        let too_many = self.keys.len().saturating_sub(KEYS_PER_SERVER_MAX);
        if too_many == 0 {
            return;
        }
        let is_named = |id: &String| answer.current.contains_key(id) || answer.old.contains_key(id);
        let mut order: Vec<_> =
            self.keys.iter().map(|(id, key)| (is_named(id), key.valid_until_ms, id.clone())).collect();
        order.sort_unstable();
        for (_, _, id) in order.into_iter().take(too_many) {
            self.keys.remove(&id);
        }
    }

    /// Whether asking the server again would be of no use.
    pub(super) fn satisfies(&self, need: Need<'_>) -> bool {
        match need {
            Need::ForEvents(ids, at_ms) if ids.is_empty() => self.keys.values().any(|key| key.valid_until_ms >= at_ms),
            // Of an old key nothing more will be heard.
            Need::ForEvents(ids, at_ms) => {
                ids.iter().all(|id| self.keys.get(id).is_some_and(|key| key.is_old || key.valid_until_ms >= at_ms))
            }
            Need::ForRequest(ids, at_ms) => {
                ids.iter().any(|id| self.keys.get(id).is_some_and(|key| key.is_in_use(at_ms)))
            }
        }
    }

    /// Whether it is time to ask again although nothing is missing: "cache a response for half of its lifetime".
    pub(super) fn is_half_over(&self, now_ms: u64) -> bool {
        let current = self.keys.values().filter(|key| !key.is_old);
        let newest = current.max_by_key(|key| key.valid_until_ms);
        newest.is_none_or(|key| now_ms > key.fetched_ms + key.valid_until_ms.saturating_sub(key.fetched_ms) / 2)
    }

    /// All keys, each as long as it is good for events.
    pub(super) fn for_events(&self) -> BTreeMap<String, PublicKey> {
        self.keys.iter().map(|(id, key)| (id.clone(), key.public())).collect()
    }

    /// The keys that sign requests at this time.
    pub(super) fn for_requests(&self, now_ms: u64) -> BTreeMap<String, PublicKey> {
        let in_use = self.keys.iter().filter(|(_, key)| key.is_in_use(now_ms));
        in_use.map(|(id, key)| (id.clone(), key.public())).collect()
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn weight(&self) -> u64 {
        let keys: usize = self.keys.keys().map(|id| id.len() + 120).sum();
        let answers: usize = self.answers.iter().map(|answer| answer.json.len() + 64).sum();
        (keys + answers + 200) as u64
    }

    pub(super) fn from_row(row: ServerKeysRow) -> Self {
        let key = |row: ServerKeyRow| {
            let ServerKeyRow { id, bytes, valid_until_ms, is_old, fetched_ms, from_notary } = row;
            (id, Key { bytes, valid_until_ms, is_old, fetched_ms, from_notary })
        };
        Self { keys: row.keys.into_iter().map(key).collect(), answers: row.answers, heard_ms: row.heard_ms }
    }

    pub(super) fn to_row(&self) -> ServerKeysRow {
        let row = |(id, key): (&String, &Key)| ServerKeyRow {
            id: id.clone(),
            bytes: key.bytes,
            valid_until_ms: key.valid_until_ms,
            is_old: key.is_old,
            fetched_ms: key.fetched_ms,
            from_notary: key.from_notary,
        };
        let keys = self.keys.iter().map(row).collect();
        ServerKeysRow { keys, answers: self.answers.clone(), heard_ms: self.heard_ms }
    }
}

impl Key {
    fn is_in_use(&self, at_ms: u64) -> bool {
        !self.is_old && at_ms <= self.valid_until_ms
    }

    fn public(&self) -> PublicKey {
        PublicKey { bytes: self.bytes, valid_until_ms: self.valid_until_ms }
    }
}
