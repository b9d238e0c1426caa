//! Presence for servers that come to share a room with our users: what they were not told when it changed.

use std::{collections::VecDeque, sync::Arc};

use hearth_store::{LoadError, MemberNote, RoomNumber, StoredEvent, tables::Membership};
use hearth_users::PresenceState;
use ruma::{OwnedServerName, OwnedUserId, UserId, events::room::member::MembershipState};

use super::{Outbound, ephemeral::News, sources::presence_news};

/// Newcomers that wait for the next tick. Of more, what they would be told comes with its next change.
const WAITING_MAX: usize = 1_000;

/// Newcomers that are told of presence in one tick: each costs the people of a room, or its servers.
const TOLD_AT_ONCE: usize = 50;

/// People of one room whose presence a newcomer is told: more than anybody looks at.
const PEOPLE_MAX: usize = 200;

/// Somebody who is in a room from now on.
#[derive(Debug)]
struct Newcomer {
    room: RoomNumber,
    who: Who,
    /// What changed after this is told to all who are in the room by then.
    serial: u64,
}

#[derive(Debug)]
enum Who {
    /// The first user of another server: it learns of ours.
    Server(OwnedServerName),
    /// One of ours: the servers in the room learn of them.
    User(OwnedUserId),
}

/// What is to be told once whoever came in has had the time to see the room.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    /// Those who came since the last tick.
    fresh: Vec<Newcomer>,
    due: VecDeque<Newcomer>,
}

impl Newcomers {
    fn push(&mut self, newcomer: Newcomer) {
        if self.fresh.len() + self.due.len() < WAITING_MAX {
            self.fresh.push(newcomer);
        }
    }

    /// The next of those who have waited for a tick.
    fn take(&mut self) -> Vec<Newcomer> {
        let count = self.due.len().min(TOLD_AT_ONCE);
        let due = self.due.drain(..count).collect();
        self.due.extend(self.fresh.drain(..));
        due
    }
}

impl Outbound {
    /// Takes note of a join by which a server and a user of ours may have come to share a room.
    pub(super) async fn note_newcomer(&self, note: &MemberNote, stored: &StoredEvent) -> Result<(), LoadError> {
        if note.membership != Membership::Join || !self.parts.settings.presence {
            return Ok(());
        }
        let replaced = match stored.header.replaces {
            Some(replaced) => self.parts.store.event(note.room, replaced).await?,
            None => None,
        };
        let was_in = replaced.is_some_and(|replaced| replaced.event.membership() == Some(MembershipState::Join));
        let user_id = stored.event.state_key().and_then(|user_id| <&UserId>::try_from(user_id).ok());
        let Some(user_id) = user_id.filter(|_| !was_in) else { return Ok(()) };
        let who = if self.parts.users.is_local(user_id) {
            Who::User(user_id.to_owned())
        } else if self.targets.comes_with(note.room, stored, user_id.server_name()).await? {
            Who::Server(user_id.server_name().to_owned())
        } else {
            return Ok(());
        };
        let serial = self.parts.users.serial();
        self.newcomers.lock().push(Newcomer { room: note.room, who, serial });
        Ok(())
    }

    /// Tells newcomers of presence, each once.
    pub(super) async fn greet(self: &Arc<Self>) {
        let due = self.newcomers.lock().take();
        for newcomer in due {
            if let Err(error) = self.tell_newcomer(newcomer).await {
                tracing::warn!(%error, "a server that is new in a room was not told who is there");
            }
        }
    }

    async fn tell_newcomer(self: &Arc<Self>, newcomer: Newcomer) -> Result<(), LoadError> {
        let Newcomer { room, who, serial } = newcomer;
        let store = &self.parts.store;
        let (servers, people) = match who {
            Who::Server(server) => {
                let mut people = Vec::new();
                for user in store.live().active_users(room).into_iter().take(PEOPLE_MAX) {
                    people.extend(store.user_id(user).await?);
                }
                (vec![server], people)
            }
            Who::User(user_id) => (self.servers_now(room).await?, vec![user_id]),
        };
        let changed = self.parts.users.presence_since(serial);
        for user_id in people {
            if !changed.iter().any(|update| update.user_id == user_id)
                && let Some(news) = self.presence_of(&user_id)
            {
                self.tell(&servers, || news.clone());
            }
        }
        Ok(())
    }

    /// What there is to tell of somebody; that they are not there needs no word.
    fn presence_of(&self, user_id: &UserId) -> Option<News> {
        let presence = self.parts.users.presence(user_id);
        (presence.state != PresenceState::Offline).then(|| presence_news(user_id.to_owned(), presence))
    }
}
