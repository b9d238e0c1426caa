//! Rooms whose events a policy server signs before they go out.
//! [Policy Servers](https://spec.matrix.org/v1.19/server-server-api/#policy-servers).
//!
//! The room does not wait while its policy server is asked: an event of ours is made at the room's head, signed, and then
//! put where it was made. What others send without a signature is shown to the policy server, too, before it is placed;
//! without a signature it is soft-failed.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use hearth_core::{
    Event, auth, auth_types,
    policy::{POLICY_KEY_ID, add_policy_signature, is_signed_by_policy_server},
};
use hearth_store::{LoadError, RoomNumber};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    SendError,
    append::{Group, PlaceError},
    cache::RoomCache,
    receive::{Arriving, Outcome, Place},
    remote::send_error,
    request::{Intent, Request},
    writer::Writer,
};

/// The state event that names the policy server, with an empty state key.
const KIND: &str = "m.room.policy";

/// Events that are shown to a policy server at once.
const ASKED_AT_ONCE: usize = 8;

/// What is waited for all signatures of a transaction's events; what has none by then is soft-failed. A server sends at
/// most 50 events at once, and wants its answer within a minute.
const ASKED_FOR: Duration = Duration::from_secs(20);

/// Signatures of an answer that are looked at.
const ANSWER_SERVERS_MAX: usize = 16;

/// A room's policy server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    server: OwnedServerName,
    /// Base64.
    public_key: String,
}

impl Policy {
    /// "Valid means `content` contains at least: a string value for `via`; an object value for `public_keys` containing at
    /// least a string value for `ed25519`."
    fn of(event: &Event) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: String,
            public_keys: PublicKeys,
        }
        #[derive(Deserialize)]
        struct PublicKeys {
            ed25519: String,
        }
        let Content { via, public_keys } = event.content_as().ok()?;
        Some(Self { server: ServerName::parse(via).ok()?, public_key: public_keys.ed25519 })
    }

    /// Whether the event may go on as it is: "`m.room.policy` state events with empty string `state_key`s […] are by
    /// default recommended for inclusion".
    pub(crate) fn recommends(&self, event: &Event) -> bool {
        is_exempt(event) || is_signed_by_policy_server(event, &self.server, &self.public_key)
    }
}

fn is_exempt(event: &Event) -> bool {
    event.state_pair() == Some((KIND, ""))
}

/// An event of ours that its room's policy server signs first.
#[derive(Debug)]
pub(crate) struct Unsigned {
    pub(crate) event: Event,
    pub(crate) guest: bool,
    pub(crate) policy: Policy,
}

/// An event of ours that was made, and signed by its room's policy server.
#[derive(Debug)]
pub(crate) struct SignedIntent {
    pub(crate) event: Event,
    pub(crate) guest: bool,
}

impl Writer {
    /// The room's policy server, by the state in the cache; `None`: it has none, or none that counts.
    pub(crate) async fn policy(&self, cache: &mut RoomCache) -> Result<Option<Policy>, LoadError> {
        let event = cache.state(&self.store, KIND, "").await?;
        self.policy_that_counts(cache.number, event.as_ref().and_then(Policy::of)).await
    }

    /// The same by what is stored.
    async fn stored_policy(&self, room: RoomNumber) -> Result<Option<Policy>, LoadError> {
        let stored = self.store.current_state_event(room, KIND, "").await?;
        self.policy_that_counts(room, stored.and_then(|stored| Policy::of(&stored.event))).await
    }

    /// "The server name denoted by […] `via` has at least one joined user in the room in *current state*."
    async fn policy_that_counts(&self, room: RoomNumber, policy: Option<Policy>) -> Result<Option<Policy>, LoadError> {
        let Some(policy) = policy else { return Ok(None) };
        let joined = self.store.joined_from(room, &policy.server).await?;
        Ok((joined > 0).then_some(policy))
    }

    /// Whether an event that the rules let in is recommended for inclusion, too.
    pub(crate) async fn is_recommended(&self, cache: &mut RoomCache, event: &Event) -> Result<bool, LoadError> {
        Ok(self.policy(cache).await?.is_none_or(|policy| policy.recommends(event)))
    }

    /// The event with the signature of its room's policy server. A refusal is in that server's words.
    pub(crate) async fn sign_by_policy(&self, policy: &Policy, event: &Event) -> Result<Event, SendError> {
        if policy.recommends(event) {
            return Ok(event.clone());
        }
        let answer = self.peers.policy_sign(&policy.server, event).await.map_err(send_error)?;
        let unusable = || SendError::Unreachable("the room's policy server gave no valid signature".to_owned());
        let signature = signature_in(&answer, &policy.server).ok_or_else(unusable)?;
        let signed = add_policy_signature(event, &policy.server, &signature)?;
        if policy.recommends(&signed) { Ok(signed) } else { Err(unusable()) }
    }

    /// Shows events of others that lack the signature of the room's policy server to it: "the Policy Server's key may have
    /// rotated", or nobody asked before. What it does not sign stays as it is.
    pub(crate) async fn complete_policies(&self, room: RoomNumber, events: &mut [Arriving]) -> Result<(), LoadError> {
        let Some(policy) = self.stored_policy(room).await? else { return Ok(()) };
        let placed = events.iter_mut().filter(|arriving| !matches!(arriving.place, Place::Outlier));
        let unsigned = placed.filter(|arriving| !policy.recommends(&arriving.event));
        let mut asked: Vec<hearth_ports::BoxFuture<'_, ()>> = Vec::new();
        for arriving in unsigned {
            let policy = &policy;
            asked.push(Box::pin(async move {
                match self.sign_by_policy(policy, &arriving.event).await {
                    Ok(signed) => arriving.event = signed,
                    Err(error) => {
                        let event_id = arriving.event.event_id();
                        tracing::info!(%event_id, %error, "event not signed by its room's policy server");
                    }
                }
            }));
        }
        let all = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).for_each(|()| std::future::ready(()));
        if tokio::time::timeout(ASKED_FOR, all).await.is_err() {
            tracing::info!(room = room.0, "the room's policy server did not sign all events in time");
        }
        Ok(())
    }

    /// Puts an event of ours, made and signed before, at its place in the room. Between its making and now others may have
    /// written; it is refused if the room no longer lets it in.
    pub(crate) async fn place_signed(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        request: &Request,
        intent: &SignedIntent,
    ) -> Result<Result<(), SendError>, PlaceError> {
        let event = &intent.event;
        if let Err(error) = self.check_present_state(cache, event).await {
            return Ok(Err(error));
        }
        let sent_by = request.transaction.as_ref().map(|transaction| transaction.sent_by.clone());
        let arriving = Arriving { event: event.clone(), place: Place::AfterPrevs, origin: None, relay: false };
        let placed = self.place_one_of(cache, group, &arriving, (sent_by, intent.guest)).await?;
        Ok(match placed {
            Ok(Outcome::Accepted) => Ok(()),
            Ok(Outcome::SoftFailed) => Err(SendError::forbidden("the room's present state does not let this event in")),
            Ok(Outcome::Rejected(reason)) => Err(SendError::Forbidden(reason)),
            Err(error) => Err(SendError::Unavailable(error.to_string())),
        })
    }

    async fn check_present_state(&self, cache: &mut RoomCache, event: &Event) -> Result<(), SendError> {
        if cache.head.blocked {
            return Err(SendError::forbidden("the room is blocked on this server"));
        }
        let types = auth_types(event.version(), event.kind(), event.sender(), event.state_key(), event.content())?;
        for (kind, state_key) in types.iter().map(|(kind, key)| (&**kind, &**key)).chain([("m.room.create", "")]) {
            cache.entry(&self.store, kind, state_key).await?;
        }
        auth::check_against(event, |kind, state_key| cache.known_event(kind, state_key))?;
        match self.is_recommended(cache, event).await? {
            true => Ok(()),
            false => Err(SendError::Conflict),
        }
    }
}

impl Unsigned {
    /// The request to put the signed event into the room.
    pub(crate) fn signed(event: Event, guest: bool) -> Intent {
        Intent::Signed(Box::new(SignedIntent { event, guest }))
    }
}

/// The policy server's signature in its answer: `{server: {key id: signature}}`.
fn signature_in(answer: &[u8], server: &ServerName) -> Option<String> {
    let servers: Map<String, Value> = serde_json::from_slice(answer).ok()?;
    if servers.len() > ANSWER_SERVERS_MAX {
        return None;
    }
    Some(servers.get(server.as_str())?.get(POLICY_KEY_ID)?.as_str()?.to_owned())
}
