//! Registration tokens: who has one may make an account.

use bytes::Bytes;
use hearth_ports::{KeyRange, Page};
use hearth_store::{
    Table, UserNumber, Write,
    tables::users::{
        RegistrationId, RegistrationTokenRow, TokenClaimRow, registration_token_key, registration_token_partition,
        token_claim_key, token_claim_of_key, token_claims_prefix,
    },
};

use crate::{
    Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// The longest token. ("Token-authenticated registration": 64 characters.)
const TOKEN_BYTES_MAX: usize = 64;

/// How long a registration has to make its account. As long as a session of interactive authentication lives: who comes
/// again with the session finds the use that it holds.
const CLAIM_LIFETIME_MS: u64 = 15 * 60 * 1_000;

/// Claims of one token that are replaced together with it: 100 bytes each, more than there are registrations in a quarter
/// of an hour.
const CLAIMS_MAX: usize = 10_000;

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

/// A stored claim.
struct Claim {
    registration: RegistrationId,
    bytes: Bytes,
    row: TokenClaimRow,
}

impl Users {
    /// Makes a token valid, or changes how long it is. Accounts that are being made meanwhile count as made before.
    pub async fn put_registration_token(&self, token: &RegistrationToken) -> Result<(), TokenUseError> {
        if !well_formed(&token.token) {
            return Err(TokenUseError::Invalid);
        }
        let key = registration_token_key(&token.token);
        for _ in 0..COMMIT_ATTEMPTS {
            let before = self.store.get_bytes(Table::Mi, &key).await.map_err(Fault::from)?;
            let claims = KeyRange::prefix(token_claims_prefix(Some(&token.token)));
            let claims = self.store.scan_all(Table::Mi, claims, CLAIMS_MAX, false).await.map_err(Fault::from)?;
            let mut write = Write::new(registration_token_partition(&token.token));
            write.require(Table::Mi, key.clone(), before);
            claims.into_iter().for_each(|claim| write.delete(Table::Mi, claim.key));
            let row = RegistrationTokenRow { uses_left: token.uses, expires_ts_ms: token.expires_ts_ms };
            write.put(Table::Mi, key.clone(), &row);
            if committed(self.store.commit(write).await)? {
                return Ok(());
            }
        }
        Err(Fault::contended().into())
    }

    /// Whether a token admits a registration now.
    pub async fn registration_token_is_valid(&self, token: &str) -> Result<bool, Fault> {
        let Some((_, mut row)) = self.load_token(token).await? else { return Ok(false) };
        if row.uses_left == Some(0) {
            self.settle_claims(Some(token)).await?;
            let Some((_, settled)) = self.load_token(token).await? else { return Ok(false) };
            row = settled;
        }
        Ok(self.admits(&row))
    }

    /// Takes one use from a token and holds it for a registration, unless it holds one already. If the registration makes
    /// no account, the use goes back: by [`Self::release_use`], or when the claim's time is over.
    pub(crate) async fn claim_use(
        &self,
        token: &str,
        user: UserNumber,
        registration: RegistrationId,
    ) -> Result<(), TokenUseError> {
        let claim_key = token_claim_key(token, &registration);
        let mut is_settled = false;
        for _ in 0..COMMIT_ATTEMPTS {
            let (bytes, mut row) = self.load_token(token).await?.ok_or(TokenUseError::Invalid)?;
            let held = self.store.get_bytes(Table::Mi, &claim_key).await.map_err(Fault::from)?;
            let mut write = Write::new(registration_token_partition(token));
            if held.is_none() {
                if row.uses_left == Some(0) && !std::mem::replace(&mut is_settled, true) {
                    self.settle_claims(Some(token)).await?;
                    continue;
                }
                if !self.admits(&row) {
                    return Err(TokenUseError::Invalid);
                }
                let Some(uses) = row.uses_left else { return Ok(()) };
                row.uses_left = Some(uses.saturating_sub(1));
                write.require(Table::Mi, registration_token_key(token), Some(bytes));
                write.put(Table::Mi, registration_token_key(token), &row);
            }
            // One that is held is renewed, so that nobody takes it back as it was.
            let expires_ts_ms = self.clock.now_ms() + CLAIM_LIFETIME_MS;
            write.require(Table::Mi, claim_key.clone(), held);
            write.put(Table::Mi, claim_key.clone(), &TokenClaimRow { user, expires_ts_ms });
            if committed(self.store.commit(write).await)? {
                return Ok(());
            }
        }
        Err(Fault::contended().into())
    }

    /// Gives back the use of a registration that makes no account.
    pub(crate) async fn release_use(&self, token: &str, registration: RegistrationId) -> Result<(), Fault> {
        let bytes = self.store.get_bytes(Table::Mi, &token_claim_key(token, &registration)).await?;
        let Some(bytes) = bytes else { return Ok(()) };
        let row = hearth_store::decode(&bytes)?;
        self.settle_claim(token, &Claim { registration, bytes, row }).await
    }

    /// Decides about the claims whose time is over, of one token or of all.
    pub(crate) async fn settle_claims(&self, token: Option<&str>) -> Result<(), Fault> {
        const PAGE: usize = 256;
        let now_ms = self.clock.now_ms();
        let mut range = KeyRange::prefix(token_claims_prefix(token));
        loop {
            let page = self.store.scan_bytes(Table::Mi, range.clone(), Page::first(PAGE)).await?;
            let Some(last) = page.last() else { return Ok(()) };
            range.from = [&last.key[..], &[0]].concat().into();
            for entry in page {
                let row: TokenClaimRow = hearth_store::decode(&entry.value)?;
                if let (true, Some((token, registration))) =
                    (row.expires_ts_ms <= now_ms, token_claim_of_key(&entry.key))
                {
                    self.settle_claim(token, &Claim { registration, bytes: entry.value, row }).await?;
                }
            }
        }
    }

    /// Ends a claim. If its registration made no account it counts as absent: the use goes back, and the registration
    /// makes none any more.
    async fn settle_claim(&self, token: &str, claim: &Claim) -> Result<(), Fault> {
        let claim_key = token_claim_key(token, &claim.registration);
        for _ in 0..COMMIT_ATTEMPTS {
            let is_used = self.close_registration(claim.row.user, claim.registration).await?;
            let mut write = Write::new(registration_token_partition(token));
            write.require(Table::Mi, claim_key.clone(), Some(claim.bytes.clone()));
            write.delete(Table::Mi, claim_key.clone());
            if !is_used
                && let Some((bytes, mut row)) = self.load_token(token).await?
                && let Some(uses) = row.uses_left
            {
                row.uses_left = Some(uses.saturating_add(1));
                write.require(Table::Mi, registration_token_key(token), Some(bytes));
                write.put(Table::Mi, registration_token_key(token), &row);
            }
            let is_done = committed(self.store.commit(write).await)?;
            // Somebody else settled it, or the registration goes on and has renewed it.
            let is_gone = || async {
                let now = self.store.get_bytes(Table::Mi, &claim_key).await?;
                Ok::<_, Fault>(now.as_ref() != Some(&claim.bytes))
            };
            if is_done || is_gone().await? {
                return Ok(());
            }
        }
        Err(Fault::contended())
    }

    async fn load_token(&self, token: &str) -> Result<Option<(Bytes, RegistrationTokenRow)>, Fault> {
        if !well_formed(token) {
            return Ok(None);
        }
        let Some(bytes) = self.store.get_bytes(Table::Mi, &registration_token_key(token)).await? else {
            return Ok(None);
        };
        let row = hearth_store::decode(&bytes)?;
        Ok(Some((bytes, row)))
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
