//! What a writer knows of an active room: its head and the state that its decisions ask for.
//!
//! It is a cache: every batch requires the head unchanged, so a stale one costs a retry, never a wrong event.

use std::collections::HashMap;

use bytes::Bytes;
use hearth_core::{Event, PowerLevels, RoomVersion};
use hearth_store::{
    Corrupt, EventNumber, LoadError, RoomNumber, Store,
    tables::{CurrentStateRow, Head, Membership},
};
use ruma::{OwnedEventId, OwnedRoomId, UserId};

use crate::error::SendError;

/// Entries of state, present or known to be absent, that one room keeps in memory between batches. Beyond it all but
/// the hub is dropped: it bounds a room to about 200 kB, and members who talk come back with a read or two each.
const ENTRIES_MAX: usize = 128;

/// State that nearly every decision asks for.
const HUB: [&str; 6] = [
    "m.room.create",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.server_acl",
    "m.room.policy",
];

/// The event in force for a pair of type and state key.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) number: EventNumber,
    pub(crate) event: Event,
}

/// What is known of a pair of type and state key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// Its current state row; `None` if the pair was never set.
    pub(crate) row: Option<CurrentStateRow>,
    /// The event in force.
    pub(crate) in_force: Option<InForce>,
}

/// Whether anything of a room is waited for. It may be `true` for what has come meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaiting {
    /// Events are cited that are not here.
    pub(crate) events: bool,
    /// Redactions wait for their targets.
    pub(crate) redactions: bool,
}

/// A room as far as its writer has looked.
#[derive(Debug)]
pub(crate) struct RoomCache {
    pub(crate) number: RoomNumber,
    pub(crate) id: OwnedRoomId,
    pub(crate) version: RoomVersion,
    /// The head's bytes as they are stored; `None` while the room is being created.
    pub(crate) head_bytes: Option<Bytes>,
    /// The head with all that was decided since.
    pub(crate) head: Head,
    /// Reference hashes of the extremities, which room versions 1 and 2 cite.
    pub(crate) extremity_hashes: HashMap<OwnedEventId, String>,
    entries: HashMap<Box<str>, HashMap<Box<str>, Entry>>,
    entries_count: usize,
    awaiting: Option<Awaiting>,
    /// It has what a batch was to bring that is not committed: whoever built it went away, or failed.
    pub(crate) is_ahead: bool,
    /// The room is being created: what is not among the entries does not exist.
    is_complete: bool,
}

impl RoomCache {
    /// Reads the head. `None`: there is no such room for writers.
    pub(crate) async fn load(store: &Store, number: RoomNumber) -> Result<Option<Self>, LoadError> {
        let Some((bytes, head)) = store.head_bytes(number).await? else { return Ok(None) };
        let Some(id) = store.room_id(number).await? else { return Ok(None) };
        // A version that this build does not speak was stored by another: such a room cannot be written here.
        let Some(version) = RoomVersion::parse(&head.create.version) else { return Ok(None) };
        if head.purged || head.loading {
            return Ok(None);
        }
        Ok(Some(Self { head_bytes: Some(bytes), is_complete: false, ..Self::new(number, id, version, head) }))
    }

    /// A room that is being created: nothing is stored of it yet.
    pub(crate) fn new(number: RoomNumber, id: OwnedRoomId, version: RoomVersion, head: Head) -> Self {
        Self {
            number,
            id,
            version,
            head_bytes: None,
            head,
            extremity_hashes: HashMap::new(),
            entries: HashMap::new(),
            entries_count: 0,
            awaiting: None,
            is_ahead: false,
            is_complete: true,
        }
    }

    /// Makes sure that the pair is among the entries, and returns it.
    pub(crate) async fn entry(&mut self, store: &Store, kind: &str, state_key: &str) -> Result<&Entry, LoadError> {
        if self.known(kind, state_key).is_none() {
            let entry = if self.is_complete { Entry::default() } else { self.read(store, kind, state_key).await? };
            self.set(kind, state_key, entry);
        }
        Ok(self.known(kind, state_key).expect("it was there or has just been put there"))
    }

    /// The event in force, read if need be.
    pub(crate) async fn state(
        &mut self,
        store: &Store,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Event>, LoadError> {
        let entry = self.entry(store, kind, state_key).await?;
        Ok(entry.in_force.as_ref().map(|in_force| in_force.event.clone()))
    }

    /// A user's membership, read if need be; `None` if they were never in the room.
    pub(crate) async fn membership(&mut self, store: &Store, user: &UserId) -> Result<Option<Membership>, LoadError> {
        let entry = self.entry(store, "m.room.member", user.as_str()).await?;
        Ok(entry.in_force.as_ref().and(entry.row).and_then(|row| row.membership))
    }

    /// The power levels in force.
    pub(crate) async fn power_levels(&mut self, store: &Store) -> Result<PowerLevels, SendError> {
        let create = self.state(store, "m.room.create", "").await?;
        let create = create.ok_or_else(|| SendError::forbidden("the room has no create event"))?;
        let levels = self.state(store, "m.room.power_levels", "").await?;
        Ok(PowerLevels::of(&create, levels.as_ref(), self.version))
    }

    /// The entry, if it was looked up before.
    pub(crate) fn known(&self, kind: &str, state_key: &str) -> Option<&Entry> {
        self.entries.get(kind)?.get(state_key)
    }

    /// The event in force, if it was looked up before.
    pub(crate) fn known_event(&self, kind: &str, state_key: &str) -> Option<Event> {
        Some(self.known(kind, state_key)?.in_force.as_ref()?.event.clone())
    }

    /// Remembers what is in force for a pair.
    pub(crate) fn set(&mut self, kind: &str, state_key: &str, entry: Entry) {
        if !self.entries.contains_key(kind) {
            self.entries.insert(kind.into(), HashMap::new());
        }
        let of_kind = self.entries.get_mut(kind).expect("it has just been put there");
        if of_kind.insert(state_key.into(), entry).is_none() {
            self.entries_count += 1;
        }
    }

    /// A redaction took effect on this event: if it is in force, its content is now another.
    pub(crate) fn replace_redacted(&mut self, redacted: &Event) {
        let Some((kind, state_key)) = redacted.state_pair() else { return };
        let Some(entry) = self.entries.get_mut(kind).and_then(|of_kind| of_kind.get_mut(state_key)) else { return };
        if let Some(in_force) = entry.in_force.as_mut().filter(|in_force| in_force.event == *redacted) {
            in_force.event = redacted.clone();
        }
    }

    /// What of the room is waited for; read if need be.
    pub(crate) async fn awaiting(&mut self, store: &Store) -> Result<&mut Awaiting, LoadError> {
        if self.awaiting.is_none() {
            let (events, redactions) = match self.head_bytes {
                Some(_) => store.is_awaiting(self.number).await?,
                None => (false, false),
            };
            self.awaiting = Some(Awaiting { events, redactions });
        }
        Ok(self.awaiting.as_mut().expect("it was there or has just been put there"))
    }

    /// The batch is committed: `head_bytes` is what is stored now, `position` that of the timeline's last change, if
    /// the batch made one.
    pub(crate) fn committed(&mut self, head_bytes: Bytes, position: Option<u64>) {
        self.head_bytes = Some(head_bytes);
        self.is_ahead = false;
        self.head.position = position.unwrap_or(self.head.position);
        self.is_complete = false;
        if self.entries_count > ENTRIES_MAX {
            self.entries.retain(|kind, _| HUB.contains(&&**kind));
            // A room may have thousands of pairs even of these types.
            if self.entries.values().any(|of_kind| of_kind.len() > ENTRIES_MAX) {
                self.entries.clear();
            }
            self.entries_count = self.entries.values().map(HashMap::len).sum();
        }
    }

    async fn read(&self, store: &Store, kind: &str, state_key: &str) -> Result<Entry, LoadError> {
        let row = store.current_state_row(self.number, kind, state_key).await?;
        let Some(number) = row.and_then(|row| row.event) else { return Ok(Entry { row, in_force: None }) };
        let stored = store.event(self.number, number).await?.ok_or_else(|| Corrupt {
            what: "current state",
            reason: format!("room {:x} has no event {}", self.number.0, number.0),
        })?;
        Ok(Entry { row, in_force: Some(InForce { number, event: stored.event.clone() }) })
    }
}
