//! Whom a user does not want to hear of. (Modules "Ignoring Users" and "Invite permission".)

use std::{collections::HashSet, sync::Arc};

use hearth_store::{
    Table, UserNumber,
    tables::users::{AccountDataRow, account_data_key},
};
use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use crate::{Fault, Users, account_data::IGNORED_USERS, memory::Memory};

/// The users whom somebody ignores.
pub type Ignored = Arc<HashSet<OwnedUserId>>;

/// Account data that says who may invite.
const INVITE_PERMISSION: &str = "m.invite_permission_config";

/// Lists in memory; most are empty and share nothing, so some 100 bytes each.
pub(crate) const IGNORE_LISTS_MAX: usize = 32_768;

pub(crate) type IgnoreLists = Memory<UserNumber, Ignored>;

impl Users {
    /// The users whom this one ignores. A list of the wrong shape ignores nobody, a name in it that is no user id is
    /// passed over.
    pub async fn ignored(&self, user: UserNumber) -> Result<Ignored, Fault> {
        if let Some(ignored) = self.ignore_lists.get(&user) {
            return Ok(ignored);
        }
        let begun = self.ignore_lists.begin();
        let row = self.store.get::<AccountDataRow>(Table::Us, &account_data_key(user, None, IGNORED_USERS)).await?;
        let ignored: Ignored = Arc::new(row.map(|row| parse(&row.content)).unwrap_or_default());
        self.ignore_lists.insert(begun, user, Arc::clone(&ignored));
        Ok(ignored)
    }
}

impl Users {
    /// Whether a user wants no invites at all. (Module "Invite permission".)
    pub async fn blocks_invites(&self, user_id: &UserId) -> Result<bool, Fault> {
        let content = self.account_data(user_id, None, INVITE_PERMISSION).await?;
        let content: Value = content.and_then(|content| serde_json::from_str(&content).ok()).unwrap_or_default();
        Ok(content.get("default_action").and_then(Value::as_str) == Some("block"))
    }
}

fn parse(content: &str) -> HashSet<OwnedUserId> {
    let content: Value = serde_json::from_str(content).unwrap_or_default();
    let users = content.get("ignored_users").and_then(Value::as_object);
    users.into_iter().flatten().filter_map(|(user_id, _)| user_id.as_str().try_into().ok()).collect()
}
