//! Templates: the place in the room's graph that another server's member event may take.
//! [`GET /make_join`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid).

use bytes::Bytes;
use hearth_core::{Draft, Event, References, RoomVersion};
use hearth_ports::{EventBytes, Handshake};
use hearth_store::{StateVersion, tables::Membership};
use ruma::{EventId, RoomId, ServerName, UserId};
use serde_json::{Map, Value, json};

use super::{HandshakeError, membership_name};
use crate::{cache::RoomCache, member::Vouching, request::authorise, rooms::Rooms};

/// The id that an event is checked by which has none yet.
const NO_ID: &str = "$template";

impl Rooms {
    /// A template for a member event of a user of `origin`, with the room's version: as it stands, the rules would let
    /// the event in. `versions`: those that the other server speaks.
    pub async fn make_template(
        &self,
        origin: &ServerName,
        handshake: Handshake,
        room_id: &RoomId,
        user: &UserId,
        versions: &[String],
    ) -> Result<(RoomVersion, EventBytes), HandshakeError> {
        if user.server_name() != origin {
            return Err(HandshakeError::forbidden("the user is not of your server"));
        }
        let (room, _) = self.room_for_handshake(origin, room_id).await?;
        let writer = &self.writer;
        let active = writer.active(room);
        let mut cache = active.cache.lock().await;
        let cache = writer.load(&mut cache, room).await?;
        // Who leaves has shown before that it speaks the version, and is not asked.
        if handshake != Handshake::Leave && !versions.iter().any(|version| version == cache.version.as_str()) {
            return Err(HandshakeError::IncompatibleVersion(cache.version.to_string()));
        }
        if handshake == Handshake::Knock && !cache.version.rules().authorization.knocking {
            return Err(HandshakeError::forbidden("rooms of this version do not take knocks"));
        }
        let content = self.template_content(cache, handshake, user).await?;
        let draft = Draft::state("m.room.member", user.as_str(), user.to_owned(), &content, writer.clock.now_ms())
            .expect("a map of values is JSON");
        let (references, _) = writer.references(cache, &draft).await?;
        let json = template_json(cache, &draft, content, &references, &writer.server_name);
        let id = <&EventId>::try_from(NO_ID).expect("it looks like an id").to_owned();
        let event = Event::parse_stored(cache.version, id, cache.id.clone(), json.clone());
        let event = event.map_err(|error| HandshakeError::Unavailable(error.to_string()))?;
        authorise(cache, &event)?;
        debug_assert!(cache.head.state != StateVersion::UNKNOWN, "a room that is written has a state");
        Ok((cache.version, json))
    }

    /// The membership, and for a restricted join who of ours vouches for it.
    async fn template_content(
        &self,
        cache: &mut RoomCache,
        handshake: Handshake,
        user: &UserId,
    ) -> Result<Map<String, Value>, HandshakeError> {
        let mut content = Map::new();
        content.insert("membership".to_owned(), membership_name(handshake).into());
        if handshake == Handshake::Join
            && let Some(voucher) = self.voucher_for(cache, user).await?
        {
            content.insert("join_authorised_via_users_server".to_owned(), voucher.as_str().into());
        }
        Ok(content)
    }

    /// Who of ours vouches for the join of another server's user; `None`: it needs nobody.
    pub(super) async fn voucher_for(
        &self,
        cache: &mut RoomCache,
        user: &UserId,
    ) -> Result<Option<ruma::OwnedUserId>, HandshakeError> {
        let membership = cache.membership(&self.writer.store, user).await?;
        if matches!(membership, Some(Membership::Join | Membership::Invite)) {
            return Ok(None);
        }
        if membership == Some(Membership::Ban) {
            return Err(HandshakeError::forbidden("the user is banned from this room"));
        }
        match self.writer.vouching(cache, user).await? {
            Vouching::NotNeeded => Ok(None),
            Vouching::By(voucher) => Ok(Some(voucher)),
            Vouching::Refused => {
                Err(HandshakeError::forbidden("the user is in none of the rooms whose members may join"))
            }
            Vouching::Unknowable => Err(HandshakeError::UnableToAuthoriseJoin),
            Vouching::Nobody => Err(HandshakeError::UnableToGrantJoin),
        }
    }
}

/// The event without hashes, signatures and id. `origin` is there for servers that still look for it.
fn template_json(
    cache: &RoomCache,
    draft: &Draft,
    content: Map<String, Value>,
    references: &References,
    origin: &ServerName,
) -> Bytes {
    let cite = |ids: &[ruma::OwnedEventId]| -> Vec<Value> {
        let cite = |id: &ruma::OwnedEventId| match references.hashes.get(id) {
            _ if !cache.version.has_chosen_event_ids() => json!(id),
            Some(hash) => json!([id, { "sha256": hash }]),
            None => json!([id, {}]),
        };
        ids.iter().map(cite).collect()
    };
    let event = json!({
        "auth_events": cite(&references.auth_events),
        "content": content,
        "depth": references.depth,
        "origin": origin,
        "origin_server_ts": draft.origin_server_ts_ms,
        "prev_events": cite(&references.prev_events),
        "room_id": cache.id,
        "sender": draft.sender,
        "state_key": draft.state_key,
        "type": draft.kind,
    });
    Bytes::from(serde_json::to_vec(&event).expect("a value is JSON"))
}
