//! Push rules: stored and shown; evaluating them is another's work. (Module "Push Notifications".)

use hearth_store::{
    Table, UserNumber,
    tables::users::{AccountDataRow, account_data_key},
};
use ruma::{
    OwnedUserId, RoomId, UserId,
    push::{
        Action, AnyPushRuleRef, InsertPushRuleError, NewPushRule, PushCondition, RemovePushRuleError, RuleKind, Ruleset,
    },
};
use serde_json::{Value, json};

use crate::{AccountDataError, Fault, Users, account_data::PUSH_RULES};

/// Account data that lists direct chats.
const DIRECT: &str = "m.direct";

/// The longest id of a rule, in bytes.
const RULE_ID_BYTES_MAX: usize = 512;

/// A rule to be added or replaced.
#[derive(Clone, Debug)]
pub struct NewRule {
    /// The rule.
    pub rule: NewPushRule,
    /// Where among its kind.
    pub place: RulePlace,
}

/// Where a rule stands among those of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePlace {
    /// Just before this rule, which is then less important.
    pub before: Option<String>,
    /// Just after this rule, which is then more important.
    pub after: Option<String>,
}

/// Why push rules were not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PushRuleError {
    /// No such account or rule.
    #[error("no such push rule")]
    NotFound,
    /// It would change what the server gives to everybody, other than its actions or whether it is enabled.
    #[error("server-default rules cannot be added, moved or removed")]
    ServerDefault,
    /// The id, or the place, can't be one.
    #[error("{0}")]
    Invalid(&'static str),
    /// All rules together are too large.
    #[error("too many push rules")]
    TooLarge,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<AccountDataError> for PushRuleError {
    fn from(error: AccountDataError) -> Self {
        match error {
            AccountDataError::NotFound => Self::NotFound,
            AccountDataError::TooLarge => Self::TooLarge,
            AccountDataError::Fault(fault) => Self::Fault(fault),
        }
    }
}

impl Users {
    /// A user's rules: the server's default ones, as far as the user left them, and the user's own.
    pub async fn push_rules(&self, user_id: &UserId) -> Result<Ruleset, Fault> {
        let stored = match self.store.user_number(user_id).await? {
            Some(user) => self.stored_push_rules(user).await?,
            None => None,
        };
        Ok(read(user_id, stored.as_deref()))
    }

    /// Adds or replaces a rule.
    pub async fn put_push_rule(&self, user_id: &UserId, new: &NewRule) -> Result<(), PushRuleError> {
        self.change_push_rules(user_id, |rules| insert(rules, new)).await
    }

    /// Deletes a rule of the user's own.
    pub async fn delete_push_rule(
        &self,
        user_id: &UserId,
        kind: &RuleKind,
        rule_id: &str,
    ) -> Result<(), PushRuleError> {
        self.change_push_rules(user_id, |rules| {
            rules.remove(kind.clone(), rule_id).map_err(|error| match error {
                RemovePushRuleError::ServerDefault => PushRuleError::ServerDefault,
                _ => PushRuleError::NotFound,
            })
        })
        .await
    }

    /// Switches a rule on or off.
    pub async fn enable_push_rule(
        &self,
        user_id: &UserId,
        kind: &RuleKind,
        rule_id: &str,
        enabled: bool,
    ) -> Result<(), PushRuleError> {
        self.change_push_rules(user_id, |rules| {
            rules.set_enabled(kind.clone(), rule_id, enabled).map_err(|_| PushRuleError::NotFound)
        })
        .await
    }

    /// Says what a rule does.
    pub async fn set_push_rule_actions(
        &self,
        user_id: &UserId,
        kind: &RuleKind,
        rule_id: &str,
        actions: &[Action],
    ) -> Result<(), PushRuleError> {
        self.change_push_rules(user_id, |rules| {
            rules.set_actions(kind.clone(), rule_id, actions.to_vec()).map_err(|_| PushRuleError::NotFound)
        })
        .await
    }

    /// Gives the rules, the tags and the standing as a direct chat that a room has for a user to the room that replaces
    /// it.
    pub async fn copy_room_settings(&self, user_id: &UserId, old: &RoomId, new: &RoomId) -> Result<(), Fault> {
        let tags = self.account_data(user_id, Some(old), "m.tag").await?;
        if let Some(tags) = tags {
            ours(self.put_account_data(user_id, Some(new), "m.tag", &tags).await)?;
        }
        let direct = self.change_account_data(user_id, None, DIRECT, |content| {
            Ok(content.and_then(|content| also_direct(&content, old, new)))
        });
        ours(direct.await)?;
        let copied = self.change_push_rules(user_id, |rules| copy_rules(rules, old, new)).await;
        match copied {
            Ok(()) | Err(PushRuleError::NotFound | PushRuleError::TooLarge) => Ok(()),
            Err(PushRuleError::ServerDefault | PushRuleError::Invalid(_)) => Ok(()),
            Err(PushRuleError::Fault(fault)) => Err(fault),
        }
    }

    /// The content of `m.push_rules`.
    pub(crate) async fn push_rules_content(&self, user: UserNumber) -> Result<String, Fault> {
        let stored = self.stored_push_rules(user).await?;
        let user_id: Option<OwnedUserId> = self.store.user_id(user).await?;
        let user_id = user_id.ok_or_else(|| Fault::Broken("a user's number has no user id".to_owned()))?;
        Ok(written(&read(&user_id, stored.as_deref())))
    }

    async fn stored_push_rules(&self, user: UserNumber) -> Result<Option<String>, Fault> {
        let row = self.store.get::<AccountDataRow>(Table::Us, &account_data_key(user, None, PUSH_RULES)).await?;
        Ok(row.map(|row| row.content))
    }

    async fn change_push_rules(
        &self,
        user_id: &UserId,
        change: impl Fn(&mut Ruleset) -> Result<(), PushRuleError> + Send + Sync,
    ) -> Result<(), PushRuleError> {
        self.change_account_data(user_id, None, PUSH_RULES, |stored| {
            let mut rules = read(user_id, stored.as_deref());
            change(&mut rules)?;
            Ok(Some(written(&rules)))
        })
        .await
    }
}

/// The rules of an answer: all five lists are there, even if they are empty.
pub fn rules_json(rules: &Ruleset) -> Value {
    let mut lists = serde_json::to_value(rules).unwrap_or_default();
    for kind in ["override", "content", "room", "sender", "underride"] {
        if lists.get(kind).is_none() {
            lists[kind] = json!([]);
        }
    }
    lists
}

/// Not being able to copy what is too large or not there is nobody's loss.
fn ours(result: Result<(), AccountDataError>) -> Result<(), Fault> {
    match result {
        Ok(()) | Err(AccountDataError::NotFound | AccountDataError::TooLarge) => Ok(()),
        Err(AccountDataError::Fault(fault)) => Err(fault),
    }
}

fn read(user_id: &UserId, stored: Option<&str>) -> Ruleset {
    let stored = stored.and_then(|content| serde_json::from_str::<Value>(content).ok());
    let mut rules = stored
        .and_then(|mut content| content.get_mut("global").map(Value::take))
        .and_then(|rules| serde_json::from_value::<Ruleset>(rules).ok())
        .unwrap_or_default();
    rules.update_with_server_default(Ruleset::server_default(user_id));
    rules
}

fn written(rules: &Ruleset) -> String {
    json!({ "global": rules_json(rules) }).to_string()
}

fn insert(rules: &mut Ruleset, new: &NewRule) -> Result<(), PushRuleError> {
    let (kind, rule_id) = (new.rule.kind(), new.rule.rule_id());
    if rule_id.is_empty() || rule_id.len() > RULE_ID_BYTES_MAX {
        return Err(PushRuleError::Invalid("the rule's id is empty or too long"));
    }
    let RulePlace { before, after } = &new.place;
    if [before, after].into_iter().flatten().any(|other| other == rule_id) {
        return Err(PushRuleError::Invalid("a rule cannot be placed next to itself"));
    }
    // A rule that moves is taken out first, so that places are counted without it.
    let mut was_enabled = None;
    if before.is_some() || after.is_some() {
        was_enabled = rules.get(kind.clone(), rule_id).map(|rule| rule.enabled());
        if was_enabled.is_some() {
            rules.remove(kind.clone(), rule_id).map_err(|_| PushRuleError::ServerDefault)?;
        }
    }
    rules.insert(new.rule.clone(), after.as_deref(), before.as_deref()).map_err(|error| match error {
        InsertPushRuleError::ServerDefaultRuleId => PushRuleError::ServerDefault,
        InsertPushRuleError::RelativeToServerDefaultRule => {
            PushRuleError::Invalid("rules cannot be placed relative to server-default ones")
        }
        InsertPushRuleError::InvalidRuleId => PushRuleError::Invalid("the rule's id has a slash or backslash"),
        InsertPushRuleError::BeforeHigherThanAfter => PushRuleError::Invalid("`before` is above `after`"),
        // The specification answers 404 for these.
        _ => PushRuleError::NotFound,
    })?;
    if let Some(enabled) = was_enabled {
        rules.set_enabled(kind, rule_id, enabled).map_err(|_| PushRuleError::NotFound)?;
    }
    Ok(())
}

/// The content of `m.direct` with the new room beside the old one; `None` if that changes nothing.
fn also_direct(content: &str, old: &RoomId, new: &RoomId) -> Option<String> {
    let mut content: Value = serde_json::from_str(content).ok()?;
    let mut changed = false;
    for rooms in content.as_object_mut()?.values_mut().filter_map(Value::as_array_mut) {
        if rooms.iter().any(|room| room == old.as_str()) && !rooms.iter().any(|room| room == new.as_str()) {
            rooms.push(new.as_str().into());
            changed = true;
        }
    }
    changed.then(|| content.to_string())
}

/// Rules that name the old room: its room rule, and overrides with a condition on the room's id.
fn copy_rules(rules: &mut Ruleset, old: &RoomId, new: &RoomId) -> Result<(), PushRuleError> {
    let mut copies = Vec::new();
    for rule in rules.iter() {
        let copy = match rule {
            AnyPushRuleRef::Room(rule) if rule.rule_id == old => {
                let copy = ruma::push::NewSimplePushRule::new(new.to_owned(), rule.actions.clone());
                Some((NewPushRule::Room(copy), rule.enabled))
            }
            AnyPushRuleRef::Override(rule) if !rule.default && rule.conditions.iter().any(|c| names_room(c, old)) => {
                let conditions = rule.conditions.iter().map(|c| renamed(c, old, new)).collect();
                let rule_id = rule.rule_id.replace(old.as_str(), new.as_str());
                let copy = ruma::push::NewConditionalPushRule::new(rule_id, conditions, rule.actions.clone());
                Some((NewPushRule::Override(copy), rule.enabled))
            }
            _ => None,
        };
        copies.extend(copy);
    }
    for (rule, enabled) in copies {
        let (kind, rule_id) = (rule.kind(), rule.rule_id().to_owned());
        insert(rules, &NewRule { rule, place: RulePlace::default() })?;
        rules.set_enabled(kind, rule_id, enabled).map_err(|_| PushRuleError::NotFound)?;
    }
    Ok(())
}

fn names_room(condition: &PushCondition, room: &RoomId) -> bool {
    matches!(condition, PushCondition::EventMatch(on) if on.key == "room_id" && on.pattern == room.as_str())
}

fn renamed(condition: &PushCondition, old: &RoomId, new: &RoomId) -> PushCondition {
    match condition {
        PushCondition::EventMatch(on) if names_room(condition, old) => {
            let mut on = on.clone();
            new.as_str().clone_into(&mut on.pattern);
            PushCondition::EventMatch(on)
        }
        other => other.clone(),
    }
}
