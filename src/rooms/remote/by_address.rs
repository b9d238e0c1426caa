//! Inviting people of whom only a third-party identifier is known, such as a mail address.
//! [Third-party invites](https://spec.matrix.org/v1.19/client-server-api/#third-party-invites).
//!
//! The identity server that the inviter names either knows who they are, or keeps the invite until they say so; what then
//! comes of it is in [`crate::handshake`].

use std::sync::Arc;

use hearth_core::ID_BYTES_MAX;
use hearth_ports::{IdentityServer, StoredInvite};
use hearth_store::{LoadError, RoomNumber, tables::Membership};
use ruma::{OwnedEventId, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::send_error;
use crate::{
    SendError,
    rooms::{Rooms, StateChange},
};

/// The longest field of an address, in bytes; of the token, too.
const FIELD_BYTES_MAX: usize = 1_024;

/// Keys of an identity server that go into a room. They have two.
const KEYS_MAX: usize = 8;

/// What the identity server says for everybody to see, in characters.
const DISPLAY_NAME_MAX: usize = 255;

/// Where somebody is reached, and who may know their Matrix id.
#[derive(Clone, Debug)]
pub struct Address {
    /// The identity server's host.
    pub identity_server: String,
    /// The inviter's token there.
    pub access_token: String,
    /// What kind of address it is: `email`.
    pub medium: String,
    /// The address.
    pub address: String,
}

impl Address {
    fn check(&self) -> Result<IdentityServer<'_>, SendError> {
        let fields = [&self.identity_server, &self.access_token, &self.medium, &self.address];
        if fields.into_iter().any(|field| field.is_empty() || field.len() > FIELD_BYTES_MAX) {
            return Err(SendError::InvalidParam("a field of the address is empty or too long"));
        }
        Ok(IdentityServer { name: &self.identity_server, access_token: &self.access_token })
    }
}

impl Rooms {
    /// The user who has bound the address; `None`: nobody has.
    pub async fn find_by_address(&self, address: &Address) -> Result<Option<OwnedUserId>, SendError> {
        let server = address.check()?;
        let found = self.writer.peers.identity_lookup(&server, &address.medium, &address.address).await;
        found.map_err(send_error)
    }

    /// Invites whoever will bind the address: the identity server keeps the invite, the room has a sign of it.
    pub async fn invite_by_address(
        self: &Arc<Self>,
        room_id: &RoomId,
        sender: &UserId,
        address: &Address,
    ) -> Result<OwnedEventId, SendError> {
        let server = address.check()?;
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(SendError::UnknownRoom)?;
        let membership = match store.user_number(sender).await? {
            Some(user) => store.membership(user, room).await?,
            None => None,
        };
        if membership.is_none_or(|row| row.membership != Membership::Join) {
            return Err(SendError::forbidden("you are not in this room"));
        }
        let told = self.told_of(room, room_id, sender, address).await?;
        let told = Value::Object(told).to_string().into();
        let stored = self.writer.peers.identity_store_invite(&server, told).await.map_err(send_error)?;
        let (token, content) = pending(stored, &address.identity_server)?;
        let change = StateChange {
            room_id: room_id.to_owned(),
            sender: sender.to_owned(),
            kind: "m.room.third_party_invite".to_owned(),
            state_key: token,
            content: to_raw_value(&content).map_err(|error| SendError::Unavailable(error.to_string()))?,
            guest: false,
            ts_ms: None,
        };
        self.set_state(change).await
    }

    /// What the identity server is told, so that its mail can say who invites and where to.
    async fn told_of(
        &self,
        room: RoomNumber,
        room_id: &RoomId,
        sender: &UserId,
        address: &Address,
    ) -> Result<Map<String, Value>, LoadError> {
        let Address { medium, address, .. } = address;
        let mut told = Map::new();
        for (name, value) in [("medium", medium.as_str()), ("address", address), ("room_id", room_id.as_str())] {
            told.insert(name.to_owned(), value.into());
        }
        told.insert("sender".to_owned(), sender.as_str().into());
        let fields = [
            ("room_alias", "m.room.canonical_alias", "", "alias"),
            ("room_avatar_url", "m.room.avatar", "", "url"),
            ("room_join_rules", "m.room.join_rules", "", "join_rule"),
            ("room_name", "m.room.name", "", "name"),
            ("room_type", "m.room.create", "", "type"),
            ("sender_display_name", "m.room.member", sender.as_str(), "displayname"),
            ("sender_avatar_url", "m.room.member", sender.as_str(), "avatar_url"),
        ];
        for (name, kind, state_key, field) in fields {
            let stored = self.writer.store.current_state_event(room, kind, state_key).await?;
            let Some(stored) = stored else { continue };
            let content: Map<String, Value> = stored.event.content_as().unwrap_or_default();
            let text = content.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
            told.extend(text.map(|text| (name.to_owned(), text.into())));
        }
        Ok(told)
    }
}

/// The state key and content of `m.room.third_party_invite`.
fn pending(stored: StoredInvite, server: &str) -> Result<(String, Value), SendError> {
    let unusable = || SendError::Unreachable("the identity server's answer is not usable".to_owned());
    let StoredInvite { token, public_keys, display_name } = stored;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'=' | b'_' | b'-');
    if token.is_empty() || token.len() > ID_BYTES_MAX || !token.bytes().all(is_allowed) {
        return Err(unusable());
    }
    let first = public_keys.first().ok_or_else(unusable)?.public_key.clone();
    let keys = public_keys.into_iter().take(KEYS_MAX);
    let keys: Vec<Value> =
        keys.map(|key| json!({ "public_key": key.public_key, "key_validity_url": key.key_validity_url })).collect();
    let content = json!({
        "display_name": display_name.chars().take(DISPLAY_NAME_MAX).collect::<String>(),
        "key_validity_url": format!("https://{server}/_matrix/identity/v2/pubkey/isvalid"),
        "public_key": first,
        "public_keys": keys,
    });
    Ok((token, content))
}
