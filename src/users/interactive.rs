//! User-interactive authentication: who wants something dear proves it anew. (Client-server API, "User-Interactive
//! Authentication API".)
//!
//! A session is bound to one user and one operation, and passes once.

use bytes::Bytes;
use hearth_ports::{KeyRange, Page};
use hearth_store::{
    Table, Write,
    tables::users::{InteractiveRow, Remembered, interactive_key, interactive_partition, interactive_prefix},
};
use ruma::{OwnedUserId, UserId};

use crate::{
    Fault, Localpart, LoginError, PasswordError, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// A step of a flow. Others of the specification are not built, so they are not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The account's password.
    Password,
    /// Nothing.
    Dummy,
    /// A token that admits registrations.
    RegistrationToken,
}

impl Stage {
    /// The name in the specification.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Password => "m.login.password",
            Self::Dummy => "m.login.dummy",
            Self::RegistrationToken => "m.login.registration_token",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::Password, Self::Dummy, Self::RegistrationToken].into_iter().find(|stage| stage.name() == name)
    }
}

/// What is to be done, as far as it must not change between the requests of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation([u8; 16]);

impl Operation {
    /// The operation of a request; `body` is its canonical text without `auth`.
    pub fn new(method: &str, path: &str, body: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [method, path, body] {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part.as_bytes());
        }
        let mut short = [0; 16];
        hasher.finalize_xof().fill(&mut short);
        Self(short)
    }
}

/// What a client shows for a stage.
#[derive(Clone)]
pub enum ProofOf {
    /// A user name, as the client wrote it, and a password.
    Password {
        /// A user id or its localpart.
        user: String,
        /// The password.
        password: String,
    },
    /// Nothing.
    Dummy,
    /// A registration token.
    RegistrationToken(String),
    /// A stage that is not offered.
    Other,
}

/// The `auth` of a request.
#[derive(Clone)]
pub struct Proof {
    /// The session, if the client has one already.
    pub session: Option<String>,
    /// The stage that it tries; `None` asks how far the session is.
    pub of: Option<ProofOf>,
}

/// A request that needs authentication.
pub struct Interaction<'a> {
    /// The account; `None` for registrations.
    pub user: Option<&'a UserId>,
    /// What it wants.
    pub operation: Operation,
    /// Which stages together suffice: one of these lists.
    pub flows: &'a [&'a [Stage]],
    /// What it shows.
    pub proof: Option<Proof>,
    /// For registrations: what the session is to remember, unless it does already.
    pub remember: Option<Remembered>,
}

/// A request that passed.
#[derive(Clone, Debug)]
pub struct Passed {
    /// The session, for registrations.
    pub session: Option<String>,
    /// What the session remembers of its first request.
    pub remembered: Option<Remembered>,
    /// The registration token to be used up.
    pub registration_token: Option<String>,
    /// The account that this session has made already.
    pub registered: Option<OwnedUserId>,
}

/// Why a stage was not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The password is wrong.
    WrongPassword,
    /// The registration token is not valid.
    BadToken,
    /// The stage is in no flow.
    NotOffered,
    /// The session does not exist (any more); this is a new one.
    UnknownSession,
}

/// What the client is to do next.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// The session to go on with.
    pub session: String,
    /// What it has completed.
    pub completed: Vec<Stage>,
    /// Why the last stage was not.
    pub refusal: Option<Refusal>,
}

/// Why a request does not pass (yet).
#[derive(Clone, Debug, thiserror::Error)]
pub enum InteractError {
    /// There is more to do.
    #[error("authentication is needed")]
    Challenge(Challenge),
    /// The session was begun for something else.
    #[error("the operation changed during interactive authentication")]
    OperationChanged,
    /// Another user's session, or another user's name beside the password.
    #[error("authentication of another user")]
    OtherUser,
    /// The password can't be checked.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// How long a session may take: people look for their password manager.
const LIFETIME_MS: u64 = 15 * 60 * 1_000;

/// Characters of a session's id.
const SESSION_CHARACTERS: usize = 32;

/// A session that is going on.
struct Going {
    /// `None` before its first row is written.
    bytes: Option<Bytes>,
    id: String,
    row: InteractiveRow,
}

impl Users {
    /// Lets a request pass, or says what it needs. A session that passes is over, unless it is a registration's: that is
    /// kept so that the same request again finds the same account.
    pub async fn interact(&self, wish: Interaction<'_>) -> Result<Passed, InteractError> {
        let Some(proof) = &wish.proof else {
            let going = self.begin_session(&wish);
            return Err(self.challenge(going, None).await?);
        };
        let mut going = match &proof.session {
            None => self.begin_session(&wish),
            Some(id) => match self.load_interactive(id).await? {
                Some(going) => going,
                None => return Err(self.challenge(self.begin_session(&wish), Some(Refusal::UnknownSession)).await?),
            },
        };
        if going.row.user_id.as_deref() != wish.user.map(UserId::as_str) {
            return Err(InteractError::OtherUser);
        }
        if going.row.operation != wish.operation.0 {
            return Err(InteractError::OperationChanged);
        }
        if let Some(of) = &proof.of
            && let Err(refusal) = self.complete(&wish, of, &mut going.row).await?
        {
            return Err(self.challenge(going, Some(refusal)).await?);
        }
        let has = |stage: &Stage| going.row.completed.iter().any(|done| done == stage.name());
        if !wish.flows.iter().any(|flow| flow.iter().all(has)) {
            return Err(self.challenge(going, None).await?);
        }
        self.pass(going).await
    }

    /// Notes which account a registration's session has made.
    pub async fn note_registered(&self, session: &str, user_id: &UserId) -> Result<(), Fault> {
        for _ in 0..COMMIT_ATTEMPTS {
            let Some(mut going) = self.load_interactive(session).await? else { return Ok(()) };
            going.row.registered = Some(user_id.to_string());
            if self.store_interactive(&going).await? {
                return Ok(());
            }
        }
        Err(Fault::contended())
    }

    /// Deletes the sessions whose time is over. To be called now and then.
    pub async fn sweep_interactive(&self) -> Result<(), Fault> {
        const PAGE: usize = 256;
        let now_ms = self.clock.now_ms();
        let mut range = KeyRange::prefix(interactive_prefix());
        loop {
            let page = self.store.scan_bytes(Table::Us, range.clone(), Page::first(PAGE)).await?;
            let Some(last) = page.last() else { return Ok(()) };
            range.from = [&last.key[..], &[0]].concat().into();
            for entry in page {
                let over =
                    hearth_store::decode::<InteractiveRow>(&entry.value).is_ok_and(|row| row.expires_ts_ms <= now_ms);
                let id = entry.key.get(1..).and_then(|id| std::str::from_utf8(id).ok());
                if let (true, Some(id)) = (over, id) {
                    let mut write = Write::new(interactive_partition(id));
                    write.delete(Table::Us, entry.key.clone());
                    committed(self.store.commit(write).await)?;
                }
            }
        }
    }

    fn begin_session(&self, wish: &Interaction<'_>) -> Going {
        let row = InteractiveRow {
            user_id: wish.user.map(ToString::to_string),
            operation: wish.operation.0,
            completed: Vec::new(),
            registration_token: None,
            remembered: wish.remember.clone(),
            registered: None,
            expires_ts_ms: self.clock.now_ms() + LIFETIME_MS,
        };
        Going { bytes: None, id: self.entropy.alphanumeric(SESSION_CHARACTERS), row }
    }

    /// Tries a stage. The outer error is ours or final, the inner one may be tried again.
    async fn complete(
        &self,
        wish: &Interaction<'_>,
        of: &ProofOf,
        row: &mut InteractiveRow,
    ) -> Result<Result<(), Refusal>, InteractError> {
        let stage = match of {
            ProofOf::Password { .. } => Stage::Password,
            ProofOf::Dummy => Stage::Dummy,
            ProofOf::RegistrationToken(_) => Stage::RegistrationToken,
            ProofOf::Other => return Ok(Err(Refusal::NotOffered)),
        };
        if !wish.flows.iter().any(|flow| flow.contains(&stage)) {
            return Ok(Err(Refusal::NotOffered));
        }
        // "Completed stages cannot be retried by clients."
        if row.completed.iter().any(|done| done == stage.name()) {
            return Ok(Ok(()));
        }
        match of {
            ProofOf::Password { user, password } => {
                let named = Localpart::of_login(user, &self.settings.server_name);
                if named.is_none() || named.as_deref() != wish.user {
                    return Err(InteractError::OtherUser);
                }
                match self.check_password(wish.user, password).await {
                    Ok(_) => {}
                    Err(LoginError::Forbidden | LoginError::Deactivated) => return Ok(Err(Refusal::WrongPassword)),
                    Err(LoginError::Password(error)) => return Err(error.into()),
                    Err(LoginError::Fault(fault)) => return Err(fault.into()),
                }
            }
            ProofOf::RegistrationToken(token) => {
                if !self.registration_token_is_valid(token).await? {
                    return Ok(Err(Refusal::BadToken));
                }
                row.registration_token = Some(token.clone());
            }
            ProofOf::Dummy | ProofOf::Other => {}
        }
        row.completed.push(stage.name().to_owned());
        Ok(Ok(()))
    }

    /// Stores the session and says how to go on.
    async fn challenge(&self, going: Going, refusal: Option<Refusal>) -> Result<InteractError, InteractError> {
        // A session that lost a race against itself is as the winner left it.
        self.store_interactive(&going).await?;
        let completed = going.row.completed.iter().filter_map(|name| Stage::of_name(name)).collect();
        Ok(InteractError::Challenge(Challenge { session: going.id, completed, refusal }))
    }

    async fn pass(&self, going: Going) -> Result<Passed, InteractError> {
        let registered = going.row.registered.as_deref().and_then(|user_id| UserId::parse(user_id).ok());
        let is_registration = going.row.user_id.is_none();
        if is_registration {
            self.store_interactive(&going).await?;
        } else if let Some(bytes) = going.bytes {
            let mut write = Write::new(interactive_partition(&going.id));
            write.require(Table::Us, interactive_key(&going.id), Some(bytes));
            write.delete(Table::Us, interactive_key(&going.id));
            // Two requests with one session: the other one has passed.
            if !committed(self.store.commit(write).await)? {
                return Err(InteractError::OperationChanged);
            }
        }
        Ok(Passed {
            session: is_registration.then_some(going.id),
            remembered: going.row.remembered,
            registration_token: going.row.registration_token,
            registered,
        })
    }

    async fn load_interactive(&self, id: &str) -> Result<Option<Going>, Fault> {
        if id.len() != SESSION_CHARACTERS {
            return Ok(None);
        }
        let Some(bytes) = self.store.get_bytes(Table::Us, &interactive_key(id)).await? else { return Ok(None) };
        let row: InteractiveRow = hearth_store::decode(&bytes)?;
        let alive = row.expires_ts_ms > self.clock.now_ms();
        Ok(alive.then(|| Going { bytes: Some(bytes), id: id.to_owned(), row }))
    }

    /// Whether it was stored; `false`: somebody else stored it since it was read.
    async fn store_interactive(&self, going: &Going) -> Result<bool, Fault> {
        let mut write = Write::new(interactive_partition(&going.id));
        write.require(Table::Us, interactive_key(&going.id), going.bytes.clone());
        write.put(Table::Us, interactive_key(&going.id), &going.row);
        committed(self.store.commit(write).await)
    }
}
