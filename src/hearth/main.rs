//! The executable: reads the configuration, chooses the adapters, runs the server or one of the operator's commands.
//!
//! It decides nothing that a user can see: that is in the crates below. Start with `cli.rs` for what it can be told, and
//! `run.rs` for how the server starts and stops.

mod admin;
mod cli;
mod commands;
mod config;
mod data_dir;
mod descriptors;
mod listen;
mod logging;
mod memory;
mod monitor;
mod run;
mod settings;
mod signing_keys;
mod tls;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    cli::{Cli, Command, ConfigFile, FederationCommand, UserCommand},
    config::Config,
};

/// The system's allocator keeps what a login storm or a large sync took; jemalloc gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let Cli { command, config } = Cli::parse();
    descriptors::raise();
    let result = match command.unwrap_or(Command::Serve { config }) {
        Command::Serve { config } => load(&config).and_then(|loaded| run::serve(loaded, config.file.as_deref())),
        Command::CheckConfig { config } => load(&config).map(|_| println!("the configuration is right")),
        Command::GenerateConfig { markdown } => {
            print!("{}", if markdown { config::markdown() } else { config::example() });
            Ok(())
        }
        Command::User { command } => user(command),
        Command::Federation { command: FederationCommand::Check { config, server } } => {
            load(&config).and_then(|config| commands::act(&config, admin::Request::FederationCheck { server }))
        }
        Command::Federation { command: FederationCommand::RotateKey { config } } => {
            load(&config).and_then(|config| commands::act(&config, admin::Request::RotateKey))
        }
        Command::Fsck { config } => load(&config).and_then(|config| commands::fsck(&config)),
        Command::Backup { config, folder } => load(&config).and_then(|config| commands::backup(&config, &folder)),
        Command::Restore { config, folder } => load(&config).and_then(|config| commands::restore(&config, &folder)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hearth: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What ends a command: a sentence for the person who gave it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl std::fmt::Display) -> Self {
        Self(message.to_string())
    }
}

fn load(config: &ConfigFile) -> Result<Config, Failure> {
    config::load(config.file.as_deref()).map_err(Failure::new)
}

fn user(command: UserCommand) -> Result<(), Failure> {
    match command {
        UserCommand::Create { config, admin, name } => {
            let config = load(&config)?;
            let password = commands::ask_password(&name)?;
            commands::act(&config, admin::Request::CreateUser { name, password, admin })
        }
        UserCommand::ResetPassword { config, name } => {
            let config = load(&config)?;
            let password = commands::ask_password(&name)?;
            commands::act(&config, admin::Request::ResetPassword { name, password })
        }
        UserCommand::List { config } => commands::act(&load(&config)?, admin::Request::ListUsers),
    }
}
