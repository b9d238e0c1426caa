//! What other servers are told beside events: typing and presence, each to the servers in the room. Receipts are in
//! `receipts.rs`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
};

use hearth_store::{LoadError, RoomNumber, UserNumber, tables::Membership};
use hearth_users::{Presence, PresenceState, TypingChange};
use ruma::{OwnedServerName, OwnedUserId};
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    Outbound,
    ephemeral::{News, PresenceNews, TypingNews},
};

/// Somebody who goes on typing is told of again after so long, in milliseconds: servers forget within a minute.
const TYPING_AGAIN_MS: u64 = 25_000;

/// People of whom it is known when others were told last that they type.
const TYPING_KNOWN_MAX: usize = 10_000;

/// Presences that are passed on in a tick: presence costs people sharing rooms.
const PRESENCES_AT_ONCE: usize = 50;

/// Somebody who is there is told of again after so long, in milliseconds: servers take who was not told of for half an hour
/// for gone.
const PRESENCE_AGAIN_MS: u64 = 25 * 60_000;

/// Rooms of one user whose servers are told of their presence.
const PRESENCE_ROOMS_MAX: usize = 1_000;

/// What others were told.
pub(super) struct Watched {
    /// Changes of presence up to this one.
    presence_serial: u64,
    /// When others were told that somebody types, in milliseconds since the Unix epoch.
    typing: HashMap<(RoomNumber, OwnedUserId), u64>,
    present: Present,
}

/// Local users who are there, as others were told.
#[derive(Default)]
struct Present {
    /// When others were told last, in milliseconds since the Unix epoch.
    told_ms: HashMap<OwnedUserId, (u64, UserNumber)>,
    by_time: BTreeSet<(u64, OwnedUserId)>,
}

impl Present {
    /// Others are told of somebody now.
    fn told(&mut self, user_id: &OwnedUserId, user: UserNumber, state: PresenceState, now_ms: u64) {
        if let Some((before_ms, _)) = self.told_ms.remove(user_id) {
            self.by_time.remove(&(before_ms, user_id.clone()));
        }
        if state != PresenceState::Offline {
            self.told_ms.insert(user_id.clone(), (now_ms, user));
            self.by_time.insert((now_ms, user_id.clone()));
        }
    }

    /// Some of those whom it is time to tell of again; that they are gone was told.
    fn due(&self, now_ms: u64) -> Vec<(OwnedUserId, UserNumber)> {
        let due = self.by_time.iter().take(PRESENCES_AT_ONCE);
        let due = due.take_while(|(told_ms, _)| told_ms.saturating_add(PRESENCE_AGAIN_MS) <= now_ms);
        due.filter_map(|(_, user_id)| Some((user_id.clone(), self.told_ms.get(user_id)?.1))).collect()
    }
}

impl Watched {
    pub(super) fn new(presence_serial: u64) -> Self {
        Self { presence_serial, typing: HashMap::new(), present: Present::default() }
    }

    /// Whether a change of typing is worth telling.
    fn is_news(&mut self, change: &TypingChange, now_ms: u64) -> bool {
        let key = (change.room, change.user_id.clone());
        if !change.typing {
            return self.typing.remove(&key).is_some();
        }
        if self.typing.get(&key).is_some_and(|told_ms| now_ms.abs_diff(*told_ms) < TYPING_AGAIN_MS) {
            return false;
        }
        if self.typing.len() >= TYPING_KNOWN_MAX {
            self.typing.clear();
        }
        self.typing.insert(key, now_ms);
        true
    }
}

impl Outbound {
    /// Tells what local users say about their typing.
    pub(super) async fn keep_telling(outbound: Weak<Self>, mut typing: Receiver<TypingChange>) {
        loop {
            let change = match typing.recv().await {
                Ok(change) => change,
                // What was missed ends by itself at the other end.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            let Some(this) = outbound.upgrade() else { return };
            let now_ms = this.parts.clock.now_ms();
            if this.parts.settings.typing && this.watched.lock().is_news(&change, now_ms) {
                this.tell_typing(change).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "other servers were not told who types");
                });
            }
        }
    }

    pub(super) async fn tell_typing(self: &Arc<Self>, change: TypingChange) -> Result<(), LoadError> {
        let TypingChange { room, user_id, typing } = change;
        let servers: Vec<OwnedServerName> = self.servers_now(room).await?;
        if servers.is_empty() {
            return Ok(());
        }
        let Some(room_id) = self.parts.store.room_id(room).await? else { return Ok(()) };
        let news = Arc::new(TypingNews { room, room_id, user_id, typing });
        self.tell(&servers, || News::Typing(news.clone()));
        Ok(())
    }

    /// Tells of the presences that changed since this was last asked, and of those that did not for long.
    pub(super) async fn tell_presence(self: &Arc<Self>) {
        self.tell_changed_presence().await;
        let due = self.watched.lock().present.due(self.parts.clock.now_ms());
        for (user_id, user) in due {
            let presence = self.parts.users.presence(&user_id);
            self.tell_presence_of(user_id, user, presence).await;
        }
    }

    async fn tell_changed_presence(self: &Arc<Self>) {
        let since = self.watched.lock().presence_serial;
        if self.parts.users.serial() == since {
            return;
        }
        let updates = self.parts.users.presence_since(since);
        let Some(last) = updates.last().map(|update| update.serial) else { return };
        // Others' users, of whom there may be very many, are not ours to tell of: they must not keep ours waiting.
        let mut ours = updates.into_iter().filter(|update| self.parts.users.is_local(&update.user_id));
        for update in ours.by_ref().take(PRESENCES_AT_ONCE) {
            self.watched.lock().presence_serial = update.serial;
            self.tell_presence_of(update.user_id, update.user, update.presence).await;
        }
        if ours.next().is_none() {
            self.watched.lock().presence_serial = last;
        }
    }

    async fn tell_presence_of(self: &Arc<Self>, user_id: OwnedUserId, user: UserNumber, presence: Presence) {
        let now_ms = self.parts.clock.now_ms();
        self.watched.lock().present.told(&user_id, user, presence.state, now_ms);
        if let Err(error) = self.tell_sharing(user, &presence_news(user_id, presence)).await {
            tracing::warn!(%error, "other servers were not told of a presence");
        }
    }

    /// Tells all servers that share a room with a user.
    async fn tell_sharing(self: &Arc<Self>, user: UserNumber, news: &News) -> Result<(), LoadError> {
        let rooms = self.parts.store.user_rooms(user).await?;
        let joined = rooms.into_iter().filter(|(_, row)| row.membership == Membership::Join);
        let mut servers: BTreeSet<OwnedServerName> = BTreeSet::new();
        for (room, _) in joined.take(PRESENCE_ROOMS_MAX) {
            servers.extend(self.servers_now(room).await?);
        }
        let servers: Vec<OwnedServerName> = servers.into_iter().collect();
        self.tell(&servers, || news.clone());
        Ok(())
    }

    pub(super) fn tell(self: &Arc<Self>, servers: &[OwnedServerName], news: impl Fn() -> News) {
        for server in servers {
            let Some(destination) = self.destination(server) else { continue };
            destination.queue.lock().push_news(news());
            self.wake(&destination);
        }
    }

    /// The other servers in a room.
    pub(super) async fn servers_now(&self, room: RoomNumber) -> Result<Vec<OwnedServerName>, LoadError> {
        let servers = self.targets.now(room).await?;
        Ok(servers.others(&self.parts.server_name).cloned().collect())
    }
}

/// Somebody's presence, as it is told.
pub(super) fn presence_news(user_id: OwnedUserId, presence: Presence) -> News {
    let mut item = json!({
        "user_id": user_id,
        "presence": presence.state.name(),
        "last_active_ago": presence.last_active_ago_ms.unwrap_or(0),
        "currently_active": presence.currently_active,
    });
    if let Some(status_msg) = presence.status_msg {
        item["status_msg"] = status_msg.into();
    }
    News::Presence(Arc::new(PresenceNews { user_id, item }))
}
