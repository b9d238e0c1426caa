//! Accounts: made once, never deleted.

use bytes::Bytes;
use hearth_ports::{KeyRange, Page};
use hearth_store::{
    LogEntry, Table, UserNumber, Write,
    tables::users::{
        AccountKind, AccountRow, DepartureRow, PasswordHash, account_key, account_of_key, accounts_prefix,
        cross_signing_key, departure_key, profile_key,
    },
};
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};

use crate::{
    Departure, Fault, Localpart, PasswordError, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// An account as administrators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user id.
    pub user_id: OwnedUserId,
    /// Its number.
    pub user: UserNumber,
    /// Full or guest.
    pub kind: AccountKind,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ts_ms: u64,
    /// An administrator of this server.
    pub admin: bool,
    /// See "Account suspension".
    pub suspended: bool,
    /// See "Account locking".
    pub locked: bool,
    /// Deactivated for ever.
    pub deactivated: bool,
}

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Its name.
    pub localpart: Localpart,
    /// Its password; without one nobody can log in to it.
    pub password: Option<PasswordHash>,
    /// Full or guest.
    pub kind: AccountKind,
    /// An administrator of this server.
    pub admin: bool,
}

/// Why an account was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CreateError {
    /// The name is taken, if only by an account that was deactivated.
    #[error("the user name is taken")]
    InUse,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why an account was not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AccountError {
    /// There is no such account, or it is deactivated.
    #[error("no such account")]
    NotFound,
    /// The password can't be one.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Users whose erasure was asked for recently: 10,000 answers of some 100 bytes.
const ERASED_KNOWN_MAX: usize = 10_000;

/// What is remembered of accounts.
pub(crate) struct AccountMemory {
    erased: Cache<OwnedUserId, bool>,
}

impl AccountMemory {
    pub(crate) fn new() -> Self {
        Self { erased: Cache::new(ERASED_KNOWN_MAX) }
    }
}

/// An account that was read, and the bytes that a batch requires.
pub(crate) struct Loaded {
    pub(crate) user: UserNumber,
    pub(crate) bytes: Bytes,
    pub(crate) row: AccountRow,
}

impl Loaded {
    /// The account must still be as it was read.
    pub(crate) fn require(&self, write: &mut Write) {
        write.require(Table::Us, account_key(self.user), Some(self.bytes.clone()));
    }

    /// Replaces the account.
    pub(crate) fn replace(&self, write: &mut Write, row: &AccountRow) {
        self.require(write);
        write.put(Table::Us, account_key(self.user), row);
    }
}

impl Users {
    /// Makes an account. Registrations come by [`Users::register`].
    pub async fn create(&self, new: &NewAccount) -> Result<OwnedUserId, CreateError> {
        let user_id = new.localpart.user_id(&self.settings.server_name);
        let user = self.store.ensure_user_number(&user_id).await.map_err(Fault::from)?;
        let row = self.account_row(new, &user_id);
        let mut write = Write::new(user.partition());
        write.require_absent(Table::Us, account_key(user));
        write.put(Table::Us, account_key(user), &row);
        let at = write.position();
        write.log(at, LogEntry::Account { user });
        if committed(self.store.commit(write).await)? { Ok(user_id) } else { Err(CreateError::InUse) }
    }

    /// The row of an account that is made now.
    pub(crate) fn account_row(&self, new: &NewAccount, user_id: &UserId) -> AccountRow {
        AccountRow {
            user_id: user_id.to_string(),
            kind: new.kind,
            password: new.password.clone(),
            created_ts_ms: self.clock.now_ms(),
            admin: new.admin,
            suspended: false,
            locked: false,
            deactivated: false,
            erased: false,
        }
    }

    /// Makes an account with a plain password, for `hearth user create`.
    pub async fn create_account(
        &self,
        localpart: Localpart,
        password: &str,
        admin: bool,
    ) -> Result<OwnedUserId, CreateError> {
        let password = self.passwords.hash(password).await.map_err(|error| Fault::Unavailable(error.to_string()))?;
        self.create(&NewAccount { localpart, password: Some(password), kind: AccountKind::Full, admin }).await
    }

    /// Makes a guest.
    pub async fn create_guest(&self) -> Result<OwnedUserId, CreateError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let mut number = [0; 8];
            self.entropy.fill(&mut number);
            // 14 digits: long enough to be free at once, and not to look like somebody's phone number.
            let number = u64::from_be_bytes(number) % 100_000_000_000_000;
            let localpart = Localpart::parse_any(&format!("{number:014}"), &self.settings.server_name)
                .map_err(|error| Fault::Broken(error.to_string()))?;
            let guest = NewAccount { localpart, password: None, kind: AccountKind::Guest, admin: false };
            match self.create(&guest).await {
                Err(CreateError::InUse) => {}
                result => return result,
            }
        }
        Err(Fault::contended().into())
    }

    /// Hashes a password that an account is to get.
    pub async fn hash_password(&self, password: &str) -> Result<PasswordHash, PasswordError> {
        self.passwords.hash(password).await
    }

    /// A name for somebody who did not wish for one.
    pub fn free_localpart(&self) -> Localpart {
        const LETTERS: usize = 12;
        let name = format!("u{}", self.entropy.alphanumeric(LETTERS).to_ascii_lowercase());
        Localpart::parse(&name, &self.settings.server_name).expect("letters and digits make a localpart")
    }

    /// Whether a name is taken, now.
    pub async fn is_taken(&self, localpart: &Localpart) -> Result<bool, Fault> {
        let user_id = localpart.user_id(&self.settings.server_name);
        Ok(self.load_account(&user_id).await?.is_some())
    }

    /// An account, deactivated ones included.
    pub async fn account(&self, user_id: &UserId) -> Result<Option<Account>, Fault> {
        Ok(self.load_account(user_id).await?.and_then(|loaded| account(loaded.user, &loaded.row)))
    }

    /// A page of accounts in a fixed order, beginning after `after`.
    pub async fn list(&self, after: Option<UserNumber>, limit: usize) -> Result<Vec<Account>, Fault> {
        let mut range = KeyRange::prefix(accounts_prefix());
        if let Some(next) = after.and_then(|after| after.0.checked_add(1)) {
            range.from = account_key(UserNumber(next));
        }
        let rows = self.store.scan::<AccountRow>(Table::Us, range, Page::first(limit)).await?;
        Ok(rows.iter().filter_map(|(key, row)| account(account_of_key(key)?, row)).collect())
    }

    /// How many accounts there are. Reads them all.
    pub async fn count(&self) -> Result<u64, Fault> {
        const PAGE: usize = 1_000;
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.list(after, PAGE).await?;
            count += page.len() as u64;
            // A page may end early because it is full of bytes, so only an empty one is the last.
            let Some(last) = page.last() else { return Ok(count) };
            after = Some(last.user);
        }
    }

    /// Whether there is any account at all.
    pub async fn is_empty(&self) -> Result<bool, Fault> {
        Ok(self.list(None, 1).await?.is_empty())
    }

    /// Makes somebody an administrator, or not any more.
    pub async fn set_admin(&self, user_id: &UserId, admin: bool) -> Result<(), AccountError> {
        self.change_account(user_id, |row| row.admin = admin).await
    }

    /// Locks or unlocks an account.
    pub async fn set_locked(&self, user_id: &UserId, locked: bool) -> Result<(), AccountError> {
        self.change_account(user_id, |row| row.locked = locked).await
    }

    /// Suspends an account, or ends its suspension.
    pub async fn set_suspended(&self, user_id: &UserId, suspended: bool) -> Result<(), AccountError> {
        self.change_account(user_id, |row| row.suspended = suspended).await
    }

    /// Whether the user asked to be erased. Not so for users of other servers.
    pub async fn is_erased(&self, user_id: &UserId) -> Result<bool, Fault> {
        if !self.is_local(user_id) {
            return Ok(false);
        }
        if let Some(erased) = self.accounts.erased.get(user_id) {
            return Ok(erased);
        }
        let loaded = self.load_account(user_id).await?;
        let erased = loaded.is_some_and(|loaded| loaded.row.erased);
        // A deactivation that came meanwhile has put its answer there already, and it stays.
        let known = self.accounts.erased.get_or_insert_with(user_id, || Ok::<_, std::convert::Infallible>(erased));
        Ok(known.unwrap_or(erased))
    }

    /// Ends an account for ever: password, profile and sessions go, its name stays taken. Leaving its rooms is up to the
    /// caller, who then says so by [`Users::departed`]; until then [`Users::departures`] has it.
    pub async fn deactivate(&self, user_id: &UserId, erase: bool) -> Result<Departure, AccountError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let loaded = self.load_active(user_id).await?;
            let mut row = loaded.row.clone();
            row.password = None;
            row.deactivated = true;
            row.erased = erase;
            let mut write = Write::new(loaded.user.partition());
            loaded.replace(&mut write, &row);
            write.delete(Table::Us, profile_key(loaded.user));
            write.delete(Table::Us, cross_signing_key(loaded.user));
            let ended = self.end_devices(&mut write, loaded.user, |_| true).await?;
            let at = write.position();
            write.log(at, LogEntry::SigningKeys { user: loaded.user });
            write.log(at, LogEntry::Account { user: loaded.user });
            let ended_ts_ms = self.clock.now_ms();
            write.put(Table::Mi, departure_key(loaded.user), &DepartureRow { ended_ts_ms });
            if committed(self.store.commit(write).await)? {
                self.forget(loaded.user, &ended);
                self.accounts.erased.insert(user_id.to_owned(), erase);
                return Ok(Departure { user_id: user_id.to_owned(), user: loaded.user, ended_ts_ms });
            }
        }
        Err(Fault::contended().into())
    }

    /// Sets a new password, and with `end_others` ends every session but `keep`. Sessions that are being opened with the
    /// old password at the same time do not survive it.
    pub async fn set_password(
        &self,
        user_id: &UserId,
        password: &str,
        end_others: bool,
        keep: Option<&str>,
    ) -> Result<(), AccountError> {
        let password = self.passwords.hash(password).await?;
        for _ in 0..COMMIT_ATTEMPTS {
            let loaded = self.load_active(user_id).await?;
            let row = AccountRow { password: Some(password.clone()), ..loaded.row.clone() };
            let mut write = Write::new(loaded.user.partition());
            loaded.replace(&mut write, &row);
            let ended = if end_others {
                self.end_devices(&mut write, loaded.user, |device| Some(device) != keep).await?
            } else {
                Vec::new()
            };
            if committed(self.store.commit(write).await)? {
                self.end_tokens(&ended);
                self.keys.forget(loaded.user);
                return Ok(());
            }
        }
        Err(Fault::contended().into())
    }

    /// Sets a new password and ends all sessions, for `hearth user reset-password`.
    pub async fn reset_password(&self, user_id: &UserId, password: &str) -> Result<(), AccountError> {
        self.set_password(user_id, password, true, None).await
    }

    pub(crate) async fn load_account(&self, user_id: &UserId) -> Result<Option<Loaded>, Fault> {
        if !self.is_local(user_id) {
            return Ok(None);
        }
        let Some(user) = self.store.user_number(user_id).await? else { return Ok(None) };
        self.load_account_of(user).await
    }

    pub(crate) async fn load_account_of(&self, user: UserNumber) -> Result<Option<Loaded>, Fault> {
        let Some(bytes) = self.store.get_bytes(Table::Us, &account_key(user)).await? else { return Ok(None) };
        let row = hearth_store::decode::<AccountRow>(&bytes)?;
        Ok(Some(Loaded { user, bytes, row }))
    }

    pub(crate) async fn load_active(&self, user_id: &UserId) -> Result<Loaded, AccountError> {
        let loaded = self.load_account(user_id).await?;
        loaded.filter(|loaded| !loaded.row.deactivated).ok_or(AccountError::NotFound)
    }

    async fn change_account(
        &self,
        user_id: &UserId,
        change: impl Fn(&mut AccountRow) + Send,
    ) -> Result<(), AccountError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let loaded = self.load_active(user_id).await?;
            let mut row = loaded.row.clone();
            change(&mut row);
            let mut write = Write::new(loaded.user.partition());
            loaded.replace(&mut write, &row);
            if committed(self.store.commit(write).await)? {
                self.sessions.remove_user(loaded.user);
                return Ok(());
            }
        }
        Err(Fault::contended().into())
    }
}

fn account(user: UserNumber, row: &AccountRow) -> Option<Account> {
    Some(Account {
        user_id: UserId::parse(&*row.user_id).ok()?,
        user,
        kind: row.kind,
        created_ts_ms: row.created_ts_ms,
        admin: row.admin,
        suspended: row.suspended,
        locked: row.locked,
        deactivated: row.deactivated,
    })
}
