//! The configuration's registration tokens.

use std::{sync::Arc, time::Duration};

use hearth_ports::Clock;
use hearth_users::{RegistrationToken, Secret, TokenUseError, Users};

/// Tokens are stored for this long only, so that one that was taken out of the configuration dies soon after.
const LIFETIME_MS: u64 = 15 * 60 * 1_000;

/// They are stored anew while the server runs; three attempts fit into a lifetime.
const RENEW_EVERY: Duration = Duration::from_secs(5 * 60);

/// Makes the tokens valid now, and as long as the server runs.
pub(crate) async fn keep(users: &Arc<Users>, clock: Arc<dyn Clock>, tokens: Vec<Secret>) -> Result<(), TokenUseError> {
    if tokens.is_empty() {
        return Ok(());
    }
    renew(users, &*clock, &tokens).await?;
    let users = Arc::downgrade(users);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let Some(users) = users.upgrade() else { return };
            if let Err(error) = renew(&users, &*clock, &tokens).await {
                tracing::warn!(%error, "registration tokens are not renewed");
            }
        }
    });
    Ok(())
}

async fn renew(users: &Users, clock: &dyn Clock, tokens: &[Secret]) -> Result<(), TokenUseError> {
    let expires_ts_ms = Some(clock.now_ms().saturating_add(LIFETIME_MS));
    for Secret(token) in tokens {
        users.put_registration_token(&RegistrationToken { token: token.clone(), uses: None, expires_ts_ms }).await?;
    }
    Ok(())
}
