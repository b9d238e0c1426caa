//! The service itself: what its parts share.

use std::sync::Arc;

use hearth_ports::{Clock, Entropy};
use hearth_store::{Store, UserNumber};
use ruma::UserId;

use crate::{
    Fault, UserSettings,
    accounts::AccountMemory,
    devices::Sightings,
    ends::SessionEnds,
    ignored::{IGNORE_LISTS_MAX, IgnoreLists},
    keys::{KeyMemory, ListMemory},
    openid::OpenidTokens,
    passwords::Passwords,
    presence::PresenceBoard,
    receipt_writer::ReceiptWriter,
    shared_secret::Nonces,
    to_device::ToDeviceMemory,
    tokens::{SESSIONS_MAX, SessionCache},
    typing::TypingBoard,
};

/// Everything about users. One for the server; its methods are in the files of this crate, by subject.
pub struct Users {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) settings: UserSettings,
    pub(crate) passwords: Passwords,
    pub(crate) sessions: SessionCache,
    pub(crate) ends: SessionEnds,
    pub(crate) accounts: AccountMemory,
    pub(crate) sightings: Sightings,
    pub(crate) ignore_lists: IgnoreLists,
    pub(crate) nonces: Nonces,
    pub(crate) openid_tokens: OpenidTokens,
    pub(crate) serials: Serials,
    pub(crate) receipts: Arc<ReceiptWriter>,
    pub(crate) typing: TypingBoard,
    pub(crate) presence: PresenceBoard,
    pub(crate) keys: KeyMemory,
    pub(crate) to_device: ToDeviceMemory,
    pub(crate) lists: Arc<ListMemory>,
}

/// Counts changes of what only memory knows: typing and presence. Numbers of another run of the process mean nothing here,
/// so tokens carry the epoch beside them.
pub(crate) struct Serials {
    pub(crate) epoch: u64,
    newest: std::sync::atomic::AtomicU64,
}

impl Serials {
    /// The number of a new change. Taken while the change is hidden by its board's lock, so that whoever has seen the
    /// number sees the change.
    pub(crate) fn next(&self) -> u64 {
        self.newest.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1
    }
}

impl Users {
    /// The service. Must be called within a tokio runtime: typing and presence end by its clock.
    pub fn new(
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: UserSettings,
    ) -> Arc<Self> {
        let mut epoch = [0; 8];
        entropy.fill(&mut epoch);
        let users = Arc::new(Self {
            passwords: Passwords::new(settings.passwords, Arc::clone(&entropy)),
            sessions: SessionCache::new(SESSIONS_MAX),
            ends: SessionEnds::new(),
            accounts: AccountMemory::new(),
            sightings: Sightings::new(),
            ignore_lists: IgnoreLists::new(IGNORE_LISTS_MAX),
            nonces: Nonces::new(),
            openid_tokens: OpenidTokens::new(),
            serials: Serials { epoch: u64::from_be_bytes(epoch), newest: 0.into() },
            receipts: ReceiptWriter::new(Arc::clone(&store)),
            typing: TypingBoard::new(),
            presence: PresenceBoard::new(),
            keys: KeyMemory::new(),
            to_device: ToDeviceMemory::new(),
            lists: Arc::new(ListMemory::new()),
            store,
            clock,
            entropy,
            settings,
        });
        tokio::spawn(Self::keep_time(Arc::downgrade(&users)));
        users
    }

    /// The settings.
    pub fn settings(&self) -> &UserSettings {
        &self.settings
    }

    /// Names this run of the process: serials of typing and presence are compared only within it.
    pub fn epoch(&self) -> u64 {
        self.serials.epoch
    }

    /// The newest change of typing or presence.
    pub fn serial(&self) -> u64 {
        self.serials.newest.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Whether a user is of this server.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.settings.server_name
    }

    /// The number of a user who is known here.
    pub async fn number(&self, user: &UserId) -> Result<Option<UserNumber>, Fault> {
        Ok(self.store.user_number(user).await?)
    }
}
