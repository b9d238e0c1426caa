//! What a caller wants of a room, and how it is decided against the room as it then is.

use bytes::Bytes;
use hearth_core::{Draft, Event, Reason, References, admit, auth_types, build};
use hearth_store::{EventNumber, tables::SenderTransaction};
use ruma::{OwnedEventId, OwnedUserId};
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    append::{Accepted, Group, cited},
    cache::RoomCache,
    error::SendError,
    member::MemberIntent,
    policy::{SignedIntent, Unsigned},
    redaction::RedactIntent,
    state::StateIntent,
    writer::Writer,
};

/// A request to a room's writer. It is decided again after each lost race, so it holds all that it needs.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) intent: Intent,
    pub(crate) transaction: Option<Transaction>,
}

impl Request {
    /// About how much memory it holds, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        /// Identifiers and the structures themselves.
        const SMALL_BYTES: usize = 1_000;
        let content = match &self.intent {
            Intent::Message(intent) => intent.content.get().len(),
            Intent::State(intent) => intent.content.get().len(),
            Intent::Member(intent) => intent.size_bytes(),
            Intent::Redact(intent) => intent.content.get().len(),
            Intent::Signed(intent) => intent.event.json().len(),
        };
        content + SMALL_BYTES
    }
}

/// A request's transaction id: the row that makes it happen once, and what its sender is told back.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// The row's key in the index table.
    pub(crate) key: Bytes,
    pub(crate) sent_by: SenderTransaction,
}

#[derive(Debug)]
pub(crate) enum Intent {
    /// A message-like event.
    Message(MessageIntent),
    /// A state event that is no membership.
    State(StateIntent),
    /// A membership.
    Member(MemberIntent),
    /// A redaction.
    Redact(RedactIntent),
    /// An event that was made, and signed by the room's policy server.
    Signed(Box<SignedIntent>),
}

/// A message-like event.
#[derive(Debug)]
pub(crate) struct MessageIntent {
    pub(crate) sender: OwnedUserId,
    pub(crate) kind: String,
    pub(crate) content: Box<RawJsonValue>,
    /// The time that the event is given, in milliseconds since the Unix epoch, where the sender may choose it.
    pub(crate) ts_ms: Option<u64>,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Nothing is to be done: this event says it already.
    Stands(OwnedEventId),
    /// This event goes into the room.
    Append(Box<Accepted>),
    /// This event would go into the room, but the room's policy server has to sign it.
    Unsigned(Box<Unsigned>),
}

/// A draft with what its rows need besides.
pub(crate) struct Proposal {
    pub(crate) draft: Draft,
    /// A member event of a guest account.
    pub(crate) guest: bool,
    pub(crate) redacts: Option<EventNumber>,
}

impl From<Draft> for Proposal {
    fn from(draft: Draft) -> Self {
        Self { draft, guest: false, redacts: None }
    }
}

impl Writer {
    /// Decides on a request against the room as the cache has it. Changes nothing.
    pub(crate) async fn decide(
        &self,
        cache: &mut RoomCache,
        group: &Group<'_>,
        request: &Request,
    ) -> Result<Decision, SendError> {
        if cache.head.blocked {
            return Err(SendError::forbidden("the room is blocked on this server"));
        }
        let proposal = match &request.intent {
            Intent::Signed(_) => return Err(SendError::Unavailable("a made event was to be made again".to_owned())),
            Intent::Message(intent) => Ok(self.draft_message(intent).into()),
            Intent::State(intent) => self.propose_state(cache, intent).await?,
            Intent::Member(intent) => self.propose_member(cache, intent, false).await?,
            Intent::Redact(intent) => Ok(self.propose_redaction(cache, group, intent).await?),
        };
        let proposal = match proposal {
            Ok(proposal) => proposal,
            Err(standing) => return Ok(Decision::Stands(standing)),
        };
        let sent_by = request.transaction.as_ref().map(|transaction| transaction.sent_by.clone());
        let accepted = self.accept(cache, proposal, sent_by).await?;
        if let Some(policy) = self.policy(cache).await?
            && !policy.recommends(&accepted.event)
        {
            let Accepted { event, guest, .. } = accepted;
            return Ok(Decision::Unsigned(Box::new(Unsigned { event, guest, policy })));
        }
        Ok(Decision::Append(Box::new(accepted)))
    }

    fn draft_message(&self, intent: &MessageIntent) -> Draft {
        Draft {
            kind: intent.kind.clone(),
            state_key: None,
            content: intent.content.clone(),
            sender: intent.sender.clone(),
            redacts: None,
            origin_server_ts_ms: intent.ts_ms.unwrap_or_else(|| self.clock.now_ms()),
        }
    }

    /// Makes the event of a draft at the room's head, and asks the rules whether it may be.
    pub(crate) async fn accept(
        &self,
        cache: &mut RoomCache,
        proposal: Proposal,
        sent_by: Option<SenderTransaction>,
    ) -> Result<Accepted, SendError> {
        let Proposal { draft, guest, redacts } = proposal;
        let (references, auths) = self.references(cache, &draft).await?;
        let opaque_id = cache.version.has_chosen_event_ids().then(|| self.entropy.alphanumeric(OPAQUE_ID_CHARACTERS));
        let event = build(
            &draft,
            &references,
            Some(&cache.id),
            cache.version,
            &self.signing_key,
            &self.server_name,
            opaque_id.as_deref(),
        )?;
        let event = authorise(cache, &event)?;
        Ok(Accepted { sent_by, guest, redacts, ..Accepted::own(event, auths) })
    }

    /// The place of a draft at the room's head, and the numbers of its auth events. Afterwards the cache knows all that
    /// the rules ask for.
    pub(crate) async fn references(
        &self,
        cache: &mut RoomCache,
        draft: &Draft,
    ) -> Result<(References, Vec<EventNumber>), SendError> {
        let (kind, sender, state_key) = (&draft.kind, &draft.sender, draft.state_key.as_deref());
        // Content that is no object has no auth events to speak of; `build` says what is wrong with it.
        let types = auth_types(cache.version, kind, sender, state_key, &draft.content);
        let is_object = draft.content.get().trim_start().starts_with('{');
        let types = match types {
            Ok(types) => types,
            Err(reason) if is_object => return Err(SendError::Forbidden(reason)),
            Err(_) => Vec::new(),
        };
        let mut auths = Vec::with_capacity(types.len());
        let mut references = References::default();
        for (kind, state_key) in &types {
            let entry = cache.entry(&self.store, kind, state_key).await?;
            let Some(in_force) = &entry.in_force else { continue };
            references.auth_events.push(in_force.event.event_id().to_owned());
            auths.push(in_force.number);
            if cache.version.has_chosen_event_ids() {
                let event = cache.known_event(kind, state_key).expect("it was just looked up");
                references.hashes.insert(event.event_id().to_owned(), event.reference_hash());
            }
        }
        cache.entry(&self.store, "m.room.create", "").await?;
        self.cite_extremities(cache, &mut references).await?;
        Ok((references, auths))
    }

    async fn cite_extremities(&self, cache: &RoomCache, references: &mut References) -> Result<(), SendError> {
        let mut deepest = 0;
        for extremity in cited(&cache.head) {
            let id = OwnedEventId::try_from(extremity.event_id.as_str())
                .map_err(|error| SendError::Unavailable(format!("an extremity's id does not read: {error}")))?;
            deepest = deepest.max(extremity.depth);
            if cache.version.has_chosen_event_ids() {
                let hash = match cache.extremity_hashes.get(&id) {
                    Some(hash) => Some(hash.clone()),
                    None => self.store.event(cache.number, extremity.event).await?.map(|s| s.event.reference_hash()),
                };
                references.hashes.extend(hash.map(|hash| (id.clone(), hash)));
            }
            references.prev_events.push(id);
        }
        // Events of old room versions may say to be of any depth.
        references.depth = deepest.saturating_add(1);
        Ok(())
    }
}

/// The part of an event id that we choose in room versions 1 and 2: 107 bits, as hard to guess as a hash is.
const OPAQUE_ID_CHARACTERS: usize = 18;

/// Asks the rules, by the state that was looked up.
pub(crate) fn authorise(cache: &RoomCache, event: &Event) -> Result<Event, Reason> {
    let authorised = admit(event, |kind, state_key| cache.known_event(kind, state_key))?;
    Ok(authorised.into_event())
}

impl From<Reason> for SendError {
    fn from(reason: Reason) -> Self {
        Self::Forbidden(reason)
    }
}
