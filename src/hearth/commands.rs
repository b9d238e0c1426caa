//! The operator's commands: by the running server if there is one, else on its data.

use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::{Command as Process, Stdio},
    sync::Arc,
};

use hearth_ports::{SystemClock, SystemEntropy};
use hearth_server::{Federation, FederationParts};
use hearth_store::{
    Store, StoreSettings,
    fsck::{self, Progress},
};
use hearth_store_rocksdb::{OpenError, Options, RocksEngine};
use hearth_users::Users;

use crate::{
    Failure,
    admin::{self, Operator, Request},
    config::Config,
    data_dir::DataDir,
    memory, run, settings,
};

/// Does it and prints the answer.
pub(crate) fn act(config: &Config, request: Request) -> Result<(), Failure> {
    let data = DataDir::new(&config.data_dir);
    let answer = match admin::ask(&data.socket(), &request)? {
        Some(answer) => answer,
        None => offline(config, data, request)?,
    };
    let text = answer.map_err(Failure::new)?;
    if !text.is_empty() {
        println!("{text}");
    }
    Ok(())
}

/// Copies everything into a new folder.
pub(crate) fn backup(config: &Config, folder: &Path) -> Result<(), Failure> {
    // The server may run in another folder.
    let folder = std::path::absolute(folder).map_err(Failure::new)?;
    act(config, Request::Backup { folder })
}

/// Opens the data of a server that is not running.
fn offline(config: &Config, data: DataDir, request: Request) -> Result<admin::Answer, Failure> {
    let mut settings = settings::server(config)?;
    data.create()?;
    data.check_name(&config.server_name)?;
    let key = Arc::new(data.load_signing_key(&SystemEntropy)?);
    let budget = memory::budget(config);
    let options = Options::new(budget.engine, |reason| eprintln!("hearth: {reason}"));
    let engine = RocksEngine::open(data.database(), options).map_err(|error| match error {
        OpenError::InUse(_) => Failure::new(
            "the server runs but does not listen for commands (admin.socket): stop it first, or wait until it has started",
        ),
        other => Failure::new(other),
    })?;
    // Only now is it certain that no server runs.
    run::add_old_keys(&mut settings, &data, &key)?;
    runtime()?.block_on(async {
        let store = Store::open(engine.clone(), StoreSettings { cache_bytes_max: budget.rows }).await;
        let store = store.map_err(Failure::new)?;
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let federation = match settings.federation {
            Some(federation) if matches!(request, Request::FederationCheck { .. }) => {
                let (http, resolver) = run::network(config).await?;
                let (store, clock, entropy) = (Arc::clone(&store), clock.clone(), entropy.clone());
                Some(Federation::new(federation, FederationParts { store, clock, entropy, http, resolver, key }))
            }
            Some(_) | None => None,
        };
        let users = Users::new(store, clock, entropy, settings.users);
        let server_name = settings.server_name;
        let operator = Operator { users, engine, data, server_name, federation, is_running: false };
        Ok(operator.act(request).await)
    })
}

/// A restored database goes on so far above the positions that it knows. At 1,000 positions a second a backup may be
/// seven weeks old, and there is room for 2^31 restores.
const RESTORE_RAISES_POSITIONS_BY: u64 = 1 << 32;

/// A runtime for one command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(Failure::new)
}

/// Puts a backup into an empty `data_dir`. What is there before the last step is not taken for a server's data.
pub(crate) fn restore(config: &Config, folder: &Path) -> Result<(), Failure> {
    let (backup, data) = (DataDir::new(folder), DataDir::new(&config.data_dir));
    if !backup.database().is_dir() {
        return Err(Failure::new(format!("{} is no backup: it has no folder `db`", folder.display())));
    }
    if data.database().exists() {
        let message = format!("{} holds data already: move it away first", config.data_dir.display());
        return Err(Failure::new(message));
    }
    backup.check_name(&config.server_name)?;
    backup.check_key_beside(&data)?;
    data.create()?;
    let failed = |error: io::Error| Failure::new(format!("not restored: {error}"));
    backup.copy_files(&data).map_err(failed)?;
    let unfinished = config.data_dir.join("db.restoring");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(failed)?;
    }
    copy_folder(&backup.database(), &unfinished).map_err(failed)?;
    // Clients hold tokens from after the backup; none may be ahead of the server, and none may be given out again.
    let options = Options::new(memory::budget(config).engine, |reason| eprintln!("hearth: {reason}"));
    RocksEngine::raise_positions(&unfinished, &options, RESTORE_RAISES_POSITIONS_BY).map_err(Failure::new)?;
    fs::rename(&unfinished, data.database()).map_err(failed)?;
    fs::File::open(&config.data_dir).and_then(|folder| folder.sync_all()).map_err(failed)?;
    println!("restored into {}", config.data_dir.display());
    Ok(())
}

fn copy_folder(from: &Path, to: &PathBuf) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            admin::copy_file(&entry.path(), &target)?;
        }
    }
    fs::File::open(to)?.sync_all()
}

/// A password: typed twice and unseen at a terminal, else the first line of the input.
pub(crate) fn ask_password(name: &str) -> Result<String, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return read_line(&stdin);
    }
    let _quiet = Quiet::start();
    let ask = |prompt: String| {
        eprint!("{prompt}: ");
        let _ = io::stderr().flush();
        let line = read_line(&stdin);
        eprintln!();
        line
    };
    let password = ask(format!("Password for {name}"))?;
    if ask("Once more".to_owned())? == password { Ok(password) } else { Err(Failure::new("the two differ")) }
}

fn read_line(stdin: &io::Stdin) -> Result<String, Failure> {
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(|error| Failure::new(format!("no password: {error}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() { Err(Failure::new("no password was given")) } else { Ok(password.to_owned()) }
}

/// A terminal that does not show what is typed, until this is dropped. Where `stty` is missing, it shows it.
struct Quiet;

impl Quiet {
    fn start() -> Self {
        stty("-echo");
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        stty("echo");
    }
}

fn stty(argument: &str) {
    // A terminal that echoes is a nuisance, no reason to fail.
    let _ =
        Process::new("stty").arg(argument).stdin(Stdio::inherit()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Checks the invariants of what is stored, as it is at this moment, beside a running server too.
pub(crate) fn fsck(config: &Config) -> Result<(), Failure> {
    let data = DataDir::new(&config.data_dir);
    let budget = memory::budget(config);
    let options = Options::new(budget.engine, |reason| eprintln!("hearth: {reason}"));
    let engine = RocksEngine::open_read_only(data.database(), &options).map_err(Failure::new)?;
    let report = runtime()?.block_on(async {
        let store = Store::open(engine, StoreSettings { cache_bytes_max: budget.rows }).await.map_err(Failure::new)?;
        fsck::fsck(&store, show_progress()).await.map_err(Failure::new)
    })?;
    println!("{report}");
    if report.is_clean() { Ok(()) } else { Err(Failure::new("the data is damaged: restore a backup")) }
}

/// A line that counts, for a person who watches.
fn show_progress() -> impl FnMut(Progress) {
    /// Rows between two lines: some seconds' work.
    const ROWS: u64 = 1_000_000;
    let (watched, mut shown) = (io::stderr().is_terminal(), 0);
    move |progress| {
        if watched && progress.rows >= shown + ROWS {
            shown = progress.rows;
            eprintln!("{} rooms and {} rows so far", progress.rooms, progress.rows);
        }
    }
}
