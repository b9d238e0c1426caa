//! Registrations under way: what holds a use of a token, and which of them made the account.

use hearth_ports::Key;
use serde::{Deserialize, Serialize};

use crate::{UserNumber, key, row};

/// Names a registration: a hash of its session of interactive authentication and its user.
pub type RegistrationId = [u8; 16];

/// The registration that made an account, or one that never will. It outlives the registration's claim on a token, so that
/// the fate of the claim can be told at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationRow {
    /// Which one.
    pub registration: RegistrationId,
    /// It made the account. Else its time was over before.
    pub made: bool,
    /// How often the time of a registration of this user was over: who registers requires this row, and so loses against
    /// who ends it.
    pub closed: u32,
}

row!(RegistrationRow, "registration", version 1);

/// One use of a registration token, held for a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClaimRow {
    /// Who registers.
    pub user: UserNumber,
    /// From then on it counts only if the registration made its account, in milliseconds since the Unix epoch.
    pub expires_ts_ms: u64,
}

row!(TokenClaimRow, "token claim", version 1);

/// `Us`: who made the account.
pub fn registration_key(user: UserNumber) -> Key {
    key(b'r').user(user).build()
}

/// `Mi`: a claim, in the partition of its token.
pub fn token_claim_key(token: &str, registration: &RegistrationId) -> Key {
    key(b'G').text(token).raw(registration).build()
}

/// What all keys of [`token_claim_key`] begin with: of one token, or of all.
pub fn token_claims_prefix(token: Option<&str>) -> Key {
    match token {
        Some(token) => key(b'G').text(token).build(),
        None => key(b'G').build(),
    }
}

/// Token and registration of a key of [`token_claim_key`].
pub fn token_claim_of_key(key: &[u8]) -> Option<(&str, RegistrationId)> {
    let (token, registration) = key.strip_prefix(b"G")?.split_last_chunk::<16>()?;
    let token = token.strip_suffix(&[0xff])?;
    Some((std::str::from_utf8(token).ok()?, *registration))
}
