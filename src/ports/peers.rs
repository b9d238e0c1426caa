//! Everything that we may ask of another server.
//!
//! What comes back is what a stranger says: nothing in it is checked but its shape. Discovery, signing, time-outs, bounds
//! on answers and back-off are the implementer's.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hearth_core::{Event, PublicKeys, RoomVersion};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};

use crate::BoxFuture;

/// The JSON of one event as it was sent, neither parsed nor checked. Events of one answer share its memory.
pub type EventBytes = Bytes;

/// Why another server did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It was not found, not reached, or did not answer in time; or it failed with a 5xx.
    #[error("{0}")]
    Unreachable(String),
    /// It was not reached lately and is not asked again before this time, in milliseconds since the Unix epoch.
    #[error("the server was not reached lately and is left alone for now")]
    BackingOff {
        /// When it is tried again.
        until_ms: u64,
    },
    /// It said no.
    #[error("{errcode}: {error}")]
    Refused {
        /// The HTTP status, 4xx.
        status: u16,
        /// As in `M_FORBIDDEN`; `M_UNKNOWN` if it said none.
        errcode: String,
        /// Its words; shown to users as the other server's.
        error: String,
        /// The whole answer, for errors with more fields (`room_version`).
        body: Bytes,
    },
    /// Its answer makes no sense or is too large.
    #[error("the other server's answer makes no sense: {0}")]
    Malformed(String),
    /// The operator does not let us talk to it.
    #[error("talking to this server is not allowed here")]
    Denied,
}

/// A membership that begins with a template of another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handshake {
    /// `make_join`, `send_join`
    Join,
    /// `make_leave`, `send_leave`
    Leave,
    /// `make_knock`, `send_knock`
    Knock,
}

/// A template for a member event: to be checked field by field, for it is signed by us.
#[derive(Clone, Debug)]
pub struct Template {
    /// The room's version; a version that we do not speak is [`PeerError::Malformed`]. Absent means 1.
    pub version: RoomVersion,
    /// The proto-event.
    pub event: EventBytes,
}

/// The answer to `send_join`.
#[derive(Clone, Debug, Default)]
pub struct JoinAnswer {
    /// The join, where the other server had to add its signature.
    pub event: Option<EventBytes>,
    /// The room's state before the join.
    pub state: Vec<EventBytes>,
    /// All events that `state` leads to over `auth_events`.
    pub auth_chain: Vec<EventBytes>,
    /// `state` lacks memberships.
    pub members_omitted: bool,
    /// The servers in the room; present if members are omitted.
    pub servers_in_room: Vec<OwnedServerName>,
}

/// A room's state as ids.
#[derive(Clone, Debug, Default)]
pub struct StateIds {
    /// The state.
    pub state: Vec<OwnedEventId>,
    /// What it leads to over `auth_events`.
    pub auth_chain: Vec<OwnedEventId>,
}

/// A room's state as events.
#[derive(Clone, Debug, Default)]
pub struct StateEvents {
    /// The state.
    pub state: Vec<EventBytes>,
    /// What it leads to over `auth_events`.
    pub auth_chain: Vec<EventBytes>,
}

/// Some events of a room's state, or of what it leads to over `auth_events`.
#[derive(Clone, Debug, Default)]
pub struct StatePiece {
    /// The events.
    pub events: Vec<EventBytes>,
    /// Whether they are part of the state.
    pub in_state: bool,
}

/// A room's state as it comes, for rooms that are too large to be held. Dropping it gives the rest up.
pub trait StatePieces: Send {
    /// The next piece; `None`: that was all.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<StatePiece>, PeerError>>;
}

/// A state that is there already.
struct WholeState(Vec<StatePiece>);

impl StatePieces for WholeState {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<StatePiece>, PeerError>> {
        Box::pin(std::future::ready(Ok(self.0.pop())))
    }
}

/// Which events are missing: those between the two ends.
#[derive(Clone, Debug)]
pub struct MissingEvents {
    /// Known already; not to be sent.
    pub earliest: Vec<OwnedEventId>,
    /// Where to walk back from; not to be sent.
    pub latest: Vec<OwnedEventId>,
    /// At most so many.
    pub limit: usize,
    /// Nothing less deep.
    pub min_depth: u64,
}

/// Keys that are wanted of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedKeys {
    /// Key ids (`ed25519:…`). Empty: whatever it has now.
    pub ids: BTreeSet<String>,
    /// They should have been valid then, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Nobody of the server is in the room in question, as far as is known: this other server made us ask. Anybody can do
    /// so, so it must not be in the way of what is asked of servers in the room.
    pub asked_by: Option<OwnedServerName>,
}

/// Where an alias points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasTarget {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Servers that may help to join it.
    pub servers: Vec<OwnedServerName>,
}

/// Other servers. Implemented by the federation crate; in tests by whatever answers.
///
/// `ruma` endpoint types stay in protocol crates, so bodies that a service passes on unread are JSON bytes here.
pub trait Peers: Send + Sync {
    /// The public keys of servers, from what is known, the servers themselves, then notaries. Never fails as a whole:
    /// what was not found is not in the answer.
    fn server_keys<'a>(&'a self, wanted: BTreeMap<OwnedServerName, WantedKeys>) -> BoxFuture<'a, PublicKeys>;

    /// Asks for a template. `versions`: those that we can take part in.
    fn make_member<'a>(
        &'a self,
        server: &'a ServerName,
        handshake: Handshake,
        room: &'a RoomId,
        user: &'a UserId,
        versions: &'a [RoomVersion],
    ) -> BoxFuture<'a, Result<Template, PeerError>>;

    /// Hands in a join; `omit_members`: the answer may lack memberships.
    fn send_join<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
        omit_members: bool,
    ) -> BoxFuture<'a, Result<JoinAnswer, PeerError>>;

    /// Hands in a leave.
    fn send_leave<'a>(&'a self, server: &'a ServerName, event: &'a Event) -> BoxFuture<'a, Result<(), PeerError>>;

    /// Hands in a knock; the answer is `knock_room_state`.
    fn send_knock<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>>;

    /// Invites a user of the other server; the answer is the event with its signature too.
    fn invite<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a Event,
        invite_room_state: Vec<EventBytes>,
    ) -> BoxFuture<'a, Result<EventBytes, PeerError>>;

    /// Events between what we know and what we were sent.
    fn missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        wanted: MissingEvents,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>>;

    /// At most `limit` events before these, these included.
    fn backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        from: &'a [OwnedEventId],
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>>;

    /// One event.
    fn event<'a>(&'a self, server: &'a ServerName, event: &'a EventId) -> BoxFuture<'a, Result<EventBytes, PeerError>>;

    /// The state before an event, as ids.
    fn state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateIds, PeerError>>;

    /// The state before an event.
    fn state<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateEvents, PeerError>>;

    /// The state before an event, piece by piece: never more than a few megabytes of it are held.
    fn state_in_pieces<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at: &'a EventId,
    ) -> BoxFuture<'a, Result<Box<dyn StatePieces>, PeerError>> {
        Box::pin(async move {
            let StateEvents { state, auth_chain } = self.state(server, room, at).await?;
            let pieces = [(auth_chain, false), (state, true)].map(|(events, in_state)| StatePiece { events, in_state });
            Ok(Box::new(WholeState(pieces.into())) as Box<dyn StatePieces>)
        })
    }

    /// The auth chain of an event.
    fn event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>>;

    /// The event nearest to a time, with its own time, in milliseconds since the Unix epoch.
    fn event_near<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        at_ms: u64,
        backwards: bool,
    ) -> BoxFuture<'a, Result<(OwnedEventId, u64), PeerError>>;

    /// Where an alias of the other server points; `M_NOT_FOUND` is [`PeerError::Refused`].
    fn alias<'a>(&'a self, alias: &'a RoomAliasId) -> BoxFuture<'a, Result<AliasTarget, PeerError>>;

    /// A profile: one field of it, or all. JSON object.
    fn profile<'a>(&'a self, user: &'a UserId, field: Option<&'a str>) -> BoxFuture<'a, Result<Bytes, PeerError>>;

    /// The other server's public rooms: the body of `POST /publicRooms` and its answer.
    fn public_rooms<'a>(&'a self, server: &'a ServerName, query: Bytes) -> BoxFuture<'a, Result<Bytes, PeerError>>;

    /// A space's rooms as the other server tells them: the answer of `/hierarchy`.
    fn hierarchy<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        suggested_only: bool,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>>;

    /// Whose OpenID token it is.
    fn openid_user<'a>(
        &'a self,
        server: &'a ServerName,
        token: &'a str,
    ) -> BoxFuture<'a, Result<OwnedUserId, PeerError>>;

    /// Identity keys of the other server's users: the body of `POST /user/keys/query` and its answer. It may take
    /// `timeout_ms`, in milliseconds.
    fn device_keys<'a>(
        &'a self,
        _server: &'a ServerName,
        _query: Bytes,
        _timeout_ms: u64,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        denied()
    }

    /// All devices of a user of another server: the answer of `GET /user/devices/{userId}`. It may take `timeout_ms`, in
    /// milliseconds. If somebody waits for it, a server that was not reached lately is asked all the same.
    fn user_devices<'a>(
        &'a self,
        _user: &'a UserId,
        _timeout_ms: u64,
        _is_waited_for: bool,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        denied()
    }

    /// Claims one-time keys of the other server's users: the body of `POST /user/keys/claim` and its answer. It may take
    /// `timeout_ms`, in milliseconds. Keys of an answer that is lost are lost.
    fn claim_keys<'a>(
        &'a self,
        _server: &'a ServerName,
        _claim: Bytes,
        _timeout_ms: u64,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        denied()
    }

    /// Asks the server of who invited by a third-party identifier to make the invite of it: the partial member event.
    fn exchange_third_party_invite<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        _event: Bytes,
    ) -> BoxFuture<'a, Result<(), PeerError>> {
        denied()
    }

    /// The user who has bound a third-party identifier, by what an identity server says; `None`: nobody.
    fn identity_lookup<'a>(
        &'a self,
        _server: &'a IdentityServer<'a>,
        _medium: &'a str,
        _address: &'a str,
    ) -> BoxFuture<'a, Result<Option<OwnedUserId>, PeerError>> {
        denied()
    }

    /// Leaves an invite at an identity server, for whoever binds the identifier. `body`: the request's, a JSON object.
    fn identity_store_invite<'a>(
        &'a self,
        _server: &'a IdentityServer<'a>,
        _body: Bytes,
    ) -> BoxFuture<'a, Result<StoredInvite, PeerError>> {
        denied()
    }

    /// Whether a key of an identity server still counts, as `url` says: the `key_validity_url` of a pending invite.
    fn identity_key_is_valid<'a>(
        &'a self,
        _url: &'a str,
        _public_key: &'a str,
    ) -> BoxFuture<'a, Result<bool, PeerError>> {
        denied()
    }

    /// Asks a room's policy server to sign an event; the answer is its signatures as JSON: by server, then by key id.
    fn policy_sign<'a>(
        &'a self,
        _server: &'a ServerName,
        _event: &'a Event,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        denied()
    }
}

/// An identity server that a user of ours names.
#[derive(Clone, Copy, Debug)]
pub struct IdentityServer<'a> {
    /// Its host, perhaps with a port; not checked yet.
    pub name: &'a str,
    /// The user's token there.
    pub access_token: &'a str,
}

/// An invite that an identity server keeps.
#[derive(Clone, Debug)]
pub struct StoredInvite {
    /// Its name: the state key of `m.room.third_party_invite`.
    pub token: String,
    /// The keys of which one will sign the proof.
    pub public_keys: Vec<IdentityKey>,
    /// The address, as far as everybody may see it.
    pub display_name: String,
}

/// A key of an identity server.
#[derive(Clone, Debug)]
pub struct IdentityKey {
    /// The key, base64.
    pub public_key: String,
    /// Where to ask whether it still counts.
    pub key_validity_url: String,
}

/// Nobody: every answer is [`PeerError::Denied`], no key is known. For tests, and for servers that do not federate.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

fn denied<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, PeerError>> {
    Box::pin(std::future::ready(Err(PeerError::Denied)))
}

impl Peers for NoPeers {
    fn server_keys(&self, _wanted: BTreeMap<OwnedServerName, WantedKeys>) -> BoxFuture<'_, PublicKeys> {
        Box::pin(std::future::ready(PublicKeys::default()))
    }

    fn make_member<'a>(
        &'a self,
        _server: &'a ServerName,
        _handshake: Handshake,
        _room: &'a RoomId,
        _user: &'a UserId,
        _versions: &'a [RoomVersion],
    ) -> BoxFuture<'a, Result<Template, PeerError>> {
        denied()
    }

    fn send_join<'a>(
        &'a self,
        _server: &'a ServerName,
        _event: &'a Event,
        _omit_members: bool,
    ) -> BoxFuture<'a, Result<JoinAnswer, PeerError>> {
        denied()
    }

    fn send_leave<'a>(&'a self, _server: &'a ServerName, _event: &'a Event) -> BoxFuture<'a, Result<(), PeerError>> {
        denied()
    }

    fn send_knock<'a>(
        &'a self,
        _server: &'a ServerName,
        _event: &'a Event,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        denied()
    }

    fn invite<'a>(
        &'a self,
        _server: &'a ServerName,
        _event: &'a Event,
        _invite_room_state: Vec<EventBytes>,
    ) -> BoxFuture<'a, Result<EventBytes, PeerError>> {
        denied()
    }

    fn missing_events<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        _wanted: MissingEvents,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        denied()
    }

    fn backfill<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        _from: &'a [OwnedEventId],
        _limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        denied()
    }

    fn event<'a>(
        &'a self,
        _server: &'a ServerName,
        _event: &'a EventId,
    ) -> BoxFuture<'a, Result<EventBytes, PeerError>> {
        denied()
    }

    fn state_ids<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        _at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateIds, PeerError>> {
        denied()
    }

    fn state<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        _at: &'a EventId,
    ) -> BoxFuture<'a, Result<StateEvents, PeerError>> {
        denied()
    }

    fn event_auth<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        _event: &'a EventId,
    ) -> BoxFuture<'a, Result<Vec<EventBytes>, PeerError>> {
        denied()
    }

    fn event_near<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        _at_ms: u64,
        _backwards: bool,
    ) -> BoxFuture<'a, Result<(OwnedEventId, u64), PeerError>> {
        denied()
    }

    fn alias<'a>(&'a self, _alias: &'a RoomAliasId) -> BoxFuture<'a, Result<AliasTarget, PeerError>> {
        denied()
    }

    fn profile<'a>(&'a self, _user: &'a UserId, _field: Option<&'a str>) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        denied()
    }

    fn public_rooms<'a>(&'a self, _server: &'a ServerName, _query: Bytes) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        denied()
    }

    fn hierarchy<'a>(
        &'a self,
        _server: &'a ServerName,
        _room: &'a RoomId,
        _suggested_only: bool,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        denied()
    }

    fn openid_user<'a>(
        &'a self,
        _server: &'a ServerName,
        _token: &'a str,
    ) -> BoxFuture<'a, Result<OwnedUserId, PeerError>> {
        denied()
    }
}
