//! Invites of people who were known by a third-party identifier only, once they have bound it to an account.
//! [Third-party invites](https://spec.matrix.org/v1.19/server-server-api/#third-party-invites).
//!
//! The invite is made, and signed, by the server of who asked for it: a user of ours who has sent
//! `m.room.third_party_invite`. Of what others send only the proof of the identity server goes into it.

use std::sync::Arc;

use hearth_core::{ID_BYTES_MAX, keys::is_signed_by};
use hearth_ports::EventBytes;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::HandshakeError;
use crate::{
    SendError,
    member::MemberAction,
    remote::send_error,
    rooms::{MemberChange, Rooms},
};

/// Keys of a pending invite, and signatures of a proof, that are looked at. Identity servers have one or two.
const KEYS_MAX: usize = 8;

/// A pending invite whose identifier was bound.
#[derive(Clone, Debug)]
pub struct ThirdPartyInvite {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who invited.
    pub sender: OwnedUserId,
    /// Who is invited: the identifier is theirs.
    pub target: OwnedUserId,
    /// The identity server's word on that: `mxid`, `token`, `signatures`.
    pub signed: Map<String, Value>,
}

/// `m.room.third_party_invite`
#[derive(Default, Deserialize)]
struct Pending {
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    public_key: Option<String>,
    #[serde(default)]
    key_validity_url: Option<String>,
    #[serde(default)]
    public_keys: Vec<PendingKey>,
}

#[derive(Clone, Deserialize)]
struct PendingKey {
    public_key: String,
    #[serde(default)]
    key_validity_url: Option<String>,
}

impl Pending {
    /// "A signature from any entry in `public_keys` is also sufficient."
    fn keys(&self) -> impl Iterator<Item = PendingKey> {
        let first = self.public_key.clone();
        let first = first.map(|public_key| PendingKey { public_key, key_validity_url: self.key_validity_url.clone() });
        first.into_iter().chain(self.public_keys.iter().cloned()).take(KEYS_MAX)
    }
}

impl ThirdPartyInvite {
    /// The name of the pending invite; an error if the proof is about somebody else.
    pub(super) fn token(&self) -> Result<&str, SendError> {
        if self.signed.get("mxid").and_then(Value::as_str) != Some(self.target.as_str()) {
            return Err(SendError::InvalidParam("the identity server's word is about another user"));
        }
        let token = self.signed.get("token").and_then(Value::as_str);
        let token = token.filter(|token| !token.is_empty() && token.len() <= ID_BYTES_MAX);
        token.ok_or(SendError::InvalidParam("the identity server's word names no invite"))
    }

    /// The key of the pending invite that has signed the proof.
    fn signing_key(&self, pending: &Pending) -> Option<PendingKey> {
        let text = serde_json::to_string(&self.signed).expect("a map of values is JSON");
        let signatures = self.signed.get("signatures").and_then(Value::as_object).into_iter().flatten();
        let names = signatures.flat_map(|(server, keys)| {
            keys.as_object().into_iter().flatten().map(move |(key_id, _)| (server.as_str(), key_id.as_str()))
        });
        let names: Vec<(&str, &str)> = names.filter(|(_, id)| id.starts_with("ed25519:")).take(KEYS_MAX).collect();
        pending.keys().find(|key| {
            // "Using the standard or URL-safe alphabets."
            let public = key.public_key.replace('-', "+").replace('_', "/");
            names.iter().any(|(server, key_id)| is_signed_by(text.as_bytes(), server, key_id, &public))
        })
    }

    fn member_content(&self, display_name: &str) -> Map<String, Value> {
        let mut signed = self.signed.clone();
        // Not signed by anybody.
        signed.remove("unsigned");
        let mut content = Map::new();
        content.insert("third_party_invite".to_owned(), json!({ "display_name": display_name, "signed": signed }));
        content
    }
}

impl Rooms {
    /// Has an invite made of a pending one, because its identifier was bound by a user of ours: here if a user of ours
    /// asked for it, else by the server of who did. The caller has found that the user has an account and wants invites.
    pub async fn claim_third_party_invite(self: &Arc<Self>, invite: ThirdPartyInvite) -> Result<(), SendError> {
        invite.token()?;
        if invite.sender.server_name() == self.writer.server_name {
            return self.make_third_party_invite(invite).await.map(drop);
        }
        let mut content = invite.member_content("");
        content.insert("membership".to_owned(), "invite".into());
        let event = json!({
            "type": "m.room.member",
            "room_id": invite.room_id,
            "sender": invite.sender,
            "state_key": invite.target,
            "content": content,
        });
        let peers = &self.writer.peers;
        let server = invite.sender.server_name();
        let exchanged = peers.exchange_third_party_invite(server, &invite.room_id, event.to_string().into());
        exchanged.await.map_err(send_error)
    }

    /// Takes a partial member event by which another server asks for the invite of its user, and makes it.
    /// [`PUT /exchange_third_party_invite`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid).
    pub async fn exchange_third_party_invite(
        self: &Arc<Self>,
        origin: &ServerName,
        room_id: &RoomId,
        event: &EventBytes,
    ) -> Result<(), HandshakeError> {
        let invite = read_partial(event, room_id)?;
        if invite.target.server_name() != origin {
            return Err(HandshakeError::malformed("the invited user is not of your server"));
        }
        if invite.sender.server_name() != self.writer.server_name {
            return Err(HandshakeError::malformed("the inviting user is not of this server"));
        }
        self.room_for_handshake(origin, room_id).await?;
        match self.make_third_party_invite(invite).await {
            Ok(_) => Ok(()),
            Err(SendError::InvalidParam(reason)) => Err(HandshakeError::malformed(reason)),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes an invite of a pending one that a user of ours has sent, if the proof holds.
    async fn make_third_party_invite(self: &Arc<Self>, invite: ThirdPartyInvite) -> Result<OwnedEventId, SendError> {
        let token = invite.token()?;
        let store = &self.writer.store;
        let room = store.room_number(&invite.room_id).await?.ok_or(SendError::UnknownRoom)?;
        if store.joined_from(room, &self.writer.server_name).await? == 0 {
            return Err(SendError::UnknownRoom);
        }
        let unknown = || SendError::forbidden("the room has no such pending invite of this user");
        let stored = store.current_state_event(room, "m.room.third_party_invite", token).await?.ok_or_else(unknown)?;
        // Only what a user of ours asked for is signed by us.
        if stored.event.sender() != invite.sender {
            return Err(unknown());
        }
        let pending: Pending = stored.event.content_as().unwrap_or_default();
        let key = invite.signing_key(&pending);
        let key = key.ok_or_else(|| SendError::forbidden("the proof is not signed by a key of the pending invite"))?;
        // "If this URL is absent, the key must be considered valid indefinitely."
        if let Some(url) = &key.key_validity_url {
            match self.writer.peers.identity_key_is_valid(url, &key.public_key).await {
                Ok(true) => {}
                Ok(false) => return Err(SendError::forbidden("the identity server's key is no longer valid")),
                Err(error) => return Err(SendError::Unreachable(format!("the identity server's key: {error}"))),
            }
        }
        let content = invite.member_content(pending.display_name.as_deref().unwrap_or_default());
        let ThirdPartyInvite { room_id, sender, target, .. } = invite;
        let action = MemberAction::Invite;
        self.change_member(MemberChange { room_id, sender, target, action, content, guest: false }).await
    }
}

/// What the partial member event says; of its content only the proof counts.
fn read_partial(event: &EventBytes, room_id: &RoomId) -> Result<ThirdPartyInvite, HandshakeError> {
    #[derive(Deserialize)]
    struct Partial {
        r#type: String,
        room_id: OwnedRoomId,
        sender: OwnedUserId,
        state_key: OwnedUserId,
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        membership: String,
        third_party_invite: Proof,
    }
    #[derive(Deserialize)]
    struct Proof {
        signed: Map<String, Value>,
    }
    let partial: Partial =
        serde_json::from_slice(event).map_err(|error| HandshakeError::Malformed(format!("no such event: {error}")))?;
    if partial.r#type != "m.room.member" || partial.content.membership != "invite" {
        return Err(HandshakeError::malformed("the event is no invite"));
    }
    if partial.room_id != room_id {
        return Err(HandshakeError::malformed("the event is of another room"));
    }
    let Partial { room_id, sender, state_key: target, content, .. } = partial;
    Ok(ThirdPartyInvite { room_id, sender, target, signed: content.third_party_invite.signed })
}
