//! State events that are no memberships: setting what already stands changes nothing; canonical aliases must exist.

use std::collections::BTreeSet;

use hearth_core::{Draft, Event};
use ruma::{OwnedEventId, OwnedRoomAliasId, OwnedUserId};
use serde::Deserialize;
use serde_json::value::RawValue as RawJsonValue;

use crate::{cache::RoomCache, error::SendError, request::Proposal, writer::Writer};

/// A state event.
#[derive(Debug)]
pub(crate) struct StateIntent {
    pub(crate) sender: OwnedUserId,
    pub(crate) kind: String,
    pub(crate) state_key: String,
    pub(crate) content: Box<RawJsonValue>,
    /// The time that the event is given, in milliseconds since the Unix epoch, where the sender may choose it.
    pub(crate) ts_ms: Option<u64>,
}

impl Writer {
    /// The draft of a state event, or the event that says the same already.
    pub(crate) async fn propose_state(
        &self,
        cache: &mut RoomCache,
        intent: &StateIntent,
    ) -> Result<Result<Proposal, OwnedEventId>, SendError> {
        let before = cache.state(&self.store, &intent.kind, &intent.state_key).await?;
        if let Some(before) = before.as_ref().filter(|before| before.sender() == intent.sender) {
            // Only a member gets this answer: others learn nothing of the state.
            let membership = cache.membership(&self.store, &intent.sender).await?;
            let is_member = membership == Some(hearth_store::tables::Membership::Join);
            if is_member && is_same_content(before, &intent.content) {
                return Ok(Err(before.event_id().to_owned()));
            }
        }
        if intent.kind == "m.room.canonical_alias" && intent.state_key.is_empty() {
            self.check_canonical_alias(cache, before.as_ref(), &intent.content).await?;
        }
        let draft = Draft {
            kind: intent.kind.clone(),
            state_key: Some(intent.state_key.clone()),
            content: intent.content.clone(),
            sender: intent.sender.clone(),
            redacts: None,
            origin_server_ts_ms: intent.ts_ms.unwrap_or_else(|| self.clock.now_ms()),
        };
        Ok(Ok(draft.into()))
    }

    /// "The server must check that any new aliases point to the room": those that the event before had too may have
    /// gone since.
    /// [`m.room.canonical_alias`](https://spec.matrix.org/v1.19/client-server-api/#mroomcanonical_alias).
    async fn check_canonical_alias(
        &self,
        cache: &RoomCache,
        before: Option<&Event>,
        content: &RawJsonValue,
    ) -> Result<(), SendError> {
        let known = before.and_then(|event| aliases_in(event.content()).ok()).unwrap_or_default();
        for alias in aliases_in(content)?.difference(&known) {
            let parsed = OwnedRoomAliasId::try_from(alias.as_str())
                .map_err(|_| SendError::InvalidParam("an alias must look like #name:server"))?;
            if parsed.server_name() != self.server_name {
                return Err(SendError::BadAlias(alias.clone()));
            }
            let row = self.live_alias(&parsed).await?;
            if row.is_none_or(|(row, _)| row.room != cache.number) {
                return Err(SendError::BadAlias(alias.clone()));
            }
        }
        Ok(())
    }
}

/// All aliases of a canonical alias event.
fn aliases_in(content: &RawJsonValue) -> Result<BTreeSet<String>, SendError> {
    #[derive(Deserialize)]
    struct Content {
        alias: Option<String>,
        alt_aliases: Option<Vec<String>>,
    }
    let content: Content = serde_json::from_str(content.get())
        .map_err(|_| SendError::BadContent("alias must be a string and alt_aliases a list of strings"))?;
    Ok(content
        .alias
        .into_iter()
        .filter(|alias| !alias.is_empty())
        .chain(content.alt_aliases.into_iter().flatten())
        .collect())
}

/// Whether the content is the same value, however it is written.
pub(crate) fn is_same_content(event: &Event, content: &RawJsonValue) -> bool {
    let canonical = hearth_core::json::canonical(content.get().as_bytes(), &hearth_core::Limits::EVENT);
    canonical.is_ok_and(|canonical| canonical == event.content_json())
}
