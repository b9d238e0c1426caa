//! The service: filters and places read, then look, wait, and look again.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hearth_ports::{Clock, Entropy};
use hearth_store::{EventNumber, RoomNumber, Store, UserNumber};
use hearth_users::{PresenceState, Users};
use hearth_view::Filter;
use quick_cache::sync::Cache;
use ruma::{OwnedDeviceId, OwnedUserId};
use tokio::{sync::watch, time::Instant};

use crate::{
    SyncError,
    device_lists::DeviceLists,
    json, keys,
    look::{Asked, Looked},
    place::Place,
    sent::{DeviceKey, SentMembers},
    to_device,
};

/// Stored filters kept in the form that is used; each is small, and most clients have one.
const FILTERS_MAX: usize = 4_096;

/// Filters that came as JSON, kept likewise: an app sends the same one with every request of every user.
const FILTER_TEXTS_MAX: usize = 512;

/// Longer ones are rare, and read anew each time.
const FILTER_TEXT_BYTES_MAX: usize = 4_096;

/// Rooms of readers that are known to have all their members, some 50 bytes each. Of others it is read.
const COMPLETED_MAX: usize = 65_536;

/// How sync behaves.
#[derive(Clone, Copy, Debug)]
pub struct SyncSettings {
    /// The longest that a request waits, in milliseconds. Clients ask for 30 s; proxies in front give up after minutes.
    pub timeout_max_ms: u64,
}

impl Default for SyncSettings {
    fn default() -> Self {
        Self { timeout_max_ms: 120_000 }
    }
}

/// Who syncs: a device of an account here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The account.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
}

/// What is asked. [GET /sync](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync)
#[derive(Clone, Debug)]
pub struct SyncQuery {
    /// A stored filter's id, or a filter as JSON.
    pub filter: Option<String>,
    /// The `next_batch` of an earlier answer.
    pub since: Option<String>,
    /// Tell all state, and answer at once.
    pub full_state: bool,
    /// How the user is seen while syncing.
    pub set_presence: PresenceState,
    /// How long to wait for something to tell, in milliseconds.
    pub timeout_ms: u64,
    /// Which state stands beside the timeline.
    pub state: StateForm,
}

/// Which state an answer tells beside the timeline, and under which name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateForm {
    /// `state`: up to the start of the timeline.
    #[default]
    Before,
    /// `state_after`: up to its end.
    After,
    /// The same under the name that [MSC4222](https://github.com/matrix-org/matrix-spec-proposals/pull/4222) had first.
    AfterUnstable,
}

impl Default for SyncQuery {
    fn default() -> Self {
        Self {
            filter: None,
            since: None,
            full_state: false,
            set_presence: PresenceState::Online,
            timeout_ms: 0,
            state: StateForm::Before,
        }
    }
}

/// Changes of device lists, for who was away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChanges {
    /// Whose lists changed, or with whom a room is shared now.
    pub changed: Vec<OwnedUserId>,
    /// With whom none is shared any more.
    pub left: Vec<OwnedUserId>,
}

/// Nothing of the rooms but who came and went.
const CHANGES_FILTER: &str = r#"{"room":{"timeline":{"types":[]},"state":{"types":[]},"ephemeral":{"types":[]}}}"#;

/// Sync. One for the server.
pub struct Syncs {
    pub(crate) store: Arc<Store>,
    pub(crate) users: Arc<Users>,
    pub(crate) clock: Arc<dyn Clock>,
    settings: SyncSettings,
    /// By user and id: a filter never changes under its id.
    filters: Cache<(UserNumber, Box<str>), Arc<Filter>>,
    /// By JSON text.
    filter_texts: Cache<Box<str>, Arc<Filter>>,
    pub(crate) sent: SentMembers,
    /// Where rooms got the members that they were joined without, 0 for others, by the reader's member event.
    pub(crate) completed: Cache<(RoomNumber, EventNumber), u64>,
    /// Secret of this process, so that nobody finds two devices with one key.
    device_salt: [u8; 16],
    shutdown: watch::Sender<bool>,
}

impl Syncs {
    /// The service.
    pub fn new(
        store: Arc<Store>,
        users: Arc<Users>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: SyncSettings,
    ) -> Arc<Self> {
        let mut device_salt = [0; 16];
        entropy.fill(&mut device_salt);
        Arc::new(Self {
            store,
            users,
            clock,
            settings,
            filters: Cache::new(FILTERS_MAX),
            filter_texts: Cache::new(FILTER_TEXTS_MAX),
            sent: SentMembers::new(),
            completed: Cache::new(COMPLETED_MAX),
            device_salt,
            shutdown: watch::Sender::new(false),
        })
    }

    /// From now on nobody waits: who does is answered at once, with the place where they stand.
    pub fn shut_down(&self) {
        self.shutdown.send_replace(true);
    }

    /// Brings a reader to the present: the answer's JSON. Waits for something to tell, if the query says so; a first
    /// sync and one with `full_state` never wait.
    pub async fn sync(&self, reader: &Reader, query: &SyncQuery) -> Result<Bytes, SyncError> {
        // Subscribed first, so that no shutdown is missed.
        let mut shutdown = self.shutdown.subscribe();
        let deadline = Instant::now() + Duration::from_millis(query.timeout_ms.min(self.settings.timeout_max_ms));
        let mut since = query.since.as_deref().map(Place::parse).transpose()?;
        let user = self.store.user_number(&reader.user_id).await?.ok_or(SyncError::UnknownUser)?;
        let filter = self.filter(reader, user, query.filter.as_deref()).await?;
        if let Some(since) = &since {
            self.check_known(since).await?;
            // Boxed, as looking is.
            Box::pin(to_device::note_delivered(self, user, reader, since)).await;
        }
        let _syncing = self.users.syncing(&reader.user_id, query.set_presence).await?;
        let live = self.store.attach(user).await?;
        let device = self.device_key(reader);
        let asked = Asked { syncs: self, reader, user, device, live: &live, filter: &filter, query };
        loop {
            // Subscribe, look, wait: what comes while looking wakes at once.
            let changed = live.changed();
            // Boxed: who waits does not keep the memory that looking needs.
            let place = match Box::pin(asked.look(since.as_ref())).await? {
                Looked::News(answer) => return Ok(answer),
                Looked::Nothing(place) => place,
            };
            let is_over = *shutdown.borrow() || Instant::now() >= deadline;
            let is_woken = !is_over
                && tokio::select! {
                    () = changed => true,
                    () = tokio::time::sleep_until(deadline) => false,
                    _ = shutdown.changed() => false,
                };
            if !is_woken {
                let mut out = b"{".to_vec();
                keys::write(&mut out, &self.users, user, reader).await?;
                json::name(&mut out, "next_batch");
                json::push(&mut out, &format!("\"{}\"}}", place.token()));
                return Ok(out.into());
            }
            since = Some(place);
        }
    }

    /// Whose devices or identity keys changed between two tokens, as far as the reader shares a room with them, and with
    /// whom no room is shared any more. What changed since `to` may be among it.
    /// [GET /keys/changes](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges)
    pub async fn key_changes(&self, reader: &Reader, from: &str, to: &str) -> Result<KeyChanges, SyncError> {
        let (from, to) = (Place::parse(from)?, Place::parse(to)?);
        // "This may be used by the server as a hint to check its caches are up to date."
        self.check_known(&from).await?;
        self.check_known(&to).await?;
        let user = self.store.user_number(&reader.user_id).await?.ok_or(SyncError::UnknownUser)?;
        let live = self.store.attach(user).await?;
        let filter = self.filter_of_text(CHANGES_FILTER)?;
        let query = SyncQuery::default();
        let device = self.device_key(reader);
        let asked = Asked { syncs: self, reader, user, device, live: &live, filter: &filter, query: &query };
        let DeviceLists { changed, left } = Box::pin(asked.device_lists(&from)).await?;
        Ok(KeyChanges { changed: changed.into_iter().collect(), left: left.into_iter().collect() })
    }

    /// The token of the present, for those who want to know only what comes. Messages to devices are left to come.
    pub fn now_token(&self) -> String {
        Place { to_device: to_device::NONE, ..self.now() }.token()
    }

    /// The present: everything up to here can be read.
    pub(crate) fn now(&self) -> Place {
        // The serial first: what is put into memory after it is told again, rather than not at all.
        let serial = self.users.serial();
        Place { positions: self.store.live().positions(), epoch: self.users.epoch(), serial, to_device: 0 }
    }

    fn device_key(&self, reader: &Reader) -> DeviceKey {
        let mut hasher = DefaultHasher::new();
        (self.device_salt, &reader.user_id, &reader.device_id).hash(&mut hasher);
        DeviceKey(hasher.finish())
    }

    /// A place ahead of what we know: others may have written it, or nobody.
    async fn check_known(&self, since: &Place) -> Result<(), SyncError> {
        if self.store.live().positions().covers(&since.positions) {
            return Ok(());
        }
        self.store.catch_up().await?;
        let is_known = self.store.live().positions().covers(&since.positions);
        if is_known { Ok(()) } else { Err(SyncError::UnknownPlace) }
    }

    async fn filter(&self, reader: &Reader, user: UserNumber, filter: Option<&str>) -> Result<Arc<Filter>, SyncError> {
        // "The server will detect whether it is an ID or a JSON object by whether the first character is a "{"."
        let id = match filter {
            None => return Ok(Arc::default()),
            Some(json) if json.starts_with('{') => return self.filter_of_text(json),
            Some(id) => id,
        };
        let key = (user, Box::from(id));
        if let Some(filter) = self.filters.get(&key) {
            return Ok(filter);
        }
        let definition = self.users.filter(&reader.user_id, id).await?.ok_or(SyncError::UnknownFilter)?;
        let filter = Arc::new(Filter::parse(definition.as_bytes())?);
        self.filters.insert(key, Arc::clone(&filter));
        Ok(filter)
    }

    fn filter_of_text(&self, json: &str) -> Result<Arc<Filter>, SyncError> {
        if let Some(filter) = self.filter_texts.get(json) {
            return Ok(filter);
        }
        let filter = Arc::new(Filter::parse(json.as_bytes())?);
        if json.len() <= FILTER_TEXT_BYTES_MAX {
            self.filter_texts.insert(Box::from(json), Arc::clone(&filter));
        }
        Ok(filter)
    }
}
