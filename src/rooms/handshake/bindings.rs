//! Invites of people who have bound an identifier: a job row each, until the inviter's server has answered.
//!
//! Who tells of them waits for that server for a moment only: the job is stored, and done at once, or with the others that
//! wait.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hearth_ports::{BoxFuture, Key, KeyRange, Table};
use hearth_store::{
    CommitError, LoadError, Write, decode,
    tables::users::{BindingRow, binding_key, bindings_prefix},
};
use ruma::{OwnedRoomId, OwnedUserId};
use tokio::time::timeout;

use super::third_party::ThirdPartyInvite;
use crate::{SendError, rooms::Rooms};

/// Invites that wait of one user. Identity servers tell of ten at once.
const PER_USER_MAX: usize = 20;

/// Invites that wait in all: anybody may say that an identifier was bound.
const WAITING_MAX: usize = 1_000;

/// The longest word of an identity server that is kept, in bytes. It has two fields and a signature.
const SIGNED_BYTES_MAX: usize = 8_192;

/// An invite that waits for longer comes to nothing, in milliseconds: a week.
const LIFETIME_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// Servers that are asked at once for what waits: those that hang take half a minute each.
const ASKED_AT_ONCE: usize = 16;

/// What who tells of a bound invite waits for it: mostly it is there then, and can be accepted. Strangers may tell of as many
/// as they like, of servers that hang.
const PATIENCE: Duration = Duration::from_secs(1);

impl Rooms {
    /// As [`Self::claim_third_party_invite`], but what is to be done is stored first, and done in the background, for which
    /// this waits a moment. A server that is not reached is asked again, also after a restart: see
    /// [`Self::retry_third_party_invites`]. An error says that nothing will be done.
    pub async fn claim_bound_invite(self: &Arc<Self>, invite: ThirdPartyInvite) -> Result<(), SendError> {
        invite.token()?;
        let key = match self.keep_bound_invite(&invite).await? {
            Kept::New(key) => Some(key),
            // Whoever has begun with it goes on.
            Kept::Before => return Ok(()),
            Kept::Not => None,
        };
        let rooms = Arc::clone(self);
        let claim = tokio::spawn(async move {
            let Some(_turn) = rooms.serving.claim_turn(invite.sender.server_name()).await else { return };
            rooms.claim_kept(key, invite).await;
        });
        match timeout(PATIENCE, claim).await {
            Ok(Err(error)) => Err(SendError::Unavailable(error.to_string())),
            // It goes on behind the answer.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Asks once more for the invites that wait. To be called every few minutes: servers that are down cost little, being
    /// left alone for longer and longer.
    pub async fn retry_third_party_invites(self: &Arc<Self>) -> Result<(), SendError> {
        let mut by_server: BTreeMap<String, Vec<(Key, ThirdPartyInvite)>> = BTreeMap::new();
        for (key, row) in self.bound_invites().await? {
            let is_old = self.writer.clock.now_ms().saturating_sub(row.bound_ts_ms) > LIFETIME_MS;
            let target = row.target.clone();
            match invite_of(row) {
                Some(invite) if !is_old => {
                    let server = invite.sender.server_name();
                    // Of ours each may wait for another identity server.
                    let is_ours = server == self.writer.server_name;
                    let whom = if is_ours { invite.room_id.to_string() } else { server.to_string() };
                    by_server.entry(whom).or_default().push((key, invite));
                }
                Some(_) | None => self.forget_bound_invite(key, &target).await?,
            }
        }
        let mut asked: Vec<BoxFuture<'_, ()>> = Vec::with_capacity(by_server.len());
        for invites in by_server.into_values() {
            asked.push(Box::pin(async move {
                for (key, invite) in invites {
                    // A server that does not answer is not asked for the next one.
                    if !self.claim_kept(Some(key), invite).await {
                        break;
                    }
                }
            }));
        }
        stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).for_each(|()| std::future::ready(())).await;
        Ok(())
    }

    /// Asks for an invite; its row, where it has one, is then no longer there, unless it may go better later. `false`: so
    /// it is.
    async fn claim_kept(self: &Arc<Self>, key: Option<Key>, invite: ThirdPartyInvite) -> bool {
        let target = invite.target.clone();
        match self.claim_third_party_invite(invite).await {
            Ok(()) => {}
            Err(error) if may_pass(&error) => {
                tracing::info!(%target, %error, waits = key.is_some(), "a bound invite is not made yet");
                return false;
            }
            Err(error) => tracing::info!(%target, %error, "a pending invite came to nothing"),
        }
        if let Some(key) = key
            && let Err(error) = self.forget_bound_invite(key, target.as_str()).await
        {
            tracing::warn!(%target, %error, "a bound invite that was dealt with is asked for again");
        }
        true
    }

    async fn bound_invites(&self) -> Result<Vec<(Key, BindingRow)>, LoadError> {
        let range = KeyRange::prefix(bindings_prefix(None));
        let entries = self.writer.store.scan_all(Table::Mi, range, WAITING_MAX, false).await?;
        entries.into_iter().map(|entry| Ok((entry.key, decode(&entry.value)?))).collect()
    }

    async fn keep_bound_invite(&self, invite: &ThirdPartyInvite) -> Result<Kept, SendError> {
        let signed = serde_json::to_string(&invite.signed).expect("a map of values is JSON");
        let store = &self.writer.store;
        let user = store.ensure_user_number(&invite.target).await?;
        let row = BindingRow {
            room_id: invite.room_id.to_string(),
            sender: invite.sender.to_string(),
            target: invite.target.to_string(),
            signed,
            bound_ts_ms: self.writer.clock.now_ms(),
        };
        // Who repeats it does not make it live longer.
        let key = binding_key(user, &format!("{} {} {}", row.room_id, row.sender, row.signed));
        if store.get_bytes(Table::Mi, &key).await?.is_some() {
            return Ok(Kept::Before);
        }
        let own = store.scan_all(Table::Mi, KeyRange::prefix(bindings_prefix(Some(user))), PER_USER_MAX, false).await?;
        if row.signed.len() > SIGNED_BYTES_MAX || own.len() >= PER_USER_MAX || !self.make_room(&row).await? {
            tracing::warn!(target = row.target, sender = row.sender, "a bound invite is asked for only once");
            return Ok(Kept::Not);
        }
        let mut write = Write::new(user.partition());
        write.require_absent(Table::Mi, key.clone());
        write.put(Table::Mi, key.clone(), &row);
        match store.commit(write).await {
            Ok(_) => Ok(Kept::New(key)),
            Err(CommitError::Conflict) => Ok(Kept::Before),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is room for one more, if need be because another is given up.
    async fn make_room(&self, row: &BindingRow) -> Result<bool, SendError> {
        let mut waiting = self.bound_invites().await?;
        if waiting.len() < WAITING_MAX {
            return Ok(true);
        }
        let Some(place) = gives_way(waiting.iter().map(|(_, row)| row), row) else { return Ok(false) };
        let (key, given_up) = waiting.swap_remove(place);
        tracing::warn!(target = given_up.target, sender = given_up.sender, "a bound invite that waits is given up");
        self.forget_bound_invite(key, &given_up.target).await?;
        Ok(true)
    }

    async fn forget_bound_invite(&self, key: Key, target: &str) -> Result<(), SendError> {
        let target = OwnedUserId::try_from(target);
        let target = target.map_err(|error| SendError::Unavailable(format!("a bound invite is nobody's: {error}")))?;
        let user = self.writer.store.ensure_user_number(&target).await?;
        let mut write = Write::new(user.partition());
        write.delete(Table::Mi, key);
        Ok(self.writer.store.commit(write).await.map(drop)?)
    }
}

/// What became of an invite that is to be kept.
enum Kept {
    New(Key),
    Before,
    /// There is no room for it.
    Not,
}

/// Which of those that wait gives way to a new one: the oldest of the server that has the most, if it has more than the new
/// one's will have.
fn gives_way<'a>(waiting: impl Iterator<Item = &'a BindingRow> + Clone, new: &BindingRow) -> Option<usize> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for row in waiting.clone() {
        *counts.entry(server_of(row)).or_default() += 1;
    }
    let own = counts.get(server_of(new)).copied().unwrap_or_default() + 1;
    let (server, count) = counts.into_iter().max_by_key(|(server, count)| (*count, *server))?;
    let of_server = waiting.enumerate().filter(|(_, row)| server_of(row) == server);
    let oldest = of_server.min_by_key(|(_, row)| row.bound_ts_ms).map(|(place, _)| place);
    oldest.filter(|_| count > own)
}

/// The server of who invited.
fn server_of(row: &BindingRow) -> &str {
    row.sender.split_once(':').map_or("", |(_, server)| server)
}

/// Whether it may go better later.
fn may_pass(error: &SendError) -> bool {
    matches!(error, SendError::Unreachable(_) | SendError::Busy | SendError::Conflict | SendError::Unavailable(_))
}

fn invite_of(row: BindingRow) -> Option<ThirdPartyInvite> {
    Some(ThirdPartyInvite {
        room_id: OwnedRoomId::try_from(row.room_id).ok()?,
        sender: OwnedUserId::try_from(row.sender).ok()?,
        target: OwnedUserId::try_from(row.target).ok()?,
        signed: serde_json::from_str(&row.signed).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sender: &str, bound_ts_ms: u64) -> BindingRow {
        let (room_id, target, signed) = ("!r:x".to_owned(), "@t:x".to_owned(), "{}".to_owned());
        BindingRow { room_id, sender: sender.to_owned(), target, signed, bound_ts_ms }
    }

    #[test]
    fn those_of_who_has_the_most_give_way() {
        let waiting = [
            row("@a:one", 1),
            row("@a:many:8448", 7),
            row("@b:many:8448", 5),
            row("@c:many:8448", 6),
            row("@a:two", 0),
        ];
        assert_eq!(gives_way(waiting.iter(), &row("@b:one", 9)), Some(2));
        assert_eq!(gives_way(waiting.iter(), &row("@d:many:8448", 9)), None);
        assert_eq!(gives_way(waiting[..1].iter(), &row("@b:other", 9)), None);
    }
}
