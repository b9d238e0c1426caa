//! The user directory: who is found by which words, and by whom.
//! [User directory](https://spec.matrix.org/v1.19/client-server-api/#user-directory).
//!
//! Names are kept by circle: each room that is not open to everybody is one, all rooms that are open make up one, and so do
//! the accounts of this server. A question is a look at the beginnings of words in the circles of the one who asks
//! (`query.rs`), so it costs what is found, however many are in a room, and nobody can be shown a name from a room that is
//! not theirs. What the circles hold is derived from the present state whenever the log says that it may have changed
//! (`follow.rs`, `index.rs`), for a database that has no index yet room by room (`build.rs`); `words.rs` says what a word is.
//!
//! People of this server go by their profile in every circle, whatever they are called in a room.

mod build;
mod follow;
mod index;
mod query;
mod words;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_store::{LoadError, Store};
use ruma::OwnedServerName;
use tokio::{sync::Mutex, time::sleep};

pub use query::{Found, PeopleFound, TERM_BYTES_MAX};

use follow::Reader;
use index::Index;

/// The log is read so long after it was read last: what comes meanwhile is read at once.
const GATHER: Duration = Duration::from_millis(10);

/// How often it is looked whether the cursor is to be stored.
const TICK: Duration = Duration::from_secs(1);

/// After an error of the store the log is read again after so long.
const TROUBLE: Duration = Duration::from_secs(1);

/// What of the configuration the directory obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeopleSettings {
    /// `false`: nobody is found, and no index is kept.
    pub enabled: bool,
    /// Every account of this server is found by every other.
    pub all_accounts: bool,
}

impl Default for PeopleSettings {
    fn default() -> Self {
        Self { enabled: true, all_accounts: false }
    }
}

/// The user directory. See the module.
pub struct People {
    store: Arc<Store>,
    settings: PeopleSettings,
    index: Index,
    /// Held by whoever brings the index up to date.
    reader: Mutex<Reader>,
}

impl People {
    /// The directory over this store; `own` is this server's name. Until [`Self::start`] nobody keeps its index.
    pub async fn open(
        store: Arc<Store>,
        own: OwnedServerName,
        settings: PeopleSettings,
    ) -> Result<Arc<Self>, LoadError> {
        let reader = Reader::open(&store).await?;
        let index = Index::new(Arc::clone(&store), own);
        Ok(Arc::new(Self { store, settings, index, reader: Mutex::new(reader) }))
    }

    /// Keeps the index true from now on, as long as the directory lives. Must be called within a tokio runtime.
    pub fn start(self: &Arc<Self>) {
        if self.settings.enabled {
            tokio::spawn(Self::keep_reading(Arc::downgrade(self)));
        }
    }

    /// Reads the log as it grows.
    async fn keep_reading(people: Weak<Self>) {
        loop {
            let Some(this) = people.upgrade() else { return };
            let changed = this.store.live().log_changed();
            let caught_up = this.catch_up().await;
            drop(this);
            match caught_up {
                Ok(()) => {
                    sleep(GATHER).await;
                    // Whoever waits for ever must not keep the store.
                    tokio::select! {
                        () = changed => {}
                        () = sleep(TICK) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the user directory falls behind for now");
                    sleep(TROUBLE).await;
                }
            }
        }
    }
}
