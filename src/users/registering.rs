//! Registrations: how an account is made, with a use of a registration token or without.
//!
//! Token and account are of two partitions, so the use is claimed first and the account made after; of the two only the
//! account counts. Its batch names the registration in a row of the user, and requires that row to be as it was before
//! the claim: who takes a claim back changes the row first, so a registration that dawdled makes nothing.

use bytes::Bytes;
use hearth_store::{
    LogEntry, Table, UserNumber, Write,
    tables::users::{
        AccountKind, AccountRow, PasswordHash, RegistrationId, RegistrationRow, account_key, registration_key,
    },
};
use ruma::{OwnedUserId, UserId};

use crate::{
    AccountError, Fault, NewAccount, Passed, TokenUseError, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// What a registration makes.
#[derive(Clone, Debug)]
pub enum Registrant {
    /// An account.
    New(NewAccount),
    /// A full account of a guest. The guest's sessions remain.
    Guest {
        /// The guest.
        user_id: OwnedUserId,
        /// The password that the account gets.
        password: PasswordHash,
    },
}

/// Why a registration made no account.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegisterError {
    /// The name is taken, if only by an account that was deactivated.
    #[error("the user name is taken")]
    InUse,
    /// The guest is gone.
    #[error("no such guest")]
    NoGuest,
    /// The registration token does not exist, is used up, or its time is over.
    #[error("the registration token is not valid")]
    Token,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A user's registration row, as it was read.
pub(crate) struct Before {
    bytes: Option<Bytes>,
    row: Option<RegistrationRow>,
}

impl Users {
    /// Makes the account of a registration that passed, and uses up its token. The same session with the same name makes
    /// it once: whoever repeats the request, though the server ended in between, is given the same account.
    pub async fn register(&self, passed: &Passed, registrant: &Registrant) -> Result<OwnedUserId, RegisterError> {
        let user_id = match registrant {
            Registrant::New(new) => new.localpart.user_id(&self.settings.server_name),
            Registrant::Guest { user_id, .. } => user_id.clone(),
        };
        let session = passed.session.as_deref();
        let session = session.ok_or_else(|| Fault::Broken("a registration without a session".to_owned()))?;
        let registration = registration_id(session, &user_id);
        let user = self.store.ensure_user_number(&user_id).await.map_err(Fault::from)?;
        let token = passed.registration_token.as_deref();
        let made = self.register_as(user, &user_id, registration, token, registrant).await;
        if let (Err(RegisterError::InUse | RegisterError::NoGuest), Some(token)) = (&made, token)
            && let Err(error) = self.release_use(token, registration).await
        {
            tracing::warn!(%error, "a use of a registration token comes back later");
        }
        made.map(|()| user_id)
    }

    async fn register_as(
        &self,
        user: UserNumber,
        user_id: &UserId,
        registration: RegistrationId,
        token: Option<&str>,
        registrant: &Registrant,
    ) -> Result<(), RegisterError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let before = self.before(user).await?;
            if let Some(row) = before.row.filter(|row| row.made) {
                return if row.registration == registration { Ok(()) } else { Err(RegisterError::InUse) };
            }
            if matches!(registrant, Registrant::New(_)) && self.load_account_of(user).await?.is_some() {
                return Err(RegisterError::InUse);
            }
            if let Some(token) = token {
                self.claim_use(token, user, registration).await.map_err(|error| match error {
                    TokenUseError::Invalid => RegisterError::Token,
                    TokenUseError::Fault(fault) => fault.into(),
                })?;
            }
            if self.make(user, user_id, registration, &before, registrant).await? {
                return Ok(());
            }
        }
        Err(Fault::contended().into())
    }

    /// What a user's registration row says now. To be read before a use is claimed.
    pub(crate) async fn before(&self, user: UserNumber) -> Result<Before, Fault> {
        let bytes = self.store.get_bytes(Table::Us, &registration_key(user)).await?;
        let row = bytes.as_ref().map(|bytes| hearth_store::decode(bytes)).transpose()?;
        Ok(Before { bytes, row })
    }

    /// Makes the account, if nothing happened since `before`; else `false`.
    pub(crate) async fn make(
        &self,
        user: UserNumber,
        user_id: &UserId,
        registration: RegistrationId,
        before: &Before,
        registrant: &Registrant,
    ) -> Result<bool, RegisterError> {
        let mut write = Write::new(user.partition());
        before.replace(&mut write, user, RegistrationRow { registration, made: true, closed: before.closed() });
        match registrant {
            Registrant::New(new) => {
                write.require_absent(Table::Us, account_key(user));
                write.put(Table::Us, account_key(user), &self.account_row(new, user_id));
            }
            Registrant::Guest { password, .. } => {
                let loaded = self.load_active(user_id).await.map_err(|error| match error {
                    AccountError::NotFound | AccountError::Password(_) => RegisterError::NoGuest,
                    AccountError::Fault(fault) => fault.into(),
                })?;
                if loaded.row.kind != AccountKind::Guest {
                    return Err(RegisterError::InUse);
                }
                let password = Some(password.clone());
                loaded.replace(&mut write, &AccountRow { kind: AccountKind::Full, password, ..loaded.row.clone() });
            }
        }
        let at = write.position();
        write.log(at, LogEntry::Account { user });
        let is_made = committed(self.store.commit(write).await)?;
        if is_made {
            self.sessions.remove_user(user);
        }
        Ok(is_made)
    }

    /// Whether a registration has made its account; if not, what it read before is no longer so, and it makes none.
    pub(crate) async fn close_registration(
        &self,
        user: UserNumber,
        registration: RegistrationId,
    ) -> Result<bool, Fault> {
        for _ in 0..COMMIT_ATTEMPTS {
            let before = self.before(user).await?;
            // Who finds another's account gives up by itself.
            if let Some(row) = before.row.filter(|row| row.made) {
                return Ok(row.registration == registration);
            }
            let closed = before.closed().wrapping_add(1);
            let mut write = Write::new(user.partition());
            before.replace(&mut write, user, RegistrationRow { registration, made: false, closed });
            if committed(self.store.commit(write).await)? {
                return Ok(false);
            }
        }
        Err(Fault::contended())
    }
}

impl Before {
    fn closed(&self) -> u32 {
        self.row.map_or(0, |row| row.closed)
    }

    fn replace(&self, write: &mut Write, user: UserNumber, row: RegistrationRow) {
        write.require(Table::Us, registration_key(user), self.bytes.clone());
        write.put(Table::Us, registration_key(user), &row);
    }
}

/// Names the registration of this user in this session. A session that changes the name is another registration.
pub(crate) fn registration_id(session: &str, user_id: &UserId) -> RegistrationId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(session.len() as u64).to_be_bytes()).update(session.as_bytes()).update(user_id.as_bytes());
    let mut short = [0; 16];
    hasher.finalize_xof().fill(&mut short);
    short
}
