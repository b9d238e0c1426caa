//! Access tokens, and what is remembered of them so that authenticating a request reads nothing.

use std::sync::Arc;

use hearth_ports::Entropy;
use hearth_store::{UserNumber, tables::users::TokenHash};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use crate::memory::Memory;

/// Characters of a token: 62 to the power of 43 is more than 2 to the power of 256.
const TOKEN_CHARACTERS: usize = 43;

/// Sessions kept in memory, some 300 bytes each. Others are read again.
pub(crate) const SESSIONS_MAX: usize = 32_768;

/// The account and device behind an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The account.
    pub user_id: OwnedUserId,
    /// Its number.
    pub user: UserNumber,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// Names the token without being it.
    pub token_id: u64,
    /// A guest account.
    pub guest: bool,
    /// An administrator of this server.
    pub admin: bool,
    /// See "Account suspension".
    pub suspended: bool,
    /// See "Account locking".
    pub locked: bool,
}

impl Session {
    /// The account.
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// The device.
    pub fn device_id(&self) -> &DeviceId {
        &self.device_id
    }
}

/// A new token and its hash.
pub(crate) fn new_token(entropy: &(dyn Entropy + 'static)) -> (String, TokenHash) {
    let token = entropy.alphanumeric(TOKEN_CHARACTERS);
    let hash = token_hash(&token);
    (token, hash)
}

/// Under which a token is stored.
pub(crate) fn token_hash(token: &str) -> TokenHash {
    *blake3::hash(token.as_bytes()).as_bytes()
}

/// The public name of a token.
pub(crate) fn token_id(hash: &TokenHash) -> u64 {
    hash.first_chunk::<8>().map_or(0, |start| u64::from_be_bytes(*start))
}

/// A remembered session.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) session: Arc<Session>,
    pub(crate) expires_ts_ms: Option<u64>,
}

/// The remembered sessions.
pub(crate) type SessionCache = Memory<TokenHash, Known>;

impl SessionCache {
    /// Forgets all tokens of a user, whose rights have changed.
    pub(crate) fn remove_user(&self, user: UserNumber) {
        self.retain(|_, known| known.session.user != user);
    }
}
