//! Registration by whoever knows the configured secret, as Synapse's tools do it: a nonce, and an HMAC-SHA1 over nonce,
//! name, password and `admin` or `notadmin`, each followed by a zero byte.

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use ruma::OwnedUserId;
use sha1::Sha1;

use crate::{AccountKind, BadName, CreateError, Fault, Localpart, NewAccount, PasswordError, Users};

/// How long a nonce is good.
const NONCE_LIFETIME_MS: u64 = 60 * 1_000;

/// Nonces that wait to be used. When there are more the oldest is forgotten.
const NONCES_MAX: usize = 1_000;

/// Nonces that were handed out, each with the end of its time, oldest first.
pub(crate) struct Nonces(Mutex<std::collections::VecDeque<(String, u64)>>);

impl Nonces {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }
}

/// Why no account was made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SharedSecretError {
    /// No secret is configured.
    #[error("shared secret registration is not enabled")]
    Disabled,
    /// The nonce was not given out, was used, or is too old.
    #[error("unrecognised nonce")]
    Nonce,
    /// The code does not fit.
    #[error("HMAC incorrect")]
    Code,
    /// The name can't be one.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The password can't be one.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The name is taken.
    #[error("the user name is taken")]
    InUse,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Users {
    /// A nonce for one registration.
    pub fn shared_secret_nonce(&self) -> Result<String, SharedSecretError> {
        if self.settings.shared_secret.is_none() {
            return Err(SharedSecretError::Disabled);
        }
        let nonce = self.entropy.alphanumeric(40);
        let now_ms = self.clock.now_ms();
        let mut nonces = self.nonces.0.lock();
        while nonces.front().is_some_and(|(_, end)| *end <= now_ms) || nonces.len() >= NONCES_MAX {
            nonces.pop_front();
        }
        nonces.push_back((nonce.clone(), now_ms + NONCE_LIFETIME_MS));
        Ok(nonce)
    }

    /// Makes an account. `code` is the HMAC in hexadecimal digits, over the texts exactly as they were sent.
    pub async fn register_by_shared_secret(
        &self,
        nonce: &str,
        username: &str,
        password: &str,
        admin: bool,
        user_type: Option<&str>,
        code: &str,
    ) -> Result<OwnedUserId, SharedSecretError> {
        let Some(secret) = &self.settings.shared_secret else { return Err(SharedSecretError::Disabled) };
        self.take_nonce(nonce)?;
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.0.as_bytes()).expect("an HMAC takes keys of any length");
        mac.update(nonce.as_bytes());
        let admin_word = if admin { "admin" } else { "notadmin" };
        for part in [Some(username), Some(password), Some(admin_word), user_type].into_iter().flatten() {
            mac.update(b"\0");
            mac.update(part.as_bytes());
        }
        let code = unhex(code).ok_or(SharedSecretError::Code)?;
        // Compares in constant time.
        mac.verify_slice(&code).map_err(|_| SharedSecretError::Code)?;
        let localpart = Localpart::parse(username, &self.settings.server_name)?;
        let password = Some(self.passwords.hash(password).await?);
        match self.create(&NewAccount { localpart, password, kind: AccountKind::Full, admin }).await {
            Ok(user_id) => Ok(user_id),
            Err(CreateError::InUse) => Err(SharedSecretError::InUse),
            Err(CreateError::Fault(fault)) => Err(fault.into()),
        }
    }

    fn take_nonce(&self, nonce: &str) -> Result<(), SharedSecretError> {
        let now_ms = self.clock.now_ms();
        let mut nonces = self.nonces.0.lock();
        let at =
            nonces.iter().position(|(known, end)| known == nonce && *end > now_ms).ok_or(SharedSecretError::Nonce)?;
        nonces.remove(at);
        Ok(())
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}
