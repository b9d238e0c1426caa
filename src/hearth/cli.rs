//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A Matrix homeserver.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// What to do; without it, `serve`.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

/// Which configuration.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file. Without it, only the environment's HEARTH_… variables count.
    #[arg(long = "config", short = 'c', env = "HEARTH_CONFIG", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server, in the foreground, until SIGTERM or SIGINT.
    Serve {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Say whether a configuration is right.
    CheckConfig {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Print a configuration with every key and its default.
    GenerateConfig {
        /// Print the documentation of the keys instead.
        #[arg(long)]
        markdown: bool,
    },
    /// Accounts. Works while the server runs, and while it does not.
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Other servers. Works while the server runs, and while it does not.
    Federation {
        #[command(subcommand)]
        command: FederationCommand,
    },
    /// Check the invariants of what is stored; changes nothing. Works while the server runs, and while it does not.
    Fsck {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Copy everything into a new folder. Works while the server runs, and while it does not.
    Backup {
        #[command(flatten)]
        config: ConfigFile,
        /// The folder, which must not exist yet.
        folder: PathBuf,
    },
    /// Put a backup into an empty `data_dir`.
    Restore {
        #[command(flatten)]
        config: ConfigFile,
        /// The backup's folder.
        folder: PathBuf,
    },
}

/// What to do with other servers.
#[derive(Debug, Subcommand)]
pub(crate) enum FederationCommand {
    /// Say how a server is reached, step by step, what its keys are, and whether it is left alone.
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Its name: `example.org`.
        server: String,
    },
    /// Make a new signing key, for when the old one may have been seen by others. What the old one signed stays valid. A
    /// running server uses the new one from its next start on.
    RotateKey {
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make an account. The password is asked for, or read as one line if the input is not a terminal.
    Create {
        #[command(flatten)]
        config: ConfigFile,
        /// Make it an administrator.
        #[arg(long)]
        admin: bool,
        /// The name: `alice`, or `@alice:example.org`.
        name: String,
    },
    /// Give an account a new password and end all its sessions. The password is asked for like with `create`.
    ResetPassword {
        #[command(flatten)]
        config: ConfigFile,
        /// The name: `alice`, or `@alice:example.org`.
        name: String,
    },
    /// List all accounts.
    List {
        #[command(flatten)]
        config: ConfigFile,
    },
}
