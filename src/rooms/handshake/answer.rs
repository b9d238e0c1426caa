//! What a resident tells those who come in, or ask to.

use std::collections::BTreeSet;

use hearth_ports::{EventBytes, JoinAnswer};
use hearth_store::{EventNumber, LoadError, RoomNumber, StateKeyNumber, StateVersion, StoredEvent, tables::Membership};
use ruma::{ServerName, UserId};

use super::HandshakeError;
use crate::{append::membership_of, rooms::Rooms};

/// State that tells what a room is.
/// [Stripped state](https://spec.matrix.org/v1.19/client-server-api/#stripped-state).
pub(crate) const PREVIEW_KINDS: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.name",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.topic",
    "m.room.encryption",
];

/// Members by whom a room without a name is called.
const HEROES: usize = 5;

/// State keys that are looked up at once.
const STATE_KEYS_AT_ONCE: usize = 5_000;

/// Members that are looked at to find them.
const HEROES_LOOKED_AT_MAX: usize = 200;

impl Rooms {
    /// The answer to a join that is part of the room.
    pub(super) async fn join_answer(
        &self,
        origin: &ServerName,
        room: RoomNumber,
        join: &StoredEvent,
        omit_members: bool,
    ) -> Result<JoinAnswer, HandshakeError> {
        let version = join.header.state_before;
        if version == StateVersion::UNKNOWN {
            return Err(HandshakeError::Unavailable("the state before a join is not known".to_owned()));
        }
        let store = &self.writer.store;
        let mut state = store.state_all(room, version).await?;
        let mut members_omitted = false;
        if omit_members && let Some(without) = self.without_members(room, &state, join.event.sender()).await? {
            (state, members_omitted) = (without, true);
        }
        let state: Vec<EventNumber> = state.into_iter().map(|(_, event)| event).collect();
        let mut roots = state.clone();
        roots.extend(&join.header.auths);
        let mut auth_chain: BTreeSet<EventNumber> = store.auth_chain(room, &roots).await?.into_iter().collect();
        auth_chain.extend(&join.header.auths);
        let servers_in_room = match members_omitted {
            true => self.servers_before(origin, room).await?,
            false => Vec::new(),
        };
        if omit_members {
            // "Any events that are returned in state may be omitted from auth_chain."
            let given: BTreeSet<EventNumber> = state.iter().copied().collect();
            auth_chain.retain(|event| !given.contains(event));
        }
        let auth_chain: Vec<EventNumber> = auth_chain.into_iter().collect();
        Ok(JoinAnswer {
            event: Some(join.event.json().clone()),
            state: self.event_bytes(room, &state).await?,
            auth_chain: self.event_bytes(room, &auth_chain).await?,
            members_omitted,
            servers_in_room,
        })
    }

    /// The state without memberships but the joining user's own, by which the join is judged; of a room without a name and
    /// alias those by whom it is called stay too. `None`: there are too few to be left out.
    async fn without_members(
        &self,
        room: RoomNumber,
        state: &[(StateKeyNumber, EventNumber)],
        joiner: &UserId,
    ) -> Result<Option<Vec<(StateKeyNumber, EventNumber)>>, LoadError> {
        let store = &self.writer.store;
        let (mut kept, mut members, mut is_named) = (Vec::new(), Vec::new(), false);
        for some in state.chunks(STATE_KEYS_AT_ONCE) {
            let keys: Vec<StateKeyNumber> = some.iter().map(|(key, _)| *key).collect();
            for (entry, pair) in some.iter().zip(store.state_keys(room, &keys).await?) {
                let Some(pair) = pair else { continue };
                if pair.kind == "m.room.member" && pair.state_key != joiner.as_str() {
                    members.push(*entry);
                    continue;
                }
                is_named |=
                    matches!(&*pair.kind, "m.room.name" | "m.room.canonical_alias") && pair.state_key.is_empty();
                kept.push(*entry);
            }
        }
        if members.len() < self.settings.omitted_members_min {
            return Ok(None);
        }
        if !is_named {
            members.truncate(HEROES_LOOKED_AT_MAX);
            let numbers: Vec<EventNumber> = members.iter().map(|(_, event)| *event).collect();
            let events = store.events(room, &numbers).await?;
            let heroes = members.into_iter().zip(events).filter(|(_, stored)| {
                let membership = stored.as_ref().map(|stored| membership_of(&stored.event));
                matches!(membership, Some(Membership::Join | Membership::Invite))
            });
            kept.extend(heroes.map(|(member, _)| member).take(HEROES));
        }
        Ok(Some(kept))
    }

    /// The servers in the room without the one that has just come in.
    async fn servers_before(
        &self,
        origin: &ServerName,
        room: RoomNumber,
    ) -> Result<Vec<ruma::OwnedServerName>, LoadError> {
        let servers = self.writer.store.servers_in_room(room).await?;
        let before = servers.into_iter().filter(|(server, joined)| server != origin || *joined > 1);
        Ok(before.map(|(server, _)| server).collect())
    }

    /// State by which somebody outside knows the room: full events, the create event among them. `inviter`: whose
    /// membership is told too.
    pub(crate) async fn preview(
        &self,
        room: RoomNumber,
        inviter: Option<&UserId>,
    ) -> Result<Vec<EventBytes>, HandshakeError> {
        let store = &self.writer.store;
        let mut numbers = Vec::with_capacity(PREVIEW_KINDS.len() + 1);
        for kind in PREVIEW_KINDS {
            numbers.extend(store.current_state_row(room, kind, "").await?.and_then(|row| row.event));
        }
        if let Some(inviter) = inviter {
            let row = store.current_state_row(room, "m.room.member", inviter.as_str()).await?;
            numbers.extend(row.and_then(|row| row.event));
        }
        Ok(self.event_bytes(room, &numbers).await?)
    }
}
