//! `GET /pushrules/`, `GET /pushrules/global/`, and the rules, their `enabled` and `actions`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::{NewRule, PushRuleError, RulePlace, rules_json};
use ruma::push::{
    Action, AnyPushRuleRef, NewConditionalPushRule, NewPatternedPushRule, NewPushRule, NewSimplePushRule,
    PushCondition, RuleKind,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::paths;
use crate::ClientState;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    const ACCESS: Access = Access::User;
    const LIMIT: Limit = Limit::Default;
    vec![
        Route::get(paths!("pushrules/"), ACCESS, LIMIT, get_all).also("/_matrix/client/v3/pushrules"),
        Route::get(paths!("pushrules/global/"), ACCESS, LIMIT, get_global).also("/_matrix/client/v3/pushrules/global"),
        Route::get(paths!("pushrules/global/{kind}/{rule_id}"), ACCESS, LIMIT, get),
        Route::put(paths!("pushrules/global/{kind}/{rule_id}"), ACCESS, LIMIT, put).suspended_ok(),
        Route::delete(paths!("pushrules/global/{kind}/{rule_id}"), ACCESS, LIMIT, delete).suspended_ok(),
        Route::get(paths!("pushrules/global/{kind}/{rule_id}/enabled"), ACCESS, LIMIT, get_enabled),
        Route::put(paths!("pushrules/global/{kind}/{rule_id}/enabled"), ACCESS, LIMIT, put_enabled).suspended_ok(),
        Route::get(paths!("pushrules/global/{kind}/{rule_id}/actions"), ACCESS, LIMIT, get_actions),
        Route::put(paths!("pushrules/global/{kind}/{rule_id}/actions"), ACCESS, LIMIT, put_actions).suspended_ok(),
    ]
}

#[derive(Deserialize)]
struct Rule {
    actions: Vec<Action>,
    #[serde(default)]
    conditions: Vec<PushCondition>,
    pattern: Option<String>,
}

#[derive(Deserialize)]
struct Place {
    before: Option<String>,
    after: Option<String>,
}

#[derive(Deserialize)]
struct Enabled {
    enabled: bool,
}

#[derive(Deserialize)]
struct Actions {
    actions: Vec<Action>,
}

async fn get_all(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let rules = state.users.push_rules(call.requester().user_id()).await?;
    Ok(Reply::json(&json!({ "global": rules_json(&rules) })))
}

async fn get_global(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let rules = state.users.push_rules(call.requester().user_id()).await?;
    Ok(Reply::json(&rules_json(&rules)))
}

async fn get(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    rule(&state, &call, |rule| match rule {
        AnyPushRuleRef::Override(rule) | AnyPushRuleRef::Underride(rule) => json!(rule),
        AnyPushRuleRef::Content(rule) => json!(rule),
        AnyPushRuleRef::Room(rule) => json!(rule),
        AnyPushRuleRef::Sender(rule) => json!(rule),
        _ => Value::Null,
    })
    .await
}

async fn get_enabled(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    rule(&state, &call, |rule| json!({ "enabled": rule.enabled() })).await
}

async fn get_actions(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    rule(&state, &call, |rule| json!({ "actions": rule.actions() })).await
}

async fn put(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let place: Place = call.query()?;
    let rule = new_rule(&call)?;
    let new = NewRule { rule, place: RulePlace { before: place.before, after: place.after } };
    let put = state.users.put_push_rule(call.requester().user_id(), &new).await;
    put.map_err(|error| match error {
        // Here a rule that is missing is one that the place names.
        PushRuleError::NotFound => Error::not_found("the rule of before or after was not found"),
        error => push_rule_error(error),
    })?;
    Ok(Reply::empty())
}

async fn delete(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let (kind, rule_id) = (kind(&call)?, call.path_str("rule_id"));
    state.users.delete_push_rule(call.requester().user_id(), &kind, rule_id).await.map_err(push_rule_error)?;
    Ok(Reply::empty())
}

async fn put_enabled(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let (kind, rule_id) = (kind(&call)?, call.path_str("rule_id"));
    let body: Enabled = call.json()?;
    let put = state.users.enable_push_rule(call.requester().user_id(), &kind, rule_id, body.enabled);
    put.await.map_err(push_rule_error)?;
    Ok(Reply::empty())
}

async fn put_actions(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let (kind, rule_id) = (kind(&call)?, call.path_str("rule_id"));
    let body: Actions = call.json()?;
    let put = state.users.set_push_rule_actions(call.requester().user_id(), &kind, rule_id, &body.actions);
    put.await.map_err(push_rule_error)?;
    Ok(Reply::empty())
}

/// Something of one rule.
async fn rule(state: &ClientState, call: &Call, show: impl Fn(AnyPushRuleRef<'_>) -> Value) -> Result<Reply, Error> {
    let rules = state.users.push_rules(call.requester().user_id()).await?;
    let rule = rules.get(kind(call)?, call.path_str("rule_id"));
    let rule = rule.ok_or_else(|| push_rule_error(PushRuleError::NotFound))?;
    Ok(Reply::json(&show(rule)))
}

fn kind(call: &Call) -> Result<RuleKind, Error> {
    match call.path_str("kind") {
        "override" => Ok(RuleKind::Override),
        "underride" => Ok(RuleKind::Underride),
        "sender" => Ok(RuleKind::Sender),
        "room" => Ok(RuleKind::Room),
        "content" => Ok(RuleKind::Content),
        _ => Err(Error::invalid_param("there is no such kind of push rules")),
    }
}

fn new_rule(call: &Call) -> Result<NewPushRule, Error> {
    let body: Rule = call.json()?;
    let rule_id = call.path_str("rule_id").to_owned();
    let invalid = |what: &str| Error::invalid_param(format!("the rule's id is not {what}"));
    Ok(match call.path_str("kind") {
        "override" => NewPushRule::Override(NewConditionalPushRule::new(rule_id, body.conditions, body.actions)),
        "underride" => NewPushRule::Underride(NewConditionalPushRule::new(rule_id, body.conditions, body.actions)),
        "sender" => {
            let sender = rule_id.as_str().try_into().map_err(|_| invalid("a user id"))?;
            NewPushRule::Sender(NewSimplePushRule::new(sender, body.actions))
        }
        "room" => {
            let room = rule_id.as_str().try_into().map_err(|_| invalid("a room id"))?;
            NewPushRule::Room(NewSimplePushRule::new(room, body.actions))
        }
        "content" => {
            let pattern = body.pattern.ok_or_else(|| Error::missing_param("pattern is missing"))?;
            NewPushRule::Content(NewPatternedPushRule::new(rule_id, pattern, body.actions))
        }
        _ => return Err(Error::invalid_param("there is no such kind of push rules")),
    })
}

fn push_rule_error(error: PushRuleError) -> Error {
    match error {
        PushRuleError::NotFound => Error::not_found(error.to_string()),
        PushRuleError::ServerDefault | PushRuleError::Invalid(_) => Error::invalid_param(error.to_string()),
        PushRuleError::TooLarge => Error::too_large(error.to_string()),
        PushRuleError::Fault(ours) => ours.into(),
    }
}
