//! What the requests do.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::Arc,
};

use hearth_ports::{Clock as _, SystemClock, SystemEntropy};
use hearth_server::Federation;
use hearth_store_rocksdb::RocksEngine;
use hearth_users::{Account, AccountError, AccountKind, CreateError, Localpart, Users};
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use super::{Answer, Request};
use crate::data_dir::DataDir;

/// Accounts that are read at once for a list.
const LIST_PAGE: usize = 1_000;

/// The parts of a server that commands work on.
pub(crate) struct Operator {
    /// Accounts.
    pub(crate) users: Arc<Users>,
    /// The engine, for copies.
    pub(crate) engine: Arc<RocksEngine>,
    /// Where the data is.
    pub(crate) data: DataDir,
    /// What stands behind the colon.
    pub(crate) server_name: OwnedServerName,
    /// The way to other servers; `None`: we talk to nobody.
    pub(crate) federation: Option<Arc<Federation>>,
    /// The server runs, and signs with the key that it began with.
    pub(crate) is_running: bool,
}

impl Operator {
    /// Does it.
    pub(crate) async fn act(&self, request: Request) -> Answer {
        match request {
            Request::CreateUser { name, password, admin } => self.create_user(&name, &password, admin).await,
            Request::ResetPassword { name, password } => self.reset_password(&name, &password).await,
            Request::ListUsers => self.list_users().await,
            Request::FederationCheck { server } => self.check(&server).await,
            Request::RotateKey => self.rotate_key(),
            Request::Backup { folder } => self.backup(&folder).await,
        }
    }

    async fn create_user(&self, name: &str, password: &str, admin: bool) -> Answer {
        let localpart = self.localpart(name)?;
        let made = self.users.create_account(localpart, password, admin).await;
        let user_id = made.map_err(|error| match error {
            CreateError::InUse => format!("{name} is taken already"),
            CreateError::Fault(error) => error.to_string(),
        })?;
        let kind = if admin { ", an administrator" } else { "" };
        Ok(format!("made {user_id}{kind}"))
    }

    async fn reset_password(&self, name: &str, password: &str) -> Answer {
        let user_id = self.user_id(name)?;
        let reset = self.users.reset_password(&user_id, password).await;
        reset.map_err(|error| match error {
            AccountError::NotFound => format!("there is no account {user_id}"),
            other => other.to_string(),
        })?;
        Ok(format!("{user_id} has a new password; all its sessions have ended"))
    }

    async fn list_users(&self) -> Answer {
        let (mut lines, mut after) = (Vec::new(), None);
        loop {
            let page = self.users.list(after, LIST_PAGE).await.map_err(|error| error.to_string())?;
            let Some(last) = page.last() else { break };
            after = Some(last.user);
            lines.extend(page.iter().map(describe));
        }
        lines.sort_unstable();
        Ok(lines.join("\n"))
    }

    async fn check(&self, server: &str) -> Answer {
        let Some(federation) = &self.federation else {
            return Err("this server talks to no others: federation.enabled is false".to_owned());
        };
        let server = ServerName::parse(server).map_err(|_| format!("`{server}` is no server name"))?;
        Ok(federation.check(&server).await.trim_end().to_owned())
    }

    /// A new signing key; the old one stays known.
    fn rotate_key(&self) -> Answer {
        let stopped_ms = (!self.is_running).then(|| SystemClock.now_ms());
        let rotated = self.data.rotate_signing_key(&SystemEntropy, stopped_ms);
        let (old, new) = rotated.map_err(|error| error.to_string())?;
        let when = if self.is_running { "from its next start on, so restart it soon" } else { "from now on" };
        Ok(format!("the server signs with {new} {when}; what {old} signed before stays valid"))
    }

    /// The database, and beside it what the folder needs to be a server's again.
    async fn backup(&self, folder: &Path) -> Answer {
        let (engine, data, folder) = (Arc::clone(&self.engine), self.data.clone(), folder.to_owned());
        let copied = tokio::task::spawn_blocking(move || -> Result<String, String> {
            let failed = |error: &dyn std::fmt::Display| format!("no backup at {}: {error}", folder.display());
            DirBuilder::new().mode(0o700).create(&folder).map_err(|error| failed(&error))?;
            let copy = DataDir::new(&folder);
            engine.checkpoint(copy.database()).map_err(|error| failed(&error))?;
            data.copy_files(&copy).map_err(|error| failed(&error))?;
            File::open(&folder).and_then(|folder| folder.sync_all()).map_err(|error| failed(&error))?;
            Ok(format!("copied to {}", folder.display()))
        });
        copied.await.map_err(|error| error.to_string())?
    }

    /// `alice`, `@alice:example.org` → `alice`.
    fn localpart(&self, name: &str) -> Result<Localpart, String> {
        let local = match name.strip_prefix('@') {
            None => name,
            Some(_) => match UserId::parse(name) {
                Ok(id) if id.server_name() == self.server_name => return self.parse(id.localpart()),
                _ => return Err(format!("{name} is no user id of {}", self.server_name)),
            },
        };
        self.parse(local)
    }

    fn parse(&self, localpart: &str) -> Result<Localpart, String> {
        Localpart::parse(localpart, &self.server_name).map_err(|error| format!("{localpart}: {error}"))
    }

    fn user_id(&self, name: &str) -> Result<OwnedUserId, String> {
        Ok(self.localpart(name)?.user_id(&self.server_name))
    }
}

fn describe(account: &Account) -> String {
    let words = [
        (account.admin, "administrator"),
        (account.kind == AccountKind::Guest, "guest"),
        (account.suspended, "suspended"),
        (account.locked, "locked"),
        (account.deactivated, "deactivated"),
    ];
    let words: Vec<_> = words.iter().filter_map(|(is, word)| is.then_some(*word)).collect();
    if words.is_empty() { account.user_id.to_string() } else { format!("{} ({})", account.user_id, words.join(", ")) }
}

/// Copies a file with its permissions, durably.
pub(crate) fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}
