//! Redactions: who may, of what, and what an answer may tell.
//! [Redactions](https://spec.matrix.org/v1.19/client-server-api/#redactions).

use hearth_core::Draft;
use hearth_store::tables::Membership;
use ruma::{OwnedEventId, OwnedUserId};
use serde_json::value::RawValue as RawJsonValue;

use crate::{append::Group, cache::RoomCache, error::SendError, request::Proposal, writer::Writer};

/// A redaction.
#[derive(Debug)]
pub(crate) struct RedactIntent {
    pub(crate) sender: OwnedUserId,
    pub(crate) target: OwnedEventId,
    /// The redaction's own content, mostly a `reason`.
    pub(crate) content: Box<RawJsonValue>,
    /// The sender may redact only their own events, whatever their level.
    pub(crate) only_own: bool,
}

impl Writer {
    /// The draft of a redaction: of an own event, or by somebody whose level suffices.
    pub(crate) async fn propose_redaction(
        &self,
        cache: &mut RoomCache,
        group: &Group<'_>,
        intent: &RedactIntent,
    ) -> Result<Proposal, SendError> {
        if cache.membership(&self.store, &intent.sender).await? != Some(Membership::Join) {
            return Err(SendError::forbidden("you are not in this room"));
        }
        let target = self.store.event_by_id(cache.number, &intent.target).await?.ok_or(SendError::UnknownEvent)?;
        if target.event.is_create() || target.event.kind() == "m.room.server_acl" {
            // What remained of them would change who may be in the room at all.
            return Err(SendError::forbidden("this event may not be redacted"));
        }
        let is_own = target.event.sender() == intent.sender;
        let may_redact = !intent.only_own && cache.power_levels(&self.store).await?.can_redact(&intent.sender);
        if !is_own && !may_redact {
            return Err(SendError::forbidden("your power level does not allow to redact others' events"));
        }
        let draft = Draft {
            kind: "m.room.redaction".to_owned(),
            state_key: None,
            content: intent.content.clone(),
            sender: intent.sender.clone(),
            redacts: Some(intent.target.clone()),
            origin_server_ts_ms: self.clock.now_ms(),
        };
        let is_redacted = target.header.redacted_by.is_some() || group.has_redacted(target.number);
        Ok(Proposal { draft, guest: false, redacts: (!is_redacted).then_some(target.number) })
    }
}
