//! What of the configuration the accounts obey.

use ruma::OwnedServerName;

/// Settings of [`crate::Users`].
#[derive(Clone, Debug)]
pub struct UserSettings {
    /// The server's name, the part behind the colon of its users' ids.
    pub server_name: OwnedServerName,
    /// Who may make an account.
    pub registration: Registration,
    /// Whether anybody may become a guest.
    pub guests: bool,
    /// The secret of Synapse's registration endpoint; `None` switches that off.
    pub shared_secret: Option<Secret>,
    /// The cost of a password.
    pub passwords: PasswordSettings,
    /// How long an access token lives, in milliseconds, for clients that said that they can refresh it.
    pub access_token_lifetime_ms: u64,
    /// Whether presence is kept and shown.
    pub presence: bool,
    /// Whether other servers are told anything: else nothing is queued for them.
    pub federates: bool,
}

impl UserSettings {
    /// Closed registration, no guests, passwords as expensive as OWASP advises, presence on.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            registration: Registration::Closed,
            guests: false,
            shared_secret: None,
            passwords: PasswordSettings::default(),
            access_token_lifetime_ms: 60 * 60 * 1_000,
            presence: true,
            federates: true,
        }
    }
}

/// Who may make an account by `POST /register`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Nobody.
    Closed,
    /// Whoever has a registration token.
    Token,
    /// Anybody.
    Open,
}

/// What argon2id costs. 19 MiB and 2 passes is what OWASP advises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordSettings {
    /// Memory of one computation, in KiB; at least 8.
    pub argon2_memory_kib: u32,
    /// Passes; at least 1.
    pub argon2_iterations: u32,
    /// How many are computed at the same time.
    pub concurrent_max: usize,
}

impl Default for PasswordSettings {
    fn default() -> Self {
        Self { argon2_memory_kib: 19 * 1024, argon2_iterations: 2, concurrent_max: 2 }
    }
}

/// A secret of the configuration. It does not show itself in logs.
#[derive(Clone)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}
