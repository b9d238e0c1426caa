//! Everything that we ask of other servers: [`hearth_ports::Peers`] over signed requests.
//!
//! Answers are cut into their events without being parsed further; what an event says is checked by who asked for it.

mod answers;
mod path;
mod pieces;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hearth_core::{Event, INTEGER_MAX, PublicKeys, RoomVersion};
use hearth_ports::{
    AliasTarget, BoxFuture, EventBytes, Handshake, IdentityServer, JoinAnswer, MissingEvents, PeerError, Peers,
    StateEvents, StateIds, StatePieces, StoredInvite, Template, WantedKeys,
};
use http::Method;
use ruma::{EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use serde_json::json;

use self::{path::Path, pieces::Pieces};
use crate::{
    keys::KeyRing,
    remote::{Ask, Remote, Urgency},
};

/// An answer of a few fields, or of the rooms and events that one page holds, in bytes.
const SMALL_BYTES_MAX: usize = 1 << 20;
/// An answer of many events, in bytes.
const PAGE_BYTES_MAX: usize = 10 << 20;

/// What a person waits for, in milliseconds.
const SHORT_MS: u64 = 30_000;
/// What is waited for a page of events, in milliseconds.
const PAGE_MS: u64 = 60_000;
/// What is waited for a whole room, in milliseconds: large ones take their servers minutes.
const ROOM_MS: u64 = 240_000;

/// What is waited for a policy server, in milliseconds: every event of the room waits with it.
const POLICY_MS: u64 = 10_000;
/// An answer of a policy server: one signature, or an error.
const POLICY_BYTES_MAX: usize = 64 << 10;

/// What is waited for a state that is taken as it comes, in milliseconds, and its bound in bytes: the largest rooms have
/// some hundred megabytes.
const PIECES_MS: u64 = 900_000;
const PIECES_BYTES_MAX: usize = 1 << 30;

/// Whom to ask for events at most, per request; other servers have bounds of about that size.
const BACKFILL_MAX: usize = 500;

/// What the operator decides.
#[derive(Clone, Copy, Debug)]
pub struct PeersSettings {
    /// The largest answer with a whole room's state, in bytes. While such an answer is taken apart it is held in memory.
    pub state_bytes_max: usize,
}

impl PeersSettings {
    /// Without configuration: a room of some 70,000 members.
    pub const STATE_BYTES_MAX: usize = 50 << 20;
}

impl Default for PeersSettings {
    fn default() -> Self {
        Self { state_bytes_max: Self::STATE_BYTES_MAX }
    }
}

/// The other servers.
pub struct FederationPeers {
    remote: Arc<Remote>,
    keys: Arc<KeyRing>,
    settings: PeersSettings,
}

/// The bounds of a request.
#[derive(Clone, Copy)]
struct Bounds {
    timeout_ms: u64,
    answer_bytes_max: usize,
    urgency: Urgency,
}

impl Bounds {
    fn ask(self, method: Method, path: Path, body: Option<Bytes>) -> Ask {
        let Self { timeout_ms, answer_bytes_max, urgency } = self;
        Ask { method, path: path.into(), body, signed: true, urgency, timeout_ms, answer_bytes_max }
    }
}

const SMALL: Bounds = Bounds { timeout_ms: SHORT_MS, answer_bytes_max: SMALL_BYTES_MAX, urgency: Urgency::Person };
const PAGE: Bounds = Bounds { timeout_ms: PAGE_MS, answer_bytes_max: PAGE_BYTES_MAX, urgency: Urgency::Routine };

impl FederationPeers {
    /// Asks through `remote`; keys come from `keys`.
    pub fn new(remote: Arc<Remote>, keys: Arc<KeyRing>, settings: PeersSettings) -> Arc<Self> {
        Arc::new(Self { remote, keys, settings })
    }

    fn room(&self, urgency: Urgency) -> Bounds {
        Bounds { timeout_ms: ROOM_MS, answer_bytes_max: self.settings.state_bytes_max, urgency }
    }

    async fn ask(
        &self,
        server: &ServerName,
        method: Method,
        path: Path,
        body: Option<Bytes>,
        bounds: Bounds,
    ) -> Result<Bytes, PeerError> {
        self.remote.send(server, bounds.ask(method, path, body)).await
    }

    async fn get(&self, server: &ServerName, path: Path, bounds: Bounds) -> Result<Bytes, PeerError> {
        self.ask(server, Method::GET, path, None, bounds).await
    }

    async fn put(&self, server: &ServerName, path: Path, body: Bytes, bounds: Bounds) -> Result<Bytes, PeerError> {
        self.ask(server, Method::PUT, path, Some(body), bounds).await
    }

    async fn send_join(&self, server: &ServerName, event: &Event, omit: bool) -> Result<JoinAnswer, PeerError> {
        let bounds = self.room(Urgency::Person);
        let path = |version| Path::federation(version, "send_join").segment(event.room_id()).segment(event.event_id());
        let query = path("v2").query("omit_members", if omit { "true" } else { "false" });
        match self.put(server, query, event.json().clone(), bounds).await {
            Err(error) if is_unknown(&error) => {
                let body = self.put(server, path("v1"), event.json().clone(), bounds).await?;
                parsed(body, answers::join_v1).await
            }
            answer => parsed(answer?, answers::join).await,
        }
    }

    async fn send_leave(&self, server: &ServerName, event: &Event) -> Result<(), PeerError> {
        let path = |version| Path::federation(version, "send_leave").segment(event.room_id()).segment(event.event_id());
        match self.put(server, path("v2"), event.json().clone(), SMALL).await {
            Err(error) if is_unknown(&error) => {
                self.put(server, path("v1"), event.json().clone(), SMALL).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }

    async fn send_invite(
        &self,
        server: &ServerName,
        event: &Event,
        state: Vec<EventBytes>,
    ) -> Result<EventBytes, PeerError> {
        let path = |version| Path::federation(version, "invite").segment(event.room_id()).segment(event.event_id());
        let body = answers::invite_body(event, &state);
        match self.put(server, path("v2"), body, SMALL).await {
            // "Servers which receive a v1 request must assume that the room version is either "1" or "2"."
            // Senders that "receive a 400 or 404 response to this endpoint should retry using the v1 API as the server may be
            // older, if the room version is "1" or "2"".
            Err(error @ PeerError::Refused { status: 400 | 404, .. })
                if matches!(event.version(), RoomVersion::V1 | RoomVersion::V2) =>
            {
                let body = answers::invite_body_v1(event, &state);
                match self.put(server, path("v1"), body, SMALL).await {
                    // It is no older: what it said first is what it means.
                    Err(of_v1) if is_unknown(&of_v1) => Err(error),
                    answer => answers::invited_v1(&answer?),
                }
            }
            answer => answers::invited(&answer?),
        }
    }

    async fn keys_of_users(
        &self,
        server: &ServerName,
        endpoint: &str,
        body: Bytes,
        timeout_ms: u64,
    ) -> Result<Bytes, PeerError> {
        let bounds = Bounds { timeout_ms, answer_bytes_max: PAGE_BYTES_MAX, urgency: Urgency::Person };
        let path = Path::federation("v1", endpoint);
        parsed(self.ask(server, Method::POST, path, Some(body), bounds).await?, |body| answers::object(body.clone()))
            .await
    }

    async fn missing(
        &self,
        server: &ServerName,
        room: &RoomId,
        wanted: MissingEvents,
    ) -> Result<Vec<EventBytes>, PeerError> {
        let MissingEvents { earliest, latest, limit, min_depth } = wanted;
        // In an old room it may be outside canonical JSON, in which no request is signed.
        let min_depth = min_depth.min(INTEGER_MAX);
        let body =
            json!({ "earliest_events": earliest, "latest_events": latest, "limit": limit, "min_depth": min_depth });
        let path = Path::federation("v1", "get_missing_events").segment(room);
        let answer = self.ask(server, Method::POST, path, Some(body.to_string().into()), PAGE).await?;
        let mut events = parsed(answer, answers::missing_events).await?;
        events.truncate(limit);
        Ok(events)
    }
}

/// Above it an answer is taken apart on a thread of its own, in bytes: about a millisecond's work.
const INLINE_BYTES_MAX: usize = 1 << 20;

/// Takes an answer apart.
async fn parsed<T: Send + 'static>(body: Bytes, parse: fn(&Bytes) -> Result<T, PeerError>) -> Result<T, PeerError> {
    if body.len() <= INLINE_BYTES_MAX {
        return parse(&body);
    }
    let parsed = hearth_ports::work(move || parse(&body)).await;
    parsed.unwrap_or_else(|error| Err(PeerError::Malformed(error.to_string())))
}

/// The server does not have this endpoint: it is of another age.
fn is_unknown(error: &PeerError) -> bool {
    matches!(error, PeerError::Refused { status: 404 | 405 | 400, errcode, .. } if errcode == "M_UNRECOGNIZED")
        // Some answer with the error page of their web framework.
        || matches!(error, PeerError::Refused { status: 404 | 405, errcode, body, .. }
            if errcode == "M_UNKNOWN" && !body.starts_with(b"{"))
}

impl Peers for FederationPeers {
    fn server_keys<'a>(&'a self, wanted: BTreeMap<OwnedServerName, WantedKeys>) -> BoxFuture<'a, PublicKeys> {
        Box::pin(self.keys.for_events(wanted))
    }

    fn make_member<'a>(
        &'a self,
        server: &'a ServerName,
        handshake: Handshake,
        room: &'a RoomId,
        user: &'a UserId,
        versions: &'a [RoomVersion],
    ) -> BoxFuture<'a, Result<Template, PeerError>> {
        let endpoint = match handshake {
            Handshake::Join => "make_join",
            Handshake::Leave => "make_leave",
            Handshake::Knock => "make_knock",
        };
        let path = Path::federation("v1", endpoint).segment(room).segment(user);
        // "The room versions the sending server has support for"; leaving takes none.
        let versions = if handshake == Handshake::Leave { &[] } else { versions };
        let path = versions.iter().fold(path, |path, version| path.query("ver", version.as_str()));
        Box::pin(async move { answers::template(&self.get(server, path, SMALL).await?) })
    }

    fn send_join<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
        omit_members: bool,
    ) -> BoxFuture<'a, Result<JoinAnswer, PeerError>> {
        Box::pin(self.send_join(server, event, omit_members))
    }

    fn send_leave<'a>(&'a self, server: &'a ServerName, event: &'a Event) -> BoxFuture<'a, Result<(), PeerError>> {
        Box::pin(self.send_leave(server, event))
    }

    fn send_knock<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        let path = Path::federation("v1", "send_knock").segment(event.room_id()).segment(event.event_id());
        Box::pin(async move { answers::knock(&self.put(server, path, event.json().clone(), SMALL).await?) })
    }

    fn invite<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
        invite_room_state: Vec<EventBytes>,
    ) -> BoxFuture<'a, Result<EventBytes, PeerError>> {
        Box::pin(self.send_invite(server, event, invite_room_state))
    }

    fn missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        wanted: MissingEvents,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        Box::pin(self.missing(server, room, wanted))
    }

    fn backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        from: &'a [OwnedEventId],
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        let limit = limit.min(BACKFILL_MAX);
        let path = Path::federation("v1", "backfill").segment(room).query("limit", limit.to_string());
        let path = from.iter().fold(path, |path, event| path.query("v", event));
        Box::pin(async move {
            // Somebody scrolls and waits.
            let bounds = Bounds { urgency: Urgency::Person, ..PAGE };
            let mut events = parsed(self.get(server, path, bounds).await?, answers::backfill).await?;
            events.truncate(limit);
            Ok(events)
        })
    }

    fn event<'a>(&'a self, server: &'a ServerName, event: &'a EventId) -> BoxFuture<'a, Result<EventBytes, PeerError>> {
        let path = Path::federation("v1", "event").segment(event);
        let bounds = Bounds { urgency: Urgency::Routine, ..SMALL };
        Box::pin(async move { answers::event(&self.get(server, path, bounds).await?) })
    }

    fn state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateIds, PeerError>> {
        let path = Path::federation("v1", "state_ids").segment(room).query("event_id", at);
        let bounds = self.room(Urgency::Routine);
        Box::pin(async move { parsed(self.get(server, path, bounds).await?, answers::state_ids).await })
    }

    fn state<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateEvents, PeerError>> {
        let path = Path::federation("v1", "state").segment(room).query("event_id", at);
        let bounds = self.room(Urgency::Routine);
        Box::pin(async move { parsed(self.get(server, path, bounds).await?, answers::state).await })
    }

    fn state_in_pieces<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<Box<dyn StatePieces>, PeerError>> {
        Box::pin(async move {
            let path = Path::federation("v1", "state").segment(room).query("event_id", at);
            let bounds =
                Bounds { timeout_ms: PIECES_MS, answer_bytes_max: PIECES_BYTES_MAX, urgency: Urgency::Routine };
            let body = self.remote.open(server, bounds.ask(Method::GET, path, None)).await?;
            Ok(Box::new(Pieces::new(body)) as Box<dyn StatePieces>)
        })
    }

    fn event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        let path = Path::federation("v1", "event_auth").segment(room).segment(event);
        let bounds = self.room(Urgency::Routine);
        Box::pin(async move { parsed(self.get(server, path, bounds).await?, answers::event_auth).await })
    }

    fn event_near<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at_ms: u64,
        backwards: bool,
    ) -> BoxFuture<'a, Result<(OwnedEventId, u64), PeerError>> {
        let path = Path::federation("v1", "timestamp_to_event").segment(room).query("ts", at_ms.to_string());
        let path = path.query("dir", if backwards { "b" } else { "f" });
        Box::pin(async move { answers::event_near(&self.get(server, path, SMALL).await?) })
    }

    fn alias<'a>(&'a self, alias: &'a RoomAliasId) -> BoxFuture<'a, Result<AliasTarget, PeerError>> {
        let path = Path::federation("v1", "query/directory").query("room_alias", alias);
        Box::pin(async move { answers::alias(&self.get(alias.server_name(), path, SMALL).await?) })
    }

    fn profile<'a>(&'a self, user: &'a UserId, field: Option<&'a str>) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        let path = Path::federation("v1", "query/profile").query("user_id", user);
        let path = field.into_iter().fold(path, |path, field| path.query("field", field));
        Box::pin(async move { answers::object(self.get(user.server_name(), path, SMALL).await?) })
    }

    fn public_rooms<'a>(&'a self, server: &'a ServerName, query: Bytes) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        let path = Path::federation("v1", "publicRooms");
        let bounds = Bounds { answer_bytes_max: PAGE_BYTES_MAX, ..SMALL };
        Box::pin(async move { answers::object(self.ask(server, Method::POST, path, Some(query), bounds).await?) })
    }

    fn hierarchy<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        suggested_only: bool,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        let path = Path::federation("v1", "hierarchy").segment(room);
        let path = path.query("suggested_only", if suggested_only { "true" } else { "false" });
        let bounds = Bounds { answer_bytes_max: PAGE_BYTES_MAX, ..SMALL };
        Box::pin(async move { answers::object(self.get(server, path, bounds).await?) })
    }

    fn openid_user<'a>(
        &'a self,
        server: &'a ServerName,
        token: &'a str,
    ) -> BoxFuture<'a, Result<OwnedUserId, PeerError>> {
        let path = Path::federation("v1", "openid/userinfo").query("access_token", token);
        Box::pin(async move { answers::openid_user(&self.get(server, path, SMALL).await?, server) })
    }

    fn device_keys<'a>(
        &'a self,
        server: &'a ServerName,
        query: Bytes,
        timeout_ms: u64,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        Box::pin(self.keys_of_users(server, "user/keys/query", query, timeout_ms))
    }

    fn user_devices<'a>(
        &'a self,
        user: &'a UserId,
        timeout_ms: u64,
        is_waited_for: bool,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        let path = Path::federation("v1", "user/devices").segment(user);
        let urgency = if is_waited_for { Urgency::Person } else { Urgency::Routine };
        let bounds = Bounds { timeout_ms, answer_bytes_max: SMALL_BYTES_MAX, urgency };
        Box::pin(async move { answers::object(self.get(user.server_name(), path, bounds).await?) })
    }

    fn claim_keys<'a>(
        &'a self,
        server: &'a ServerName,
        claim: Bytes,
        timeout_ms: u64,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        Box::pin(self.keys_of_users(server, "user/keys/claim", claim, timeout_ms))
    }

    fn exchange_third_party_invite<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        event: Bytes,
    ) -> BoxFuture<'a, Result<(), PeerError>> {
        let path = Path::federation("v1", "exchange_third_party_invite").segment(room);
        Box::pin(async move { self.put(server, path, event, SMALL).await.map(drop) })
    }

    fn identity_lookup<'a>(
        &'a self,
        server: &'a IdentityServer<'a>,
        medium: &'a str,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Option<OwnedUserId>, PeerError>> {
        Box::pin(self.remote.identity_lookup(server, medium, address))
    }

    fn identity_store_invite<'a>(
        &'a self,
        server: &'a IdentityServer<'a>,
        body: Bytes,
    ) -> BoxFuture<'a, Result<StoredInvite, PeerError>> {
        Box::pin(self.remote.identity_store_invite(server, body))
    }

    fn identity_key_is_valid<'a>(
        &'a self,
        url: &'a str,
        public_key: &'a str,
    ) -> BoxFuture<'a, Result<bool, PeerError>> {
        Box::pin(self.remote.identity_key_is_valid(url, public_key))
    }

    fn policy_sign<'a>(&'a self, server: &'a ServerName, event: &'a Event) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        let bounds = Bounds { timeout_ms: POLICY_MS, answer_bytes_max: POLICY_BYTES_MAX, urgency: Urgency::Person };
        Box::pin(async move {
            let body = Some(event.json().clone());
            answers::object(self.ask(server, Method::POST, Path::policy("sign"), body, bounds).await?)
        })
    }
}
