//! Registration tokens: who has one may make an account.

use hearth_store::{
    Table, Write,
    tables::users::{RegistrationTokenRow, registration_token_key, registration_token_partition},
};

use crate::{
    Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// The longest token. ("Token-authenticated registration": 64 characters.)
const TOKEN_BYTES_MAX: usize = 64;

/// A registration token and how long it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationToken {
    /// The token: 1 to 64 characters of the opaque identifier grammar.
    pub token: String,
    /// How many accounts it admits; `None` is any number.
    pub uses: Option<u32>,
    /// The end of its validity, in milliseconds since the Unix epoch.
    pub expires_ts_ms: Option<u64>,
}

/// Why a token was not used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenUseError {
    /// It does not exist, is used up, or its time is over.
    #[error("the registration token is not valid")]
    Invalid,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Users {
    /// Makes a token valid, or changes how long it is.
    pub async fn put_registration_token(&self, token: &RegistrationToken) -> Result<(), TokenUseError> {
        if !well_formed(&token.token) {
            return Err(TokenUseError::Invalid);
        }
        let mut write = Write::new(registration_token_partition(&token.token));
        let row = RegistrationTokenRow { uses_left: token.uses, expires_ts_ms: token.expires_ts_ms };
        write.put(Table::Mi, registration_token_key(&token.token), &row);
        self.store.commit(write).await.map_err(Fault::from)?;
        Ok(())
    }

    /// Whether a token admits a registration now.
    pub async fn registration_token_is_valid(&self, token: &str) -> Result<bool, Fault> {
        if !well_formed(token) {
            return Ok(false);
        }
        let row = self.store.get::<RegistrationTokenRow>(Table::Mi, &registration_token_key(token)).await?;
        Ok(row.is_some_and(|row| self.admits(&row)))
    }

    /// Takes one use from a token. It comes before the account is made: a use may get lost, but never counts twice.
    pub async fn use_registration_token(&self, token: &str) -> Result<(), TokenUseError> {
        self.change_uses(token, |uses| uses - 1).await
    }

    /// Gives back the use of a registration that made no account.
    pub async fn return_registration_token(&self, token: &str) -> Result<(), TokenUseError> {
        self.change_uses(token, |uses| uses.saturating_add(1)).await
    }

    async fn change_uses(&self, token: &str, change: impl Fn(u32) -> u32 + Send) -> Result<(), TokenUseError> {
        if !well_formed(token) {
            return Err(TokenUseError::Invalid);
        }
        let key = registration_token_key(token);
        for _ in 0..COMMIT_ATTEMPTS {
            let bytes =
                self.store.get_bytes(Table::Mi, &key).await.map_err(Fault::from)?.ok_or(TokenUseError::Invalid)?;
            let mut row: RegistrationTokenRow = hearth_store::decode(&bytes).map_err(Fault::from)?;
            let taking = change(1) == 0;
            if taking && !self.admits(&row) {
                return Err(TokenUseError::Invalid);
            }
            let Some(uses) = row.uses_left else { return Ok(()) };
            row.uses_left = Some(change(uses));
            let mut write = Write::new(registration_token_partition(token));
            write.require(Table::Mi, key.clone(), Some(bytes));
            write.put(Table::Mi, key.clone(), &row);
            if committed(self.store.commit(write).await)? {
                return Ok(());
            }
        }
        Err(Fault::contended().into())
    }

    fn admits(&self, row: &RegistrationTokenRow) -> bool {
        row.uses_left != Some(0) && row.expires_ts_ms.is_none_or(|end| end > self.clock.now_ms())
    }
}

/// The opaque identifier grammar.
fn well_formed(token: &str) -> bool {
    (1..=TOKEN_BYTES_MAX).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}
