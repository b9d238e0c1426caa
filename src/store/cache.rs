//! Caches over what never changes, each bounded in bytes. Events change by redaction; then they are forgotten here.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hearth_ports::Position;
use quick_cache::{Weighter, sync::Cache};
use ruma::OwnedUserId;

use crate::{
    EventNumber, RoomNumber, StateKeyNumber, StateVersion, UserNumber, auth_graph::AuthBlock, events::StoredEvent,
    identifiers::RoomIdentity, state::Chunk, tables::StateKeyRow, write::Kept,
};

/// What an entry of a cache costs beside its value, in bytes: key, table and bookkeeping.
const ENTRY_BYTES: u64 = 64;

/// About how large a value is, in bytes; it must not change while the value is cached.
pub(crate) trait Weight {
    fn weight(&self) -> u64;
}

#[derive(Clone, Copy)]
pub(crate) struct ByWeight;

impl<K, V: Weight> Weighter<K, V> for ByWeight {
    fn weight(&self, _key: &K, value: &V) -> u64 {
        ENTRY_BYTES + value.weight()
    }
}

impl<T: Weight> Weight for Arc<T> {
    fn weight(&self) -> u64 {
        (**self).weight()
    }
}

macro_rules! small {
    ($($number:ty),+) => {
        $(impl Weight for $number {
            fn weight(&self) -> u64 {
                8
            }
        })+
    };
}

small!(RoomNumber, UserNumber, EventNumber, StateKeyNumber);

impl Weight for OwnedUserId {
    fn weight(&self) -> u64 {
        self.as_str().len() as u64 + 16
    }
}

impl Weight for StateKeyRow {
    fn weight(&self) -> u64 {
        (self.kind.len() + self.state_key.len()) as u64 + 64
    }
}

type Bounded<K, V> = Cache<K, V, ByWeight>;

/// Identifiers are cached by the first 16 bytes of their BLAKE3.
pub(crate) type IdHash = [u8; 16];

pub(crate) struct Caches {
    pub(crate) rooms_by_id: Bounded<IdHash, RoomNumber>,
    pub(crate) rooms: Bounded<RoomNumber, Arc<RoomIdentity>>,
    pub(crate) users_by_id: Bounded<IdHash, UserNumber>,
    pub(crate) users: Bounded<UserNumber, OwnedUserId>,
    pub(crate) events_by_id: Bounded<(RoomNumber, IdHash), EventNumber>,
    pub(crate) events: Bounded<(RoomNumber, EventNumber), Arc<StoredEvent>>,
    /// How often an event was forgotten: see [`Caches::insert_events`].
    forgotten: AtomicU64,
    pub(crate) state_key_numbers: Bounded<IdHash, StateKeyNumber>,
    pub(crate) state_keys: Bounded<(RoomNumber, StateKeyNumber), Arc<StateKeyRow>>,
    pub(crate) state_chunks: Bounded<(RoomNumber, StateVersion, u16), Arc<Chunk>>,
    pub(crate) auth_blocks: Bounded<(RoomNumber, u32), Arc<AuthBlock>>,
}

impl Caches {
    /// Empty caches that together hold about so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let total = bytes_max as u64;
        // In hundredths of the whole: events are what clients read most, the state trees of large rooms come next.
        let part = |percent: u64, typical: u64| {
            let bytes = total * percent / 100;
            let entries = usize::try_from(bytes / (ENTRY_BYTES + typical)).unwrap_or(usize::MAX);
            (entries.max(16), bytes)
        };
        fn cache<K: Eq + std::hash::Hash, V: Weight + Clone>((entries, bytes): (usize, u64)) -> Bounded<K, V> {
            Cache::with_weighter(entries, bytes, ByWeight)
        }
        Self {
            rooms_by_id: cache(part(2, 8)),
            rooms: cache(part(2, 100)),
            users_by_id: cache(part(2, 8)),
            users: cache(part(3, 50)),
            events_by_id: cache(part(5, 8)),
            events: cache(part(46, 2_000)),
            forgotten: AtomicU64::new(0),
            state_key_numbers: cache(part(4, 8)),
            state_keys: cache(part(6, 120)),
            state_chunks: cache(part(22, 500)),
            auth_blocks: cache(part(8, 3_000)),
        }
    }

    /// An event must be read again.
    pub(crate) fn forget_event(&self, room: RoomNumber, number: EventNumber) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.events.remove(&(room, number));
    }

    /// To be taken before events are read that are then given to [`Self::insert_events`].
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// Keeps events that were committed just now, in a batch whose first position this is. Nobody can have read an older
    /// form of them that is not forgotten by now.
    pub(crate) fn keep_events(&self, kept: Vec<Kept>, first: Position) {
        for Kept { room, number, mut header, event, position } in kept {
            header.position = first.0 + u64::from(position.0);
            self.events.insert((room, number), Arc::new(StoredEvent::new(number, header, event)));
        }
    }

    /// Keeps events read since `forgotten` was taken. If one was forgotten meanwhile, the old form may have been read,
    /// so none is kept: this looks after inserting, the other side counts before removing.
    pub(crate) fn insert_events(&self, room: RoomNumber, events: &[Arc<StoredEvent>], forgotten: u64) {
        for event in events {
            self.events.insert((room, event.number), event.clone());
        }
        if self.forgotten() != forgotten {
            for event in events {
                self.events.remove(&(room, event.number));
            }
        }
    }
}
