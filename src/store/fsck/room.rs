//! One room: its head, and the parts in order.

use std::{collections::HashMap, fmt::Display, sync::Arc};

use hearth_core::RoomVersion;
use hearth_ports::Unavailable;

use super::loaded;
use crate::{
    EventNumber, RoomIdentity, RoomNumber, StateVersion, Store,
    auth_graph::Bits,
    state::Levels,
    tables::{Head, RoomIdRow, room_index_key, room_name_key},
};
use hearth_ports::Table;
use ruma::RoomId;

/// What is known of a room while it is looked at.
pub(super) struct RoomCheck<'a> {
    pub(super) store: &'a Store,
    pub(super) room: RoomNumber,
    /// The room in messages: its id, once that is known.
    name: String,
    pub(super) problems: Vec<String>,
    pub(super) rows: u64,
    /// The numbers of all stored events.
    pub(super) stored: Bits,
    /// The nodes of the state trees.
    pub(super) levels: Levels,
    /// The versions of the state that something refers to, and what does.
    pub(super) wanted_states: HashMap<StateVersion, String>,
}

impl<'a> RoomCheck<'a> {
    pub(super) fn new(store: &'a Store, room: RoomNumber) -> Self {
        Self {
            store,
            room,
            name: format!("room number {:016x}", room.0),
            problems: Vec::new(),
            rows: 0,
            stored: Bits::default(),
            levels: Levels::default(),
            wanted_states: HashMap::new(),
        }
    }

    pub(super) fn problem(&mut self, problem: impl Display) {
        self.problems.push(format!("{}: {problem}", self.name));
    }

    pub(super) async fn run(&mut self) -> Result<(), Unavailable> {
        let head = match loaded(self.store.head(self.room).await)? {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(()),
            Err(problem) => {
                self.problem(problem);
                return Ok(());
            }
        };
        let Some(identity) = self.identity(&head).await? else { return Ok(()) };
        self.name = format!("room {}", identity.room_id);
        if head.purged || head.loading {
            // Its rows come or go.
            return Ok(());
        }
        self.check_states(&head).await?;
        self.check_events(&identity, &head).await?;
        self.check_timeline(&head).await?;
        self.check_gaps().await?;
        self.check_held().await?;
        self.check_wanted_states(&head);
        if !head.partial {
            // While its members are being fetched, they are among the current state's rows before the state has them.
            self.check_current_state(&head).await?;
        }
        for extremity in &head.extremities {
            if !self.stored.contains(extremity.event.0) {
                self.problem(format!("the head's extremity {} is not stored", extremity.event.0));
            }
        }
        Ok(())
    }

    /// Number and id name each other, and the version is one that is known.
    async fn identity(&mut self, head: &Head) -> Result<Option<Arc<RoomIdentity>>, Unavailable> {
        let Some(version) = RoomVersion::parse(&head.create.version) else {
            self.problem(format!("the head's room version {:?} is not known", head.create.version));
            return Ok(None);
        };
        let name = loaded(self.store.get::<RoomIdRow>(Table::Ix, &room_name_key(self.room)).await)?;
        let room_id = match name {
            Ok(Some(row)) => row.room_id,
            Ok(None) => {
                self.problem("it has a head but no id");
                return Ok(None);
            }
            Err(problem) => {
                self.problem(problem);
                return Ok(None);
            }
        };
        let Ok(room_id) = RoomId::parse(&*room_id) else {
            self.problem("its id is none");
            return Ok(None);
        };
        let index = self.store.engine().get(Table::Ix, &room_index_key(&room_id)).await?;
        if index.as_deref() != Some(&self.room.0.to_be_bytes()) {
            self.problem(format!("its id {room_id} does not lead back to it"));
        }
        Ok(Some(Arc::new(RoomIdentity { room_id, version })))
    }

    /// Whoever refers to a version of the state refers to one that is there.
    fn check_wanted_states(&mut self, head: &Head) {
        for (version, by) in std::mem::take(&mut self.wanted_states) {
            if version >= head.next_state {
                self.problem(format!("{by} has state version {}, which the head has not given out", version.0));
            } else if version != StateVersion::EMPTY && !self.levels.has(version) {
                self.problem(format!("{by} has state version {}, which is not stored", version.0));
            }
        }
    }

    /// Notes that something refers to a version of the state.
    pub(super) fn want_state(&mut self, version: StateVersion, by: impl FnOnce() -> String) {
        if version != StateVersion::UNKNOWN {
            self.wanted_states.entry(version).or_insert_with(by);
        }
    }

    /// Whether the event is stored; if not, says that what refers to it is wrong.
    pub(super) fn check_stored(&mut self, event: EventNumber, by: impl Display) {
        if !self.stored.contains(event.0) {
            self.problem(format!("{by} event {}, which is not stored", event.0));
        }
    }
}
