//! OpenID tokens: a user proves to a third party who they are, without giving it anything else.

use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};

use crate::{
    Users,
    tokens::{new_token, token_hash},
};
use hearth_store::tables::users::TokenHash;

/// How long a token is good, in milliseconds.
pub const OPENID_TOKEN_LIFETIME_MS: u64 = 60 * 60 * 1_000;

/// Tokens in memory, some 100 bytes each. They do not survive a restart: whoever needs one asks for another.
const TOKENS_MAX: usize = 65_536;

pub(crate) struct OpenidTokens(Cache<TokenHash, (OwnedUserId, u64)>);

impl OpenidTokens {
    pub(crate) fn new() -> Self {
        Self(Cache::new(TOKENS_MAX))
    }
}

/// A token for a third party.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenidToken {
    /// To be shown to this server by the third party.
    pub access_token: String,
    /// How long it is good, in seconds.
    pub expires_in_s: u64,
}

impl Users {
    /// A new token of this user.
    pub fn openid_token(&self, user_id: &UserId) -> OpenidToken {
        let (access_token, hash) = new_token(&*self.entropy);
        self.openid_tokens.0.insert(hash, (user_id.to_owned(), self.clock.now_ms() + OPENID_TOKEN_LIFETIME_MS));
        OpenidToken { access_token, expires_in_s: OPENID_TOKEN_LIFETIME_MS / 1_000 }
    }

    /// Whose token this is.
    pub fn openid_user(&self, token: &str) -> Option<OwnedUserId> {
        let (user_id, end) = self.openid_tokens.0.get(&token_hash(token))?;
        (end > self.clock.now_ms()).then_some(user_id)
    }
}
