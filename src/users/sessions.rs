//! Sessions: a device with an access token, and maybe a refresh token.

use std::{net::IpAddr, sync::Arc};

use hearth_store::{
    LogEntry, Table, UserNumber, Write,
    tables::users::{
        AccountKind, DeviceRow, PasswordHash, RefreshStep, SessionSetRow, TokenHash, TokenKind, TokenPair, TokenRow,
        device_key, ended_device_key, session_set_key, token_key,
    },
};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use crate::{
    Fault, PasswordError, Session, Users,
    accounts::Loaded,
    devices::DEVICES_MAX,
    fault::{COMMIT_ATTEMPTS, committed},
    tokens::{Known, new_token, token_hash, token_id},
};

/// Why a token authenticates nobody.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthError {
    /// It never existed or has ended. With `soft_logout` the device remains.
    #[error("unknown token")]
    Unknown {
        /// See "Soft logout".
        soft_logout: bool,
    },
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why nobody was logged in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoginError {
    /// No such account, no password, or another: nobody is told which.
    #[error("wrong user name or password")]
    Forbidden,
    /// The password was right, but the account was deactivated.
    #[error("the account is deactivated")]
    Deactivated,
    /// The password can't be checked.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why no session was opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such account, it was deactivated, or its password has changed since it was checked.
    #[error("the account changed")]
    Forbidden,
    /// See "Account locking".
    #[error("the account is locked")]
    Locked,
    /// As many devices as an account can have.
    #[error("the account has too many devices")]
    TooManyDevices,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a refresh token was not exchanged.
pub type RefreshError = AuthError;

/// A session to be opened.
#[derive(Clone, Debug, Default)]
pub struct SessionWish {
    /// A device of the account, whose session is replaced, or the id of a new one. `None`: a new one of our choice.
    pub device_id: Option<OwnedDeviceId>,
    /// The name of a new device.
    pub device_name: Option<String>,
    /// The client can refresh, so its tokens expire.
    pub refreshable: bool,
    /// From where.
    pub ip: Option<IpAddr>,
}

/// A session's tokens, which nobody will ever be able to ask for again.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenedSession {
    /// The account.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// Authenticates requests.
    pub access_token: String,
    /// For the next access token, if the client can refresh.
    pub refresh_token: Option<String>,
    /// How long the access token lives, in milliseconds; `None` is for ever.
    pub expires_in_ms: Option<u64>,
}

/// New tokens, in plain and as they are stored.
struct Minted {
    access_token: String,
    refresh_token: Option<String>,
    pair: TokenPair,
    expires_in_ms: Option<u64>,
}

/// Refresh tokens whose reuse is noticed. Older ones are just unknown.
const RETIRED_MAX: usize = 8;

/// The length of device ids that we choose.
const DEVICE_ID_CHARACTERS: usize = 10;

impl Users {
    /// The session of an access token. Costs a hash and a look into memory for tokens that were seen lately.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Session>, AuthError> {
        let hash = token_hash(token);
        let known = match self.sessions.get(&hash) {
            Some(known) => known,
            None => self.load_session(hash).await?,
        };
        if known.expires_ts_ms.is_some_and(|end| end <= self.clock.now_ms()) {
            return Err(AuthError::Unknown { soft_logout: true });
        }
        Ok(known.session)
    }

    /// Checks a password. Unknown accounts take as long as wrong passwords.
    pub async fn check_password(&self, user_id: Option<&UserId>, password: &str) -> Result<PasswordHash, LoginError> {
        let loaded = match user_id {
            Some(user_id) => self.load_account(user_id).await?,
            None => None,
        };
        let known = loaded.as_ref().and_then(|loaded| loaded.row.password.as_ref());
        let right = self.passwords.verify(password, known).await?;
        known.filter(|_| right).cloned().ok_or(LoginError::Forbidden)
    }

    /// Logs in with a password.
    pub async fn log_in(
        &self,
        user_id: Option<&UserId>,
        password: &str,
        wish: &SessionWish,
    ) -> Result<OpenedSession, LogInError> {
        let checked = self.check_password(user_id, password).await?;
        let user_id = user_id.ok_or(LoginError::Forbidden)?;
        Ok(self.open_session(user_id, Some(&checked), wish).await?)
    }

    /// Opens a session of an account, whose password must still be `checked` if one was.
    pub async fn open_session(
        &self,
        user_id: &UserId,
        checked: Option<&PasswordHash>,
        wish: &SessionWish,
    ) -> Result<OpenedSession, OpenError> {
        let device_id = wish
            .device_id
            .clone()
            .unwrap_or_else(|| self.entropy.alphanumeric(DEVICE_ID_CHARACTERS).to_ascii_uppercase().into());
        for _ in 0..COMMIT_ATTEMPTS {
            let loaded = self.load_account(user_id).await?.ok_or(OpenError::Forbidden)?;
            let changed = checked.is_some() && loaded.row.password.as_ref() != checked;
            if loaded.row.deactivated || changed {
                return Err(OpenError::Forbidden);
            }
            if loaded.row.locked {
                return Err(OpenError::Locked);
            }
            let minted = self.mint(wish.refreshable);
            let (write, ended) = self.new_session(&loaded, device_id.as_str(), wish, &minted).await?;
            if committed(self.store.commit(write).await)? {
                self.end_tokens(&ended);
                return Ok(OpenedSession {
                    user_id: user_id.to_owned(),
                    device_id,
                    access_token: minted.access_token,
                    refresh_token: minted.refresh_token,
                    expires_in_ms: minted.expires_in_ms,
                });
            }
        }
        Err(Fault::contended().into())
    }

    /// Exchanges a refresh token for a new pair. The old pair ends when the new one is used for the first time; a refresh
    /// token that comes again after that was stolen, now or then, and ends the session.
    pub async fn refresh(&self, refresh_token: &str) -> Result<OpenedSession, RefreshError> {
        let hash = token_hash(refresh_token);
        for _ in 0..COMMIT_ATTEMPTS {
            let row = self.store.get::<TokenRow>(Table::Ix, &token_key(&hash)).await.map_err(Fault::from)?;
            let row = row.ok_or(AuthError::Unknown { soft_logout: false })?;
            match row.kind {
                TokenKind::Refresh => {}
                TokenKind::RetiredRefresh => {
                    self.end_stolen(&row).await?;
                    return Err(AuthError::Unknown { soft_logout: true });
                }
                TokenKind::Access | TokenKind::Ended => return Err(AuthError::Unknown { soft_logout: false }),
            }
            let loaded = self.load_account_of(row.user).await?.filter(|loaded| !loaded.row.deactivated);
            let loaded = loaded.ok_or(AuthError::Unknown { soft_logout: false })?;
            let minted = self.mint(true);
            let Some((write, ended)) = self.refreshed(&row, &hash, &minted).await? else { continue };
            if committed(self.store.commit(write).await)? {
                // A request that waits with the old token may go on waiting: its session goes on.
                self.sessions.remove(&ended);
                let user_id = UserId::parse(&*loaded.row.user_id).map_err(|error| Fault::Broken(error.to_string()))?;
                return Ok(OpenedSession {
                    user_id,
                    device_id: row.device_id.into(),
                    access_token: minted.access_token,
                    refresh_token: minted.refresh_token,
                    expires_in_ms: minted.expires_in_ms,
                });
            }
        }
        Err(Fault::contended().into())
    }

    fn mint(&self, refreshable: bool) -> Minted {
        let (access_token, access) = new_token(&*self.entropy);
        let refresh = refreshable.then(|| new_token(&*self.entropy));
        let (refresh_token, refresh) = refresh.unzip();
        let expires_in_ms = refreshable.then_some(self.settings.access_token_lifetime_ms);
        Minted { access_token, refresh_token, pair: TokenPair { access, refresh }, expires_in_ms }
    }

    /// The batch that opens a session on a device, new or not, and the tokens that it ends.
    async fn new_session(
        &self,
        loaded: &Loaded,
        device_id: &str,
        wish: &SessionWish,
        minted: &Minted,
    ) -> Result<(Write, Vec<TokenHash>), OpenError> {
        let user = loaded.user;
        let mut write = Write::new(user.partition());
        loaded.require(&mut write);
        let (mut set, set_bytes) = self.load_session_set(user).await?;
        let device = self.load_device(user, device_id).await?;
        let now_ms = self.clock.now_ms();
        let mut ended = Vec::new();
        let (known, device_bytes) = device.unzip();
        if let Some(known) = &known {
            ended = tokens_of(known);
            ended.iter().for_each(|hash| write.delete(Table::Ix, token_key(hash)));
        } else if set.devices >= DEVICES_MAX {
            return Err(OpenError::TooManyDevices);
        } else {
            self.clear_ended_device(user, device_id).await?;
        }
        let row = DeviceRow {
            display_name: known.as_ref().map_or_else(|| wish.device_name.clone(), |known| known.display_name.clone()),
            created_ts_ms: known.as_ref().map_or(now_ms, |known| known.created_ts_ms),
            last_seen_ts_ms: now_ms,
            last_seen_ip: wish.ip.map(|ip| ip.to_string()),
            tokens: Some(minted.pair),
            replaced: None,
            retired: Vec::new(),
        };
        set.version += 1;
        set.devices += u32::from(known.is_none());
        write.require(Table::Us, session_set_key(user), set_bytes);
        write.put(Table::Us, session_set_key(user), &set);
        write.require(Table::Us, device_key(user, device_id), device_bytes);
        write.put(Table::Us, device_key(user, device_id), &row);
        self.put_tokens(&mut write, user, device_id, minted, RefreshStep::Settled);
        if known.is_none() {
            write.require_absent(Table::Mi, ended_device_key(user, device_id));
            let at = write.position();
            write.log(at, LogEntry::Device { user, device: device_id.to_owned() });
        }
        Ok((write, ended))
    }

    /// The batch of a refresh; `None` if the token's place has changed meanwhile.
    async fn refreshed(
        &self,
        row: &TokenRow,
        hash: &TokenHash,
        minted: &Minted,
    ) -> Result<Option<(Write, Vec<TokenHash>)>, Fault> {
        let Some((mut device, bytes)) = self.load_device(row.user, &row.device_id).await? else {
            return Ok(None);
        };
        let mut write = Write::new(row.user.partition());
        write.require(Table::Us, device_key(row.user, &row.device_id), Some(bytes));
        let mut ended = Vec::new();
        let refresh_of = |pair: &Option<TokenPair>| pair.and_then(|pair| pair.refresh);
        if refresh_of(&device.tokens) == Some(*hash) {
            ended.extend(retire_replaced(&mut write, row.user, &row.device_id, &mut device));
            device.replaced = device.tokens;
        } else if refresh_of(&device.replaced) == Some(*hash) {
            // The client never got the new pair, or lost it before it used it.
            if let Some(unused) = device.tokens {
                let hashes = [Some(unused.access), unused.refresh];
                hashes.iter().flatten().for_each(|hash| write.delete(Table::Ix, token_key(hash)));
                ended.push(unused.access);
            }
        } else {
            return Ok(None);
        }
        device.tokens = Some(minted.pair);
        write.put(Table::Us, device_key(row.user, &row.device_id), &device);
        self.put_tokens(&mut write, row.user, &row.device_id, minted, RefreshStep::Fresh);
        Ok(Some((write, ended)))
    }

    fn put_tokens(&self, write: &mut Write, user: UserNumber, device_id: &str, minted: &Minted, step: RefreshStep) {
        let row = |kind, expires_ts_ms| TokenRow { user, device_id: device_id.to_owned(), kind, step, expires_ts_ms };
        let end = minted.expires_in_ms.map(|life| self.clock.now_ms().saturating_add(life));
        write.put(Table::Ix, token_key(&minted.pair.access), &row(TokenKind::Access, end));
        if let Some(refresh) = &minted.pair.refresh {
            write.put(Table::Ix, token_key(refresh), &row(TokenKind::Refresh, None));
        }
    }

    /// Reads the session of a token that memory does not know, and settles its refresh if this is its first use.
    async fn load_session(&self, hash: TokenHash) -> Result<Known, AuthError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let begun = self.sessions.begin();
            let row = self.store.get::<TokenRow>(Table::Ix, &token_key(&hash)).await.map_err(Fault::from)?;
            let row = row.ok_or(AuthError::Unknown { soft_logout: false })?;
            if row.kind != TokenKind::Access {
                return Err(AuthError::Unknown { soft_logout: row.kind == TokenKind::Ended });
            }
            if row.expires_ts_ms.is_some_and(|end| end <= self.clock.now_ms()) {
                return Err(AuthError::Unknown { soft_logout: true });
            }
            if row.step == RefreshStep::Fresh {
                self.settle(&row, &hash).await?;
                continue;
            }
            let account = self.load_account_of(row.user).await?.filter(|loaded| !loaded.row.deactivated);
            let account = account.ok_or(AuthError::Unknown { soft_logout: false })?.row;
            let session = Session {
                user_id: UserId::parse(&*account.user_id).map_err(|error| Fault::Broken(error.to_string()))?,
                user: row.user,
                device_id: row.device_id.into(),
                token_id: token_id(&hash),
                guest: account.kind == AccountKind::Guest,
                admin: account.admin,
                suspended: account.suspended,
                locked: account.locked,
            };
            let known = Known { session: Arc::new(session), expires_ts_ms: row.expires_ts_ms };
            self.sessions.insert(begun, hash, known.clone());
            return Ok(known);
        }
        Err(Fault::contended().into())
    }

    /// The first use of a new pair: the pair that it replaced ends. A lost race is no error, the caller looks again.
    async fn settle(&self, row: &TokenRow, hash: &TokenHash) -> Result<(), Fault> {
        let Some((mut device, bytes)) = self.load_device(row.user, &row.device_id).await? else { return Ok(()) };
        if device.tokens.map(|pair| pair.access) != Some(*hash) {
            return Ok(());
        }
        let mut write = Write::new(row.user.partition());
        write.require(Table::Us, device_key(row.user, &row.device_id), Some(bytes));
        let ended = retire_replaced(&mut write, row.user, &row.device_id, &mut device);
        write.put(Table::Us, device_key(row.user, &row.device_id), &device);
        let settled = TokenRow { step: RefreshStep::Settled, ..row.clone() };
        write.put(Table::Ix, token_key(hash), &settled);
        if committed(self.store.commit(write).await)? {
            self.sessions.remove(&ended);
        }
        Ok(())
    }

    /// Ends the session of a device whose refresh token was used twice; the device remains for a new login.
    async fn end_stolen(&self, row: &TokenRow) -> Result<(), Fault> {
        for _ in 0..COMMIT_ATTEMPTS {
            let Some((mut device, bytes)) = self.load_device(row.user, &row.device_id).await? else { return Ok(()) };
            let Some(pair) = device.tokens else { return Ok(()) };
            let mut write = Write::new(row.user.partition());
            write.require(Table::Us, device_key(row.user, &row.device_id), Some(bytes));
            let replaced = device.replaced.take();
            let gone = [pair.refresh, replaced.map(|pair| pair.access), replaced.and_then(|pair| pair.refresh)];
            gone.iter().flatten().for_each(|hash| write.delete(Table::Ix, token_key(hash)));
            let ended = TokenRow {
                user: row.user,
                device_id: row.device_id.clone(),
                kind: TokenKind::Ended,
                step: RefreshStep::Settled,
                expires_ts_ms: None,
            };
            write.put(Table::Ix, token_key(&pair.access), &ended);
            device.tokens = None;
            device.retired.push(pair.access);
            write.put(Table::Us, device_key(row.user, &row.device_id), &device);
            if committed(self.store.commit(write).await)? {
                let hashes: Vec<_> =
                    [Some(pair.access), replaced.map(|pair| pair.access)].into_iter().flatten().collect();
                self.end_tokens(&hashes);
                tracing::warn!(user = row.user.0, "a refresh token was used twice, its session has ended");
                return Ok(());
            }
        }
        Err(Fault::contended())
    }

    pub(crate) async fn load_session_set(
        &self,
        user: UserNumber,
    ) -> Result<(SessionSetRow, Option<bytes::Bytes>), Fault> {
        let bytes = self.store.get_bytes(Table::Us, &session_set_key(user)).await?;
        let row = bytes.as_ref().map(|bytes| hearth_store::decode(bytes)).transpose()?;
        Ok((row.unwrap_or_default(), bytes))
    }
}

/// Why a login with a password failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogInError {
    /// The password was not accepted.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// It was, but no session was opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// All rows in `Ix` that a device has.
pub(crate) fn tokens_of(device: &DeviceRow) -> Vec<TokenHash> {
    let pairs = [device.tokens, device.replaced];
    let pairs = pairs.iter().flatten().flat_map(|pair| [Some(pair.access), pair.refresh]).flatten();
    pairs.chain(device.retired.iter().copied()).collect()
}

/// Ends the pair that the present one replaced. Its refresh token stays as a trap. Gives the access token that ended.
fn retire_replaced(write: &mut Write, user: UserNumber, device_id: &str, device: &mut DeviceRow) -> Option<TokenHash> {
    let replaced = device.replaced.take()?;
    write.delete(Table::Ix, token_key(&replaced.access));
    if let Some(refresh) = replaced.refresh {
        let trap = TokenRow {
            user,
            device_id: device_id.to_owned(),
            kind: TokenKind::RetiredRefresh,
            step: RefreshStep::Settled,
            expires_ts_ms: None,
        };
        write.put(Table::Ix, token_key(&refresh), &trap);
        device.retired.push(refresh);
        let surplus = device.retired.len().saturating_sub(RETIRED_MAX);
        device.retired.drain(..surplus).for_each(|hash| write.delete(Table::Ix, token_key(&hash)));
    }
    Some(replaced.access)
}
