//! Invites of people who have bound an identifier, which their inviters' servers could not be asked for at once: a job row
//! each, tried again until they answer.

use std::sync::Arc;

use hearth_ports::{Key, KeyRange, Page, Table};
use hearth_store::{
    CommitError, Write,
    tables::users::{BindingRow, binding_key, bindings_prefix},
};
use ruma::{OwnedRoomId, OwnedUserId};

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

impl Rooms {
    /// As [`Self::claim_third_party_invite`]; where the inviter's server is not reached it is asked again, also after a
    /// restart: see [`Self::retry_third_party_invites`]. The error says that it waits, or that it came to nothing.
    pub async fn claim_bound_invite(self: &Arc<Self>, invite: ThirdPartyInvite) -> Result<(), SendError> {
        match self.claim_third_party_invite(invite.clone()).await {
            Err(error) if may_pass(&error) => {
                self.keep_bound_invite(&invite).await?;
                Err(error)
            }
            result => result,
        }
    }

    /// Asks once more for the invites that wait. To be called every few minutes: servers that are down cost little, being
    /// left alone for longer and longer.
    pub async fn retry_third_party_invites(self: &Arc<Self>) -> Result<(), SendError> {
        let range = KeyRange::prefix(bindings_prefix(None));
        let waiting = self.writer.store.scan::<BindingRow>(Table::Mi, range, Page::first(WAITING_MAX)).await?;
        for (key, row) in waiting {
            let is_old = self.writer.clock.now_ms().saturating_sub(row.bound_ts_ms) > LIFETIME_MS;
            let target = row.target.clone();
            let claimed = match invite_of(row) {
                Some(invite) if !is_old => self.claim_third_party_invite(invite).await,
                Some(_) | None => Ok(()),
            };
            match claimed {
                Err(error) if may_pass(&error) => tracing::debug!(target, %error, "a bound invite waits"),
                Err(error) => {
                    tracing::info!(target, %error, "a pending invite came to nothing");
                    self.forget_bound_invite(key, &target).await?;
                }
                Ok(()) => self.forget_bound_invite(key, &target).await?,
            }
        }
        Ok(())
    }

    async fn keep_bound_invite(&self, invite: &ThirdPartyInvite) -> Result<(), SendError> {
        let signed = serde_json::to_string(&invite.signed).expect("a map of values is JSON");
        let store = &self.writer.store;
        let user = store.ensure_user_number(&invite.target).await?;
        let count = async |prefix: Key, rows_max: usize| {
            let rows = store.scan_all(Table::Mi, KeyRange::prefix(prefix), rows_max, false).await?;
            Ok::<_, SendError>(rows.len() < rows_max)
        };
        let has_room = count(bindings_prefix(Some(user)), PER_USER_MAX).await?
            && count(bindings_prefix(None), WAITING_MAX).await?;
        if !has_room || signed.len() > SIGNED_BYTES_MAX {
            return Ok(());
        }
        let row = BindingRow {
            room_id: invite.room_id.to_string(),
            sender: invite.sender.to_string(),
            target: invite.target.to_string(),
            signed,
            bound_ts_ms: self.writer.clock.now_ms(),
        };
        let mut write = Write::new(user.partition());
        // Who repeats it does not make it live longer.
        let key = binding_key(user, &format!("{} {} {}", row.room_id, row.sender, row.signed));
        write.require_absent(Table::Mi, key.clone());
        write.put(Table::Mi, key, &row);
        match store.commit(write).await {
            Ok(_) | Err(CommitError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
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
