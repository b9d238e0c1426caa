//! Who needs a key comes here: what is known, when to ask, what to believe.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use hearth_core::PublicKeys;
use hearth_ports::{Clock, WantedKeys};
use hearth_store::{
    CommitError, LoadError, Store, Table, Write, decode,
    tables::{ServerKeysRow, server_keys_key, server_partition},
};
use metrics::counter;
use parking_lot::Mutex;
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedServerName, ServerName};
use tokio::sync::Semaphore;

use super::{
    answer::KeyAnswer,
    fetch::{self, NOTARY_SERVERS_MAX},
    known::{Known, Need},
    own::OwnKeys,
    shares::Shares,
};
use crate::{
    flights::Flights,
    policy::ServerPolicy,
    remote::{Remote, Urgency},
};

/// Memory for keys, in bytes: those of some ten thousand servers.
const CACHE_BYTES_MAX: u64 = 24 << 20;

/// Servers whose attempts are remembered. One that is forgotten may be asked a few times more.
const ATTEMPTS_MAX: usize = 20_000;

/// A server is asked for its keys so often at once …
const ATTEMPTS_BURST: u32 = 8;
/// … and then again after so long, in milliseconds. "Requesting servers should limit how frequently they query."
const ATTEMPT_EVERY_MS: u64 = 60_000;

/// Servers that are asked at once because we want to know.
const FETCHES_MAX: usize = 128;

/// Servers that are asked at once because somebody speaks in their name, or wants to hear about them from us: anybody can,
/// so it must not be in the way of what we want to know.
const STRANGERS_FETCHES_MAX: usize = 96;

/// Of them, those that the servers of one domain make us ask by events of others' users.
const FETCHES_PER_TELLER_MAX: usize = 16;

/// Servers of one domain that are asked at once, for whatever reason: their names may be without number, and each may be
/// silent for as long as we wait.
const FETCHES_PER_DOMAIN_MAX: usize = 32;

/// Of the strangers, those that others want to hear about from us.
const NOTARY_FETCHES_MAX: usize = 32;

/// Answers that are signed for others at once: anybody may ask, and it must leave the processors to those who check.
const NOTARY_SIGNING_MAX: usize = 1;

/// Servers that one caller waits for at once.
const FETCHES_PER_CALL: usize = 64;

/// What a caller waits for, in all; what has come by then has to do.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(60);

/// More servers than this at once are asked of notaries first, where there are any: one request in place of many.
const MANY: usize = 16;

/// Anybody can make up servers, so rows for new ones are written so often at once …
const NEW_ROWS_BURST: u32 = 10_000;
/// … and then again after so long, in milliseconds. Beyond it, keys of new servers are kept in memory only.
const NEW_ROW_EVERY_MS: u64 = 10_000;

/// A lost race for a server's row is run again so often.
const RACES_MAX: usize = 4;

/// What the operator decides.
#[derive(Clone, Debug, Default)]
pub struct KeyRingSettings {
    /// Servers that are asked for the keys of those that do not answer. Their word is taken.
    pub notaries: Vec<OwnedServerName>,
}

/// A key of a server, for an operator. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    /// As in `ed25519:a_1`.
    pub id: String,
    /// What it signs later is not valid.
    pub valid_until_ms: u64,
    /// The server no longer signs with it.
    pub is_old: bool,
    /// When it was last said to be so.
    pub fetched_ms: u64,
    /// By another server than its own.
    pub from_notary: bool,
}

/// Other servers' keys.
pub struct KeyRing {
    own: Arc<OwnKeys>,
    remote: Arc<Remote>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    settings: KeyRingSettings,
    known: Cache<OwnedServerName, Arc<Known>, ByWeight>,
    flights: Flights<OwnedServerName>,
    attempts: Cache<OwnedServerName, Arc<Mutex<Attempts>>>,
    fetches: Semaphore,
    strangers_fetches: Semaphore,
    /// By who tells of the server.
    told_fetches: Shares,
    /// By the server that is asked.
    domain_fetches: Shares,
    pub(super) notary_fetches: Semaphore,
    pub(super) notary_signing: Semaphore,
    new_rows: Mutex<Bucket>,
}

/// Why a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because<'a> {
    /// We want to know.
    WeNeed,
    /// Somebody else made us.
    Strangers,
    /// This server made us, by an event of a server that is not in the room.
    Told(&'a ServerName),
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<OwnedServerName, Arc<Known>> for ByWeight {
    fn weight(&self, server: &OwnedServerName, known: &Arc<Known>) -> u64 {
        server.as_str().len() as u64 + known.weight()
    }
}

/// How often a server was asked.
struct Attempts {
    bucket: Bucket,
    /// Attempts that have ended.
    ended: u64,
    /// When the last one began.
    last_ms: u64,
}

impl KeyRing {
    /// Nothing in memory yet; what the store has counts.
    pub fn new(
        own: Arc<OwnKeys>,
        remote: Arc<Remote>,
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        settings: KeyRingSettings,
    ) -> Arc<Self> {
        let new_rows = Mutex::new(Bucket::full(NEW_ROWS_BURST, NEW_ROW_EVERY_MS, clock.now_ms()));
        Arc::new(Self {
            own,
            remote,
            store,
            clock,
            settings,
            // By the weight of a server with one key.
            known: Cache::with_weighter(CACHE_BYTES_MAX as usize / 1_500, CACHE_BYTES_MAX, ByWeight),
            flights: Flights::new(),
            attempts: Cache::new(ATTEMPTS_MAX),
            fetches: Semaphore::new(FETCHES_MAX),
            strangers_fetches: Semaphore::new(STRANGERS_FETCHES_MAX),
            told_fetches: Shares::of(FETCHES_PER_TELLER_MAX),
            domain_fetches: Shares::of(FETCHES_PER_DOMAIN_MAX),
            notary_fetches: Semaphore::new(NOTARY_FETCHES_MAX),
            notary_signing: Semaphore::new(NOTARY_SIGNING_MAX),
            new_rows,
        })
    }

    /// Our own keys.
    pub fn own(&self) -> &Arc<OwnKeys> {
        &self.own
    }

    /// The keys of servers, for events: from what is known, then the servers, then notaries. What was not found is not in
    /// the answer; what is in it may be more than was wanted.
    pub async fn for_events(self: &Arc<Self>, mut wanted: BTreeMap<OwnedServerName, WantedKeys>) -> PublicKeys {
        let mut found = PublicKeys::default();
        if wanted.remove(self.own.server()).is_some() {
            found.0.insert(self.own.server().clone(), self.own.public());
        }
        // What was found in time counts, whatever is still on its way.
        let found_in_time = Mutex::new(found);
        let search = self.search(wanted, &found_in_time);
        if tokio::time::timeout(WHOLE_TIMEOUT, search).await.is_err() {
            tracing::info!("not all servers gave their keys in time");
        }
        found_in_time.into_inner()
    }

    async fn search(self: &Arc<Self>, wanted: BTreeMap<OwnedServerName, WantedKeys>, found: &Mutex<PublicKeys>) {
        let note = |server: &OwnedServerName, known: &Known| {
            found.lock().0.insert(server.clone(), known.for_events());
        };
        let mut missing = BTreeMap::new();
        for (server, wanted) in wanted {
            let known = self.load(&server).await;
            note(&server, &known);
            if known.satisfies(self.need(&wanted)) {
                self.refresh_in_time(&server, &known);
            } else {
                missing.insert(server, wanted);
            }
        }
        let are_many = missing.len() > MANY && !self.settings.notaries.is_empty();
        if are_many {
            self.ask_notaries(&mut missing, &note).await;
        }
        let itself = missing.into_iter().map(|(server, wanted)| async move {
            let because = wanted.asked_by.as_deref().map_or(Because::WeNeed, Because::Told);
            let (known, _) = self.find(&server, because, |known| known.satisfies(self.need(&wanted))).await;
            (server, wanted, known)
        });
        let mut answers = stream::iter(itself).buffer_unordered(FETCHES_PER_CALL);
        let mut missing = BTreeMap::new();
        while let Some((server, wanted, known)) = answers.next().await {
            note(&server, &known);
            if !known.satisfies(self.need(&wanted)) {
                missing.insert(server, wanted);
            }
        }
        if !are_many {
            self.ask_notaries(&mut missing, &note).await;
        }
    }

    /// The same as [`Self::for_request`], if nobody has to be asked for it.
    pub async fn known_for_request(self: &Arc<Self>, server: &ServerName, key_ids: &[String]) -> Option<PublicKeys> {
        let server = server.to_owned();
        let now_ms = self.clock.now_ms();
        let known = self.enough(&server, |known| known.satisfies(Need::ForRequest(key_ids, now_ms))).await?;
        Some(PublicKeys(BTreeMap::from([(server, known.for_requests(now_ms))])))
    }

    /// The keys with which a server signs requests now. `key_ids`: those of the request at hand.
    pub async fn for_request(self: &Arc<Self>, server: &ServerName, key_ids: &[String]) -> PublicKeys {
        let server = server.to_owned();
        let need = Need::ForRequest(key_ids, self.clock.now_ms());
        let (mut known, attempted) = self.find(&server, Because::Strangers, |known| known.satisfies(need)).await;
        if attempted && !known.satisfies(need) {
            let wanted =
                WantedKeys { ids: key_ids.iter().cloned().collect(), at_ms: self.clock.now_ms(), asked_by: None };
            let mut missing = BTreeMap::from([(server.clone(), wanted)]);
            self.ask_notaries(&mut missing, &|_, _| {}).await;
            known = self.load(&server).await;
        }
        PublicKeys(BTreeMap::from([(server, known.for_requests(self.clock.now_ms()))]))
    }

    /// The same after asking the server again, unless that was done too often: its request does not fit to what is known.
    pub async fn for_request_anew(self: &Arc<Self>, server: &ServerName) -> PublicKeys {
        let server = server.to_owned();
        let heard_ms = self.load(&server).await.heard_ms;
        let (known, _) = self.find(&server, Because::Strangers, |known| known.heard_ms > heard_ms).await;
        PublicKeys(BTreeMap::from([(server, known.for_requests(self.clock.now_ms()))]))
    }

    /// What is known of a server's keys, for an operator.
    pub async fn status(&self, server: &ServerName) -> Vec<KeyStatus> {
        let known = self.load(&server.to_owned()).await;
        let status = |(id, key): (&String, &super::known::Key)| KeyStatus {
            id: id.clone(),
            valid_until_ms: key.valid_until_ms,
            is_old: key.is_old,
            fetched_ms: key.fetched_ms,
            from_notary: key.from_notary,
        };
        known.keys.iter().map(status).collect()
    }

    /// Asks a server for its keys now, whatever is known; for an operator. The error is in words.
    pub async fn fetch_now(&self, server: &ServerName) -> Result<(), String> {
        let answer = fetch::from_itself(&self.remote, server, Urgency::Always).await;
        self.learn(&answer.map_err(|error| error.to_string())?, false).await;
        Ok(())
    }

    /// What verifies the signatures of a server that is trusted to speak for others.
    async fn of_notary(self: &Arc<Self>, notary: &OwnedServerName) -> PublicKeys {
        let (known, _) =
            self.find(notary, Because::WeNeed, |known| !known.for_requests(self.clock.now_ms()).is_empty()).await;
        PublicKeys(BTreeMap::from([(notary.clone(), known.for_requests(self.clock.now_ms()))]))
    }

    /// A key that is wanted for a time to come is wanted for now: nobody knows more today.
    fn need<'a>(&self, wanted: &'a WantedKeys) -> Need<'a> {
        Need::ForEvents(&wanted.ids, wanted.at_ms.min(self.clock.now_ms()))
    }

    /// What is known, after asking the server if that does not do and it was not asked too often. Who comes while it is
    /// being asked waits for that answer. Also: whether it was asked.
    pub(super) async fn find(
        self: &Arc<Self>,
        server: &OwnedServerName,
        because: Because<'_>,
        is_enough: impl Fn(&Known) -> bool,
    ) -> (Arc<Known>, bool) {
        if let Some(known) = self.enough(server, &is_enough).await {
            return (known, false);
        }
        let attempts = self.attempts(server);
        let ended = attempts.lock().ended;
        let _flight = self.flights.enter(server).await;
        let known = self.load(server).await;
        let asked_meanwhile = attempts.lock().ended != ended;
        if is_enough(&known) || asked_meanwhile || !self.may_ask(&attempts) {
            return (known, asked_meanwhile);
        }
        (self.ask(server, because, &attempts).await.unwrap_or(known), true)
    }

    /// What is known, if that does.
    async fn enough(
        self: &Arc<Self>,
        server: &OwnedServerName,
        is_enough: impl Fn(&Known) -> bool,
    ) -> Option<Arc<Known>> {
        let known = self.load(server).await;
        if !is_enough(&known) {
            return None;
        }
        self.refresh_in_time(server, &known);
        Some(known)
    }

    /// Asks again behind the back of whoever uses keys that are half over.
    fn refresh_in_time(self: &Arc<Self>, server: &OwnedServerName, known: &Known) {
        let now_ms = self.clock.now_ms();
        if !known.is_half_over(now_ms) {
            return;
        }
        let attempts = self.attempts(server);
        let lately = now_ms < attempts.lock().last_ms.saturating_add(ATTEMPT_EVERY_MS);
        if lately || !self.may_ask(&attempts) {
            return;
        }
        let (ring, server) = (Arc::clone(self), server.clone());
        tokio::spawn(async move {
            let _flight = ring.flights.enter(&server).await;
            ring.ask(&server, Because::WeNeed, &attempts).await;
        });
    }

    /// Asks a server and remembers its answer. `None`: there was none that counts.
    async fn ask(
        &self,
        server: &OwnedServerName,
        because: Because<'_>,
        attempts: &Mutex<Attempts>,
    ) -> Option<Arc<Known>> {
        // Who waits for one of these holds none of those that follow, which are more others'.
        let _told = match because {
            Because::Told(teller) => Some(self.told_fetches.enter(teller).await),
            Because::WeNeed | Because::Strangers => None,
        };
        let _share = self.domain_fetches.enter(server).await;
        let turns = if because == Because::WeNeed { &self.fetches } else { &self.strangers_fetches };
        let _turn = turns.acquire().await.expect("it is never closed");
        // Somebody speaks in its name, so it may be back.
        let answer = fetch::from_itself(&self.remote, server, Urgency::Person).await;
        let outcome = if answer.is_ok() { "found" } else { "failed" };
        counter!("hearth_federation_key_fetches_total", "outcome" => outcome).increment(1);
        let known = match answer {
            Ok(answer) => Some(self.learn(&answer, false).await),
            Err(error) => {
                tracing::debug!(%server, %error, "a server did not give its keys");
                None
            }
        };
        attempts.lock().ended += 1;
        known
    }

    /// Asks notaries in turn for what is missing, and takes out of it what they told.
    async fn ask_notaries(
        self: &Arc<Self>,
        missing: &mut BTreeMap<OwnedServerName, WantedKeys>,
        note: &impl Fn(&OwnedServerName, &Known),
    ) {
        for notary in self.settings.notaries.iter().filter(|notary| *notary != self.own.server()) {
            for answer in self.ask_notary(notary, missing).await {
                let known = self.learn(&answer, true).await;
                note(&answer.server, &known);
                if missing.get(&answer.server).is_some_and(|wanted| known.satisfies(self.need(wanted))) {
                    missing.remove(&answer.server);
                }
            }
        }
    }

    async fn ask_notary(
        self: &Arc<Self>,
        notary: &OwnedServerName,
        missing: &BTreeMap<OwnedServerName, WantedKeys>,
    ) -> Vec<KeyAnswer> {
        let others: Vec<_> = missing.iter().filter(|(server, _)| *server != notary).collect();
        if others.is_empty() {
            return Vec::new();
        }
        let keys = self.of_notary(notary).await;
        let mut told = Vec::new();
        for chunk in others.chunks(NOTARY_SERVERS_MAX) {
            let chunk = chunk.iter().map(|(server, wanted)| ((*server).clone(), (*wanted).clone())).collect();
            match fetch::from_notary(&self.remote, notary, &keys, &chunk, self.clock.now_ms()).await {
                Ok(answers) => told.extend(answers),
                Err(error) => {
                    tracing::info!(%notary, %error, "a notary did not answer");
                    break;
                }
            }
        }
        told
    }

    /// What is known of a server; nothing, if the store cannot be read.
    pub(super) async fn load(&self, server: &OwnedServerName) -> Arc<Known> {
        if let Some(known) = self.known.get(server) {
            return known;
        }
        match self.load_row(server).await {
            Ok((known, _)) => {
                let known = Arc::new(known.unwrap_or_default());
                self.known.insert(server.clone(), Arc::clone(&known));
                known
            }
            Err(error) => {
                tracing::error!(%error, %server, "the keys of a server could not be read");
                Arc::default()
            }
        }
    }

    /// What is stored of a server, and its bytes.
    async fn load_row(&self, server: &ServerName) -> Result<(Option<Known>, Option<bytes::Bytes>), LoadError> {
        let bytes = self.store.get_bytes(Table::Fd, &server_keys_key(server)).await?;
        let known = bytes.as_deref().map(decode::<ServerKeysRow>).transpose()?.map(Known::from_row);
        Ok((known, bytes))
    }

    /// Adds an answer to what is known, in memory and in the store.
    async fn learn(&self, answer: &KeyAnswer, from_notary: bool) -> Arc<Known> {
        let now_ms = self.clock.now_ms();
        for _ in 0..RACES_MAX {
            let (stored, bytes) = match self.load_row(&answer.server).await {
                Ok(loaded) => loaded,
                Err(error) => {
                    tracing::error!(%error, server = %answer.server, "the keys of a server could not be read");
                    break;
                }
            };
            let mut known = match stored {
                Some(known) => known,
                // Of a server without a row something may be in memory.
                None => self.known.get(&answer.server).map_or_else(Known::default, |known| Known::clone(&known)),
            };
            known.learn(answer, from_notary, now_ms);
            if bytes.is_none() && !self.new_rows.lock().take(now_ms) {
                return self.remember(&answer.server, known);
            }
            let mut write = Write::new(server_partition(&answer.server));
            write.require(Table::Fd, server_keys_key(&answer.server), bytes);
            write.put(Table::Fd, server_keys_key(&answer.server), &known.to_row());
            match self.store.commit(write).await {
                Ok(_) => return self.remember(&answer.server, known),
                Err(CommitError::Conflict) => {}
                Err(error) => {
                    tracing::error!(%error, server = %answer.server, "the keys of a server could not be stored");
                    break;
                }
            }
        }
        // What is only in memory is known all the same.
        let mut known = Known::clone(&*self.load(&answer.server).await);
        known.learn(answer, from_notary, now_ms);
        self.remember(&answer.server, known)
    }

    fn remember(&self, server: &OwnedServerName, known: Known) -> Arc<Known> {
        let known = Arc::new(known);
        self.known.insert(server.clone(), Arc::clone(&known));
        known
    }

    fn attempts(&self, server: &OwnedServerName) -> Arc<Mutex<Attempts>> {
        let new = || {
            let bucket = Bucket::full(ATTEMPTS_BURST, ATTEMPT_EVERY_MS, self.clock.now_ms());
            Ok::<_, std::convert::Infallible>(Arc::new(Mutex::new(Attempts { bucket, ended: 0, last_ms: 0 })))
        };
        match self.attempts.get_or_insert_with(server, new) {
            Ok(attempts) => attempts,
            Err(never) => match never {},
        }
    }

    fn may_ask(&self, attempts: &Mutex<Attempts>) -> bool {
        let now_ms = self.clock.now_ms();
        let mut attempts = attempts.lock();
        let may = attempts.bucket.take(now_ms);
        if may {
            attempts.last_ms = now_ms;
        }
        may
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(super) fn policy(&self) -> &ServerPolicy {
        self.remote.policy()
    }
}

/// So many at once, then one after each interval.
#[derive(Debug)]
struct Bucket {
    left: u32,
    burst: u32,
    every_ms: u64,
    /// Up to when what came back is counted in `left`.
    counted_ms: u64,
}

impl Bucket {
    fn full(burst: u32, every_ms: u64, now_ms: u64) -> Self {
        Self { left: burst, burst, every_ms, counted_ms: now_ms }
    }

    fn take(&mut self, now_ms: u64) -> bool {
        let back = now_ms.saturating_sub(self.counted_ms) / self.every_ms;
        // A clock that was put back begins anew.
        self.counted_ms = if now_ms < self.counted_ms { now_ms } else { self.counted_ms + back * self.every_ms };
        self.left = self.burst.min(self.left.saturating_add(u32::try_from(back).unwrap_or(u32::MAX)));
        let has = self.left > 0;
        self.left -= u32::from(has);
        has
    }
}
